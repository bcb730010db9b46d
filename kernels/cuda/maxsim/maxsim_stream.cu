// MaxSim, ladder step 3: document rows as a stream that never stops. For sm_80 and sm_90.
//
// What it adds to step 2:
//   - a rolling pipeline in registers. A warp holds DEPTH k-blocks of TILES · 8 tokens. As soon as a k-block has been
//     multiplied, its registers are loaded again, with the k-block that lies DEPTH further along the piece, across tiles
//     of tokens. Nothing is copied, there is no barrier, and loads are always under way while matrices are multiplied;
//   - TILES · 8 tokens share each fragment of the query that is read from shared memory;
//   - a grid that fills the device once, its work cut evenly in advance (plan.rs): no atomics, no tail of small blocks;
//   - loads that leave L1 alone and let L2 fetch 128 (sm_80) or 256 bytes (sm_90) around them.
// Mapping: as in step 2, two blocks of 8 warps on a multiprocessor.
// Registers: DEPTH · TILES · 4 for documents, M · TILES · 4 for sums; __launch_bounds__(256, 2) allows 128 in all, and
//   TILES and DEPTH are the largest that ptxas places without spilling (some bytes once a row in three kernels). What it
//   found is in ../ptx/manifest.json.
// Shared memory: 16 · M rows of 64 · k_blocks bytes, in fragment order (dynamic): 8 KiB for 32 rows of 128 halves.
// Limits: those of step 2. A dim with a kernel of its own (128, 384, 768, 1024) has rows without gaps.
// Why these loads and not the bulk copy engine of sm_90: enough bytes are in flight without it, and every index, tail
//   and fragment of this form runs in the test suite, where that engine does not exist.
//
// Sketch (H200: 4.3 TB/s, 132 multiprocessors, about 700 ns to memory): keeping the memory busy takes 4.3e12 · 700e-9 /
//   132 = 23 KiB in flight per multiprocessor. 16 warps · TILES · 8 tokens · DEPTH · 64 bytes are 96 KiB (f16, 32 rows), 64
//   KiB (int8, 32 rows; f16, 64 rows of 128), 32 to 48 KiB (the others). Shared memory gives M · 2 / TILES bytes for each
//   byte of documents, of 128 bytes a cycle that it can; at 19 bytes of documents a cycle that is 25 (f16, 32 rows) to 76
//   (64 rows). Matrix instructions at 32 rows: 17 % of the peak. Floors, dim 128, one read: 1,000 x 180 tokens f16 10.7
//   µs, int8 5.5 µs; 10,000 x 300 tokens f16 179 µs, int8 92 µs. Not yet run on a GPU.

// The lane's row in each tile of tokens, from `first` on; beyond the end, the last row again.
template <int TILES>
DEVICE void locate(const char* (&rows)[TILES], const Piece& piece, unsigned first, unsigned cells) {
    const unsigned g = lane_index() / 4, t = lane_index() % 4;
#pragma unroll
    for (int n = 0; n < TILES; n++) {
        const unsigned token = first + n * 8 + g;
        const unsigned long long row = token < piece.length ? token : piece.length - 1;
        rows[n] = reinterpret_cast<const char*>(piece.rows) + (row * cells + t) * 16;
    }
}

// One k-block of every tile's row, `ahead` k-blocks beyond where the pointers stand. GAPS: a cell beyond the row, whose
// k-block is number `k_block`, is zero and not read.
template <bool GAPS, int TILES>
DEVICE void fetch(uint4 (&v)[TILES], const char* const (&rows)[TILES], int ahead, unsigned k_block, unsigned cells) {
    const bool inside = !GAPS || k_block * 4 + lane_index() % 4 < cells;
#pragma unroll
    for (int n = 0; n < TILES; n++) {
        if (inside) v[n] = load16_streamed(rows[n] + ahead * 64);
        else v[n] = uint4{0, 0, 0, 0};
    }
}

template <class S, int M, int TILES>
DEVICE void take_tiles(Maxima<M, false>& maxima, const typename S::Sum (&c)[M][TILES][4],
                       const float (&scales)[TILES][2]) {
#pragma unroll
    for (int n = 0; n < TILES; n++)
#pragma unroll
        for (int r = 0; r < 2 * M; r++)
#pragma unroll
            for (int column = 0; column < 2; column++) {
                const float value = static_cast<float>(c[r / 2][n][r % 2 * 2 + column]);
                Maxima<M, false>::take(maxima, r, S::scaled ? value * scales[n][column] : value, 0);
            }
}

template <class S, int TILES>
DEVICE void read_scales(float (&scales)[TILES][2], const Piece& piece, unsigned first) {
#pragma unroll
    for (int n = 0; n < TILES; n++)
#pragma unroll
        for (int column = 0; column < 2; column++) {
            const unsigned token = first + n * 8 + lane_index() % 4 * 2 + column;
            const unsigned row = token < piece.length ? token : piece.length - 1;
            scales[n][column] = S::scaled ? load(reinterpret_cast<const float*>(piece.scales) + row) : 1.0f;
        }
}

// How many k-blocks a row has: so many, or as many as the arguments say, without or with cells missing from the last.
// Whole groups of DEPTH in every case.
#define WHOLE 0
#define WITH_GAPS -1

template <class S, int M, int TILES, int DEPTH, int KB>
DEVICE void stream_piece(const Arguments& a, const Piece& piece, const uint4* query, const QueryRows<S, M>& query_rows,
                         Maxima<M, false>& maxima) {
    static_assert(KB < 0 || KB % DEPTH == 0, "a row is whole groups of k-blocks");
    const unsigned k_blocks = KB > 0 ? unsigned(KB) : a.k_blocks, cells = KB > 0 ? k_blocks * 4 : a.cells;
    if (piece.length == 0) return;
    const char* rows[TILES];  // where each is to be read next
    uint4 v[DEPTH][TILES];
    unsigned ahead = 0;       // number of the k-block that is to be read next
    locate<TILES>(rows, piece, 0, cells);
#pragma unroll
    for (int d = 0; d < DEPTH; d++) fetch<KB == WITH_GAPS, TILES>(v[d], rows, d, d, cells);
#pragma unroll 1
    for (unsigned first = 0; first < piece.length; first += 8 * TILES) {
        typename S::Sum c[M][TILES][4];
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int n = 0; n < TILES; n++) begin_sums<S, M>(c[m][n], query_rows, m);
        const uint4* fragment = query + lane_index();
#pragma unroll 1
        for (unsigned group = 0; group < k_blocks; group += DEPTH) {
            // The registers go on with the row's next group, or with the first of the next tokens.
            ahead = group + DEPTH;
            bool more = true;
            if (ahead < k_blocks) {
#pragma unroll
                for (int n = 0; n < TILES; n++) rows[n] += DEPTH * 64;
            } else {
                ahead = 0;
                more = first + 8 * TILES < piece.length;
                if (more) locate<TILES>(rows, piece, first + 8 * TILES, cells);
            }
#pragma unroll
            for (int d = 0; d < DEPTH; d++) {
#pragma unroll
                for (int m = 0; m < M; m++) {
                    const uint4 low = fragment[m * k_blocks * 64 + d * 64];
                    const uint4 high = fragment[m * k_blocks * 64 + d * 64 + 32];
#pragma unroll
                    for (int n = 0; n < TILES; n++) S::multiply(c[m][n], low, high, v[d][n]);
                }
                if (more) fetch<KB == WITH_GAPS, TILES>(v[d], rows, d, ahead + d, cells);
            }
            fragment += DEPTH * 64;
        }
        float scales[TILES][2];
        read_scales<S, TILES>(scales, piece, first);
        take_tiles<S, M, TILES>(maxima, c, scales);
    }
}

template <class S, int M, int TILES, int DEPTH, int KB>
DEVICE void stream(const Arguments& a) {
    uint4* const query = dynamic_shared();
    const Block block = load(a.blocks + blockIdx.x);
    stage_query<M>(a, block, query);
    QueryRows<S, M> query_rows;
    QueryRows<S, M>::read(query_rows, block);
    __syncthreads();
    const unsigned warp = blockIdx.x * WARPS + warp_index();
    const unsigned end = load(a.warps + warp + 1);
    for (unsigned i = load(a.warps + warp); i < end; i++) {
        const Piece piece = load(a.pieces + i);
        Maxima<M, false> maxima;
        Maxima<M, false>::begin(maxima);
        stream_piece<S, M, TILES, DEPTH, KB>(a, piece, query, query_rows, maxima);
        end_piece<S, M, false>(a, block, piece, maxima);
    }
    join_own<false>(a, block);
}

// Storage, query rows, and dim: 128, whole groups of k-blocks (384, 768, 1024, ...), or any.
extern "C" __global__ void __launch_bounds__(256, 2) maxsim_stream_f16_q32_d128(Arguments a) { stream<F16, 2, 3, 4, 4>(a); }
extern "C" __global__ void __launch_bounds__(256, 2) maxsim_stream_f16_q32(Arguments a) { stream<F16, 2, 3, 4, WHOLE>(a); }
extern "C" __global__ void __launch_bounds__(256, 2) maxsim_stream_f16_q32_gaps(Arguments a) { stream<F16, 2, 2, 4, WITH_GAPS>(a); }
extern "C" __global__ void __launch_bounds__(256, 2) maxsim_stream_f16_q64_d128(Arguments a) { stream<F16, 4, 2, 4, 4>(a); }
extern "C" __global__ void __launch_bounds__(256, 2) maxsim_stream_f16_q64(Arguments a) { stream<F16, 4, 3, 2, WHOLE>(a); }
extern "C" __global__ void __launch_bounds__(256, 2) maxsim_stream_f16_q64_gaps(Arguments a) { stream<F16, 4, 2, 2, WITH_GAPS>(a); }
extern "C" __global__ void __launch_bounds__(256, 2) maxsim_stream_int8_q32_d128(Arguments a) { stream<Int8, 2, 4, 2, 2>(a); }
extern "C" __global__ void __launch_bounds__(256, 2) maxsim_stream_int8_q32(Arguments a) { stream<Int8, 2, 4, 2, WHOLE>(a); }
extern "C" __global__ void __launch_bounds__(256, 2) maxsim_stream_int8_q32_gaps(Arguments a) { stream<Int8, 2, 4, 2, WITH_GAPS>(a); }
extern "C" __global__ void __launch_bounds__(256, 2) maxsim_stream_int8_q64_d128(Arguments a) { stream<Int8, 4, 2, 2, 2>(a); }
extern "C" __global__ void __launch_bounds__(256, 2) maxsim_stream_int8_q64(Arguments a) { stream<Int8, 4, 2, 2, WHOLE>(a); }
extern "C" __global__ void __launch_bounds__(256, 2) maxsim_stream_int8_q64_gaps(Arguments a) { stream<Int8, 4, 2, 2, WITH_GAPS>(a); }
