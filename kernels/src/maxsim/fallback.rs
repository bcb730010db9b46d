//! For any machine: 8 lanes as an array, which compilers turn into whatever registers there are.
//!
//! 4 rows × 8 lanes are 8 registers of 4 lanes, so that the query and the broadcasts fit into the 16 that every x86-64
//! and more than those that every aarch64 has. Products are rounded before they are added: a fused multiply-add would be
//! a function call where the machine is not known to have it.
#![allow(unsafe_code, reason = "implements the tile's registers")]
#![allow(unsafe_op_in_unsafe_fn, reason = "each function is an operation whose contract the trait states")]

use half::{f16, slice::HalfFloatSliceExt};

use super::{
    kernel::Shape,
    lanes::{Aligned, Arithmetic, Best, Lanes},
    tile::{self, Work},
};
use crate::tokens::Storage;

pub(super) const SHAPE: Shape = Shape { widths: &[8], components: 4, offset: 128 };

/// Does one panel's work.
pub(super) fn run(mut work: Work<'_>) {
    let codes = tile::has_codes(work.rows.storage());
    match (codes, work.tokens.is_empty()) {
        (false, true) => rows::<Floats, Best<Array>>(&mut work),
        (false, false) => rows::<Floats, Aligned<Array>>(&mut work),
        (true, true) => rows::<Codes, Best<Array>>(&mut work),
        (true, false) => rows::<Codes, Aligned<Array>>(&mut work),
    }
}

fn rows<A: Arithmetic, T: super::lanes::Track<A::Lanes>>(work: &mut Work<'_>) {
    // SAFETY: portable code needs no instruction set; `Work` was checked by whoever made it.
    unsafe { tile::run::<A, T, 4, 1>(work) }
}

/// 8 lanes.
#[derive(Clone, Copy)]
struct Array;

// SAFETY: each touches WIDTH numbers.
unsafe impl Lanes for Array {
    const WIDTH: usize = 8;
    type Values = [f32; 8];
    type Tokens = [u32; 8];
    type Mask = [bool; 8];

    #[inline(always)]
    unsafe fn load(at: *const f32) -> [f32; 8] {
        at.cast::<[f32; 8]>().read_unaligned()
    }

    #[inline(always)]
    unsafe fn store(values: [f32; 8], at: *mut f32) {
        at.cast::<[f32; 8]>().write_unaligned(values);
    }

    #[inline(always)]
    unsafe fn load_tokens(at: *const u32) -> [u32; 8] {
        at.cast::<[u32; 8]>().read_unaligned()
    }

    #[inline(always)]
    unsafe fn store_tokens(tokens: [u32; 8], at: *mut u32) {
        at.cast::<[u32; 8]>().write_unaligned(tokens);
    }

    #[inline(always)]
    unsafe fn larger(new: [f32; 8], mut best: [f32; 8]) -> [f32; 8] {
        for (best, new) in best.iter_mut().zip(new) {
            *best = if new > *best { new } else { *best };
        }
        best
    }

    #[inline(always)]
    unsafe fn none() -> [bool; 8] {
        [false; 8]
    }

    #[inline(always)]
    unsafe fn or_unordered(mut mask: [bool; 8], a: [f32; 8], b: [f32; 8]) -> [bool; 8] {
        for ((lane, a), b) in mask.iter_mut().zip(a).zip(b) {
            *lane |= a.is_nan() | b.is_nan();
        }
        mask
    }

    #[inline(always)]
    unsafe fn poison(mut values: [f32; 8], mask: [bool; 8]) -> [f32; 8] {
        for (value, nan) in values.iter_mut().zip(mask) {
            *value = if nan { f32::NAN } else { *value };
        }
        values
    }

    #[inline(always)]
    unsafe fn take((mut best, mut tokens): ([f32; 8], [u32; 8]), new: [f32; 8], token: u32) -> ([f32; 8], [u32; 8]) {
        for ((best, kept), new) in best.iter_mut().zip(&mut tokens).zip(new) {
            if new > *best || (new.is_nan() && !best.is_nan()) {
                (*best, *kept) = (new, token);
            }
        }
        (best, tokens)
    }

    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}

    #[inline(always)]
    unsafe fn prefetch_far(_: *const u8) {}
}

/// f32 products.
struct Floats;

// SAFETY: each reads what its type has, and `convert` the components.
unsafe impl Arithmetic for Floats {
    type Lanes = Array;
    const COMPONENTS: usize = 1;
    const AS_STORED: Storage = Storage::F32;
    type Sums = [f32; 8];
    type Query = [f32; 8];
    type Document = f32;

    #[inline(always)]
    unsafe fn start(at: *const u32) -> [f32; 8] {
        Array::load(at.cast())
    }

    #[inline(always)]
    unsafe fn query(at: *const u32) -> [f32; 8] {
        Array::load(at.cast())
    }

    #[inline(always)]
    unsafe fn document(at: *const u8) -> f32 {
        at.cast::<f32>().read_unaligned()
    }

    #[inline(always)]
    unsafe fn multiply_add(mut sums: [f32; 8], document: f32, query: [f32; 8]) -> [f32; 8] {
        for (sum, x) in sums.iter_mut().zip(query) {
            *sum += document * x;
        }
        sums
    }

    #[inline(always)]
    unsafe fn values(sums: [f32; 8], _: f32) -> [f32; 8] {
        sums
    }

    #[inline(always)]
    unsafe fn convert(storage: Storage, from: *const u8, count: usize, to: *mut u8) {
        if storage == Storage::F32 {
            from.copy_to_nonoverlapping(to, 4 * count);
        } else {
            let from = std::slice::from_raw_parts(from.cast::<f16>(), count);
            from.convert_to_f32_slice(std::slice::from_raw_parts_mut(to.cast::<f32>(), count));
        }
    }
}

/// Products of 8-bit codes.
struct Codes;

// SAFETY: as above.
unsafe impl Arithmetic for Codes {
    type Lanes = Array;
    const COMPONENTS: usize = SHAPE.components;
    const AS_STORED: Storage = Storage::Int8;
    type Sums = [i32; 8];
    type Query = [[i8; 4]; 8];
    type Document = [u8; 4];

    #[inline(always)]
    unsafe fn start(at: *const u32) -> [i32; 8] {
        at.cast::<[i32; 8]>().read_unaligned()
    }

    #[inline(always)]
    unsafe fn query(at: *const u32) -> [[i8; 4]; 8] {
        at.cast::<[[i8; 4]; 8]>().read_unaligned()
    }

    #[inline(always)]
    unsafe fn document(at: *const u8) -> [u8; 4] {
        at.cast::<[u8; 4]>().read_unaligned()
    }

    #[inline(always)]
    unsafe fn multiply_add(mut sums: [i32; 8], document: [u8; 4], query: [[i8; 4]; 8]) -> [i32; 8] {
        for (sum, query) in sums.iter_mut().zip(query) {
            for (code, x) in document.into_iter().zip(query) {
                *sum = sum.wrapping_add(i32::from(code) * i32::from(x));
            }
        }
        sums
    }

    #[inline(always)]
    unsafe fn values(sums: [i32; 8], scale: f32) -> [f32; 8] {
        sums.map(|sum| sum as f32 * scale)
    }

    #[inline(always)]
    unsafe fn convert(storage: Storage, from: *const u8, count: usize, to: *mut u8) {
        if storage == Storage::Int8 {
            from.copy_to_nonoverlapping(to, count);
            to.add(count).write_bytes(0, count.next_multiple_of(4) - count);
        } else {
            for byte in 0..count.div_ceil(8) {
                to.add(8 * byte).cast::<[u8; 8]>().write_unaligned(SIGNS[usize::from(*from.add(byte))]);
            }
        }
    }
}

/// Codes of eight components for the byte that has their bits: 129 for +1, 127 for −1.
static SIGNS: [[u8; 8]; 256] = {
    let mut signs = [[0; 8]; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut bit = 0;
        while bit < 8 {
            signs[byte][bit] = if byte >> bit & 1 == 1 { 129 } else { 127 };
            bit += 1;
        }
        byte += 1;
    }
    signs
};
