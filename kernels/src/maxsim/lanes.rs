//! What an instruction set does for the tile: query tokens in the lanes of a register.
//!
//! A row of a document, whatever its storage, is read as *steps* of 4 bytes: one f32, two i16 or four 8-bit codes. A
//! step is put into every lane and multiplied with the same components of as many query tokens as there are lanes. So
//! one loop serves every storage, and an instruction set is a few one-line functions.
//!
//! None of the functions checks anything. Whoever calls one has proof that the machine has the instructions ([`Isa`])
//! and that what lies behind a pointer may be read or written, at any alignment.
//!
//! [`Isa`]: crate::Isa
#![allow(unsafe_code, reason = "the contract of what the kernels are made of")]

use crate::tokens::Storage;

/// One register of similarities, f32, a lane for each query token.
///
/// # Safety
/// `load` and its like touch `WIDTH` numbers at the pointer, no more.
pub(super) unsafe trait Lanes {
    /// Lanes of a register.
    const WIDTH: usize;
    /// `WIDTH` similarities.
    type Values: Copy;
    /// `WIDTH` indices of document tokens.
    type Tokens: Copy;
    /// A truth for each lane.
    type Mask: Copy;

    /// `WIDTH` numbers from memory.
    unsafe fn load(at: *const f32) -> Self::Values;
    /// `WIDTH` numbers to memory.
    unsafe fn store(values: Self::Values, at: *mut f32);
    /// `WIDTH` indices from memory.
    unsafe fn load_tokens(at: *const u32) -> Self::Tokens;
    /// `WIDTH` indices to memory.
    unsafe fn store_tokens(tokens: Self::Tokens, at: *mut u32);

    /// `new` where it is larger, else `best`: also if they are equal, or one is NaN.
    unsafe fn larger(new: Self::Values, best: Self::Values) -> Self::Values;
    /// No lane.
    unsafe fn none() -> Self::Mask;
    /// `mask`, and the lanes in which `a` or `b` is NaN.
    unsafe fn or_unordered(mask: Self::Mask, a: Self::Values, b: Self::Values) -> Self::Mask;
    /// NaN in the lanes of `mask`, else `values`.
    unsafe fn poison(values: Self::Values, mask: Self::Mask) -> Self::Values;
    /// `new` and its `token` in the lanes where `new` is larger than `best` or NaN and `best` is not NaN.
    unsafe fn take(best: (Self::Values, Self::Tokens), new: Self::Values, token: u32) -> (Self::Values, Self::Tokens);

    /// Has the cache line fetched into the first cache level; the address need not be valid.
    unsafe fn prefetch(at: *const u8);
    /// The same, into the second.
    unsafe fn prefetch_far(at: *const u8);
}

/// Products of steps, and their sums.
///
/// # Safety
/// As [`Lanes`]; `document` reads 4 bytes, and `convert` what its documentation says.
pub(super) unsafe trait Arithmetic {
    /// The registers.
    type Lanes: Lanes;
    /// Components of a step.
    const COMPONENTS: usize;
    /// Stored rows that are steps as they lie. Others are converted.
    const AS_STORED: Storage;
    /// Sums while they add up.
    type Sums: Copy;
    /// A step of `WIDTH` query tokens.
    type Query: Copy;
    /// A step of one document token, in every lane.
    type Document: Copy;

    /// `WIDTH` sums from memory, to start with.
    unsafe fn start(at: *const u32) -> Self::Sums;
    /// A step of `WIDTH` query tokens.
    unsafe fn query(at: *const u32) -> Self::Query;
    /// The 4 bytes, in every lane.
    unsafe fn document(at: *const u8) -> Self::Document;
    /// Adds the products of a step.
    unsafe fn multiply_add(sums: Self::Sums, document: Self::Document, query: Self::Query) -> Self::Sums;
    /// The similarities that sums stand for.
    unsafe fn values(sums: Self::Sums, scale: f32) -> <Self::Lanes as Lanes>::Values;
    /// Converts `count` components, stored at `from`, to steps at `to`; components that the last step lacks are 0.
    ///
    /// Reads no byte beyond the components, and writes `⌈count / COMPONENTS⌉` steps, at most up to the next multiple of
    /// 64 bytes.
    unsafe fn convert(storage: Storage, from: *const u8, count: usize, to: *mut u8);
}

/// Similarities of one register of query tokens, as far as rows were seen.
pub(super) trait Track<L: Lanes>: Copy {
    /// Cache lines to prefetch with each step: 1 into the first cache level, or several into the second.
    const LINES: usize = 1;

    /// What was kept of the query tokens from `lane` on.
    unsafe fn load(kept: &Kept, lane: usize) -> Self;
    /// Keeps it.
    unsafe fn store(self, kept: &Kept, lane: usize);
    /// Sees rows `first..first + R`.
    unsafe fn see<const R: usize>(&mut self, values: &[L::Values; R], first: usize);
}

/// Where a panel's results are kept.
pub(super) struct Kept {
    /// Largest similarities, `[lanes]`.
    pub(super) values: *mut f32,
    /// Whose they are, `[lanes]`; only for [`Aligned`].
    pub(super) tokens: *mut u32,
    /// All similarities, `[rows][32]`; only for `Noted`.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "nobody screens"))]
    pub(super) all: *mut f32,
}

/// The largest similarities alone. NaN is looked for by pairs of rows, beside the maxima, which may drop it.
#[derive(Clone, Copy)]
pub(super) struct Best<L: Lanes>(L::Values, L::Mask);

impl<L: Lanes + Copy> Track<L> for Best<L> {
    #[inline(always)]
    unsafe fn load(kept: &Kept, lane: usize) -> Self {
        // SAFETY: as the caller promises.
        unsafe { Self(L::load(kept.values.add(lane)), L::none()) }
    }

    #[inline(always)]
    unsafe fn store(self, kept: &Kept, lane: usize) {
        // SAFETY: as the caller promises.
        unsafe { L::store(L::poison(self.0, self.1), kept.values.add(lane)) }
    }

    #[inline(always)]
    unsafe fn see<const R: usize>(&mut self, values: &[L::Values; R], _: usize) {
        for &new in values {
            // SAFETY: as the caller promises.
            self.0 = unsafe { L::larger(new, self.0) };
        }
        let mut r = 0;
        while r < R {
            let pair = if r + 1 < R { r + 1 } else { r };
            // SAFETY: as the caller promises.
            self.1 = unsafe { L::or_unordered(self.1, values[r], values[pair]) };
            r += 2;
        }
    }
}

/// The largest similarities and whose they are.
#[derive(Clone, Copy)]
pub(super) struct Aligned<L: Lanes>(L::Values, L::Tokens);

impl<L: Lanes + Copy> Track<L> for Aligned<L> {
    #[inline(always)]
    unsafe fn load(kept: &Kept, lane: usize) -> Self {
        // SAFETY: as the caller promises.
        unsafe { Self(L::load(kept.values.add(lane)), L::load_tokens(kept.tokens.add(lane))) }
    }

    #[inline(always)]
    unsafe fn store(self, kept: &Kept, lane: usize) {
        // SAFETY: as the caller promises.
        unsafe {
            L::store(self.0, kept.values.add(lane));
            L::store_tokens(self.1, kept.tokens.add(lane));
        }
    }

    #[inline(always)]
    unsafe fn see<const R: usize>(&mut self, values: &[L::Values; R], first: usize) {
        for (r, &new) in values.iter().enumerate() {
            // SAFETY: as the caller promises.
            (self.0, self.1) = unsafe { L::take((self.0, self.1), new, (first + r) as u32) };
        }
    }
}

/// The largest similarities, and all of them written down. None is NaN.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Noted<L: Lanes>(L::Values, *mut f32);

#[cfg(target_arch = "x86_64")]
impl<L: Lanes> Noted<L> {
    /// From one row's similarities to the next row's.
    pub(super) const STRIDE: usize = 32;
}

#[cfg(target_arch = "x86_64")]
impl<L: Lanes + Copy> Track<L> for Noted<L> {
    /// Rows of four bytes a component, and more of them, while rows of one byte are multiplied.
    const LINES: usize = 4;

    #[inline(always)]
    unsafe fn load(kept: &Kept, lane: usize) -> Self {
        // SAFETY: as the caller promises.
        unsafe { Self(L::load(kept.values.add(lane)), kept.all.add(lane)) }
    }

    #[inline(always)]
    unsafe fn store(self, kept: &Kept, lane: usize) {
        // SAFETY: as the caller promises.
        unsafe { L::store(self.0, kept.values.add(lane)) }
    }

    #[inline(always)]
    unsafe fn see<const R: usize>(&mut self, values: &[L::Values; R], first: usize) {
        for (r, &new) in values.iter().enumerate() {
            // SAFETY: as the caller promises.
            unsafe {
                L::store(new, self.1.add((first + r) * Self::STRIDE));
                self.0 = L::larger(new, self.0);
            }
        }
    }
}
