// What the encoder's kernels share: matrices of halves, rows held by a warp, activations. Put between the prelude and each
// source of this folder.
//
// Matrices are row-major, f16, rows `pitch` cells apart; a cell is 16 bytes, 8 halves. Sums and statistics are f32. A warp
// holds a row in registers: cell c · 32 + lane is number c of its lane.
//
// Counts of true rows lie in device memory, so that a recorded graph serves every batch that fits its capacity: grids are
// sized for the capacity, and what is beyond the count leaves. Whatever device memory says (counts, ids, offsets), nothing
// outside the matrices is touched: a number that leads out of them makes NaN, or is cut.
//
// Bits of a row depend on nothing but the row: every sum is taken in an order that the row's width (attention: the
// sequence's length) fixes.

#define CELL 8u
#define THREADS 256u
#define WARPS 8u

typedef unsigned long long Address;

struct Matrix {
    Address rows;    // address of its first row
    unsigned pitch;  // cells from one row to the next
    unsigned cells;  // of a row that are its own
};

DEVICE unsigned lane_index() { return threadIdx.x % 32; }
DEVICE unsigned warp_index() { return threadIdx.x / 32; }
DEVICE float quiet_nan() { return __int_as_float(0x7fc00000); }

template <class T>
DEVICE T* pointer(Address address) {
    return reinterpret_cast<T*>(address);
}

DEVICE unsigned true_count(Address count, unsigned most) {
    const unsigned n = load(pointer<const unsigned>(count));
    return n < most ? n : most;
}

DEVICE uint4* cell(const Matrix& matrix, unsigned row, unsigned at) {
    return pointer<uint4>(matrix.rows) + static_cast<Address>(row) * matrix.pitch + at;
}

DEVICE float low_half(unsigned word) { return half_to_float(static_cast<unsigned short>(word & 0xffffu)); }
DEVICE float high_half(unsigned word) { return half_to_float(static_cast<unsigned short>(word >> 16)); }
DEVICE unsigned two_halves(float low, float high) {
    return float_to_half(low) | static_cast<unsigned>(float_to_half(high)) << 16;
}

DEVICE void unpack(float (&x)[8], uint4 v) {
    x[0] = low_half(v.x), x[1] = high_half(v.x), x[2] = low_half(v.y), x[3] = high_half(v.y);
    x[4] = low_half(v.z), x[5] = high_half(v.z), x[6] = low_half(v.w), x[7] = high_half(v.w);
}
DEVICE uint4 pack(const float (&x)[8]) {
    return {two_halves(x[0], x[1]), two_halves(x[2], x[3]), two_halves(x[4], x[5]), two_halves(x[6], x[7])};
}

// 8 floats that nobody writes during the launch.
DEVICE void load_floats(float (&x)[8], Address floats, unsigned at) {
    const uint4* const from = pointer<const uint4>(floats) + 2 * at;
    const uint4 low = load16(from), high = load16(from + 1);
    x[0] = __int_as_float(low.x), x[1] = __int_as_float(low.y), x[2] = __int_as_float(low.z), x[3] = __int_as_float(low.w);
    x[4] = __int_as_float(high.x), x[5] = __int_as_float(high.y), x[6] = __int_as_float(high.z), x[7] = __int_as_float(high.w);
}

DEVICE float warp_sum(float x) {
#pragma unroll
    for (int lanes = 1; lanes <= 16; lanes *= 2) x += __shfl_xor_sync(ALL_LANES, x, lanes);
    return x;
}

// A row in a warp: up to C · 256 numbers. Cells beyond the row's own are 0.
template <int C>
struct Row {
    float x[C][8];
};

template <int C>
DEVICE void clear(Row<C>& row) {
#pragma unroll
    for (int c = 0; c < C; c++)
#pragma unroll
        for (int e = 0; e < 8; e++) row.x[c][e] = 0.0f;
}

// row += what lies at `address`, halves; `mutable_during_launch`: the launch may write there, this warp alone.
template <int C>
DEVICE void add_halves(Row<C>& row, const uint4* address, unsigned cells, bool mutable_during_launch) {
#pragma unroll
    for (int c = 0; c < C; c++) {
        const unsigned at = c * 32 + lane_index();
        if (at >= cells) continue;
        float x[8];
        unpack(x, mutable_during_launch ? load(address + at) : load16(address + at));
#pragma unroll
        for (int e = 0; e < 8; e++) row.x[c][e] += x[e];
    }
}

template <int C>
DEVICE void store_halves(const Row<C>& row, uint4* address, unsigned cells) {
#pragma unroll
    for (int c = 0; c < C; c++) {
        const unsigned at = c * 32 + lane_index();
        if (at < cells) store(address + at, pack(row.x[c]));
    }
}

// Activations. 2^x instead of e^x; no cancellation on either side of 0; NaN stays, −∞ becomes 0.

#define LOG2_E 1.4426950408889634f

// x·Φ(x) = max(x, 0) − |x|·½·erfc(|x|/√2). erfc by Abramowitz and Stegun 7.1.26, within 1.5e-7.
DEVICE float gelu_erf(float x) {
    const float a = fminf(fabsf(x), 15.0f), z = a * 0.70710678f;
    const float t = reciprocal_approx(fmaf(z, 0.3275911f, 1.0f));
    float p = fmaf(1.061405429f, t, -1.453152027f);
    p = fmaf(p, t, 1.421413741f);
    p = fmaf(p, t, -0.284496736f);
    p = fmaf(p, t, 0.254829592f);
    const float tail = p * (t * 0.5f) * exp2_approx(z * z * -LOG2_E);
    return max_nan(x, 0.0f) - a * tail;
}

// ½·x·(1 + tanh u), u = √(2/π)·(x + 0.044715·x³): max(x, 0) − |x|·e / (1 + e), e = exp(−2·|u|).
DEVICE float gelu_tanh(float x) {
    const float a = fminf(fabsf(x), 15.0f);
    const float u = fmaf(a * a * a, 0.044715f, a);
    const float e = exp2_approx(u * (-1.5957691216f * LOG2_E));
    return max_nan(x, 0.0f) - a * (e * reciprocal_approx(1.0f + e));
}

DEVICE float tanh_by_exp(float x) {
    const float a = fminf(fabsf(x), 15.0f);
    const float e = exp2_approx(a * (-2.0f * LOG2_E));
    const float y = (1.0f - e) * reciprocal_approx(1.0f + e);
    return x != x ? x : x < 0.0f ? -y : y;
}

// Mirrored by kernels/src/cuda/encoder/activate.rs.
enum Function { IDENTITY, GELU_ERF, GELU_TANH, RELU, TANH };

DEVICE float apply(unsigned function, float x) {
    switch (function) {
        case GELU_ERF: return gelu_erf(x);
        case GELU_TANH: return gelu_tanh(x);
        case RELU: return max_nan(x, 0.0f);
        case TANH: return tanh_by_exp(x);
        default: return x;
    }
}
