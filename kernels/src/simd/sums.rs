//! A tile's sums on their way from registers to whoever takes them.

#![allow(clippy::needless_range_loop, reason = "an iterator over an array of registers puts it into memory")]

use std::{hint::black_box, mem::MaybeUninit};

use super::{
    Simd,
    tile::{Sink, TILE_MAX},
};

/// A tile's sums on their way out; aligned, since a register that lies in two cache lines is slow to come back.
#[repr(align(64))]
struct Memory<T> {
    _sums: [T; TILE_MAX],
}

/// Gives `sink` the first `count` rows of sums.
///
/// # Safety
/// `sink` may be given that many rows of `V · LANES`.
#[inline(always)]
pub(super) unsafe fn leave_f32<S: Simd, const R: usize, const V: usize, K: Sink<S, S::F32>>(
    simd: S,
    sums: [[S::F32; V]; R],
    count: usize,
    sink: &K,
) {
    if S::NATIVE && K::LIGHT {
        // By index: an iterator over the array itself would put it into memory.
        for r in 0..R {
            if r < count {
                // SAFETY: as the caller vouches.
                unsafe { sink.row(simd, r, sums[r]) };
            }
        }
        return;
    }
    const { assert!(R * V * S::LANES <= TILE_MAX) };
    // Written one by one: a loop over the sums themselves would have them in memory from the first step on.
    let mut memory = MaybeUninit::<Memory<f32>>::uninit();
    let at = memory.as_mut_ptr().cast::<f32>();
    for r in 0..R {
        for v in 0..V {
            // SAFETY: the memory has room for the tile, as asserted.
            unsafe { simd.store(at.add((r * V + v) * S::LANES), sums[r][v]) };
        }
    }
    if !S::NATIVE {
        // Sums that nobody was seen to store would not be seen as vectors either.
        black_box(&mut memory);
    }
    for r in 0..R.min(count) {
        let mut row = [simd.splat(0.0); V];
        for v in 0..V {
            // SAFETY: written just now.
            row[v] = unsafe { simd.load(memory.as_ptr().cast::<f32>().add((r * V + v) * S::LANES)) };
        }
        // SAFETY: as the caller vouches.
        unsafe { sink.row(simd, r, row) };
    }
}

/// Gives `sink` the first `count` rows of sums.
///
/// # Safety
/// `sink` may be given that many rows of `V · LANES`.
#[inline(always)]
pub(super) unsafe fn leave_i32<S: Simd, const R: usize, const V: usize, K: Sink<S, S::I32>>(
    simd: S,
    sums: [[S::I32; V]; R],
    count: usize,
    sink: &K,
) {
    if S::NATIVE && K::LIGHT {
        // By index: an iterator over the array itself would put it into memory.
        for r in 0..R {
            if r < count {
                // SAFETY: as the caller vouches.
                unsafe { sink.row(simd, r, sums[r]) };
            }
        }
        return;
    }
    const { assert!(R * V * S::LANES <= TILE_MAX) };
    // Written one by one: a loop over the sums themselves would have them in memory from the first step on.
    let mut memory = MaybeUninit::<Memory<i32>>::uninit();
    let at = memory.as_mut_ptr().cast::<i32>();
    for r in 0..R {
        for v in 0..V {
            // SAFETY: the memory has room for the tile, as asserted.
            unsafe { simd.store_i32(at.add((r * V + v) * S::LANES), sums[r][v]) };
        }
    }
    if !S::NATIVE {
        // Sums that nobody was seen to store would not be seen as vectors either.
        black_box(&mut memory);
    }
    for r in 0..R.min(count) {
        let mut row = [simd.zero_i32(); V];
        for v in 0..V {
            // SAFETY: written just now.
            row[v] = unsafe { simd.load_i32(memory.as_ptr().cast::<i32>().add((r * V + v) * S::LANES)) };
        }
        // SAFETY: as the caller vouches.
        unsafe { sink.row(simd, r, row) };
    }
}
