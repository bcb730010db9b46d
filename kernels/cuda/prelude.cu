// What every kernel here is written in: 16-byte loads, copies into shared memory, matrix instructions, a maximum that keeps
// NaN, half precision.
//
// It is put in front of each source (there is no #include, so a compiler needs no header), and its one #ifdef is the
// only difference between the two machines that run these sources: a CUDA device, and the CPU of the test suite
// (kernels/shim), where each thread is a fiber. What CUDA C++ itself gives (threadIdx, __syncthreads, __shfl_xor_sync)
// the CPU side gives under the same names.
//
// Half precision is `unsigned short`: its bits. Words of matrix fragments are `unsigned`: two halves or four bytes.

#ifdef __CUDACC__

#define DEVICE static __device__ __forceinline__

// Shared memory of a block whose size the launch chooses.
DEVICE uint4* dynamic_shared() {
    extern __shared__ uint4 sluice_dynamic_shared[];
    return sluice_dynamic_shared;
}

// Shared memory of a block whose size the source fixes.
#define SHARED_ARRAY(type, name, count) __shared__ type name[count]

// What other threads may have written: an ordinary load.
template <class T>
DEVICE T load(const T* address) {
    return *address;
}

template <class T>
DEVICE void store(T* address, T value) {
    *address = value;
}

// 16 bytes, aligned, that nobody writes during the launch, and that several warps read.
DEVICE uint4 load16(const void* address) {
    uint4 v;
    asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(address));
    return v;
}

// 16 bytes, aligned, that are read once: they leave L1 alone, and L2 fetches their surroundings with them.
DEVICE uint4 load16_streamed(const void* address) {
    uint4 v;
#if __CUDA_ARCH__ >= 900
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
#else
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
#endif
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(address));
    return v;
}

// c += a · b: a is 16 × 16 halves, b 16 × 8, c 16 × 8 floats. See maxsim/scan.cuh for who holds what.
DEVICE void mma_f16(float (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// c += a · b: a is 16 × 32 signed bytes, b 32 × 8 unsigned bytes, c 16 × 8 integers.
DEVICE void mma_s8u8(int (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// The larger; NaN if either is NaN, where fmaxf would drop it.
DEVICE float max_nan(float a, float b) {
    float larger;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(a), "f"(b));
    return larger;
}

DEVICE float half_to_float(unsigned short half) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(half));
    return x;
}

// To nearest even; infinite from 65,520 on.
DEVICE unsigned short float_to_half(float x) {
    unsigned short half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(x));
    return half;
}

// 2^x and 1 / x, within two units in the last place; 0 below 2⁻¹²⁶.
DEVICE float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
DEVICE float reciprocal_approx(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Where something lies in shared memory, in bytes.
typedef unsigned SharedAddress;
DEVICE SharedAddress shared_address(const void* shared) {
    return static_cast<SharedAddress>(__cvta_generic_to_shared(shared));
}

// Copies 16 aligned bytes into shared memory while the thread goes on; zeros if they are not there (then nothing is read).
DEVICE void copy16_async(SharedAddress shared, const void* global, bool there) {
    const unsigned bytes = there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(bytes) : "memory");
}
// Ends a group of the thread's copies.
DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits for the thread's copies but for those of its newest GROUPS groups. Others' copies: a barrier behind it.
template <int GROUPS>
DEVICE void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
}

// Four 8 × 8 matrices of halves from shared memory: lane 8 i + r says where row r of matrix i is (16 aligned bytes). Lane l
// gets, a word for each matrix, elements 2 (l % 4) and the next of row l / 4; of column l / 4 if transposed.
DEVICE uint4 load_matrices(SharedAddress shared) {
    uint4 v;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(shared)
                 : "memory");
    return v;
}
DEVICE uint4 load_matrices_transposed(SharedAddress shared) {
    uint4 v;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(shared)
                 : "memory");
    return v;
}

#else

#define DEVICE static inline

#endif

#define INFINITY_F32 __int_as_float(0x7f800000)
#define ALL_LANES 0xffffffffu
