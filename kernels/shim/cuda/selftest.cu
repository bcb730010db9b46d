// What the shim is tested with: kernels that are right, and kernels that are wrong in one way each.

// out[block] = sum of the block's part of x: a shuffle in each warp, shared memory between warps. 256 threads.
extern "C" __global__ void selftest_reduce(const float* x, float* out, unsigned n) {
    SHARED_ARRAY(float, partial, 8);
    const unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    float sum = at < n ? load(x + at) : 0.0f;
    for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, lanes);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        float all = 0.0f;
        for (unsigned w = 0; w < blockDim.x / 32; w++) all += partial[w];
        store(out + blockIdx.x, all);
    }
}

// Each thread passes its number on to its right neighbour through shared memory; `barrier` 0 forgets to wait.
extern "C" __global__ void selftest_pass_on(unsigned* out, unsigned barrier) {
    SHARED_ARRAY(unsigned, box, 64);
    box[(threadIdx.x + 1) % blockDim.x] = threadIdx.x;
    if (barrier) __syncthreads();
    store(out + threadIdx.x, box[threadIdx.x]);
}

// Thread 0 never comes to the second barrier, but waits in another place.
extern "C" __global__ void selftest_lost_thread(unsigned* out) {
    __syncthreads();
    if (threadIdx.x == 0) __syncwarp();
    else __syncthreads();
    store(out + threadIdx.x, 1u);
}

// Half of a warp leaves before a shuffle of the whole.
extern "C" __global__ void selftest_half_warp(unsigned* out) {
    if (threadIdx.x >= 16) return;
    store(out + threadIdx.x, __shfl_sync(ALL_LANES, threadIdx.x, 0));
}

// Half of a warp takes a barrier of the warp for a vote.
extern "C" __global__ void selftest_mixed_warp(unsigned* out) {
    if (threadIdx.x < 16) __syncwarp();
    else store(out + threadIdx.x, __ballot_sync(ALL_LANES, 1));
}

// Reads or writes at `at` through the prelude, or writes past it (`how` 2).
extern "C" __global__ void selftest_touch(float* x, unsigned at, unsigned how) {
    if (how == 0) store(x, load(x + at));
    else if (how == 1) store(x + at, 1.0f);
    else if (how == 2) x[at] = 1.0f;
    else load16(x + at);
}

// Writes `n` words of dynamic shared memory, and says what was there before: poison, whatever the last block wrote.
extern "C" __global__ void selftest_shared(unsigned* before, unsigned n) {
    unsigned* const words = reinterpret_cast<unsigned*>(dynamic_shared());
    for (unsigned i = threadIdx.x; i < n; i += blockDim.x) {
        store(before + blockIdx.x * n + i, words[i]);
        words[i] = 7;
    }
}

// One m16n8k16 and one m16n8k32 with row-major a [16, k], b [8, k] (column n of b is row n of it), c [16, 8].
extern "C" __global__ void selftest_mma(const unsigned* a_f16, const unsigned* b_f16, float* c_f16, const unsigned* a_s8,
                                        const unsigned* b_u8, int* c_s32) {
    const unsigned g = threadIdx.x / 4, t = threadIdx.x % 4;
    float c[4] = {1.0f, 2.0f, 3.0f, 4.0f};
    mma_f16(c, load(a_f16 + g * 8 + t), load(a_f16 + (g + 8) * 8 + t), load(a_f16 + g * 8 + t + 4),
            load(a_f16 + (g + 8) * 8 + t + 4), load(b_f16 + g * 8 + t), load(b_f16 + g * 8 + t + 4));
    int i[4] = {1, 2, 3, 4};
    mma_s8u8(i, load(a_s8 + g * 8 + t), load(a_s8 + (g + 8) * 8 + t), load(a_s8 + g * 8 + t + 4),
             load(a_s8 + (g + 8) * 8 + t + 4), load(b_u8 + g * 8 + t), load(b_u8 + g * 8 + t + 4));
    for (unsigned e = 0; e < 4; e++) {
        const unsigned at = (g + 8 * (e / 2)) * 8 + 2 * t + e % 2;
        store(c_f16 + at, c[e]);
        store(c_s32 + at, i[e]);
    }
}

// Four 8 × 8 matrices of halves, end to end in `x`, as fragments and as those of their transposes: out is [2, 32, 4]. Rows
// lie `pitch` cells of 16 bytes apart in shared memory. `wait`: how many groups may be under way when they are read.
extern "C" __global__ void selftest_matrices(const uint4* x, unsigned* out, unsigned pitch, unsigned wait) {
    const SharedAddress row = shared_address(dynamic_shared() + threadIdx.x * pitch);
    copy16_async(row, x + threadIdx.x, true);
    commit_copies();
    if (wait) wait_for_copies<0>();
    else wait_for_copies<1>();
    __syncthreads();
    const uint4 plain = load_matrices(row), transposed = load_matrices_transposed(row);
    const unsigned words[8] = {plain.x, plain.y, plain.z, plain.w, transposed.x, transposed.y, transposed.z, transposed.w};
    for (unsigned i = 0; i < 8; i++) store(out + i / 4 * 128 + threadIdx.x * 4 + i % 4, words[i]);
}

// x as halves.
extern "C" __global__ void selftest_halves(const float* x, unsigned short* out) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    store(out + i, float_to_half(load(x + i)));
}

// value[i] of each lane after every kind of shuffle, and a vote: out is [5, 32].
extern "C" __global__ void selftest_shuffles(unsigned* out) {
    const unsigned lane = threadIdx.x;
    store(out + lane, __shfl_sync(ALL_LANES, lane, 3));
    store(out + 32 + lane, __shfl_xor_sync(ALL_LANES, lane, 5));
    store(out + 64 + lane, __shfl_down_sync(ALL_LANES, lane, 4));
    store(out + 96 + lane, __shfl_up_sync(ALL_LANES, lane, 4, 8));
    store(out + 128 + lane, __ballot_sync(ALL_LANES, lane % 3 == 0));
}

// The prelude's numbers: out is [max_nan(a, b), half_to_float(h)] for each triple.
extern "C" __global__ void selftest_numbers(const float* a, const float* b, const unsigned short* h, float* out) {
    const unsigned i = threadIdx.x;
    store(out + 2 * i, max_nan(load(a + i), load(b + i)));
    store(out + 2 * i + 1, half_to_float(load(h + i)));
}
