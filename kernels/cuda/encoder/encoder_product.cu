// out = f(x · weightᵀ + bias) with matrix instructions (mma.sync, sm_80): what runs where cuBLASLt cannot be loaded, and what
// it is compared with.
//
// Mapping: a block makes a tile of TILE_ROWS × TILE_COLUMNS outputs, its warps 16 · M × 8 · N each; blocks that follow each
//   other share rows of x, which are read once then, while the weights stay in L2. Few rows have smaller tiles, for more
//   blocks, and longer stages, for fewer barriers: there each block waits for itself.
// Shared memory: STAGES times the tile's rows of x and of the weight, K cells of each (4 or 8: 64 or 128 bytes) and one that
//   no one reads, so that 8 rows of a matrix lie in 8 different banks. Copies are STAGES − 1 ahead of the products (dynamic).
// Order: k ascending, one accumulator for each output, whatever the tile or the row's place in it: bits depend on the row
//   of x and the row of the weight alone.
// Limits: k and n multiples of 8.
// Registers: the warp's sums (4 · M · N: 64), and an address for each operand that moves on from stage to stage: in code of
//   sm_90 a stage of the large tile is 96 instructions, 32 of them matrix instructions and 12 loads of matrices.
// Sketch, 25,600 × 1,536 × 384 in tiles of 128 × 128: 30.2 GFLOP, 38 µs at 790 TFLOP/s. On sm_90 mma.sync is known to reach
//   about two thirds of what wgmma does. A GELU is 28 instructions for each output, 38 µs where nothing hides them: as long
//   as a pass of its own (encoder_activate.cu), which it spares. Not yet run on a GPU.

// Mirrored by kernels/src/cuda/encoder/product.rs.
struct ProductArguments {
    Address count;
    Address bias;         // halves; 0: none
    Address out;          // its first row
    Matrix x;
    Matrix weight;
    unsigned rows;        // of x and out
    unsigned columns;     // of out, rows of the weight
    unsigned out_pitch;   // of out, in numbers
    unsigned out_floats;  // out is f32 instead of f16
    unsigned function;
    unsigned reserved;
};

// A warp's place in the block, and the block's in the product.
template <int WARP_COLUMNS, int M, int N>
struct Place {
    unsigned row, column;            // first of the block
    unsigned warp_row, warp_column;  // first of the warp, in the block

    DEVICE Place of(const ProductArguments& a, unsigned tile_rows, unsigned tile_columns) {
        const unsigned across = (a.columns + tile_columns - 1) / tile_columns;
        Place place;
        place.row = blockIdx.x / across * tile_rows;
        place.column = blockIdx.x % across * tile_columns;
        place.warp_row = warp_index() / WARP_COLUMNS * (16 * M);
        place.warp_column = warp_index() % WARP_COLUMNS * (8 * N);
        return place;
    }
};

// What a thread copies of every stage: the same cell of rows STEP apart.
template <unsigned ROWS, unsigned BLOCK, unsigned K>
struct Copies {
    enum : unsigned { STEP = BLOCK / K, COUNT = ROWS / STEP, PITCH_BYTES = (K + 1) * 16 };
    const uint4* from;   // in stage 0
    Address step;        // from one of its rows to the next
    SharedAddress to;    // in stage 0
    unsigned at;         // number of the cell
    unsigned there;      // bit j: the matrix has its j-th row

    DEVICE Copies of(const Matrix& matrix, unsigned first_row, unsigned rows, SharedAddress to) {
        const unsigned row = threadIdx.x / K, at = threadIdx.x % K;
        Copies copies;
        copies.from = cell(matrix, first_row + row, at);
        copies.step = static_cast<Address>(STEP) * matrix.pitch;
        copies.to = to + row * PITCH_BYTES + at * 16;
        copies.at = at;
        copies.there = 0;
#pragma unroll
        for (unsigned j = 0; j < COUNT; j++)
            copies.there |= static_cast<unsigned>(first_row + row + j * STEP < rows) << j;
        return copies;
    }

    // Begins with a stage that lies `offset` bytes behind stage 0; what is outside of the matrix is 0.
    DEVICE void begin(Copies& copies, unsigned cells, SharedAddress offset) {
        const unsigned there = copies.at < cells ? copies.there : 0;
        const uint4* from = copies.from;
#pragma unroll
        for (unsigned j = 0; j < COUNT; j++, from += copies.step)
            copy16_async(copies.to + offset + j * STEP * PITCH_BYTES, from, there >> j & 1);
        copies.from += K;
        copies.at += K;
    }
};

// c += the warp's part of one stage's product; `x` and `weight` are where the lane's rows of the first matrices lie.
template <int M, int N, unsigned K>
DEVICE void multiply_stage(float (&c)[M][N][4], SharedAddress x, SharedAddress weight) {
    constexpr unsigned PITCH = K + 1;
#pragma unroll
    for (unsigned k = 0; k < K; k += 2) {
        uint4 a[M];
#pragma unroll
        for (unsigned m = 0; m < M; m++) a[m] = load_matrices(x + (m * 16 * PITCH + k) * 16);
#pragma unroll
        for (unsigned n = 0; n < N; n += 2) {
            const uint4 b = load_matrices(weight + (n * 8 * PITCH + k) * 16);
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_f16(c[m][n], a[m].x, a[m].y, a[m].z, a[m].w, b.x, b.y);
                mma_f16(c[m][n + 1], a[m].x, a[m].y, a[m].z, a[m].w, b.z, b.w);
            }
        }
    }
}

// Adds the bias, applies the function, and writes the warp's part: two neighbours of a row at once.
template <unsigned FUNCTION, int M, int N, class P>
DEVICE void write_tile(const ProductArguments& a, const P& place, unsigned rows, const float (&c)[M][N][4]) {
    const unsigned g = lane_index() / 4, column = place.column + place.warp_column + 2 * (lane_index() % 4);
    unsigned bias[N];
#pragma unroll
    for (unsigned n = 0; n < N; n++)
        bias[n] = a.bias && column + 8 * n < a.columns ? load(pointer<const unsigned>(a.bias + 2 * (column + 8 * n))) : 0;
#pragma unroll
    for (unsigned part = 0; part < 2 * M; part++) {
        const unsigned m = part / 2, upper = part % 2, row = place.row + place.warp_row + part * 8 + g;
        if (row >= rows) continue;
        const Address at = static_cast<Address>(row) * a.out_pitch + column;
#pragma unroll
        for (unsigned n = 0; n < N; n++) {
            if (column + 8 * n >= a.columns) continue;
            const float x = apply(FUNCTION, c[m][n][2 * upper] + low_half(bias[n]));
            const float y = apply(FUNCTION, c[m][n][2 * upper + 1] + high_half(bias[n]));
            if (a.out_floats) store(pointer<float2>(a.out + 4 * at) + 4 * n, float2{x, y});
            else store(pointer<unsigned>(a.out + 2 * at) + 4 * n, two_halves(x, y));
        }
    }
}

template <int M, int N, class P>
DEVICE void end_tile(const ProductArguments& a, const P& place, unsigned rows, const float (&c)[M][N][4]) {
    switch (a.function) {
        case GELU_ERF: return write_tile<GELU_ERF>(a, place, rows, c);
        case GELU_TANH: return write_tile<GELU_TANH>(a, place, rows, c);
        case RELU: return write_tile<RELU>(a, place, rows, c);
        case TANH: return write_tile<TANH>(a, place, rows, c);
        default: return write_tile<IDENTITY>(a, place, rows, c);
    }
}

template <int WARP_ROWS, int WARP_COLUMNS, int M, int N, unsigned K, int STAGES>
DEVICE void product(const ProductArguments& a) {
    constexpr unsigned TILE_ROWS = WARP_ROWS * M * 16, TILE_COLUMNS = WARP_COLUMNS * N * 8;
    constexpr unsigned BLOCK = WARP_ROWS * WARP_COLUMNS * 32, PITCH = K + 1;
    constexpr unsigned STAGE_BYTES = (TILE_ROWS + TILE_COLUMNS) * PITCH * 16;
    const unsigned rows = true_count(a.count, a.rows);
    typedef Place<WARP_COLUMNS, M, N> P;
    const P place = P::of(a, TILE_ROWS, TILE_COLUMNS);
    if (place.row >= rows) return;
    const SharedAddress shared = shared_address(dynamic_shared());
    typedef Copies<TILE_ROWS, BLOCK, K> X;
    typedef Copies<TILE_COLUMNS, BLOCK, K> W;
    X x = X::of(a.x, place.row, rows, shared);
    W weight = W::of(a.weight, place.column, a.columns, shared + TILE_ROWS * PITCH * 16);
    const unsigned stages = (a.x.cells + K - 1) / K;
    unsigned copied = 0, to = 0, from = 0;
    const auto copy_stage = [&]() {
        if (copied < stages) {
            X::begin(x, a.x.cells, to);
            W::begin(weight, a.x.cells, to);
        }
        commit_copies();
        copied++;
        to = to == (STAGES - 1) * STAGE_BYTES ? 0 : to + STAGE_BYTES;
    };
    for (unsigned number = 0; number < STAGES - 1; number++) copy_stage();
    const unsigned lane = lane_index();
    const SharedAddress x_rows = shared + ((place.warp_row + lane % 16) * PITCH + lane / 16) * 16;
    const unsigned weight_row = TILE_ROWS + place.warp_column + lane / 16 * 8 + lane % 8;
    const SharedAddress weight_rows = shared + (weight_row * PITCH + lane / 8 % 2) * 16;
    float c[M][N][4] = {};
    for (unsigned number = 0; number < stages; number++) {
        wait_for_copies<STAGES - 2>();
        // Everyone's copies are there, and nobody reads any more what the next copies replace.
        __syncthreads();
        copy_stage();
        multiply_stage<M, N, K>(c, x_rows + from, weight_rows + from);
        from = from == (STAGES - 1) * STAGE_BYTES ? 0 : from + STAGE_BYTES;
    }
    end_tile<M, N>(a, place, rows, c);
}

extern "C" __global__ void __launch_bounds__(256, 2) encoder_product_128(ProductArguments a) { product<2, 4, 4, 4, 4, 3>(a); }
extern "C" __global__ void __launch_bounds__(128, 4) encoder_product_64(ProductArguments a) { product<2, 2, 2, 4, 8, 3>(a); }
