// MaxSim, ladder step 2: matrix instructions (mma.sync, sm_80), the similarity matrix only ever in registers.
//
// What it adds to step 1: a warp multiplies 16 · M query rows by 8 tokens at a time; every document row is read once,
//   for up to 64 query rows (M = 4), with 16-byte loads that use whole sectors; the query lies in shared memory.
// Mapping: see scan.cuh. 8 warps per block; each walks its pieces 8 tokens at a time. In the last 8 of a piece, rows
//   beyond its end are its last row again: a maximum does not mind. One k-block (64 bytes of each row) is loaded, then
//   multiplied: what is in flight is one load per lane, so 16 warps on a multiprocessor keep 8 KiB on their way.
// Shared memory: 16 · M rows of 64 · k_blocks bytes, in fragment order (dynamic).
// Limits: rows of whole cells; q_len beyond 16 · M by chunks, each of which reads the documents again; int8: dim up to
//   66,000 (the sum of products is 32 bits wide).
// Alignment: the _alignment kernels also keep, for each query row, its best token. Of equal values the first token wins;
//   NaN wins over numbers. They always go through partials, and are for explanations, not for speed.
// Sketch, q 32, 180 tokens, dim 128, f16, 1,000 documents: 1.47 GFLOP and 46 MB. At 8 KiB per multiprocessor in flight
//   and about 700 ns to memory, 132 multiprocessors read 1.5 TB/s: 31 µs, a third of an H200's bandwidth. Step 3 is
//   there for the rest. Not yet run on a GPU.

template <class S, int M, bool ALIGN>
DEVICE void scan_piece(const Arguments& a, const Block& block, const Piece& piece, const uint4* query,
                       const QueryRows<S, M>& rows) {
    const unsigned lane = lane_index(), g = lane / 4, t = lane % 4;
    const float* const scales = reinterpret_cast<const float*>(piece.scales);
    Maxima<M, ALIGN> maxima;
    Maxima<M, ALIGN>::begin(maxima);
    for (unsigned first = 0; first < piece.length; first += 8) {
        const unsigned last = piece.length - 1;
        const unsigned long long row = first + g < last ? first + g : last;
        const char* const cells = reinterpret_cast<const char*>(piece.rows) + (row * a.cells + t) * 16;
        typename S::Sum c[M][4];
#pragma unroll
        for (int m = 0; m < M; m++) begin_sums<S, M>(c[m], rows, m);
        for (unsigned k_block = 0; k_block < a.k_blocks; k_block++) {
            uint4 v = {0, 0, 0, 0};
            if (k_block * 4 + t < a.cells) v = load16_streamed(cells + k_block * 64);
#pragma unroll
            for (int m = 0; m < M; m++) {
                const uint4* const fragment = query + (m * a.k_blocks + k_block) * 64 + lane;
                S::multiply(c[m], fragment[0], fragment[32], v);
            }
        }
#pragma unroll
        for (unsigned column = 0; column < 2; column++) {
            const unsigned at = first + 2 * t + column < last ? first + 2 * t + column : last;
            const float scale = S::scaled ? load(scales + at) : 1.0f;
#pragma unroll
            for (int r = 0; r < 2 * M; r++) {
                const float value = static_cast<float>(c[r / 2][r % 2 * 2 + column]) * scale;
                Maxima<M, ALIGN>::take(maxima, r, value, piece.first_token + at);
            }
        }
    }
    end_piece<S, M, ALIGN>(a, block, piece, maxima);
}

template <class S, int M, bool ALIGN>
DEVICE void scan(const Arguments& a) {
    uint4* const query = dynamic_shared();
    const Block block = load(a.blocks + blockIdx.x);
    stage_query<M>(a, block, query);
    QueryRows<S, M> rows;
    QueryRows<S, M>::read(rows, block);
    __syncthreads();
    const unsigned warp = blockIdx.x * WARPS + warp_index();
    const unsigned end = load(a.warps + warp + 1);
    for (unsigned i = load(a.warps + warp); i < end; i++)
        scan_piece<S, M, ALIGN>(a, block, load(a.pieces + i), query, rows);
    join_own<ALIGN>(a, block);
}

extern "C" __global__ void __launch_bounds__(256) maxsim_mma_f16_q32(Arguments a) { scan<F16, 2, false>(a); }
extern "C" __global__ void __launch_bounds__(256) maxsim_mma_f16_q64(Arguments a) { scan<F16, 4, false>(a); }
extern "C" __global__ void __launch_bounds__(256) maxsim_mma_int8_q32(Arguments a) { scan<Int8, 2, false>(a); }
extern "C" __global__ void __launch_bounds__(256) maxsim_mma_int8_q64(Arguments a) { scan<Int8, 4, false>(a); }
extern "C" __global__ void __launch_bounds__(256) maxsim_alignment_f16(Arguments a) { scan<F16, 2, true>(a); }
extern "C" __global__ void __launch_bounds__(256) maxsim_alignment_int8(Arguments a) { scan<Int8, 2, true>(a); }
extern "C" __global__ void __launch_bounds__(256) maxsim_join(Arguments a) { join_rest<false>(a); }
extern "C" __global__ void __launch_bounds__(256) maxsim_join_alignment(Arguments a) { join_rest<true>(a); }
