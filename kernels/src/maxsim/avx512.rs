//! AVX-512: 16 lanes, 32 registers, and VNNI for codes.
//!
//! | query tokens | tile | loads for multiply-adds, each step |
//! |---|---|---|
//! | 32 | 12 rows × 2 registers of 16 | 14 for 24 |
//! | 16 | 12 × 1 of 16 | 13 for 12 |
//! | 8 | 12 × 1 of 8 | 13 for 12, of half the width |
//!
//! `vpdpbusd` multiplies four unsigned codes, the document's as they are stored, with four signed ones in each lane: four
//! times the products of a floating-point instruction. The 128 by which stored codes are too large is in what the sums
//! start with.
#![allow(unsafe_code, reason = "implements the tile's registers")]
#![allow(unsafe_op_in_unsafe_fn, reason = "each function is an instruction or two, whose contract the trait states")]

use std::arch::x86_64::*;

use super::{
    avx2::{self, Ymm},
    kernel::Shape,
    lanes::{Aligned, Arithmetic, Best, Lanes, Noted, Track},
    tile::{self, Work},
};
use crate::{InstructionSet, Isa, tokens::Storage};

pub(super) const SHAPE: Shape = Shape { widths: &[32, 16, 8], components: 4, offset: 128 };

/// Does one panel's work.
pub(super) fn run(isa: Isa, mut work: Work<'_>) {
    assert_eq!(isa.set(), InstructionSet::Avx512);
    let codes = tile::has_codes(work.rows.storage());
    // SAFETY: `isa` is proof of the instructions; panels have one of the widths of SHAPE.
    unsafe {
        match (codes, work.lanes) {
            (false, 32) => tracked::<Floats, 2>(&mut work),
            (false, 16) => tracked::<Floats, 1>(&mut work),
            (false, _) => tracked::<avx2::Floats, 1>(&mut work),
            (true, 32) => tracked::<Codes, 2>(&mut work),
            (true, 16) => tracked::<Codes, 1>(&mut work),
            (true, _) => tracked::<NarrowCodes, 1>(&mut work),
        }
    }
}

/// Does one panel's work with codes, and notes every similarity. There are rows of at least 16 lanes.
pub(super) fn note(isa: Isa, mut work: Work<'_>) {
    assert_eq!(isa.set(), InstructionSet::Avx512);
    // SAFETY: `isa` is proof of the instructions; the caller has room for all similarities.
    unsafe {
        match work.lanes {
            32 => rows::<Codes, Noted<Zmm>, 2>(&mut work),
            16 => rows::<Codes, Noted<Zmm>, 1>(&mut work),
            _ => rows::<NarrowCodes, Noted<Ymm>, 1>(&mut work),
        }
    }
}

unsafe fn tracked<A: Arithmetic<Lanes: Copy>, const V: usize>(work: &mut Work<'_>) {
    if work.tokens.is_empty() {
        rows::<A, Best<A::Lanes>, V>(work);
    } else {
        rows::<A, Aligned<A::Lanes>, V>(work);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn rows<A: Arithmetic, T: Track<A::Lanes>, const V: usize>(work: &mut Work<'_>) {
    tile::run::<A, T, 12, V>(work);
}

/// 16 lanes.
#[derive(Clone, Copy)]
pub(super) struct Zmm;

// SAFETY: each touches WIDTH numbers.
unsafe impl Lanes for Zmm {
    const WIDTH: usize = 16;
    type Values = __m512;
    type Tokens = __m512i;
    type Mask = __mmask16;

    #[inline(always)]
    unsafe fn load(at: *const f32) -> __m512 {
        _mm512_loadu_ps(at)
    }

    #[inline(always)]
    unsafe fn store(values: __m512, at: *mut f32) {
        _mm512_storeu_ps(at, values);
    }

    #[inline(always)]
    unsafe fn load_tokens(at: *const u32) -> __m512i {
        _mm512_loadu_si512(at.cast())
    }

    #[inline(always)]
    unsafe fn store_tokens(tokens: __m512i, at: *mut u32) {
        _mm512_storeu_si512(at.cast(), tokens);
    }

    #[inline(always)]
    unsafe fn larger(new: __m512, best: __m512) -> __m512 {
        // The second operand, if they are equal or one is NaN.
        _mm512_max_ps(new, best)
    }

    #[inline(always)]
    unsafe fn none() -> __mmask16 {
        0
    }

    #[inline(always)]
    unsafe fn or_unordered(mask: __mmask16, a: __m512, b: __m512) -> __mmask16 {
        mask | _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, b)
    }

    #[inline(always)]
    unsafe fn poison(values: __m512, mask: __mmask16) -> __m512 {
        _mm512_mask_mov_ps(values, mask, _mm512_set1_ps(f32::NAN))
    }

    #[inline(always)]
    unsafe fn take((best, tokens): (__m512, __m512i), new: __m512, token: u32) -> (__m512, __m512i) {
        // Not less or equal: larger, or either is NaN.
        let larger = _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(new, best);
        let taken = _mm512_mask_cmp_ps_mask::<_CMP_ORD_Q>(larger, best, best);
        let token = _mm512_set1_epi32(token.cast_signed());
        (_mm512_mask_mov_ps(best, taken, new), _mm512_mask_mov_epi32(tokens, taken, token))
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }

    #[inline(always)]
    unsafe fn prefetch_far(at: *const u8) {
        _mm_prefetch::<_MM_HINT_T1>(at.cast());
    }
}

/// f32 products.
struct Floats;

// SAFETY: each reads what its register takes, and `convert` the components.
unsafe impl Arithmetic for Floats {
    type Lanes = Zmm;
    const COMPONENTS: usize = 1;
    const AS_STORED: Storage = Storage::F32;
    type Sums = __m512;
    type Query = __m512;
    type Document = __m512;

    #[inline(always)]
    unsafe fn start(at: *const u32) -> __m512 {
        _mm512_loadu_ps(at.cast())
    }

    #[inline(always)]
    unsafe fn query(at: *const u32) -> __m512 {
        _mm512_loadu_ps(at.cast())
    }

    #[inline(always)]
    unsafe fn document(at: *const u8) -> __m512 {
        _mm512_set1_ps(at.cast::<f32>().read_unaligned())
    }

    #[inline(always)]
    unsafe fn multiply_add(sums: __m512, document: __m512, query: __m512) -> __m512 {
        _mm512_fmadd_ps(document, query, sums)
    }

    #[inline(always)]
    unsafe fn values(sums: __m512, _: f32) -> __m512 {
        sums
    }

    #[inline(always)]
    unsafe fn convert(storage: Storage, from: *const u8, count: usize, to: *mut u8) {
        let mut done = 0;
        while done < count {
            let lanes = first(count - done) as __mmask16;
            let values = if storage == Storage::F32 {
                _mm512_maskz_loadu_ps(lanes, from.cast::<f32>().add(done))
            } else {
                _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, from.cast::<i16>().add(done)))
            };
            _mm512_storeu_ps(to.cast::<f32>().add(done), values);
            done += 16;
        }
    }
}

/// Products of 8-bit codes.
struct Codes;

// SAFETY: as above.
unsafe impl Arithmetic for Codes {
    type Lanes = Zmm;
    const COMPONENTS: usize = SHAPE.components;
    const AS_STORED: Storage = Storage::Int8;
    type Sums = __m512i;
    type Query = __m512i;
    type Document = __m512i;

    #[inline(always)]
    unsafe fn start(at: *const u32) -> __m512i {
        _mm512_loadu_si512(at.cast())
    }

    #[inline(always)]
    unsafe fn query(at: *const u32) -> __m512i {
        _mm512_loadu_si512(at.cast())
    }

    #[inline(always)]
    unsafe fn document(at: *const u8) -> __m512i {
        _mm512_set1_epi32(at.cast::<i32>().read_unaligned())
    }

    #[inline(always)]
    unsafe fn multiply_add(sums: __m512i, document: __m512i, query: __m512i) -> __m512i {
        _mm512_dpbusd_epi32(sums, document, query)
    }

    #[inline(always)]
    unsafe fn values(sums: __m512i, scale: f32) -> __m512 {
        _mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_set1_ps(scale))
    }

    #[inline(always)]
    unsafe fn convert(storage: Storage, from: *const u8, count: usize, to: *mut u8) {
        convert_codes(storage, from, count, to);
    }
}

/// The same, for 8 query tokens.
struct NarrowCodes;

// SAFETY: as above.
unsafe impl Arithmetic for NarrowCodes {
    type Lanes = Ymm;
    const COMPONENTS: usize = SHAPE.components;
    const AS_STORED: Storage = Storage::Int8;
    type Sums = __m256i;
    type Query = __m256i;
    type Document = __m256i;

    #[inline(always)]
    unsafe fn start(at: *const u32) -> __m256i {
        _mm256_loadu_si256(at.cast())
    }

    #[inline(always)]
    unsafe fn query(at: *const u32) -> __m256i {
        _mm256_loadu_si256(at.cast())
    }

    #[inline(always)]
    unsafe fn document(at: *const u8) -> __m256i {
        _mm256_set1_epi32(at.cast::<i32>().read_unaligned())
    }

    #[inline(always)]
    unsafe fn multiply_add(sums: __m256i, document: __m256i, query: __m256i) -> __m256i {
        _mm256_dpbusd_epi32(sums, document, query)
    }

    #[inline(always)]
    unsafe fn values(sums: __m256i, scale: f32) -> __m256 {
        _mm256_mul_ps(_mm256_cvtepi32_ps(sums), _mm256_set1_ps(scale))
    }

    #[inline(always)]
    unsafe fn convert(storage: Storage, from: *const u8, count: usize, to: *mut u8) {
        convert_codes(storage, from, count, to);
    }
}

/// The first `count` of 16 or 64 lanes.
#[inline(always)]
fn first(count: usize) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

#[inline(always)]
unsafe fn convert_codes(storage: Storage, from: *const u8, count: usize, to: *mut u8) {
    let mut done = 0;
    while done < count {
        let lanes = first(count - done);
        let codes = if storage == Storage::Int8 {
            _mm512_maskz_loadu_epi8(lanes, from.cast::<i8>().add(done))
        } else {
            // 129 for a bit that is set, 127 for one that is not: +1 and −1 beside the 128 of every code.
            let bytes =
                _mm_maskz_loadu_epi8(first((count - done).div_ceil(8)) as u16 & 0xff, from.cast::<i8>().add(done / 8));
            let bits = _mm_cvtsi128_si64(bytes).cast_unsigned();
            _mm512_mask_blend_epi8(bits, _mm512_set1_epi8(127), _mm512_set1_epi8(129_u8.cast_signed()))
        };
        _mm512_storeu_si512(to.add(done).cast(), codes);
        done += 64;
    }
}
