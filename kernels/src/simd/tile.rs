//! The inner loop of every product of matrices.
//!
//! A tile is `R` rows of the left matrix times `V` registers of columns of the right one. Its sums live in registers:
//! each step of the depth loads `V` registers of columns and broadcasts `R` numbers for `R · V` multiplications with
//! addition, so that the multipliers and not the loads are the limit (12 × 2 on AVX-512: 24 against 14).
//!
//! Every sum adds up in order of depth, whatever tile it is in: which rows are together changes no bit.

#![allow(clippy::needless_range_loop, reason = "an iterator over an array of registers puts it into memory")]

use half::f16;

use super::{
    Simd,
    sums::{leave_f32, leave_i32},
};

/// Elements of the largest tile of any set.
pub(crate) const TILE_MAX: usize = 12 * 32;

/// A register tile's shape, and its loops.
pub(crate) trait Micro<S: Simd> {
    /// Rows of the left matrix.
    const ROWS: usize;
    /// Registers of columns of the right one.
    const VECTORS: usize;

    /// Gives `sink` the sums of each row of `left`, `depth` long, times the `depth` steps of `right`.
    ///
    /// # Safety
    /// `left` has at least 1 row; it is good for its rows of `depth`, and `right` for `depth` steps of
    /// `VECTORS · LANES`. `sink` may be given those rows.
    unsafe fn multiply<W: Stored>(simd: S, left: Rows<f32>, right: Steps<W>, depth: usize, sink: &impl Sink<S, S::F32>);

    /// The same of words of small integers, added up by [`Simd::dot`].
    ///
    /// # Safety
    /// As for [`Self::multiply`].
    unsafe fn dot(simd: S, left: Rows<i32>, right: Steps<i32>, depth: usize, sink: &impl Sink<S, S::I32>);
}

/// A number of a right matrix, as it is stored.
pub(crate) trait Stored: Copy {
    /// A register of f32.
    ///
    /// # Safety
    /// `from` is good for all lanes; it need not be aligned.
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::F32;
}

impl Stored for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::F32 {
        // SAFETY: as the caller vouches.
        unsafe { simd.load(from) }
    }
}

impl Stored for f16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::F32 {
        // SAFETY: as the caller vouches.
        unsafe { simd.load_f16(from) }
    }
}

/// Rows of a left matrix.
#[derive(Clone, Copy)]
pub(crate) struct Rows<T> {
    /// The first one.
    pub(crate) first: *const T,
    /// From one to the next.
    pub(crate) stride: usize,
    /// How many there are, at least 1.
    pub(crate) count: usize,
}

/// Steps of a right matrix.
#[derive(Clone, Copy)]
pub(crate) struct Steps<T> {
    /// The first one.
    pub(crate) first: *const T,
    /// From one to the next.
    pub(crate) stride: usize,
    /// What will be wanted afterwards.
    pub(crate) ahead: Ahead,
}

/// Memory to be fetched while a tile is computed, a line at each step of depth. Never read.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    first: *const f32,
    /// Words from one step's line to the next one's.
    stride: usize,
}

impl Ahead {
    /// Nothing that is not there already.
    #[inline(always)]
    pub(crate) fn nothing<T>(there: *const T) -> Self {
        Self { first: there.cast(), stride: 0 }
    }

    /// `part` of `parts` of `depth` steps of `stride` numbers.
    #[inline(always)]
    pub(crate) fn part<T>(first: *const T, (depth, stride): (usize, usize), (part, parts): (usize, usize)) -> Self {
        let stride = (stride * size_of::<T>() / size_of::<f32>()).div_ceil(parts);
        Self { first: first.cast::<f32>().wrapping_add(part * depth * stride), stride }
    }
}

/// Where a tile's sums go, straight from their registers.
pub(crate) trait Sink<S: Simd, T: Copy> {
    /// Whether a row takes a few instructions: then those of a tile's rows follow one another, with the sums in their
    /// registers. Otherwise they are a loop, with the sums in memory.
    const LIGHT: bool;

    /// Takes `V` registers of row `r`, counted from the tile's first.
    ///
    /// # Safety
    /// `r` and `V · LANES` are within what the sink was made for.
    unsafe fn row<const V: usize>(&self, simd: S, r: usize, sums: [T; V]);
}

/// Rows of f32 in memory.
#[derive(Clone, Copy)]
pub(crate) struct Out {
    /// The first row.
    pub(crate) first: *mut f32,
    /// From one to the next.
    pub(crate) stride: usize,
}

impl<S: Simd> Sink<S, S::F32> for Out {
    const LIGHT: bool = true;

    #[inline(always)]
    unsafe fn row<const V: usize>(&self, simd: S, r: usize, sums: [S::F32; V]) {
        for (v, sum) in sums.into_iter().enumerate() {
            // SAFETY: within the rows that the caller vouches for.
            unsafe { simd.store(self.first.add(r * self.stride + v * S::LANES), sum) };
        }
    }
}

impl Out {
    /// Has `rows` rows of `columns` elements fetched, which are going to be written.
    #[inline(always)]
    pub(crate) fn fetch<S: Simd>(self, simd: S, rows: usize, columns: usize) {
        for r in 0..rows {
            let row = self.first.wrapping_add(r * self.stride);
            for column in (0..columns).step_by(FLOATS_OF_A_LINE) {
                simd.fetch_to_write(row.wrapping_add(column));
            }
        }
    }
}

/// Elements of a cache line.
pub(crate) const FLOATS_OF_A_LINE: usize = 16;

/// `R` rows by `V` registers.
pub(crate) struct Tile<const R: usize, const V: usize>;

impl<S: Simd, const R: usize, const V: usize> Micro<S> for Tile<R, V> {
    const ROWS: usize = R;
    const VECTORS: usize = V;

    #[inline(always)]
    unsafe fn multiply<W: Stored>(
        simd: S,
        left: Rows<f32>,
        right: Steps<W>,
        depth: usize,
        sink: &impl Sink<S, S::F32>,
    ) {
        let rows = row_pointers::<f32, R>(left);
        let mut sums = [[simd.splat(0.0); V]; R];
        let (mut columns, mut ahead) = (right.first, right.ahead.first);
        for k in 0..depth {
            if S::NATIVE {
                simd.fetch(ahead);
                ahead = ahead.wrapping_add(right.ahead.stride);
            }
            // SAFETY: `k` is below the depth that the caller vouches for, on both sides.
            unsafe { multiply_step(simd, &rows, columns, k, &mut sums) };
            columns = columns.wrapping_add(right.stride);
        }
        // SAFETY: as the caller vouches.
        unsafe { leave_f32(simd, sums, left.count, sink) };
    }

    #[inline(always)]
    unsafe fn dot(simd: S, left: Rows<i32>, right: Steps<i32>, depth: usize, sink: &impl Sink<S, S::I32>) {
        let rows = row_pointers::<i32, R>(left);
        let mut sums = [[simd.zero_i32(); V]; R];
        let (mut columns, mut ahead) = (right.first, right.ahead.first);
        for k in 0..depth {
            if S::NATIVE {
                simd.fetch(ahead);
                ahead = ahead.wrapping_add(right.ahead.stride);
            }
            // SAFETY: `k` is below the depth that the caller vouches for, on both sides.
            unsafe { dot_step(simd, &rows, columns, k, &mut sums) };
            columns = columns.wrapping_add(right.stride);
        }
        // SAFETY: as the caller vouches.
        unsafe { leave_i32(simd, sums, left.count, sink) };
    }
}

/// Adds the products of one step: element `k` of each row times `V` registers.
///
/// # Safety
/// All rows have an element `k`, and `columns` is good for the registers.
#[inline(always)]
unsafe fn multiply_step<S: Simd, W: Stored, const R: usize, const V: usize>(
    simd: S,
    rows: &[*const f32; R],
    columns: *const W,
    k: usize,
    sums: &mut [[S::F32; V]; R],
) {
    // SAFETY: as the caller vouches.
    unsafe {
        let mut loaded = [simd.splat(0.0); V];
        for (v, loaded) in loaded.iter_mut().enumerate() {
            *loaded = W::load(simd, columns.add(v * S::LANES));
        }
        for r in 0..R {
            let x = simd.splat(*rows[r].add(k));
            for v in 0..V {
                sums[r][v] = simd.fma(x, loaded[v], sums[r][v]);
            }
        }
    }
}

/// Adds the products of one step: element `k` of each row times `V` registers.
///
/// # Safety
/// All rows have an element `k`, and `columns` is good for the registers.
#[inline(always)]
unsafe fn dot_step<S: Simd, const R: usize, const V: usize>(
    simd: S,
    rows: &[*const i32; R],
    columns: *const i32,
    k: usize,
    sums: &mut [[S::I32; V]; R],
) {
    // SAFETY: as the caller vouches.
    unsafe {
        let mut loaded = [simd.zero_i32(); V];
        for (v, loaded) in loaded.iter_mut().enumerate() {
            *loaded = simd.load_i32(columns.add(v * S::LANES));
        }
        for r in 0..R {
            let x = simd.splat_i32(*rows[r].add(k));
            for v in 0..V {
                sums[r][v] = simd.dot(sums[r][v], x, loaded[v]);
            }
        }
    }
}

/// Where each row of a tile begins; the last one again where there are fewer.
#[inline(always)]
fn row_pointers<T, const R: usize>(left: Rows<T>) -> [*const T; R] {
    std::array::from_fn(|r| left.first.wrapping_add(r.min(left.count - 1) * left.stride))
}

/// Which of a set's tiles.
#[derive(Clone, Copy)]
pub(crate) enum TileShape {
    Full,
    Half,
    Flat,
}

/// Some rows for one tile.
#[derive(Clone, Copy)]
pub(crate) struct TileRows {
    pub(crate) start: usize,
    /// At least 1, and at most the shape's rows.
    pub(crate) count: usize,
    pub(crate) shape: TileShape,
}

/// Tiles that cover `rows` rows. Rows that a shape has beyond them are computed for nothing, so a lower shape is taken
/// where it is enough.
#[inline(always)]
pub(crate) fn tiles<S: Simd>(rows: usize) -> Tiles {
    Tiles { start: 0, rows, heights: [S::Full::ROWS, S::Half::ROWS, S::Flat::ROWS] }
}

/// See [`tiles`].
pub(crate) struct Tiles {
    start: usize,
    rows: usize,
    heights: [usize; 3],
}

impl Iterator for Tiles {
    type Item = TileRows;

    #[inline(always)]
    fn next(&mut self) -> Option<TileRows> {
        let (start, left) = (self.start, self.rows - self.start);
        if left == 0 {
            return None;
        }
        let [full, half, flat] = self.heights;
        let (shape, height) = match left {
            _ if left > half => (TileShape::Full, full),
            _ if left > flat => (TileShape::Half, half),
            _ => (TileShape::Flat, flat),
        };
        let count = left.min(height);
        self.start += count;
        Some(TileRows { start, count, shape })
    }
}

/// [`Micro::multiply`] of the tile of that shape.
///
/// # Safety
/// As there.
#[inline(always)]
pub(crate) unsafe fn multiply<S: Simd, W: Stored>(
    simd: S,
    shape: TileShape,
    left: Rows<f32>,
    right: Steps<W>,
    depth: usize,
    sink: &impl Sink<S, S::F32>,
) {
    // SAFETY: the caller vouches for the arguments, whichever shape it is.
    unsafe {
        match shape {
            TileShape::Full => S::Full::multiply(simd, left, right, depth, sink),
            TileShape::Half => S::Half::multiply(simd, left, right, depth, sink),
            TileShape::Flat => S::Flat::multiply(simd, left, right, depth, sink),
        }
    }
}

/// [`Micro::dot`] of the tile of that shape.
///
/// # Safety
/// As there.
#[inline(always)]
pub(crate) unsafe fn dot<S: Simd>(
    simd: S,
    shape: TileShape,
    left: Rows<i32>,
    right: Steps<i32>,
    depth: usize,
    sink: &impl Sink<S, S::I32>,
) {
    // SAFETY: the caller vouches for the arguments, whichever shape it is.
    unsafe {
        match shape {
            TileShape::Full => S::Full::dot(simd, left, right, depth, sink),
            TileShape::Half => S::Half::dot(simd, left, right, depth, sink),
            TileShape::Flat => S::Flat::dot(simd, left, right, depth, sink),
        }
    }
}
