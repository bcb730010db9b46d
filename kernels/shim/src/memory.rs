//! The device's memory, as far as a test needs one.
#![allow(unsafe_code, reason = "buffers are read and written by C++ through their addresses")]

use std::marker::PhantomData;

/// Bytes before and after each buffer that nobody may write.
const GUARD_BYTES: usize = 4096;
/// As a float or a half, NaN.
const POISON: u8 = 0xff;
/// Device allocations begin at such addresses.
const ALIGNMENT: usize = 256;

/// Numbers of which every pattern of bits is a value, without gaps.
///
/// # Safety
/// The type must have no padding and no invalid values.
pub unsafe trait Plain: Copy + 'static {}

macro_rules! plain {
    ($($number:ty),*) => { $(
        // SAFETY: numbers have neither padding nor invalid values.
        unsafe impl Plain for $number {}
    )* };
}
plain!(u8, i8, u16, u32, i32, u64, f32);

/// Buffers that kernels may touch. Their addresses stay as they are.
#[derive(Debug, Default)]
pub struct Memory {
    allocations: Vec<Allocation>,
}

#[derive(Debug)]
struct Allocation {
    /// 16-byte words, to have an aligned place inside.
    words: Box<[u128]>,
    /// Where the buffer begins, in bytes from the first word.
    begin: usize,
    bytes: usize,
}

/// A buffer of a [`Memory`].
#[derive(Debug)]
pub struct Buffer<T> {
    index: usize,
    address: u64,
    len: usize,
    of: PhantomData<T>,
}

impl<T> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Buffer<T> {}

impl<T> Buffer<T> {
    /// What a kernel gets as a pointer.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Memory {
    /// Without buffers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A buffer that nobody has written yet: poison.
    pub fn alloc<T: Plain>(&mut self, len: usize) -> Buffer<T> {
        let bytes = len * size_of::<T>();
        let words = (bytes + 2 * GUARD_BYTES + ALIGNMENT).div_ceil(16);
        let words = vec![u128::from_ne_bytes([POISON; 16]); words].into_boxed_slice();
        let base = words.as_ptr() as usize;
        let begin = (base + GUARD_BYTES).next_multiple_of(ALIGNMENT) - base;
        self.allocations.push(Allocation { words, begin, bytes });
        let address = (base + begin) as u64;
        Buffer { index: self.allocations.len() - 1, address, len, of: PhantomData }
    }

    /// A buffer with these contents.
    pub fn upload<T: Plain>(&mut self, contents: &[T]) -> Buffer<T> {
        let buffer = self.alloc(contents.len());
        self.write(buffer, contents);
        buffer
    }

    /// Replaces the contents.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn write<T: Plain>(&mut self, buffer: Buffer<T>, contents: &[T]) {
        assert_eq!(buffer.len, contents.len(), "a buffer is written as a whole");
        // SAFETY: `contents` is that many bytes, all initialised, since `Plain` has no padding.
        let bytes = unsafe { std::slice::from_raw_parts(contents.as_ptr().cast::<u8>(), size_of_val(contents)) };
        self.allocations[buffer.index].contents_mut().copy_from_slice(bytes);
    }

    /// What the buffer holds.
    #[must_use]
    pub fn read<T: Plain>(&self, buffer: Buffer<T>) -> Vec<T> {
        let bytes = self.allocations[buffer.index].contents();
        // SAFETY: the buffer has `len` elements' bytes, aligned to 256, and every pattern of bits is a `T`.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast::<T>(), buffer.len) }.to_vec()
    }

    /// First byte and end of every buffer, ascending.
    pub(crate) fn ranges(&self) -> Vec<(usize, usize)> {
        let mut ranges: Vec<_> = self
            .allocations
            .iter()
            .map(|allocation| {
                let begin = allocation.words.as_ptr() as usize + allocation.begin;
                (begin, begin + allocation.bytes)
            })
            .collect();
        ranges.sort_unstable();
        ranges
    }

    /// The buffer, by number, whose surroundings were written.
    pub(crate) fn trespass(&self) -> Option<usize> {
        self.allocations.iter().position(|allocation| {
            let all = allocation.all();
            let (before, after) = (&all[..allocation.begin], &all[allocation.begin + allocation.bytes..]);
            before.iter().chain(after).any(|&byte| byte != POISON)
        })
    }
}

impl Allocation {
    fn all(&self) -> &[u8] {
        // SAFETY: the words are that many bytes, initialised by `alloc`. Kernels write them through addresses while no
        // reference exists: `launch` holds the `Memory` exclusively and takes none.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), size_of_val(&*self.words)) }
    }

    fn contents(&self) -> &[u8] {
        &self.all()[self.begin..self.begin + self.bytes]
    }

    fn contents_mut(&mut self) -> &mut [u8] {
        let (begin, bytes) = (self.begin, self.bytes);
        let len = size_of_val(&*self.words);
        // SAFETY: as in `all`; the borrow is exclusive.
        let all = unsafe { std::slice::from_raw_parts_mut(self.words.as_mut_ptr().cast::<u8>(), len) };
        &mut all[begin..begin + bytes]
    }
}
