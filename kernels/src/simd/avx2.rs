//! x86-64 with AVX2 and FMA: 8 lanes, 16 registers.

#![allow(clippy::needless_range_loop, reason = "registers of a block by their numbers")]

use std::arch::x86_64::*;

use half::f16;

use super::{Kernel, Out, Rows, Simd, Tile, math};

/// The proof: made by [`run`] alone.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

/// Runs an operation with these instructions.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2(()))
}

/// Lanes below `count`.
#[inline(always)]
fn mask(count: usize) -> __m256i {
    // SAFETY: for this function and every other of the file: its caller has an `Avx2`, so the machine has AVX2.
    unsafe { _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)) }
}

impl Simd for Avx2 {
    const LANES: usize = 8;
    const CODES: usize = 2;
    const NATIVE: bool = true;
    type F32 = __m256;
    type I32 = __m256i;
    // 12 registers of sums, 2 of columns, 1 for the broadcast: 15 of 16.
    type Full = Tile<6, 2>;
    type Half = Tile<3, 2>;
    type Flat = Tile<1, 2>;

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        // SAFETY: an `Avx2` is the proof.
        unsafe { _mm256_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m256 {
        // SAFETY: an `Avx2` is the proof, and the pointer is good for all lanes.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> __m256 {
        // SAFETY: an `Avx2` is the proof, and the pointer is good for all lanes.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, x: __m256) {
        // SAFETY: an `Avx2` is the proof, and the pointer is good for all lanes.
        unsafe { _mm256_storeu_ps(to, x) };
    }

    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> __m256 {
        // SAFETY: an `Avx2` is the proof, and the pointer is good for the lanes of the mask.
        unsafe { _mm256_maskload_ps(from, mask(count)) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize, x: __m256) {
        // SAFETY: an `Avx2` is the proof, and the pointer is good for the lanes of the mask.
        unsafe { _mm256_maskstore_ps(to, mask(count), x) };
    }

    #[inline(always)]
    fn first(self, a: __m256, count: usize) -> __m256 {
        // SAFETY: an `Avx2` is the proof.
        unsafe { _mm256_and_ps(a, _mm256_castsi256_ps(mask(count))) }
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: an `Avx2` is the proof.
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: an `Avx2` is the proof.
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: an `Avx2` is the proof.
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: an `Avx2` is the proof.
        unsafe { _mm256_div_ps(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: an `Avx2` is the proof.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: an `Avx2` is the proof.
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: an `Avx2` is the proof.
        unsafe { _mm256_min_ps(a, b) }
    }

    #[inline(always)]
    fn abs(self, a: __m256) -> __m256 {
        // SAFETY: an `Avx2` is the proof.
        unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), a) }
    }

    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        // SAFETY: an `Avx2` is the proof.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }

    #[inline(always)]
    fn scale(self, p: __m256, n: __m256) -> __m256 {
        // SAFETY: an `Avx2` is the proof.
        unsafe {
            // As `math::scale`; NaN stays in p.
            let n = _mm256_max_ps(n, _mm256_set1_ps(-127.0));
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased)))
        }
    }

    #[inline(always)]
    fn sum(self, a: __m256) -> f32 {
        // SAFETY: an `Avx2` is the proof.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn largest(self, a: __m256) -> f32 {
        // SAFETY: an `Avx2` is the proof.
        unsafe {
            let four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn exp2(self, x: __m256) -> __m256 {
        math::exp2(self, x)
    }

    #[inline(always)]
    fn gelu_erf(self, x: __m256) -> __m256 {
        math::gelu_erf_by_exp(self, x)
    }

    #[inline(always)]
    fn zero_i32(self) -> __m256i {
        // SAFETY: an `Avx2` is the proof.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    fn splat_i32(self, x: i32) -> __m256i {
        // SAFETY: an `Avx2` is the proof.
        unsafe { _mm256_set1_epi32(x) }
    }

    #[inline(always)]
    unsafe fn load_i32(self, from: *const i32) -> __m256i {
        // SAFETY: an `Avx2` is the proof, and the pointer is good for all lanes.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store_i32(self, to: *mut i32, x: __m256i) {
        // SAFETY: an `Avx2` is the proof, and the pointer is good for all lanes.
        unsafe { _mm256_storeu_si256(to.cast(), x) };
    }

    #[inline(always)]
    fn sub_i32(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: an `Avx2` is the proof.
        unsafe { _mm256_sub_epi32(a, b) }
    }

    #[inline(always)]
    fn mul_i32(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: an `Avx2` is the proof.
        unsafe { _mm256_mullo_epi32(a, b) }
    }

    #[inline(always)]
    fn to_f32(self, a: __m256i) -> __m256 {
        // SAFETY: an `Avx2` is the proof.
        unsafe { _mm256_cvtepi32_ps(a) }
    }

    /// Pairs of 16 bits: 255 · 127 · 2 is far from the end of 32 bits, where `vpmaddubsw` would saturate at 16.
    #[inline(always)]
    fn dot(self, sum: __m256i, codes: __m256i, weights: __m256i) -> __m256i {
        // SAFETY: an `Avx2` is the proof.
        unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(codes, weights)) }
    }

    #[inline(always)]
    unsafe fn store_codes(self, to: *mut i32, codes: __m256) {
        // SAFETY: an `Avx2` is the proof, and the pointer is good for `LANES / CODES` = 4 words.
        unsafe {
            let codes = _mm256_cvtps_epi32(codes);
            let pairs = _mm_packs_epi32(_mm256_castsi256_si128(codes), _mm256_extracti128_si256::<1>(codes));
            let pairs = _mm_min_epi16(_mm_max_epi16(pairs, _mm_setzero_si128()), _mm_set1_epi16(255));
            _mm_storeu_si128(to.cast(), pairs);
        }
    }

    #[inline(always)]
    unsafe fn transpose(self, rows: Rows<f32>, factor: __m256, to: Out) {
        // SAFETY: an `Avx2` is the proof; rows below the count are good for all lanes, and `to` for all that is written.
        unsafe {
            let mut x = [_mm256_setzero_ps(); 8];
            for (r, x) in x.iter_mut().enumerate() {
                if r < rows.count {
                    *x = _mm256_mul_ps(_mm256_loadu_ps(rows.first.add(r * rows.stride)), factor);
                }
            }
            for half in 0..2 {
                // Of four rows each: elements 0 and 1 (or 2 and 3) of both halves of a register, row by row.
                let mut fours = [[_mm256_setzero_ps(); 2]; 2];
                for (group, fours) in fours.iter_mut().enumerate() {
                    let [a, b, c, d] = [x[4 * group], x[4 * group + 1], x[4 * group + 2], x[4 * group + 3]];
                    let (ab, cd) = if half == 0 {
                        (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d))
                    } else {
                        (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d))
                    };
                    *fours = [_mm256_shuffle_ps::<0x44>(ab, cd), _mm256_shuffle_ps::<0xee>(ab, cd)];
                }
                for i in 0..2 {
                    let (low, high) = (fours[0][i], fours[1][i]);
                    let k = 2 * half + i;
                    _mm256_storeu_ps(to.first.add(k * to.stride), _mm256_permute2f128_ps::<0x20>(low, high));
                    _mm256_storeu_ps(to.first.add((k + 4) * to.stride), _mm256_permute2f128_ps::<0x31>(low, high));
                }
            }
        }
    }

    #[inline(always)]
    fn fetch(self, at: *const f32) {
        // SAFETY: no address is wrong to ask for.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) };
    }

    #[inline(always)]
    fn fetch_to_write(self, at: *const f32) {
        // SAFETY: no address is wrong to ask for.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(at.cast()) };
    }
}
