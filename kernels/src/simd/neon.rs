//! aarch64 with Advanced SIMD and the dot-product extension: 4 lanes, 32 registers.

#![allow(clippy::needless_range_loop, reason = "registers of a block by their numbers")]

use std::arch::{aarch64::*, asm};

use half::f16;

use super::{Kernel, Out, Rows, Simd, Tile, math};

/// The proof: made by [`run`] alone.
#[derive(Clone, Copy)]
pub(crate) struct Neon(());

/// Runs an operation with these instructions.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Neon(()))
}

/// Lanes below `count`.
#[inline(always)]
fn mask(count: usize) -> uint32x4_t {
    const NUMBERS: [u32; 4] = [0, 1, 2, 3];
    // SAFETY: the array is four numbers. For every intrinsic of the file: its caller has a `Neon`, so the machine has them.
    unsafe { vcltq_u32(vld1q_u32(NUMBERS.as_ptr()), vdupq_n_u32(count as u32)) }
}

impl Simd for Neon {
    const LANES: usize = 4;
    const CODES: usize = 4;
    // Of unsigned and signed bytes there is a product only beyond the dot-product extension.
    const CODE_OFFSET: i32 = 128;
    const NATIVE: bool = true;
    type F32 = float32x4_t;
    type I32 = int32x4_t;
    // 24 registers of sums, 4 of columns, 1 for the broadcast: 29 of 32.
    type Full = Tile<6, 4>;
    type Half = Tile<3, 4>;
    type Flat = Tile<1, 4>;

    #[inline(always)]
    fn splat(self, x: f32) -> float32x4_t {
        // SAFETY: a `Neon` is the proof.
        unsafe { vdupq_n_f32(x) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> float32x4_t {
        // SAFETY: a `Neon` is the proof, and the pointer is good for all lanes.
        unsafe { vld1q_f32(from) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> float32x4_t {
        let x: float32x4_t;
        // SAFETY: a `Neon` is the proof, and the pointer is good for all lanes; the instruction works on registers alone.
        // Its intrinsic is not stable.
        unsafe {
            let halves = vld1_u16(from.cast());
            asm!("fcvtl {x:v}.4s, {halves:v}.4h", x = lateout(vreg) x, halves = in(vreg) halves,
                options(pure, nomem, nostack, preserves_flags));
        }
        x
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, x: float32x4_t) {
        // SAFETY: a `Neon` is the proof, and the pointer is good for all lanes.
        unsafe { vst1q_f32(to, x) };
    }

    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> float32x4_t {
        let mut x = [0.0; Self::LANES];
        for (i, x) in x.iter_mut().enumerate().take(count) {
            // SAFETY: good for the first `count` lanes, as the trait asks.
            *x = unsafe { *from.add(i) };
        }
        // SAFETY: a `Neon` is the proof, and the array is four numbers.
        unsafe { vld1q_f32(x.as_ptr()) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize, x: float32x4_t) {
        let mut lanes = [0.0; Self::LANES];
        // SAFETY: a `Neon` is the proof, and the array has room for four numbers.
        unsafe { vst1q_f32(lanes.as_mut_ptr(), x) };
        for (i, &x) in lanes.iter().enumerate().take(count) {
            // SAFETY: good for the first `count` lanes, as the trait asks.
            unsafe { *to.add(i) = x };
        }
    }

    #[inline(always)]
    fn first(self, a: float32x4_t, count: usize) -> float32x4_t {
        // SAFETY: a `Neon` is the proof.
        unsafe { vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(a), mask(count))) }
    }

    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: a `Neon` is the proof.
        unsafe { vaddq_f32(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: a `Neon` is the proof.
        unsafe { vsubq_f32(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: a `Neon` is the proof.
        unsafe { vmulq_f32(a, b) }
    }

    #[inline(always)]
    fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: a `Neon` is the proof.
        unsafe { vdivq_f32(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: a `Neon` is the proof.
        unsafe { vfmaq_f32(c, a, b) }
    }

    /// By comparing: the set's own instruction gives NaN wherever one of the two is.
    #[inline(always)]
    fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: a `Neon` is the proof.
        unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) }
    }

    #[inline(always)]
    fn min(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: a `Neon` is the proof.
        unsafe { vbslq_f32(vcltq_f32(a, b), a, b) }
    }

    #[inline(always)]
    fn abs(self, a: float32x4_t) -> float32x4_t {
        // SAFETY: a `Neon` is the proof.
        unsafe { vabsq_f32(a) }
    }

    #[inline(always)]
    fn round(self, a: float32x4_t) -> float32x4_t {
        // SAFETY: a `Neon` is the proof.
        unsafe { vrndnq_f32(a) }
    }

    #[inline(always)]
    fn scale(self, p: float32x4_t, n: float32x4_t) -> float32x4_t {
        // SAFETY: a `Neon` is the proof.
        unsafe {
            // As `math::scale`; NaN stays in p.
            let n = vmaxq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(-127));
            let power = vshlq_n_s32::<23>(vaddq_s32(n, vdupq_n_s32(127)));
            vmulq_f32(p, vreinterpretq_f32_s32(power))
        }
    }

    #[inline(always)]
    fn sum(self, a: float32x4_t) -> f32 {
        // SAFETY: a `Neon` is the proof.
        unsafe { vaddvq_f32(a) }
    }

    #[inline(always)]
    fn largest(self, a: float32x4_t) -> f32 {
        // SAFETY: a `Neon` is the proof.
        unsafe { vmaxvq_f32(a) }
    }

    #[inline(always)]
    fn exp2(self, x: float32x4_t) -> float32x4_t {
        math::exp2(self, x)
    }

    #[inline(always)]
    fn gelu_erf(self, x: float32x4_t) -> float32x4_t {
        math::gelu_erf_by_exp(self, x)
    }

    #[inline(always)]
    fn zero_i32(self) -> int32x4_t {
        self.splat_i32(0)
    }

    #[inline(always)]
    fn splat_i32(self, x: i32) -> int32x4_t {
        // SAFETY: a `Neon` is the proof.
        unsafe { vdupq_n_s32(x) }
    }

    #[inline(always)]
    unsafe fn load_i32(self, from: *const i32) -> int32x4_t {
        // SAFETY: a `Neon` is the proof, and the pointer is good for all lanes.
        unsafe { vld1q_s32(from) }
    }

    #[inline(always)]
    unsafe fn store_i32(self, to: *mut i32, x: int32x4_t) {
        // SAFETY: a `Neon` is the proof, and the pointer is good for all lanes.
        unsafe { vst1q_s32(to, x) };
    }

    #[inline(always)]
    fn sub_i32(self, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: a `Neon` is the proof.
        unsafe { vsubq_s32(a, b) }
    }

    #[inline(always)]
    fn mul_i32(self, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: a `Neon` is the proof.
        unsafe { vmulq_s32(a, b) }
    }

    #[inline(always)]
    fn to_f32(self, a: int32x4_t) -> float32x4_t {
        // SAFETY: a `Neon` is the proof.
        unsafe { vcvtq_f32_s32(a) }
    }

    /// Four products of signed bytes to a word, exact. The instruction's intrinsic is not stable.
    #[inline(always)]
    fn dot(self, sum: int32x4_t, codes: int32x4_t, weights: int32x4_t) -> int32x4_t {
        let mut sum = sum;
        // SAFETY: a `Neon` is the proof, and the instruction works on these registers alone.
        unsafe {
            asm!("sdot {sum:v}.4s, {codes:v}.16b, {weights:v}.16b",
                sum = inout(vreg) sum, codes = in(vreg) codes, weights = in(vreg) weights,
                options(pure, nomem, nostack, preserves_flags));
        }
        sum
    }

    #[inline(always)]
    unsafe fn store_codes(self, to: *mut i32, codes: float32x4_t) {
        // SAFETY: a `Neon` is the proof, and the pointer is good for `LANES / CODES` = 1 word.
        unsafe {
            let words = vqmovun_s32(vcvtnq_s32_f32(codes));
            let bytes = vqmovn_u16(vcombine_u16(words, words));
            let signed = veor_u8(bytes, vdup_n_u8(0x80));
            *to = vget_lane_s32::<0>(vreinterpret_s32_u8(signed));
        }
    }

    #[inline(always)]
    unsafe fn transpose(self, rows: Rows<f32>, factor: float32x4_t, to: Out) {
        // SAFETY: a `Neon` is the proof; rows below the count are good for all lanes, and `to` for all that is written.
        unsafe {
            let mut x = [vdupq_n_f32(0.0); 4];
            for (r, x) in x.iter_mut().enumerate() {
                if r < rows.count {
                    *x = vmulq_f32(vld1q_f32(rows.first.add(r * rows.stride)), factor);
                }
            }
            // Of two rows each: elements 0 and 2, and 1 and 3, in pairs.
            let [even, odd] = [vtrn1q_f32(x[0], x[1]), vtrn2q_f32(x[0], x[1])].map(|x| vreinterpretq_f64_f32(x));
            let [below, above] = [vtrn1q_f32(x[2], x[3]), vtrn2q_f32(x[2], x[3])].map(|x| vreinterpretq_f64_f32(x));
            let columns =
                [vzip1q_f64(even, below), vzip1q_f64(odd, above), vzip2q_f64(even, below), vzip2q_f64(odd, above)];
            for (k, column) in columns.into_iter().enumerate() {
                vst1q_f32(to.first.add(k * to.stride), vreinterpretq_f32_f64(column));
            }
        }
    }

    #[inline(always)]
    fn fetch(self, at: *const f32) {
        // SAFETY: no address is wrong to ask for.
        unsafe { asm!("prfm pldl2keep, [{}]", in(reg) at, options(readonly, nostack, preserves_flags)) };
    }

    #[inline(always)]
    fn fetch_to_write(self, at: *const f32) {
        // SAFETY: no address is wrong to ask for.
        unsafe { asm!("prfm pstl1keep, [{}]", in(reg) at, options(readonly, nostack, preserves_flags)) };
    }
}
