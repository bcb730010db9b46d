// x = f(x + bias) in place: for products that were made elsewhere, without an epilogue of ours.
//
// Mapping: a thread for each cell of 8 halves.
// Shared memory: none.
// Limits: up to 2³² cells.
// Sketch, 25,600 rows of 1,536: 157 MB, 37 µs at 4.3 TB/s, beside 28 instructions for each number, 38 µs at 4 a clock of 132
//   multiprocessors at 1.7 GHz. Fused into the product it costs neither the bytes nor the launch. Not yet run on a GPU.

// Mirrored by kernels/src/cuda/encoder/activate.rs.
struct ActivateArguments {
    Address count;
    Address bias;  // halves; 0: none
    Matrix x;
    unsigned rows;
    unsigned function;
};

template <unsigned FUNCTION>
DEVICE void activate(const ActivateArguments& a) {
    const unsigned index = blockIdx.x * THREADS + threadIdx.x;
    const unsigned row = index / a.x.cells, at = index % a.x.cells;
    if (row >= true_count(a.count, a.rows)) return;
    uint4* const address = cell(a.x, row, at);
    float x[8], bias[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    unpack(x, load(address));
    if (a.bias) unpack(bias, load16(pointer<const uint4>(a.bias) + at));
#pragma unroll
    for (int e = 0; e < 8; e++) x[e] = apply(FUNCTION, x[e] + bias[e]);
    store(address, pack(x));
}

extern "C" __global__ void __launch_bounds__(256) encoder_gelu_erf(ActivateArguments a) { activate<GELU_ERF>(a); }
extern "C" __global__ void __launch_bounds__(256) encoder_gelu_tanh(ActivateArguments a) { activate<GELU_TANH>(a); }
extern "C" __global__ void __launch_bounds__(256) encoder_relu(ActivateArguments a) { activate<RELU>(a); }
extern "C" __global__ void __launch_bounds__(256) encoder_tanh(ActivateArguments a) { activate<TANH>(a); }
