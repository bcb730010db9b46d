//! Advanced SIMD of aarch64, with the dot-product extension: 4 lanes, 32 registers.
//!
//! Tested under emulation; not yet measured on a machine that has it.
//!
//! | query tokens | tile | loads for multiply-adds, each step |
//! |---|---|---|
//! | 16 | 6 rows × 4 registers of 4 | 10 for 24 |
//! | 8 | 8 × 2 of 4 | 10 for 16 |
//! | 4 | 8 × 1 of 4 | 9 for 8 |
//!
//! `sdot` multiplies signed codes: flipping the highest bit of a stored one takes 128 from it.
#![allow(unsafe_code, reason = "implements the tile's registers")]
#![allow(unsafe_op_in_unsafe_fn, reason = "each function is an instruction or two, whose contract the trait states")]

use std::arch::{aarch64::*, asm};

use half::f16;

use super::{
    kernel::Shape,
    lanes::{Aligned, Arithmetic, Best, Lanes, Track},
    tile::{self, Work},
};
use crate::{InstructionSet, Isa, tokens::Storage};

pub(super) const SHAPE: Shape = Shape { widths: &[16, 8, 4], components: 4, offset: 0 };

/// Does one panel's work.
pub(super) fn run(isa: Isa, mut work: Work<'_>) {
    assert_eq!(isa.set(), InstructionSet::Neon);
    let codes = tile::has_codes(work.rows.storage());
    // SAFETY: `isa` is proof of the instructions; panels have one of the widths of SHAPE.
    unsafe {
        match (codes, work.lanes) {
            (false, 16) => tracked::<Floats, 6, 4>(&mut work),
            (false, 8) => tracked::<Floats, 8, 2>(&mut work),
            (false, _) => tracked::<Floats, 8, 1>(&mut work),
            (true, 16) => tracked::<Codes, 6, 4>(&mut work),
            (true, 8) => tracked::<Codes, 8, 2>(&mut work),
            (true, _) => tracked::<Codes, 8, 1>(&mut work),
        }
    }
}

unsafe fn tracked<A: Arithmetic<Lanes = Q>, const R: usize, const V: usize>(work: &mut Work<'_>) {
    if work.tokens.is_empty() {
        rows::<A, Best<Q>, R, V>(work);
    } else {
        rows::<A, Aligned<Q>, R, V>(work);
    }
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn rows<A: Arithmetic, T: Track<A::Lanes>, const R: usize, const V: usize>(work: &mut Work<'_>) {
    tile::run::<A, T, R, V>(work);
}

/// 4 lanes.
#[derive(Clone, Copy)]
struct Q;

// SAFETY: each touches WIDTH numbers.
unsafe impl Lanes for Q {
    const WIDTH: usize = 4;
    type Values = float32x4_t;
    type Tokens = uint32x4_t;
    type Mask = uint32x4_t;

    #[inline(always)]
    unsafe fn load(at: *const f32) -> float32x4_t {
        vld1q_f32(at)
    }

    #[inline(always)]
    unsafe fn store(values: float32x4_t, at: *mut f32) {
        vst1q_f32(at, values);
    }

    #[inline(always)]
    unsafe fn load_tokens(at: *const u32) -> uint32x4_t {
        vld1q_u32(at)
    }

    #[inline(always)]
    unsafe fn store_tokens(tokens: uint32x4_t, at: *mut u32) {
        vst1q_u32(at, tokens);
    }

    #[inline(always)]
    unsafe fn larger(new: float32x4_t, best: float32x4_t) -> float32x4_t {
        vbslq_f32(vcgtq_f32(new, best), new, best)
    }

    #[inline(always)]
    unsafe fn none() -> uint32x4_t {
        vdupq_n_u32(0)
    }

    #[inline(always)]
    unsafe fn or_unordered(mask: uint32x4_t, a: float32x4_t, b: float32x4_t) -> uint32x4_t {
        // A number equals itself.
        vornq_u32(mask, vandq_u32(vceqq_f32(a, a), vceqq_f32(b, b)))
    }

    #[inline(always)]
    unsafe fn poison(values: float32x4_t, mask: uint32x4_t) -> float32x4_t {
        vbslq_f32(mask, vdupq_n_f32(f32::NAN), values)
    }

    #[inline(always)]
    unsafe fn take(
        (best, tokens): (float32x4_t, uint32x4_t),
        new: float32x4_t,
        token: u32,
    ) -> (float32x4_t, uint32x4_t) {
        // Not less or equal: larger, or either is NaN.
        let larger = vmvnq_u32(vcleq_f32(new, best));
        let taken = vandq_u32(larger, vceqq_f32(best, best));
        (vbslq_f32(taken, new, best), vbslq_u32(taken, vdupq_n_u32(token), tokens))
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        asm!("prfm pldl1keep, [{at}]", at = in(reg) at, options(nostack, readonly, preserves_flags));
    }

    #[inline(always)]
    unsafe fn prefetch_far(at: *const u8) {
        asm!("prfm pldl2keep, [{at}]", at = in(reg) at, options(nostack, readonly, preserves_flags));
    }
}

/// f32 products.
struct Floats;

// SAFETY: each reads what its register takes, and `convert` the components.
unsafe impl Arithmetic for Floats {
    type Lanes = Q;
    const COMPONENTS: usize = 1;
    const AS_STORED: Storage = Storage::F32;
    type Sums = float32x4_t;
    type Query = float32x4_t;
    type Document = float32x4_t;

    #[inline(always)]
    unsafe fn start(at: *const u32) -> float32x4_t {
        vld1q_f32(at.cast())
    }

    #[inline(always)]
    unsafe fn query(at: *const u32) -> float32x4_t {
        vld1q_f32(at.cast())
    }

    #[inline(always)]
    unsafe fn document(at: *const u8) -> float32x4_t {
        vdupq_n_f32(at.cast::<f32>().read_unaligned())
    }

    #[inline(always)]
    unsafe fn multiply_add(sums: float32x4_t, document: float32x4_t, query: float32x4_t) -> float32x4_t {
        vfmaq_f32(sums, document, query)
    }

    #[inline(always)]
    unsafe fn values(sums: float32x4_t, _: f32) -> float32x4_t {
        sums
    }

    #[inline(always)]
    unsafe fn convert(storage: Storage, from: *const u8, count: usize, to: *mut u8) {
        if storage == Storage::F32 {
            return from.copy_to_nonoverlapping(to, 4 * count);
        }
        let (from, to) = (from.cast::<f16>(), to.cast::<f32>());
        let whole = count - count % 4;
        for at in (0..whole).step_by(4) {
            let halves = vld1_u16(from.add(at).cast());
            let values: float32x4_t;
            // The intrinsic wants a type that stable Rust has not; the instruction is of the base set.
            asm!("fcvtl {values:v}.4s, {halves:v}.4h", values = out(vreg) values, halves = in(vreg) halves,
                options(pure, nomem, nostack, preserves_flags));
            vst1q_f32(to.add(at), values);
        }
        for at in whole..count {
            to.add(at).write_unaligned(from.add(at).read_unaligned().to_f32());
        }
    }
}

/// Products of 8-bit codes.
struct Codes;

// SAFETY: as above.
unsafe impl Arithmetic for Codes {
    type Lanes = Q;
    const COMPONENTS: usize = SHAPE.components;
    const AS_STORED: Storage = Storage::Int8;
    type Sums = int32x4_t;
    type Query = int8x16_t;
    type Document = int8x16_t;

    #[inline(always)]
    unsafe fn start(at: *const u32) -> int32x4_t {
        vld1q_s32(at.cast())
    }

    #[inline(always)]
    unsafe fn query(at: *const u32) -> int8x16_t {
        vld1q_s8(at.cast())
    }

    #[inline(always)]
    unsafe fn document(at: *const u8) -> int8x16_t {
        // 128 less, in each of the four bytes.
        vreinterpretq_s8_u32(vdupq_n_u32(at.cast::<u32>().read_unaligned() ^ 0x8080_8080))
    }

    #[inline(always)]
    unsafe fn multiply_add(mut sums: int32x4_t, document: int8x16_t, query: int8x16_t) -> int32x4_t {
        // The intrinsic is not stable.
        asm!("sdot {sums:v}.4s, {document:v}.16b, {query:v}.16b", sums = inout(vreg) sums,
            document = in(vreg) document, query = in(vreg) query, options(pure, nomem, nostack, preserves_flags));
        sums
    }

    #[inline(always)]
    unsafe fn values(sums: int32x4_t, scale: f32) -> float32x4_t {
        vmulq_n_f32(vcvtq_f32_s32(sums), scale)
    }

    #[inline(always)]
    unsafe fn convert(storage: Storage, from: *const u8, count: usize, to: *mut u8) {
        if storage == Storage::Int8 {
            from.copy_to_nonoverlapping(to, count);
            to.add(count).write_bytes(0, count.next_multiple_of(4) - count);
            return;
        }
        const BITS: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128];
        let bits = vld1q_u8(BITS.as_ptr());
        for byte in 0..count.div_ceil(8) {
            // All ones where the bit is set: 127 less that, twice, is 129; else 127.
            let set = vtst_u8(vdup_n_u8(*from.add(byte)), vget_low_u8(bits));
            vst1_u8(to.add(8 * byte), vsub_u8(vdup_n_u8(127), vadd_u8(set, set)));
        }
    }
}
