//! The inner loop of every product of matrices.
//!
//! A tile is `R` rows of the left matrix times `V` registers of columns of the right one. Its sums live in registers:
//! each step of the depth loads `V` registers of columns and broadcasts `R` numbers for `R · V` multiplications with
//! addition, so that the multipliers and not the loads are the limit (12 × 2 on AVX-512: 24 against 14).
//!
//! Every sum adds up in order of depth, whatever tile it is in: which rows are together changes no bit.

use super::Simd;

/// Elements of the largest tile of any set.
pub(crate) const TILE_MAX: usize = 12 * 32;

/// A register tile's shape, and its loops.
pub(crate) trait Micro<S: Simd> {
    /// Rows of the left matrix.
    const ROWS: usize;
    /// Registers of columns of the right one.
    const VECTORS: usize;

    /// Writes `[ROWS, VECTORS · LANES]` sums to `out`, all rows of the shape: row `r`, from `left + r · stride` and `depth` long, times the
    /// `depth` steps at `right`, `step` apart. Rows from `rows` on repeat the last.
    ///
    /// # Safety
    /// `rows` is at least 1; `left` is good for `rows` such rows, `right` for `depth` steps of `VECTORS · LANES`, and
    /// `out` for the tile.
    unsafe fn multiply(simd: S, left: Rows<f32>, right: Steps<f32>, depth: usize, out: Out<f32>);

    /// The same of words of small integers, added up by [`Simd::dot`].
    ///
    /// # Safety
    /// As for [`Self::multiply`].
    unsafe fn dot(simd: S, left: Rows<i32>, right: Steps<i32>, depth: usize, out: Out<i32>);
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
}

/// Where sums go.
#[derive(Clone, Copy)]
pub(crate) struct Out<T> {
    /// The first row.
    pub(crate) first: *mut T,
    /// From one to the next.
    pub(crate) stride: usize,
}

/// `R` rows by `V` registers.
pub(crate) struct Tile<const R: usize, const V: usize>;

impl<S: Simd, const R: usize, const V: usize> Micro<S> for Tile<R, V> {
    const ROWS: usize = R;
    const VECTORS: usize = V;

    #[inline(always)]
    unsafe fn multiply(simd: S, left: Rows<f32>, right: Steps<f32>, depth: usize, out: Out<f32>) {
        let rows = row_pointers::<f32, R>(left);
        let mut sums = [[simd.splat(0.0); V]; R];
        let mut columns = right.first;
        for k in 0..depth {
            // SAFETY: `k` is below the depth that the caller vouches for, on both sides.
            unsafe {
                let mut loaded = [simd.splat(0.0); V];
                for (v, loaded) in loaded.iter_mut().enumerate() {
                    *loaded = simd.load(columns.add(v * S::LANES));
                }
                for r in 0..R {
                    let x = simd.splat(*rows[r].add(k));
                    for v in 0..V {
                        sums[r][v] = simd.fma(x, loaded[v], sums[r][v]);
                    }
                }
            }
            columns = columns.wrapping_add(right.stride);
        }
        for (r, row) in sums.into_iter().enumerate() {
            for (v, sum) in row.into_iter().enumerate() {
                // SAFETY: within the tile that `out` is good for.
                unsafe { simd.store(out.first.add(r * out.stride + v * S::LANES), sum) };
            }
        }
    }

    #[inline(always)]
    unsafe fn dot(simd: S, left: Rows<i32>, right: Steps<i32>, depth: usize, out: Out<i32>) {
        let rows = row_pointers::<i32, R>(left);
        let mut sums = [[simd.zero_i32(); V]; R];
        let mut columns = right.first;
        for k in 0..depth {
            // SAFETY: `k` is below the depth that the caller vouches for, on both sides.
            unsafe {
                let mut loaded = [simd.zero_i32(); V];
                for (v, loaded) in loaded.iter_mut().enumerate() {
                    *loaded = simd.load_i32(columns.add(v * S::LANES));
                }
                for r in 0..R {
                    let codes = simd.splat_i32(*rows[r].add(k));
                    for v in 0..V {
                        sums[r][v] = simd.dot(sums[r][v], codes, loaded[v]);
                    }
                }
            }
            columns = columns.wrapping_add(right.stride);
        }
        for (r, row) in sums.into_iter().enumerate() {
            for (v, sum) in row.into_iter().enumerate() {
                // SAFETY: within the tile that `out` is good for.
                unsafe { simd.store_i32(out.first.add(r * out.stride + v * S::LANES), sum) };
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
pub(crate) unsafe fn multiply<S: Simd>(
    simd: S,
    shape: TileShape,
    left: Rows<f32>,
    right: Steps<f32>,
    depth: usize,
    out: Out<f32>,
) {
    // SAFETY: the caller vouches for the arguments, whichever shape it is.
    unsafe {
        match shape {
            TileShape::Full => S::Full::multiply(simd, left, right, depth, out),
            TileShape::Half => S::Half::multiply(simd, left, right, depth, out),
            TileShape::Flat => S::Flat::multiply(simd, left, right, depth, out),
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
    out: Out<i32>,
) {
    // SAFETY: the caller vouches for the arguments, whichever shape it is.
    unsafe {
        match shape {
            TileShape::Full => S::Full::dot(simd, left, right, depth, out),
            TileShape::Half => S::Half::dot(simd, left, right, depth, out),
            TileShape::Flat => S::Flat::dot(simd, left, right, depth, out),
        }
    }
}
