//! Slices, a register at a time.

use super::Simd;

/// The registers that cover `length` elements: the first element of each, and how many there are; all lanes, and perhaps
/// fewer at the end.
///
/// An iterator and not a function of a closure: a closure that is not inlined would lose the set's instructions.
#[inline(always)]
pub(crate) fn registers<S: Simd>(length: usize) -> Registers {
    Registers { next: 0, length, lanes: S::LANES }
}

/// See [`registers`].
pub(crate) struct Registers {
    next: usize,
    length: usize,
    lanes: usize,
}

impl Iterator for Registers {
    type Item = (usize, usize);

    #[inline(always)]
    fn next(&mut self) -> Option<(usize, usize)> {
        if self.next >= self.length {
            return None;
        }
        let at = self.next;
        self.next += self.lanes;
        Some((at, self.lanes.min(self.length - at)))
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
