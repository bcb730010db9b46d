//! Slices, a register at a time.

use super::Simd;

/// Calls `each` with the first element and the number of elements of every register that covers `length`: all lanes,
/// and perhaps fewer at the end.
#[inline(always)]
pub(crate) fn for_each_register<S: Simd>(length: usize, mut each: impl FnMut(usize, usize)) {
    let whole = length - length % S::LANES;
    let mut at = 0;
    while at < whole {
        each(at, S::LANES);
        at += S::LANES;
    }
    if whole < length {
        each(whole, length - whole);
    }
}

/// `count` elements from `at` on; 0 in lanes beyond them.
#[inline(always)]
pub(crate) fn load<S: Simd>(simd: S, from: &[f32], at: usize, count: usize) -> S::F32 {
    let from = &from[at..at + count];
    // SAFETY: the slice has `count` elements.
    unsafe { if count == S::LANES { simd.load(from.as_ptr()) } else { simd.load_first(from.as_ptr(), count) } }
}

/// Writes the first `count` lanes from `at` on.
#[inline(always)]
pub(crate) fn store<S: Simd>(simd: S, to: &mut [f32], at: usize, count: usize, x: S::F32) {
    let to = &mut to[at..at + count];
    // SAFETY: the slice has `count` elements.
    unsafe {
        if count == S::LANES { simd.store(to.as_mut_ptr(), x) } else { simd.store_first(to.as_mut_ptr(), count, x) }
    }
}
