//! Memory that begins where a cache line does.

#![allow(unsafe_code, reason = "an array of arrays is seen as one array")]

/// Bytes of a cache line, and of the widest register.
const LINE_BYTES: usize = 64;
/// Words of 32 bits of a line.
const LINE: usize = LINE_BYTES / 4;

/// A whole number of cache lines of words of 32 bits, so that no register is loaded from two of them.
#[derive(Clone, Debug, Default)]
pub struct Aligned<T>(Vec<Line<T>>);

#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
struct Line<T>([T; LINE]);

impl<T: Copy + Default> Aligned<T> {
    /// At least that many zeros.
    #[must_use]
    pub fn zeros(count: usize) -> Self {
        let mut aligned = Self(Vec::new());
        aligned.grow(count);
        aligned
    }

    /// Makes room for at least that many; what is new is 0.
    pub fn grow(&mut self, count: usize) {
        let lines = count.div_ceil(LINE);
        if lines > self.0.len() {
            self.0.resize(lines, Line([T::default(); LINE]));
        }
    }

    /// All of them.
    #[must_use]
    pub fn as_slice(&self) -> &[T] {
        const { assert!(size_of::<T>() == 4) };
        let (lines, count) = (self.0.as_ptr().cast(), self.0.len() * LINE);
        // SAFETY: a line is an array of `LINE` words without padding, so that all of them lie end to end.
        unsafe { std::slice::from_raw_parts(lines, count) }
    }

    /// All of them, to be written.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        const { assert!(size_of::<T>() == 4) };
        let (lines, count) = (self.0.as_mut_ptr().cast(), self.0.len() * LINE);
        // SAFETY: as above, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(lines, count) }
    }
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
    }
}
