//! Rows of floats as int8 codes, and how far that is from them.
#![allow(unsafe_code, reason = "raw rows and registers")]
#![allow(unsafe_op_in_unsafe_fn, reason = "functions of instructions; their contract is that the machine has them")]

use std::{arch::x86_64::*, ops::Range};

use crate::maxsim::tile::Rows;

/// Writes codes of `range.len() · dim` components and the rows' scales, rounded up to sixteen; max ‖d − d̂‖² and max ‖d‖²,
/// or `None` if a component is not finite. Sums over rows stay in lanes until there are sixteen to add up side by side.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
pub(super) unsafe fn quantize<const HALF: bool>(
    document: Rows<'_>,
    range: Range<usize>,
    codes: *mut u8,
    to_scales: &mut [f32],
) -> Option<[f32; 2]> {
    let dim = document.dim();
    let (mut errors, mut norms) = (_mm512_setzero_ps(), _mm512_setzero_ps());
    for start in range.clone().step_by(16) {
        let rows = (range.end - start).min(16);
        let mut largest = [_mm512_setzero_ps(); 16];
        let mut sums = [_mm512_setzero_ps(); 16];
        for row in 0..rows {
            (largest[row], sums[row]) = measure::<HALF>(document.at(start + row), dim);
        }
        let squares = add_up(&sums);
        // Of a component that is not finite, neither is the square.
        if _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(squares, _mm512_set1_ps(f32::INFINITY)) != 0 {
            return None;
        }
        norms = _mm512_max_ps(norms, squares);
        let scales = _mm512_mul_ps(largest_of(&largest), _mm512_set1_ps(1.0 / 127.0));
        let inverses = _mm512_div_ps(_mm512_set1_ps(1.0), scales);
        // Rows of nothing have no scale.
        let some = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(scales, _mm512_set1_ps(f32::MIN_POSITIVE));
        let scales = _mm512_maskz_mov_ps(some, scales);
        let at = start - range.start;
        _mm512_storeu_ps(to_scales[at..][..16].as_mut_ptr(), scales);
        let mut inverse = [0.0_f32; 16];
        _mm512_mask_storeu_ps(inverse.as_mut_ptr(), some, inverses);
        let mut sums = [_mm512_setzero_ps(); 16];
        for row in 0..rows {
            let to = codes.add((at + row) * dim);
            sums[row] = code::<HALF>(document.at(start + row), dim, inverse[row], to);
        }
        let error = _mm512_mul_ps(_mm512_mul_ps(scales, scales), add_up(&sums));
        errors = _mm512_max_ps(errors, error);
    }
    Some([_mm512_reduce_max_ps(errors), _mm512_reduce_max_ps(norms)])
}

/// The largest magnitudes of a row, if all are finite, and the sums of its squares, in lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn measure<const HALF: bool>(row: *const u8, dim: usize) -> (__m512, __m512) {
    let mut largest = [_mm512_setzero_ps(); 4];
    let mut sums = [_mm512_setzero_ps(); 4];
    let mut measure = |k: usize, part: usize| {
        let x = load::<HALF>(row, k);
        // The larger magnitude, in one instruction.
        largest[part] = _mm512_range_ps::<0b1011>(largest[part], x);
        sums[part] = _mm512_fmadd_ps(x, x, sums[part]);
    };
    let whole = dim - dim % 64;
    for k in (0..whole).step_by(64) {
        measure(k, 0);
        measure(k + 16, 1);
        measure(k + 32, 2);
        measure(k + 48, 3);
    }
    for k in (whole..dim).step_by(16) {
        measure(k, 0);
    }
    let [a, b, c, d] = largest;
    let largest = _mm512_max_ps(_mm512_max_ps(a, b), _mm512_max_ps(c, d));
    let [a, b, c, d] = sums;
    (largest, _mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)))
}

/// Writes the codes of a row; the sums of squares of what they leave of it, in units of its scale, in lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn code<const HALF: bool>(row: *const u8, dim: usize, inverse: f32, to: *mut u8) -> __m512 {
    let inverse = _mm512_set1_ps(inverse);
    let mut sums = [_mm512_setzero_ps(); 4];
    let mut code = |k: usize, part: usize| {
        let x = _mm512_mul_ps(load::<HALF>(row, k), inverse);
        // What rounding to the nearest integer leaves.
        let rest = _mm512_reduce_ps::<0>(x);
        sums[part] = _mm512_fmadd_ps(rest, rest, sums[part]);
        _mm512_cvtps_epi32(x)
    };
    let whole = dim - dim % 64;
    // Packing takes 16 bytes of each operand in turn.
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    for k in (0..whole).step_by(64) {
        let low = _mm512_packs_epi32(code(k, 0), code(k + 16, 1));
        let high = _mm512_packs_epi32(code(k + 32, 2), code(k + 48, 3));
        let codes = _mm512_permutexvar_epi32(order, _mm512_packs_epi16(low, high));
        _mm512_storeu_si512(to.add(k).cast(), _mm512_xor_si512(codes, _mm512_set1_epi8(i8::MIN)));
    }
    for k in (whole..dim).step_by(16) {
        let codes = _mm512_cvtepi32_epi8(code(k, 0));
        _mm_storeu_si128(to.add(k).cast(), _mm_xor_si128(codes, _mm_set1_epi8(i8::MIN)));
    }
    let [a, b, c, d] = sums;
    _mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d))
}

/// Lane `i` is the sum of the lanes of `rows[i]`.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_up(rows: &[__m512; 16]) -> __m512 {
    let mut quads = [_mm512_setzero_ps(); 4];
    for (quad, rows) in quads.iter_mut().zip(rows.as_chunks::<4>().0) {
        let [a, b, c, d] = *rows;
        let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
        let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
        let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
        let (low, high) = (_mm512_unpacklo_pd(ab, cd), _mm512_unpackhi_pd(ab, cd));
        *quad = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
    }
    let add = |a, b| _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
    add(add(quads[0], quads[1]), add(quads[2], quads[3]))
}

/// Lane `i` is the largest lane of `rows[i]`.
#[inline]
#[target_feature(enable = "avx512f")]
fn largest_of(rows: &[__m512; 16]) -> __m512 {
    let mut quads = [_mm512_setzero_ps(); 4];
    for (quad, rows) in quads.iter_mut().zip(rows.as_chunks::<4>().0) {
        let [a, b, c, d] = *rows;
        let ab = _mm512_max_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
        let cd = _mm512_max_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
        let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
        let (low, high) = (_mm512_unpacklo_pd(ab, cd), _mm512_unpackhi_pd(ab, cd));
        *quad = _mm512_max_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
    }
    let largest = |a, b| _mm512_max_ps(_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
    largest(largest(quads[0], quads[1]), largest(quads[2], quads[3]))
}

/// Components `k..k + 16` of a row.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn load<const HALF: bool>(row: *const u8, k: usize) -> __m512 {
    if HALF {
        _mm512_cvtph_ps(_mm256_loadu_si256(row.cast::<u16>().add(k).cast()))
    } else {
        _mm512_loadu_ps(row.cast::<f32>().add(k))
    }
}
