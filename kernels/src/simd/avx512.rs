//! x86-64 with AVX-512 and its byte products (VNNI): 16 lanes, 32 registers.

use std::arch::x86_64::*;

use super::{Kernel, Simd, Tile};

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

/// −x·Φ(x)'s tail for |x| up to [`TAIL_END`]: Q(a) = ½·erfc(a/√2) as a polynomial of the fourth degree on each of 15
/// intervals of width 1 / [`INTERVALS_PER_ONE`], interpolated at Chebyshev's nodes (a·Q(a) within 1.4e-7), and 0 beyond. Row by
/// power, highest first; a row is one register, and an interval its lane.
const TAIL: [[f32; 16]; 5] = [
    [
        -0.00015317226643674076,
        -0.0003669471188914031,
        -0.00037813239032402635,
        -0.00022681403788737953,
        -4.097264900337905e-05,
        7.76974848122336e-05,
        0.0001082220915122889,
        8.522908319719136e-05,
        4.969919609720819e-05,
        2.311669959453866e-05,
        8.859282388584688e-06,
        2.8467231913964497e-06,
        7.751498287689174e-07,
        1.8012694624758296e-07,
        3.589813246662743e-08,
        0.0,
    ],
    [
        0.0033289676066488028,
        0.0026619667187333107,
        0.001128853764384985,
        -0.000416035094531253,
        -0.0013139779912307858,
        -0.0014489722670987248,
        -0.0011143723968416452,
        -0.0006719478406012058,
        -0.00033178136800415814,
        -0.00013704605225939304,
        -4.794163032784127e-05,
        -1.4314381587610114e-05,
        -3.6672688565886347e-06,
        -8.09215521258011e-07,
        -1.5422534715980873e-07,
        0.0,
    ],
    [
        -4.667486427933909e-05,
        0.008955780416727066,
        0.014735935255885124,
        0.015899328514933586,
        0.013347158208489418,
        0.009196273982524872,
        0.0053255571983754635,
        0.0026250972878187895,
        0.0011097691021859646,
        0.0004043365188408643,
        0.0001273863745154813,
        3.478617873042822e-05,
        8.24821927380981e-06,
        1.7004645087581594e-06,
        3.0513035653711995e-07,
        0.0,
    ],
    [
        -0.145064115524292,
        -0.1357860416173935,
        -0.11135973036289215,
        -0.08001550287008286,
        -0.05037173256278038,
        -0.02778175286948681,
        -0.013424102216959,
        -0.005682722665369511,
        -0.00210749264806509,
        -0.0006847105687484145,
        -0.00019488246471155435,
        -4.859113323618658e-05,
        -1.0613389349600766e-05,
        -2.030760697380174e-06,
        -3.4038171747852175e-07,
        0.0,
    ],
    [
        0.49999988079071045,
        0.358064740896225,
        0.2335294783115387,
        0.13765650987625122,
        0.07289763540029526,
        0.034518204629421234,
        0.014561477117240429,
        0.005456765182316303,
        0.0018123940099030733,
        0.0005325677338987589,
        0.0001382530463160947,
        3.166975875501521e-05,
        6.39544305158779e-06,
        1.1376559996278957e-06,
        1.7814842578900425e-07,
        0.0,
    ],
];
const INTERVALS_PER_ONE: f32 = 2.75;
/// In the last interval, whose polynomial is 0.
const TAIL_END: f32 = 15.5;

impl Simd for Avx512 {
    const LANES: usize = 16;
    const CODES: usize = 4;
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
        unsafe { _mm_storeu_si128(to.cast(), _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(codes))) };
    }
}
