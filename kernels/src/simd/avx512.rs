//! x86-64 with AVX-512 and its byte products (VNNI): 16 lanes, 32 registers.

#![allow(clippy::needless_range_loop, reason = "registers of a block by their numbers")]

use std::arch::x86_64::*;

use half::f16;

use super::{Kernel, Out, Rows, Simd, Tile, math};

/// The proof: made by [`run`] alone.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

/// Runs an operation with these instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512(()))
}

/// Lanes below `count`, which is at most 16.
#[inline(always)]
fn mask(count: usize) -> __mmask16 {
    ((1_u32 << count) - 1) as __mmask16
}

/// The normal distribution's tail Q(a) = ½·erfc(a/√2), as a polynomial of the fourth degree on each of 15 intervals of
/// width 1 / [`INTERVALS_PER_ONE`], interpolated at Chebyshev's nodes (a·Q(a) within 1.4e-7), and 0 beyond. Row by power,
/// highest first; a row is one register, and an interval its lane.
const TAIL: [[f32; 16]; 5] = [
    [
        -1.531_722_7e-4,
        -3.669_471_2e-4,
        -3.781_324e-4,
        -2.268_140_4e-4,
        -4.097_265e-5,
        7.769_748_5e-5,
        1.082_220_9e-4,
        8.522_908e-5,
        4.969_919_6e-5,
        2.311_67e-5,
        8.859_282e-6,
        2.846_723_2e-6,
        7.751_498_3e-7,
        1.801_269_5e-7,
        3.589_813_2e-8,
        0.0,
    ],
    [
        3.328_967_6e-3,
        2.661_966_7e-3,
        1.128_853_8e-3,
        -4.160_351e-4,
        -1.313_978e-3,
        -1.448_972_3e-3,
        -1.114_372_4e-3,
        -6.719_478_4e-4,
        -3.317_813_7e-4,
        -1.370_460_5e-4,
        -4.794_163e-5,
        -1.431_438_2e-5,
        -3.667_268_9e-6,
        -8.092_155e-7,
        -1.542_253_5e-7,
        0.0,
    ],
    [
        -4.667_486_4e-5,
        8.955_78e-3,
        1.473_593_5e-2,
        1.589_932_9e-2,
        1.334_715_8e-2,
        9.196_274e-3,
        5.325_557e-3,
        2.625_097_3e-3,
        1.109_769_1e-3,
        4.043_365_2e-4,
        1.273_863_7e-4,
        3.478_618e-5,
        8.248_219e-6,
        1.700_464_5e-6,
        3.051_303_6e-7,
        0.0,
    ],
    [
        -1.450_641_2e-1,
        -1.357_860_4e-1,
        -1.113_597_3e-1,
        -8.001_55e-2,
        -5.037_173_3e-2,
        -2.778_175_3e-2,
        -1.342_410_2e-2,
        -5.682_722_7e-3,
        -2.107_492_6e-3,
        -6.847_105_7e-4,
        -1.948_824_6e-4,
        -4.859_113_3e-5,
        -1.061_338_9e-5,
        -2.030_760_7e-6,
        -3.403_817_2e-7,
        0.0,
    ],
    [
        4.999_998_8e-1,
        3.580_647_4e-1,
        2.335_294_8e-1,
        1.376_565_1e-1,
        7.289_763_5e-2,
        3.451_820_5e-2,
        1.456_147_7e-2,
        5.456_765e-3,
        1.812_394e-3,
        5.325_677_3e-4,
        1.382_530_5e-4,
        3.166_976e-5,
        6.395_443e-6,
        1.137_656e-6,
        1.781_484_3e-7,
        0.0,
    ],
];
const INTERVALS_PER_ONE: f32 = 2.75;
/// In the last interval, whose polynomial is 0.
const TAIL_END: f32 = 15.5;

impl Simd for Avx512 {
    const LANES: usize = 16;
    const CODES: usize = 4;
    const NATIVE: bool = true;
    type F32 = __m512;
    type I32 = __m512i;
    // 24 registers of sums, 2 of columns, 1 for the broadcast: 27 of 32.
    type Full = Tile<12, 2>;
    type Half = Tile<6, 2>;
    type Flat = Tile<3, 2>;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: an `Avx512` is the proof.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        // SAFETY: an `Avx512` is the proof, and the pointer is good for all lanes.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> __m512 {
        // SAFETY: an `Avx512` is the proof, and the pointer is good for all lanes.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, x: __m512) {
        // SAFETY: an `Avx512` is the proof, and the pointer is good for all lanes.
        unsafe { _mm512_storeu_ps(to, x) };
    }

    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> __m512 {
        // SAFETY: an `Avx512` is the proof, and the pointer is good for the lanes of the mask.
        unsafe { _mm512_maskz_loadu_ps(mask(count), from) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize, x: __m512) {
        // SAFETY: an `Avx512` is the proof, and the pointer is good for the lanes of the mask.
        unsafe { _mm512_mask_storeu_ps(to, mask(count), x) };
    }

    #[inline(always)]
    fn first(self, a: __m512, count: usize) -> __m512 {
        // SAFETY: an `Avx512` is the proof.
        unsafe { _mm512_maskz_mov_ps(mask(count), a) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: an `Avx512` is the proof.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: an `Avx512` is the proof.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: an `Avx512` is the proof.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: an `Avx512` is the proof.
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: an `Avx512` is the proof.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: an `Avx512` is the proof.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: an `Avx512` is the proof.
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        // SAFETY: an `Avx512` is the proof.
        unsafe { _mm512_abs_ps(a) }
    }

    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        // SAFETY: an `Avx512` is the proof.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }

    #[inline(always)]
    fn scale(self, p: __m512, n: __m512) -> __m512 {
        // SAFETY: an `Avx512` is the proof.
        unsafe { _mm512_scalef_ps(p, n) }
    }

    #[inline(always)]
    fn sum(self, a: __m512) -> f32 {
        // SAFETY: an `Avx512` is the proof.
        unsafe {
            let eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn largest(self, a: __m512) -> f32 {
        // SAFETY: an `Avx512` is the proof.
        unsafe {
            let eight = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn exp2(self, x: __m512) -> __m512 {
        math::exp2(self, x)
    }

    #[inline(always)]
    fn gelu_erf(self, x: __m512) -> __m512 {
        // SAFETY: an `Avx512` is the proof, and the table's rows are whole registers.
        unsafe {
            let a = _mm512_min_ps(_mm512_abs_ps(x), _mm512_set1_ps(TAIL_END / INTERVALS_PER_ONE));
            let place = _mm512_mul_ps(a, _mm512_set1_ps(INTERVALS_PER_ONE));
            let interval = _mm512_cvttps_epi32(place);
            let t = _mm512_sub_ps(place, _mm512_cvtepi32_ps(interval));
            let mut tail = _mm512_permutexvar_ps(interval, _mm512_loadu_ps(TAIL[0].as_ptr()));
            for row in &TAIL[1..] {
                tail = _mm512_fmadd_ps(tail, t, _mm512_permutexvar_ps(interval, _mm512_loadu_ps(row.as_ptr())));
            }
            _mm512_fnmadd_ps(a, tail, _mm512_max_ps(_mm512_setzero_ps(), x))
        }
    }

    #[inline(always)]
    fn zero_i32(self) -> __m512i {
        // SAFETY: an `Avx512` is the proof.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    fn splat_i32(self, x: i32) -> __m512i {
        // SAFETY: an `Avx512` is the proof.
        unsafe { _mm512_set1_epi32(x) }
    }

    #[inline(always)]
    unsafe fn load_i32(self, from: *const i32) -> __m512i {
        // SAFETY: an `Avx512` is the proof, and the pointer is good for all lanes.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store_i32(self, to: *mut i32, x: __m512i) {
        // SAFETY: an `Avx512` is the proof, and the pointer is good for all lanes.
        unsafe { _mm512_storeu_si512(to.cast(), x) };
    }

    #[inline(always)]
    fn sub_i32(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: an `Avx512` is the proof.
        unsafe { _mm512_sub_epi32(a, b) }
    }

    #[inline(always)]
    fn mul_i32(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: an `Avx512` is the proof.
        unsafe { _mm512_mullo_epi32(a, b) }
    }

    #[inline(always)]
    fn to_f32(self, a: __m512i) -> __m512 {
        // SAFETY: an `Avx512` is the proof.
        unsafe { _mm512_cvtepi32_ps(a) }
    }

    /// Sums of four products go to 32 bits at once.
    #[inline(always)]
    fn dot(self, sum: __m512i, codes: __m512i, weights: __m512i) -> __m512i {
        // SAFETY: an `Avx512` is the proof.
        unsafe { _mm512_dpbusd_epi32(sum, codes, weights) }
    }

    #[inline(always)]
    unsafe fn store_codes(self, to: *mut i32, codes: __m512) {
        // SAFETY: an `Avx512` is the proof, and the pointer is good for `LANES / CODES` = 4 words.
        unsafe {
            let codes = _mm512_max_epi32(_mm512_cvtps_epi32(codes), _mm512_setzero_si512());
            _mm_storeu_si128(to.cast(), _mm512_cvtusepi32_epi8(codes));
        }
    }

    #[inline(always)]
    unsafe fn transpose(self, rows: Rows<f32>, factor: __m512, to: Out) {
        // SAFETY: an `Avx512` is the proof; rows below the count are good for all lanes, and `to` for all that is
        // written.
        unsafe {
            let mut x = [_mm512_setzero_ps(); 16];
            for (r, x) in x.iter_mut().enumerate() {
                if r < rows.count {
                    *x = _mm512_mul_ps(_mm512_loadu_ps(rows.first.add(r * rows.stride)), factor);
                }
            }
            // `fours[g][c]`: of each quarter of a register, element c of rows 4g to 4g + 3.
            let mut fours = [[_mm512_setzero_pd(); 4]; 4];
            for (group, fours) in fours.iter_mut().enumerate() {
                let [a, b, c, d] = [x[4 * group], x[4 * group + 1], x[4 * group + 2], x[4 * group + 3]];
                let (ab, cd) = (_mm512_castps_pd(_mm512_unpacklo_ps(a, b)), _mm512_castps_pd(_mm512_unpacklo_ps(c, d)));
                fours[0] = _mm512_unpacklo_pd(ab, cd);
                fours[1] = _mm512_unpackhi_pd(ab, cd);
                let (ab, cd) = (_mm512_castps_pd(_mm512_unpackhi_ps(a, b)), _mm512_castps_pd(_mm512_unpackhi_ps(c, d)));
                fours[2] = _mm512_unpacklo_pd(ab, cd);
                fours[3] = _mm512_unpackhi_pd(ab, cd);
            }
            for c in 0..4 {
                // Quarters 0 and 2, then 1 and 3, of all groups.
                let even = _mm512_shuffle_f64x2::<0x88>(fours[0][c], fours[1][c]);
                let odd = _mm512_shuffle_f64x2::<0xdd>(fours[0][c], fours[1][c]);
                let even_high = _mm512_shuffle_f64x2::<0x88>(fours[2][c], fours[3][c]);
                let odd_high = _mm512_shuffle_f64x2::<0xdd>(fours[2][c], fours[3][c]);
                let columns = [
                    _mm512_shuffle_f64x2::<0x88>(even, even_high),
                    _mm512_shuffle_f64x2::<0x88>(odd, odd_high),
                    _mm512_shuffle_f64x2::<0xdd>(even, even_high),
                    _mm512_shuffle_f64x2::<0xdd>(odd, odd_high),
                ];
                for (quarter, column) in columns.into_iter().enumerate() {
                    _mm512_storeu_pd(to.first.add((4 * quarter + c) * to.stride).cast(), column);
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
