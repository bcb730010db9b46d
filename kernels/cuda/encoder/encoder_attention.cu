// Attention over packed sequences: out = softmax(q·kᵀ·scale)·v per sequence and head, the similarities only ever in registers.
// Online softmax (Milakov and Gimelshein, 2018) over tiles of keys, as in FlashAttention-2 (Dao, 2023).
//
// Mapping: a block for each tile of 64 queries of one sequence, and head; each of its W warps has M times 16 queries. Which
//   tiles there are, a table says, so that no block is without work but those beyond the batch's count. Four warps of 16
//   queries, or, from sm_90 on, two of 32 (_wide): matrices that a warp loads from shared memory then serve twice as many
//   queries. For first tokens alone (the last layer of a cross-encoder) a block of one warp has the one query of a sequence.
// Shared memory: two stages of 64 keys and 64 values each; rows of 2 · D bytes and 16 that no one reads, so that 8 rows of a
//   matrix lie in 8 different banks (dynamic). The next tile is copied while one is multiplied.
// Registers: the warp's queries (M · D / 4), its similarities (M · 32), its output (M · D / 2).
// Order: keys ascending, in tiles of 64 counted from the sequence's first; each lane adds its own weights, a quad's lanes in
//   a tree at the end. Neither the batch nor the tile's other queries nor its other warps take part: the first token's
//   output has the same bits in either mapping.
// Edges: weights are 2^((s − max)·scale·log₂e), subtracted before they are scaled: no similarity of halves overflows. NaN in
//   a key or value is NaN in the rows that meet it.
// Limits: head width D 32 or 64.
// Sketch, 100 sequences of 256, 12 heads of 32: 10 GFLOP and 0.08 G weights; at 16 a clock and multiprocessor for 2^x,
//   132 of them at 1.7 GHz: 22 µs of exponentials, 13 µs of products at 790 TFLOP/s. In code of sm_90 a warp takes 459
//   instructions for 16 queries and 64 keys, 60 of them only where the sequence ends: 76,800 times that, at 4 a clock and
//   multiprocessor, is 34 µs, the largest of the three. For 32 queries (_wide) it takes 761 (of width 64: 966 instead of
//   1,196), which is 28 µs, and reads half as much of shared memory. Not yet run on a GPU.

#define KEYS 64u

// Mirrored by kernels/src/cuda/encoder/attend.rs.
struct AttentionArguments {
    Address tiles;          // count; first tokens: of sequences
    Address table;          // first sequence and query of each tile; first tokens: unused
    Address sequences;      // count
    Address cu_seqlens;
    Matrix q;
    Matrix k;
    Matrix v;
    Matrix out;
    unsigned tiles_max;     // first tokens: sequences
    unsigned sequences_max;
    unsigned rows;          // of k and v
    unsigned heads;
    float scale_log2;       // scale · log₂ e
    unsigned reserved;
};

// What a block attends with: rows first .. first + length of k and v, and the queries.
struct Part {
    unsigned first;
    unsigned length;
    unsigned query_row;     // its first query's row of q and out
    unsigned queries;
    unsigned cell;          // of its head in a row
};

template <int D, int W, int M, bool FIRST>
DEVICE Part part_of(const AttentionArguments& a) {
    const unsigned tile = blockIdx.x / a.heads, head = blockIdx.x % a.heads;
    Part part = {0, 0, 0, 0, head * (D / CELL)};
    if (tile >= true_count(a.tiles, a.tiles_max)) return part;
    uint2 entry = {tile, 0};
    if (!FIRST) entry = load(pointer<const uint2>(a.table) + tile);
    if (entry.x >= true_count(a.sequences, a.sequences_max)) return part;
    const unsigned begin = load(pointer<const unsigned>(a.cu_seqlens) + entry.x);
    const unsigned end = load(pointer<const unsigned>(a.cu_seqlens) + entry.x + 1);
    if (begin >= end || end > a.rows || entry.y >= end - begin) return part;
    part.first = begin;
    part.length = end - begin;
    part.query_row = FIRST ? entry.x : begin + entry.y;
    const unsigned left = FIRST ? 1 : part.length - entry.y, most = 16 * M * W;
    part.queries = left < most ? left : most;
    return part;
}

// What a thread copies of every tile: the same cell of keys STEP apart, and of their values.
template <int D, int W>
struct Copies {
    enum : unsigned { CELLS = D / CELL, STEP = W * 32 / CELLS, PITCH_BYTES = (CELLS + 1) * 16 };
    const uint4* k;      // in the next tile
    const uint4* v;
    Address k_step;      // from one of its rows to the next
    Address v_step;
    SharedAddress to;    // in a stage
    unsigned row;        // in the next tile, counted from the sequence's first

    DEVICE Copies of(const AttentionArguments& a, const Part& part) {
        const unsigned row = threadIdx.x / CELLS, at = threadIdx.x % CELLS;
        Copies copies;
        copies.k = cell(a.k, part.first + row, part.cell + at);
        copies.v = cell(a.v, part.first + row, part.cell + at);
        copies.k_step = static_cast<Address>(STEP) * a.k.pitch;
        copies.v_step = static_cast<Address>(STEP) * a.v.pitch;
        copies.to = row * PITCH_BYTES + at * 16;
        copies.row = row;
        return copies;
    }

    // Begins with the next tile; what lies behind the sequence is 0.
    DEVICE void begin(Copies& copies, unsigned length, SharedAddress stage) {
#pragma unroll 8
        for (unsigned j = 0; j < KEYS / STEP; j++) {
            const SharedAddress to = stage + copies.to + j * STEP * PITCH_BYTES;
            const bool there = copies.row < length;
            copy16_async(to, copies.k, there);
            copy16_async(to + KEYS * PITCH_BYTES, copies.v, there);
            copies.k += copies.k_step;
            copies.v += copies.v_step;
            copies.row += STEP;
        }
        commit_copies();
    }
};

// A warp's 16 queries, from `first` of the tile on, as fragments of A: see load_matrices and mma_f16.
template <int D>
DEVICE void load_queries(const AttentionArguments& a, const Part& part, unsigned first, unsigned (&q)[D / 16][4]) {
    const unsigned g = lane_index() / 4, t = lane_index() % 4;
#pragma unroll
    for (unsigned upper = 0; upper < 2; upper++) {
        const unsigned query = first + upper * 8 + g;
#pragma unroll
        for (unsigned k = 0; k < D / 16; k++) {
            q[k][upper] = q[k][2 + upper] = 0;
            if (query >= part.queries) continue;
            const unsigned* const row =
                reinterpret_cast<const unsigned*>(cell(a.q, part.query_row + query, part.cell + 2 * k));
            q[k][upper] = load(row + t);
            q[k][2 + upper] = load(row + 4 + t);
        }
    }
}

// s[m][n] = similarities of the warp's m-th 16 queries with keys 8 n .. 8 n + 7 of a tile; −∞ behind the sequence's `keys`.
// `rows` is where the lane's row of the first matrices lies.
template <int D, int M>
DEVICE void compare(SharedAddress rows, unsigned keys, const unsigned (&q)[M][D / 16][4], float (&s)[M][8][4]) {
    constexpr unsigned PITCH = D / CELL + 1;
#pragma unroll
    for (unsigned n = 0; n < 8; n++) {
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int e = 0; e < 4; e++) s[m][n][e] = 0.0f;
        if (n / 2 * 16 >= keys) continue;
#pragma unroll
        for (unsigned k = 0; k < D / 16; k += 2) {
            const uint4 b = load_matrices(rows + (n * 8 * PITCH + 2 * k) * 16);
#pragma unroll
            for (int m = 0; m < M; m++) {
                const unsigned(&x)[4] = q[m][k], (&y)[4] = q[m][k + 1];
                mma_f16(s[m][n], x[0], x[1], x[2], x[3], b.x, b.y);
                mma_f16(s[m][n], y[0], y[1], y[2], y[3], b.z, b.w);
            }
        }
    }
    if (keys == KEYS) return;
#pragma unroll
    for (unsigned n = 0; n < 8; n++)
#pragma unroll
        for (unsigned e = 0; e < 4; e++)
            if (n * 8 + 2 * (lane_index() % 4) + e % 2 >= keys) {
#pragma unroll
                for (int m = 0; m < M; m++) s[m][n][e] = -INFINITY_F32;
            }
}

// Turns similarities into weights, with the running maximum and sum of each of a lane's two rows; returns, in `keep`, what
// the output so far is to be multiplied with.
DEVICE void weigh(float (&s)[8][4], float scale_log2, float (&most)[2], float (&sum)[2], float (&keep)[2]) {
#pragma unroll
    for (int upper = 0; upper < 2; upper++) {
        float largest = most[upper];
#pragma unroll
        for (int n = 0; n < 8; n++) largest = fmaxf(largest, fmaxf(s[n][2 * upper], s[n][2 * upper + 1]));
#pragma unroll
        for (int lanes = 1; lanes <= 2; lanes *= 2) largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, lanes));
        keep[upper] = exp2_approx((most[upper] - largest) * scale_log2);
        most[upper] = largest;
        sum[upper] *= keep[upper];
#pragma unroll
        for (int n = 0; n < 8; n++) {
#pragma unroll
            for (int e = 2 * upper; e < 2 * upper + 2; e++) {
                s[n][e] = exp2_approx((s[n][e] - largest) * scale_log2);
                sum[upper] += s[n][e];
            }
        }
    }
}

// out += weights · values. A product's result and the next one's left factor lie in the same lanes: c0, c1 of keys 8 n are
// a0 of step n / 2, c2, c3 are a1; those of 8 n + 8 are a2 and a3. `rows` is where the lane's row of the first matrices lies.
template <int D, int M>
DEVICE void add_values(SharedAddress rows, unsigned keys, const float (&weights)[M][8][4], float (&out)[M][D / 8][4]) {
    constexpr unsigned PITCH = D / CELL + 1;
#pragma unroll
    for (unsigned k = 0; k < 4; k++) {
        if (k * 16 >= keys) continue;
        unsigned a[M][4];
#pragma unroll
        for (int m = 0; m < M; m++) {
            const float(&w)[4] = weights[m][2 * k], (&x)[4] = weights[m][2 * k + 1];
            a[m][0] = two_halves(w[0], w[1]);
            a[m][1] = two_halves(w[2], w[3]);
            a[m][2] = two_halves(x[0], x[1]);
            a[m][3] = two_halves(x[2], x[3]);
        }
#pragma unroll
        for (unsigned n = 0; n < D / 8; n += 2) {
            const uint4 b = load_matrices_transposed(rows + (k * 16 * PITCH + n) * 16);
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_f16(out[m][n], a[m][0], a[m][1], a[m][2], a[m][3], b.x, b.y);
                mma_f16(out[m][n + 1], a[m][0], a[m][1], a[m][2], a[m][3], b.z, b.w);
            }
        }
    }
}

template <int D>
DEVICE void end_queries(const AttentionArguments& a, const Part& part, unsigned first, float (&sum)[2],
                        const float (&out)[D / 8][4]) {
    const unsigned g = lane_index() / 4, t = lane_index() % 4;
#pragma unroll
    for (unsigned upper = 0; upper < 2; upper++) {
#pragma unroll
        for (int lanes = 1; lanes <= 2; lanes *= 2) sum[upper] += __shfl_xor_sync(ALL_LANES, sum[upper], lanes);
        const unsigned query = first + upper * 8 + g;
        if (query >= part.queries) continue;
        const float inverse = 1.0f / sum[upper];
        unsigned* const row = reinterpret_cast<unsigned*>(cell(a.out, part.query_row + query, part.cell));
#pragma unroll
        for (unsigned n = 0; n < D / 8; n++)
            store(row + 4 * n + t, two_halves(out[n][2 * upper] * inverse, out[n][2 * upper + 1] * inverse));
    }
}

template <int D, int W, int M, bool FIRST>
DEVICE void attend(const AttentionArguments& a) {
    constexpr unsigned PITCH = D / CELL + 1, STAGE_BYTES = 2 * KEYS * PITCH * 16;
    const Part part = part_of<D, W, M, FIRST>(a);
    if (part.queries == 0) return;
    const SharedAddress shared = shared_address(dynamic_shared());
    typedef Copies<D, W> Tile;
    Tile copies = Tile::of(a, part);
    Tile::begin(copies, part.length, shared);
    const unsigned lane = lane_index(), first = warp_index() * 16 * M;
    unsigned q[M][D / 16][4];
#pragma unroll
    for (int m = 0; m < M; m++) load_queries<D>(a, part, first + 16 * m, q[m]);
    const SharedAddress key_rows = shared + (lane % 8 * PITCH + lane / 8) * 16;
    const SharedAddress value_rows = shared + ((KEYS + lane % 16) * PITCH + lane / 16) * 16;
    float out[M][D / 8][4] = {}, most[M][2], sum[M][2];
#pragma unroll
    for (int m = 0; m < M; m++) {
        most[m][0] = most[m][1] = -INFINITY_F32;
        sum[m][0] = sum[m][1] = 0.0f;
    }
    for (unsigned from = 0, stage = 0; from < part.length; from += KEYS, stage ^= STAGE_BYTES) {
        wait_for_copies<0>();
        // Everyone's copies are there, and nobody reads any more what the next copies replace.
        __syncthreads();
        if (from + KEYS < part.length) Tile::begin(copies, part.length, shared + (stage ^ STAGE_BYTES));
        // A warp beyond the last query only copies.
        if (first >= part.queries) continue;
        const unsigned keys = part.length - from < KEYS ? part.length - from : KEYS;
        float s[M][8][4];
        compare<D, M>(key_rows + stage, keys, q, s);
#pragma unroll
        for (int m = 0; m < M; m++) {
            float keep[2];
            weigh(s[m], a.scale_log2, most[m], sum[m], keep);
#pragma unroll
            for (unsigned n = 0; n < D / 8; n++)
#pragma unroll
                for (int e = 0; e < 4; e++) out[m][n][e] *= keep[e / 2];
        }
        add_values<D, M>(value_rows + stage, keys, s, out);
    }
#pragma unroll
    for (int m = 0; m < M; m++)
        if (first + 16 * m < part.queries) end_queries<D>(a, part, first + 16 * m, sum[m], out[m]);
}

extern "C" __global__ void __launch_bounds__(128, 4) encoder_attention_d32(AttentionArguments a) { attend<32, 4, 1, false>(a); }
extern "C" __global__ void __launch_bounds__(128, 4) encoder_attention_d64(AttentionArguments a) { attend<64, 4, 1, false>(a); }
extern "C" __global__ void __launch_bounds__(64, 5) encoder_attention_wide_d32(AttentionArguments a) { attend<32, 2, 2, false>(a); }
extern "C" __global__ void __launch_bounds__(64, 4) encoder_attention_wide_d64(AttentionArguments a) { attend<64, 2, 2, false>(a); }
extern "C" __global__ void __launch_bounds__(32, 16) encoder_attention_first_d32(AttentionArguments a) { attend<32, 1, 1, true>(a); }
extern "C" __global__ void __launch_bounds__(32, 16) encoder_attention_first_d64(AttentionArguments a) { attend<64, 1, 1, true>(a); }
