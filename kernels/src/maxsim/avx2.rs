//! AVX2 with FMA and F16C: 8 lanes, 16 registers.
//!
//! | query tokens | tile | loads for multiply-adds, each step |
//! |---|---|---|
//! | 16 | 6 rows × 2 registers of 8 | 8 for 12 |
//! | 8 | 8 × 1 of 8 | 9 for 8 |
//!
//! Codes are widened to 16 bits, two a step, for `vpmaddwd`: `vpmaddubsw`, which takes 8 bits, cuts a pair's sum off at
//! 32,767, and what must be added to prevent that costs what it gains.
#![allow(unsafe_code, reason = "implements the tile's registers")]
#![allow(unsafe_op_in_unsafe_fn, reason = "each function is an instruction or two, whose contract the trait states")]

use std::arch::x86_64::*;

use half::f16;

use super::{
    kernel::Shape,
    lanes::{Aligned, Arithmetic, Best, Lanes, Track},
    tile::{self, Work},
};
use crate::{InstructionSet, Isa, tokens::Storage};

pub(super) const SHAPE: Shape = Shape { widths: &[16, 8], components: 2, offset: 0 };

/// Does one panel's work.
pub(super) fn run(isa: Isa, mut work: Work<'_>) {
    assert_eq!(isa.set(), InstructionSet::Avx2);
    let codes = tile::has_codes(work.rows.storage());
    // SAFETY: `isa` is proof of the instructions; panels have one of the widths of SHAPE.
    unsafe {
        match (codes, work.lanes) {
            (false, 16) => tracked::<Floats, 6, 2>(&mut work),
            (false, _) => tracked::<Floats, 8, 1>(&mut work),
            (true, 16) => tracked::<Codes, 6, 2>(&mut work),
            (true, _) => tracked::<Codes, 8, 1>(&mut work),
        }
    }
}

unsafe fn tracked<A: Arithmetic<Lanes = Ymm>, const R: usize, const V: usize>(work: &mut Work<'_>) {
    if work.tokens.is_empty() {
        rows::<A, Best<Ymm>, R, V>(work);
    } else {
        rows::<A, Aligned<Ymm>, R, V>(work);
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn rows<A: Arithmetic, T: Track<A::Lanes>, const R: usize, const V: usize>(work: &mut Work<'_>) {
    tile::run::<A, T, R, V>(work);
}

/// 8 lanes.
#[derive(Clone, Copy)]
pub(super) struct Ymm;

// SAFETY: each touches WIDTH numbers.
unsafe impl Lanes for Ymm {
    const WIDTH: usize = 8;
    type Values = __m256;
    type Tokens = __m256i;
    type Mask = __m256;

    #[inline(always)]
    unsafe fn load(at: *const f32) -> __m256 {
        _mm256_loadu_ps(at)
    }

    #[inline(always)]
    unsafe fn store(values: __m256, at: *mut f32) {
        _mm256_storeu_ps(at, values);
    }

    #[inline(always)]
    unsafe fn load_tokens(at: *const u32) -> __m256i {
        _mm256_loadu_si256(at.cast())
    }

    #[inline(always)]
    unsafe fn store_tokens(tokens: __m256i, at: *mut u32) {
        _mm256_storeu_si256(at.cast(), tokens);
    }

    #[inline(always)]
    unsafe fn larger(new: __m256, best: __m256) -> __m256 {
        // The second operand, if they are equal or one is NaN.
        _mm256_max_ps(new, best)
    }

    #[inline(always)]
    unsafe fn none() -> __m256 {
        _mm256_setzero_ps()
    }

    #[inline(always)]
    unsafe fn or_unordered(mask: __m256, a: __m256, b: __m256) -> __m256 {
        _mm256_or_ps(mask, _mm256_cmp_ps::<_CMP_UNORD_Q>(a, b))
    }

    #[inline(always)]
    unsafe fn poison(values: __m256, mask: __m256) -> __m256 {
        _mm256_blendv_ps(values, _mm256_set1_ps(f32::NAN), mask)
    }

    #[inline(always)]
    unsafe fn take((best, tokens): (__m256, __m256i), new: __m256, token: u32) -> (__m256, __m256i) {
        // Not less or equal: larger, or either is NaN.
        let larger = _mm256_cmp_ps::<_CMP_NLE_UQ>(new, best);
        let taken = _mm256_and_ps(larger, _mm256_cmp_ps::<_CMP_ORD_Q>(best, best));
        let token = _mm256_castsi256_ps(_mm256_set1_epi32(token.cast_signed()));
        let tokens = _mm256_blendv_ps(_mm256_castsi256_ps(tokens), token, taken);
        (_mm256_blendv_ps(best, new, taken), _mm256_castps_si256(tokens))
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
pub(super) struct Floats;

// SAFETY: each reads what its register takes, and `convert` the components.
unsafe impl Arithmetic for Floats {
    type Lanes = Ymm;
    const COMPONENTS: usize = 1;
    const AS_STORED: Storage = Storage::F32;
    type Sums = __m256;
    type Query = __m256;
    type Document = __m256;

    #[inline(always)]
    unsafe fn start(at: *const u32) -> __m256 {
        _mm256_loadu_ps(at.cast())
    }

    #[inline(always)]
    unsafe fn query(at: *const u32) -> __m256 {
        _mm256_loadu_ps(at.cast())
    }

    #[inline(always)]
    unsafe fn document(at: *const u8) -> __m256 {
        _mm256_set1_ps(at.cast::<f32>().read_unaligned())
    }

    #[inline(always)]
    unsafe fn multiply_add(sums: __m256, document: __m256, query: __m256) -> __m256 {
        _mm256_fmadd_ps(document, query, sums)
    }

    #[inline(always)]
    unsafe fn values(sums: __m256, _: f32) -> __m256 {
        sums
    }

    #[inline(always)]
    unsafe fn convert(storage: Storage, from: *const u8, count: usize, to: *mut u8) {
        if storage == Storage::F32 {
            return from.copy_to_nonoverlapping(to, 4 * count);
        }
        let (from, to) = (from.cast::<f16>(), to.cast::<f32>());
        let whole = count - count % 8;
        for at in (0..whole).step_by(8) {
            _mm256_storeu_ps(to.add(at), _mm256_cvtph_ps(_mm_loadu_si128(from.add(at).cast())));
        }
        for at in whole..count {
            to.add(at).write_unaligned(from.add(at).read_unaligned().to_f32());
        }
    }
}

/// Products of 8-bit codes as 16 bits.
struct Codes;

// SAFETY: as above.
unsafe impl Arithmetic for Codes {
    type Lanes = Ymm;
    const COMPONENTS: usize = SHAPE.components;
    /// None is: this one is never asked for.
    const AS_STORED: Storage = Storage::F32;
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
        _mm256_add_epi32(sums, _mm256_madd_epi16(document, query))
    }

    #[inline(always)]
    unsafe fn values(sums: __m256i, scale: f32) -> __m256 {
        _mm256_mul_ps(_mm256_cvtepi32_ps(sums), _mm256_set1_ps(scale))
    }

    #[inline(always)]
    unsafe fn convert(storage: Storage, from: *const u8, count: usize, to: *mut u8) {
        let to = to.cast::<i16>();
        let whole = count - count % 16;
        for at in (0..whole).step_by(16) {
            let codes = if storage == Storage::Int8 {
                let stored = _mm256_cvtepu8_epi16(_mm_loadu_si128(from.add(at).cast()));
                _mm256_sub_epi16(stored, _mm256_set1_epi16(128))
            } else {
                signs(from.add(at / 8).cast::<i16>().read_unaligned())
            };
            _mm256_storeu_si256(to.add(at).cast(), codes);
        }
        for at in whole..count {
            let code = if storage == Storage::Int8 {
                i16::from(*from.add(at)) - 128
            } else {
                i16::from(*from.add(at / 8) >> (at % 8) & 1) * 2 - 1
            };
            to.add(at).write_unaligned(code);
        }
        if count % 2 == 1 {
            to.add(count).write_unaligned(0);
        }
    }
}

/// +1 for a bit that is set, −1 for one that is not.
#[inline(always)]
unsafe fn signs(bits: i16) -> __m256i {
    let each = _mm256_setr_epi16(
        1,
        1 << 1,
        1 << 2,
        1 << 3,
        1 << 4,
        1 << 5,
        1 << 6,
        1 << 7,
        1 << 8,
        1 << 9,
        1 << 10,
        1 << 11,
        1 << 12,
        1 << 13,
        1 << 14,
        i16::MIN,
    );
    // −1 where the bit is not set.
    let clear = _mm256_cmpeq_epi16(_mm256_and_si256(_mm256_set1_epi16(bits), each), _mm256_setzero_si256());
    _mm256_or_si256(clear, _mm256_set1_epi16(1))
}
