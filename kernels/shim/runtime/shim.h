// CUDA's device side on a CPU: what a kernel source sees instead of the CUDA headers.
//
// A block's threads are fibers of one OS thread; blocks run one after another. A fiber runs until it reaches a
// collective (a barrier, a shuffle, a matrix instruction), where it waits until everyone concerned is there. Which
// fiber runs next is drawn at random from the launch's seed. shim.cpp has the scheduler.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(8) float2 {
    float x, y;
};
struct uint3 {
    unsigned x, y, z;
};
typedef uint3 dim3;

namespace shim {

// Where the running fiber stands in its launch.
struct Place {
    uint3 thread;
    uint3 block;
    dim3 block_size;
    dim3 grid;
};

enum Collective : int { NONE, BLOCK_BARRIER, WARP_BARRIER, SHUFFLE, BALLOT, MMA_F16, MMA_S8U8, LDMATRIX, COLLECTIVES };

// One lane's part in a collective of its warp.
struct Operand {
    uint32_t words[10];
};
struct Result {
    uint32_t words[4];
};

const Place& place();
void block_barrier();
// Waits for the whole warp; the last lane to come computes everybody's result.
Result meet(Collective collective, const Operand& operand);
void* dynamic_shared();
void* static_shared(const void* declaration, size_t bytes, size_t alignment);
// An asynchronous copy of 16 bytes (or of zeros, without `from`) into dynamic shared memory. It is done at once or when it
// is waited for, as the seed has it: a kernel that does not wait reads poison, and one that copies over what is still read
// spoils it.
void copy_some_time(void* to, const void* from);
void commit_copies();
// Does all of this thread's copies but those of its newest `groups` groups.
void wait_for_copies(unsigned groups);
// Ends the launch with an error unless these bytes lie in one buffer of the launch and are aligned.
void check_access(const void* address, size_t bytes, size_t alignment, bool write);
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

float half_to_float(uint16_t half);
uint16_t float_to_half(float x);

template <class T>
inline uint32_t to_word(T value) {
    static_assert(sizeof(T) == 4, "shuffles move 32 bits");
    uint32_t word;
    std::memcpy(&word, &value, 4);
    return word;
}
template <class T>
inline T from_word(uint32_t word) {
    T value;
    std::memcpy(&value, &word, 4);
    return value;
}
enum Shuffle : uint32_t { FROM, XOR, DOWN, UP };
template <class T>
inline T shuffle(Shuffle how, uint32_t mask, T value, uint32_t argument, uint32_t width) {
    return from_word<T>(meet(SHUFFLE, Operand{{to_word(value), how, argument, width, mask}}).words[0]);
}

// A kernel of the table: `call` takes addresses of its parameters, as cuLaunchKernel does.
struct Kernel {
    const char* name;
    void (*call)(void* const* parameters);
    size_t parameter_count;
    const size_t* parameter_sizes;
};

template <class F>
struct Signature;
template <class... P>
struct Signature<void (*)(P...)> {
    static constexpr size_t count = sizeof...(P);
    static constexpr size_t sizes[sizeof...(P) + 1] = {sizeof(P)..., 0};
    template <void (*F)(P...), size_t... I>
    static void call_with(void* const* parameters, std::index_sequence<I...>) {
        (void)parameters;
        F(*static_cast<std::remove_reference_t<P>*>(parameters[I])...);
    }
    template <void (*F)(P...)>
    static void call(void* const* parameters) {
        call_with<F>(parameters, std::index_sequence_for<P...>{});
    }
};

}  // namespace shim

// One line of the table, for `extern "C" __global__ void name(...)`.
#define SHIM_KERNEL(name)                                                                        \
    extern "C" {                                                                                 \
    extern const shim::Kernel shim_kernel_##name;                                                \
    const shim::Kernel shim_kernel_##name = {#name, &shim::Signature<decltype(&name)>::call<&name>, \
                                             shim::Signature<decltype(&name)>::count,            \
                                             shim::Signature<decltype(&name)>::sizes};           \
    }

#define threadIdx (::shim::place().thread)
#define blockIdx (::shim::place().block)
#define blockDim (::shim::place().block_size)
#define gridDim (::shim::place().grid)

// A declaration stands for one array per block, however many threads pass it.
#define SHARED_ARRAY(type, name, count)  \
    static const char name##_declared = 0; \
    type* const name = static_cast<type*>(::shim::static_shared(&name##_declared, sizeof(type) * (count), alignof(type)))

static inline void __syncthreads() { shim::block_barrier(); }
static inline void __syncwarp(unsigned mask = 0xffffffffu) {
    shim::meet(shim::WARP_BARRIER, shim::Operand{{0, 0, 0, 0, mask}});
}
template <class T>
static inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
    return shim::shuffle(shim::FROM, mask, value, lane, width);
}
template <class T>
static inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
    return shim::shuffle(shim::XOR, mask, value, lanes, width);
}
template <class T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned lanes, int width = 32) {
    return shim::shuffle(shim::DOWN, mask, value, lanes, width);
}
template <class T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned lanes, int width = 32) {
    return shim::shuffle(shim::UP, mask, value, lanes, width);
}
static inline unsigned __ballot_sync(unsigned mask, int predicate) {
    return shim::meet(shim::BALLOT, shim::Operand{{predicate != 0, 0, 0, 0, mask}}).words[0];
}
static inline float __int_as_float(int bits) { return shim::from_word<float>(shim::to_word(bits)); }
static inline int __float_as_int(float value) { return shim::from_word<int>(shim::to_word(value)); }

// The names that kernels/cuda/prelude.cu gives on a device.

static inline uint4* dynamic_shared() { return static_cast<uint4*>(shim::dynamic_shared()); }
template <class T>
static inline T load(const T* address) {
    shim::check_access(address, sizeof(T), alignof(T), false);
    return *address;
}
template <class T>
static inline void store(T* address, T value) {
    shim::check_access(address, sizeof(T), alignof(T), true);
    *address = value;
}
static inline uint4 load16(const void* address) {
    shim::check_access(address, 16, 16, false);
    return *static_cast<const uint4*>(address);
}
static inline uint4 load16_streamed(const void* address) { return load16(address); }
static inline void mma_f16(float (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0,
                           unsigned b1) {
    const shim::Result sum =
        shim::meet(shim::MMA_F16, shim::Operand{{a0, a1, a2, a3, b0, b1, shim::to_word(c[0]), shim::to_word(c[1]),
                                                 shim::to_word(c[2]), shim::to_word(c[3])}});
    for (int i = 0; i < 4; i++) c[i] = shim::from_word<float>(sum.words[i]);
}
static inline void mma_s8u8(int (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0,
                            unsigned b1) {
    const shim::Result sum =
        shim::meet(shim::MMA_S8U8, shim::Operand{{a0, a1, a2, a3, b0, b1, shim::to_word(c[0]), shim::to_word(c[1]),
                                                  shim::to_word(c[2]), shim::to_word(c[3])}});
    for (int i = 0; i < 4; i++) c[i] = shim::from_word<int>(sum.words[i]);
}
static inline float max_nan(float a, float b) {
    if (a != a || b != b) return std::numeric_limits<float>::quiet_NaN();
    if (a == b) return std::signbit(a) ? b : a;  // +0 is larger than −0
    return a > b ? a : b;
}
static inline float half_to_float(unsigned short half) { return shim::half_to_float(half); }
static inline unsigned short float_to_half(float x) { return shim::float_to_half(x); }
static inline float flushed(float x) { return std::fabs(x) < std::numeric_limits<float>::min() ? 0.0f : x; }
static inline float exp2_approx(float x) { return flushed(exp2f(x)); }
static inline float reciprocal_approx(float x) { return flushed(1.0f / x); }

// Wider than a device's, which knows its shared memory by 32 bits.
typedef uintptr_t SharedAddress;
static inline SharedAddress shared_address(const void* shared) { return reinterpret_cast<uintptr_t>(shared); }
static inline void copy16_async(SharedAddress shared, const void* global, bool there) {
    if (there) shim::check_access(global, 16, 16, false);
    shim::copy_some_time(reinterpret_cast<void*>(shared), there ? global : nullptr);
}
static inline void commit_copies() { shim::commit_copies(); }
template <int GROUPS>
static inline void wait_for_copies() {
    shim::wait_for_copies(GROUPS);
}
static inline uint4 load_matrices(SharedAddress shared, bool transposed) {
    const shim::Result words =
        shim::meet(shim::LDMATRIX, shim::Operand{{uint32_t(shared), uint32_t(uint64_t(shared) >> 32), transposed}});
    return {words.words[0], words.words[1], words.words[2], words.words[3]};
}
static inline uint4 load_matrices(SharedAddress shared) { return load_matrices(shared, false); }
static inline uint4 load_matrices_transposed(SharedAddress shared) { return load_matrices(shared, true); }
