// What is made of the encoder's rows: first rows, one row for a sequence, scores, unit vectors.
//
// | kernel | mapping | shared memory |
// |---|---|---|
// | gather | a warp for each sequence copies its first row | none |
// | pool | a block for each sequence; warp w adds rows w, w + 8, … in order, then the warps' sums in theirs | 8 rows of f32 |
// | score | a warp for each row | none |
// | normalize | a warp for each row, which stays in registers | none |
//
// Limits: rows of whole cells, up to 256 · C numbers (gather: any).
// Sketch: a read of the rows, at most 20 MB for 25,600 of 384: 5 µs at 4.3 TB/s. Not yet run on a GPU.

// Mirrored by kernels/src/cuda/encoder/sequence.rs.
struct GatherArguments {
    Address count;        // sequences
    Address cu_seqlens;
    Matrix x;
    Matrix out;
    unsigned rows;        // of x
    unsigned sequences;   // rows of out
};
struct PoolArguments {
    Address count;        // sequences
    Address cu_seqlens;
    Address out;          // f32
    Matrix x;
    unsigned rows;        // of x
    unsigned sequences;   // rows of out
    unsigned mean;        // or the first row
    unsigned unit;        // divided by its length
};
struct ScoreArguments {
    Address count;
    Address x;            // f32
    Address weight;       // f32
    Address out;          // f32
    unsigned rows;
    unsigned columns;
    float bias;
    unsigned reserved;
};
struct NormalizeArguments {
    Address count;
    Address floats;       // x as f32, its rows `out.cells` cells of 8 numbers apart; 0: x is halves
    Matrix x;
    Matrix out;
    unsigned rows;
    unsigned reserved;
};

// Rows of a sequence; empty where device memory says what cannot be.
struct Range {
    unsigned begin;
    unsigned end;
};
DEVICE Range sequence_rows(Address cu_seqlens, unsigned sequence, unsigned rows) {
    const Range range = {load(pointer<const unsigned>(cu_seqlens) + sequence),
                         load(pointer<const unsigned>(cu_seqlens) + sequence + 1)};
    return range.begin < range.end && range.end <= rows ? range : Range{0, 0};
}

extern "C" __global__ void __launch_bounds__(256) encoder_gather_first(GatherArguments a) {
    const unsigned sequence = blockIdx.x * WARPS + warp_index();
    if (sequence >= true_count(a.count, a.sequences)) return;
    const Range range = sequence_rows(a.cu_seqlens, sequence, a.rows);
    const bool there = range.begin < range.end;
    for (unsigned at = lane_index(); at < a.x.cells; at += 32) {
        uint4 v = {0x7e007e00u, 0x7e007e00u, 0x7e007e00u, 0x7e007e00u};  // NaN
        if (there) v = load16(cell(a.x, range.begin, at));
        store(cell(a.out, sequence, at), v);
    }
}

// 1 / √Σx², 0 for a row of zeros.
template <int C>
DEVICE float inverse_length(const Row<C>& row) {
    float squares = 0.0f;
#pragma unroll
    for (int c = 0; c < C; c++)
#pragma unroll
        for (int e = 0; e < 8; e++) squares = fmaf(row.x[c][e], row.x[c][e], squares);
    const float sum = warp_sum(squares);
    return sum == 0.0f ? 0.0f : 1.0f / sqrtf(sum);
}

// Sums of all warps, in their order, into the row of warp 0.
template <int C>
DEVICE void join_warps(Row<C>& row, unsigned cells) {
    float4* const sums = reinterpret_cast<float4*>(dynamic_shared());
#pragma unroll
    for (int c = 0; c < C; c++) {
        const unsigned at = c * 32 + lane_index();
        if (at >= cells) continue;
        float4* const own = sums + (warp_index() * cells + at) * 2;
        own[0] = {row.x[c][0], row.x[c][1], row.x[c][2], row.x[c][3]};
        own[1] = {row.x[c][4], row.x[c][5], row.x[c][6], row.x[c][7]};
    }
    __syncthreads();
    if (warp_index() != 0) return;
#pragma unroll
    for (int c = 0; c < C; c++) {
        const unsigned at = c * 32 + lane_index();
        if (at >= cells) continue;
        for (unsigned warp = 1; warp < WARPS; warp++) {
            const float4 low = sums[(warp * cells + at) * 2], high = sums[(warp * cells + at) * 2 + 1];
            row.x[c][0] += low.x, row.x[c][1] += low.y, row.x[c][2] += low.z, row.x[c][3] += low.w;
            row.x[c][4] += high.x, row.x[c][5] += high.y, row.x[c][6] += high.z, row.x[c][7] += high.w;
        }
    }
}

template <int C>
DEVICE void pool(const PoolArguments& a) {
    const unsigned sequence = blockIdx.x;
    if (sequence >= true_count(a.count, a.sequences)) return;
    const Range range = sequence_rows(a.cu_seqlens, sequence, a.rows);
    Row<C> row;
    clear(row);
    const unsigned end = a.mean ? range.end : range.begin + (range.begin < range.end ? 1 : 0);
    for (unsigned i = range.begin + warp_index(); i < end; i += WARPS)
        add_halves(row, cell(a.x, i, 0), a.x.cells, false);
    join_warps(row, a.x.cells);
    if (warp_index() != 0) return;
    const float share = end > range.begin ? 1.0f / static_cast<float>(end - range.begin) : 0.0f;
#pragma unroll
    for (int c = 0; c < C; c++)
#pragma unroll
        for (int e = 0; e < 8; e++) row.x[c][e] *= share;
    const float factor = a.unit ? inverse_length(row) : 1.0f;
    float4* const out = pointer<float4>(a.out) + static_cast<Address>(sequence) * a.x.cells * 2;
#pragma unroll
    for (int c = 0; c < C; c++) {
        const unsigned at = c * 32 + lane_index();
        if (at >= a.x.cells) continue;
        const float(&x)[8] = row.x[c];
        store(out + 2 * at, float4{x[0] * factor, x[1] * factor, x[2] * factor, x[3] * factor});
        store(out + 2 * at + 1, float4{x[4] * factor, x[5] * factor, x[6] * factor, x[7] * factor});
    }
}

extern "C" __global__ void __launch_bounds__(256) encoder_score(ScoreArguments a) {
    const unsigned row = blockIdx.x * WARPS + warp_index();
    if (row >= true_count(a.count, a.rows)) return;
    const float* const x = pointer<const float>(a.x) + static_cast<Address>(row) * a.columns;
    float sum = 0.0f;
    for (unsigned at = lane_index(); at < a.columns; at += 32)
        sum = fmaf(load(x + at), load(pointer<const float>(a.weight) + at), sum);
    sum = warp_sum(sum);
    if (lane_index() == 0) store(pointer<float>(a.out) + row, sum + a.bias);
}

template <int C>
DEVICE void normalize(const NormalizeArguments& a) {
    const unsigned at_row = blockIdx.x * WARPS + warp_index();
    if (at_row >= true_count(a.count, a.rows)) return;
    const unsigned cells = a.out.cells;
    Row<C> row;
    clear(row);
    if (a.floats) {
#pragma unroll
        for (int c = 0; c < C; c++) {
            const unsigned at = c * 32 + lane_index();
            if (at < cells) load_floats(row.x[c], a.floats + static_cast<Address>(at_row) * cells * 32, at);
        }
    } else {
        add_halves(row, cell(a.x, at_row, 0), cells, true);
    }
    const float factor = inverse_length(row);
#pragma unroll
    for (int c = 0; c < C; c++)
#pragma unroll
        for (int e = 0; e < 8; e++) row.x[c][e] *= factor;
    store_halves(row, cell(a.out, at_row, 0), cells);
}

extern "C" __global__ void __launch_bounds__(256) encoder_pool_d512(PoolArguments a) { pool<2>(a); }
extern "C" __global__ void __launch_bounds__(256) encoder_pool_d1024(PoolArguments a) { pool<4>(a); }
extern "C" __global__ void __launch_bounds__(256) encoder_pool_d2048(PoolArguments a) { pool<8>(a); }
extern "C" __global__ void __launch_bounds__(256) encoder_normalize_d512(NormalizeArguments a) { normalize<2>(a); }
extern "C" __global__ void __launch_bounds__(256) encoder_normalize_d1024(NormalizeArguments a) { normalize<4>(a); }
extern "C" __global__ void __launch_bounds__(256) encoder_normalize_d2048(NormalizeArguments a) { normalize<8>(a); }
