//! Vectors of f32 and of small integers, once for each instruction set.
//!
//! An operation is written once, over [`Simd`], and compiled for every set: [`dispatch`] calls it inside a function
//! that has the set's instructions, into which everything is inlined. A value of a type that implements [`Simd`] is
//! the proof that the machine has its instructions: [`dispatch`] makes one from an [`Isa`], and nobody else does.
//!
//! | set | f32 lanes | product of matrices | integers of one word |
//! |---|---|---|---|
//! | [`Avx512`](avx512::Avx512) | 16 | tiles of 12 × 32 | 4 of 8 bits (VNNI) |
//! | [`Avx2`](avx2::Avx2) | 8 | tiles of 6 × 16 | 2 of 16 bits |
//! | `Neon`, on aarch64 | 4 | tiles of 6 × 16 | 4 of 8 bits, less 128 |
//! | [`Portable`](portable::Portable) | 8, as the compiler sees fit | tiles of 4 × 8 | 2 of 16 bits |

#![allow(unsafe_code, reason = "intrinsics, and reads and writes through pointers that callers vouch for")]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod slice;
mod sums;
mod tile;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use crate::InstructionSet;
use crate::Isa;
use half::f16;

pub(crate) use math::{Function, GeluErf, GeluTanh, Identity, Relu};
pub(crate) use slice::{load, registers, store};
pub(crate) use tile::{
    Ahead, FLOATS_OF_A_LINE, Micro, Out, Rows, Sink, Steps, Stored, TILE_MAX, Tile, TileRows, dot, multiply, tiles,
};

/// A register of one instruction set, and what can be done with it.
///
/// # Safety
/// Of the `unsafe` methods: the pointer is good for the lanes that the method reads or writes; it need not be aligned.
pub(crate) trait Simd: Copy {
    /// f32 lanes of a register; as many words of 32 bits.
    const LANES: usize;
    /// Small integers of a word, whose products [`Self::dot`] adds up.
    const CODES: usize;
    /// What [`Self::store_codes`] takes from each small integer, for [`Self::dot`] to multiply what is left.
    const CODE_OFFSET: i32 = 0;
    /// Whether [`Self::F32`] and [`Self::I32`] are registers, and [`Self::fetch`] does anything. Otherwise they are
    /// arrays, and those of a tile stay in registers only as long as they are not passed on.
    const NATIVE: bool;
    /// A register of f32.
    type F32: Copy;
    /// A register of i32.
    type I32: Copy;
    /// The tile of a product of matrices, for as many rows as the registers hold.
    type Full: Micro<Self>;
    /// A lower one for what is left.
    type Half: Micro<Self>;
    /// A flat one.
    type Flat: Micro<Self>;

    fn splat(self, x: f32) -> Self::F32;
    unsafe fn load(self, from: *const f32) -> Self::F32;
    /// As [`Self::load`], of halves; exact.
    unsafe fn load_f16(self, from: *const f16) -> Self::F32;
    unsafe fn store(self, to: *mut f32, x: Self::F32);
    /// The first `count` lanes, which are fewer than all; 0 in the others.
    unsafe fn load_first(self, from: *const f32, count: usize) -> Self::F32;
    /// The first `count` lanes, which are fewer than all.
    unsafe fn store_first(self, to: *mut f32, count: usize, x: Self::F32);
    /// 0 in lanes from `count` on, which is at most all.
    fn first(self, a: Self::F32, count: usize) -> Self::F32;
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// a·b + c, rounded once where the set can.
    fn fma(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// The larger; `b` if one of them is NaN.
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// The smaller; `b` if one of them is NaN.
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn abs(self, a: Self::F32) -> Self::F32;
    /// To the nearest integer, ties to even.
    fn round(self, a: Self::F32) -> Self::F32;
    /// p · 2ⁿ for integers −150 ≤ n ≤ 127; below the smallest normal number, 0 or a subnormal.
    fn scale(self, p: Self::F32, n: Self::F32) -> Self::F32;
    /// Sum of the lanes, as a tree.
    fn sum(self, a: Self::F32) -> f32;
    /// The largest lane. NaN may or may not be skipped.
    fn largest(self, a: Self::F32) -> f32;
    /// 2^x for x ≤ 127, within 3e-7 of the value (relative); 1 for 0, 0 from −150 down, NaN for NaN.
    fn exp2(self, x: Self::F32) -> Self::F32;
    /// x·Φ(x), within 1e-6 for |x| ≤ 8.
    fn gelu_erf(self, x: Self::F32) -> Self::F32;

    fn zero_i32(self) -> Self::I32;
    fn splat_i32(self, x: i32) -> Self::I32;
    unsafe fn load_i32(self, from: *const i32) -> Self::I32;
    unsafe fn store_i32(self, to: *mut i32, x: Self::I32);
    fn sub_i32(self, a: Self::I32, b: Self::I32) -> Self::I32;
    fn mul_i32(self, a: Self::I32, b: Self::I32) -> Self::I32;
    fn to_f32(self, a: Self::I32) -> Self::F32;
    /// `sum` plus, word by word, the products of the words' small integers in `codes`, unsigned but for what was taken
    /// from them, and signed ones in `weights`. Exact: nothing saturates on the way.
    fn dot(self, sum: Self::I32, codes: Self::I32, weights: Self::I32) -> Self::I32;
    /// Writes `codes`, rounded to integers (ties to even) and brought into 0…255, less `CODE_OFFSET`, as small integers one
    /// after another, `LANES / CODES` words. What becomes of NaN is not said.
    unsafe fn store_codes(self, to: *mut i32, codes: Self::F32);

    /// Turns rows into columns: writes element `k` of row `r`, times `factor`, to `to.first[k · to.stride + r]`, for
    /// all `k` and `r` below `LANES`; 0 for rows that there are not.
    ///
    /// # Safety
    /// There are at most `LANES` rows, each good for `LANES` elements; `to` is good for as many rows of as many.
    unsafe fn transpose(self, rows: Rows<f32>, factor: Self::F32, to: Out);
    /// Asks for a cache line that will be read, into the core's own cache if not its first level. Any address will do.
    fn fetch(self, at: *const f32);
    /// Asks for a cache line that will be written. Any address will do.
    fn fetch_to_write(self, at: *const f32);
}

/// An operation, to be run with some instruction set.
pub(crate) trait Kernel {
    type Output;
    /// `#[inline(always)]`, like everything that it calls; no closures that compute, since whether those are inlined is
    /// the compiler's choice, and where they are not they lack the set's instructions.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Runs an operation with an instruction set that the machine has.
pub(crate) fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    match isa.set() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` of this set exists only where the machine has its instructions.
        InstructionSet::Avx512 => unsafe { avx512::run(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        InstructionSet::Avx2 => unsafe { avx2::run(kernel) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        InstructionSet::Neon => unsafe { neon::run(kernel) },
        _ => kernel.run(portable::Portable),
    }
}

/// Small integers of a word, as kernels for that set read them.
pub(crate) fn codes_of_a_word(isa: Isa) -> usize {
    struct Codes;
    impl Kernel for Codes {
        type Output = usize;
        fn run<S: Simd>(self, _: S) -> usize {
            S::CODES
        }
    }
    dispatch(isa, Codes)
}

/// Columns of the tiles of that set.
pub(crate) fn tile_columns(isa: Isa) -> usize {
    struct Columns;
    impl Kernel for Columns {
        type Output = usize;
        fn run<S: Simd>(self, _: S) -> usize {
            S::Full::VECTORS * S::LANES
        }
    }
    dispatch(isa, Columns)
}
