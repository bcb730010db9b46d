//! Memory that begins where a cache line does.

#![allow(unsafe_code, reason = "memory of an alignment of its own is asked for, and seen as an array")]

use std::{
    alloc::{self, Layout},
    fmt,
    ptr::NonNull,
    slice,
};

/// Bytes of a cache line, and of the widest register.
const LINE_BYTES: usize = 64;
/// Bytes of a huge page. The weights of a model are ten thousand usual pages, more than a processor remembers the places
/// of, and a batch reads all of them again and again.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Why nobody asks for so much that its bytes cannot be counted.
const FITS: &str = "a vector in memory is no larger than memory";

/// A whole number of cache lines of words of 16 or 32 bits, so that no register is loaded from two of them; in huge pages where
/// there are enough words and the system grants them.
pub struct Aligned<T> {
    /// Dangling if there are none.
    words: NonNull<T>,
    count: usize,
}

// SAFETY: it owns its words, and nothing is shared but by reference.
unsafe impl<T: Send> Send for Aligned<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Aligned<T> {}

impl<T: Copy + Default> Aligned<T> {
    /// At least that many zeros.
    #[must_use]
    pub fn zeros(count: usize) -> Self {
        let mut aligned = Self::default();
        aligned.grow(count);
        aligned
    }

    /// Makes room for at least that many; what is new is 0.
    pub fn grow(&mut self, count: usize) {
        let count = count.checked_next_multiple_of(LINE_BYTES / size_of::<T>()).expect(FITS);
        if count <= self.count {
            return;
        }
        let layout = layout::<T>(count);
        // SAFETY: there are some, so that the layout is not empty.
        let words = unsafe { alloc::alloc(layout) };
        let Some(words) = NonNull::new(words.cast::<T>()) else { alloc::handle_alloc_error(layout) };
        ask_for_huge_pages(words.cast(), layout);
        for i in 0..count {
            let word = self.as_slice().get(i).copied().unwrap_or_default();
            // SAFETY: the layout has room for `count`.
            unsafe { words.add(i).write(word) };
        }
        *self = Self { words, count };
    }
}

impl<T> Aligned<T> {
    /// All of them.
    #[must_use]
    pub fn as_slice(&self) -> &[T] {
        // SAFETY: there are `count`, all written.
        unsafe { slice::from_raw_parts(self.words.as_ptr(), self.count) }
    }

    /// All of them, to be written.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as above, and borrowed mutably.
        unsafe { slice::from_raw_parts_mut(self.words.as_ptr(), self.count) }
    }
}

impl<T> Default for Aligned<T> {
    fn default() -> Self {
        Self { words: NonNull::dangling(), count: 0 }
    }
}

impl<T: Copy + Default> Clone for Aligned<T> {
    fn clone(&self) -> Self {
        let mut clone = Self::zeros(self.count);
        clone.as_mut_slice().copy_from_slice(self.as_slice());
        clone
    }
}

impl<T: fmt::Debug> fmt::Debug for Aligned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.as_slice()).finish()
    }
}

impl<T> Drop for Aligned<T> {
    fn drop(&mut self) {
        if self.count > 0 {
            // SAFETY: allocated in [`Aligned::grow`] with the layout of as many words; words are plain numbers.
            unsafe { alloc::dealloc(self.words.as_ptr().cast(), layout::<T>(self.count)) };
        }
    }
}

/// Of that many words: lines, or huge pages if the last of them would be half full at least.
fn layout<T>(count: usize) -> Layout {
    const { assert!(size_of::<T>() == 4 || size_of::<T>() == 2) };
    let bytes = count.checked_mul(size_of::<T>()).expect(FITS);
    let align = if bytes >= HUGE_PAGE_BYTES / 2 { HUGE_PAGE_BYTES } else { LINE_BYTES };
    let rest = bytes % HUGE_PAGE_BYTES;
    let fill = if rest >= HUGE_PAGE_BYTES / 2 { HUGE_PAGE_BYTES - rest } else { 0 };
    let bytes = bytes.checked_add(fill).expect(FITS);
    Layout::from_size_align(bytes, align).expect(FITS)
}

/// Asks for huge pages, which has to be before the first write. Whoever refuses gives small ones.
fn ask_for_huge_pages(memory: NonNull<u8>, layout: Layout) {
    #[cfg(target_os = "linux")]
    if layout.align() == HUGE_PAGE_BYTES {
        let bytes = layout.size() / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
        // SAFETY: advice changes nothing that can be read; all of these pages are the allocation's.
        unsafe { libc::madvise(memory.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (memory, layout);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begins_at_a_line_and_grows() {
        let mut words = Aligned::<f32>::zeros(17);
        assert_eq!(words.as_slice().len(), 32);
        assert!(words.as_slice().as_ptr().addr().is_multiple_of(LINE_BYTES));
        words.as_mut_slice()[31] = 1.0;
        words.grow(5);
        words.grow(40);
        assert_eq!((words.as_slice().len(), words.as_slice()[31], words.as_slice()[47]), (48, 1.0, 0.0));
        assert_eq!(words.clone().as_slice(), words.as_slice());
        assert!(Aligned::<i32>::default().as_slice().is_empty());
    }

    /// Bytes that overflow to few, or to none, must not be what is allocated.
    #[test]
    fn more_than_memory_is_refused() {
        for count in [usize::MAX, usize::MAX / 4 + 1, usize::MAX / 4 - 15, isize::MAX as usize / 4 + 1] {
            let grown = std::panic::catch_unwind(|| Aligned::<f32>::zeros(count).as_slice().len());
            assert!(grown.is_err(), "{count}");
        }
    }

    /// Around a half of a huge page, and what a page and a half are rounded up to.
    #[test]
    fn large_memory_begins_at_a_huge_page() {
        for (count, huge) in [(262_128, false), (262_144, true), (524_288, true), (786_432, true), (600_000, true)] {
            let mut words = Aligned::<i32>::zeros(count);
            words.as_mut_slice()[count - 1] = 7;
            assert!(!huge || words.as_slice().as_ptr().addr().is_multiple_of(HUGE_PAGE_BYTES), "{count}");
            words.grow(count + 1000);
            let expected = |i: usize| if i == count - 1 { 7 } else { 0 };
            assert!(words.as_slice().iter().enumerate().all(|(i, &word)| word == expected(i)), "{count}");
        }
    }
}
