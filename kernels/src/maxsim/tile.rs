//! The one loop behind every MaxSim here: rows of a document times a panel of query tokens.
//!
//! `R` rows × `V` registers of query tokens are `R · V` registers of sums, which stay where they are for the whole
//! dimension: a step loads `V` registers of the query and puts `R` document steps into all lanes, for `R · V`
//! multiply-adds. With 12 × 2 of 32 registers that is 14 loads for 24 multiply-adds, so arithmetic is the bound. The
//! maxima of the panel's query tokens stay in registers from row to row: a similarity is never written down.
//!
//! Every sum adds up in order of the dimension, whatever tile it is in: a row's similarities have the same bits wherever
//! the row stands. So a remainder of rows is computed with rows before it a second time, in the smallest tile that takes
//! it; the maximum does not mind.
#![allow(unsafe_code, reason = "loops over registers and raw rows")]

use std::{mem::MaybeUninit, ops::Range};

use super::lanes::{Arithmetic, Kept, Lanes, Track};
use crate::tokens::{Storage, Tokens};

/// A document as the tile reads it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows<'a> {
    tokens: Tokens<'a>,
    dim: usize,
}

/// One panel's work on some rows of one document.
pub(super) struct Work<'a> {
    /// `[1 + steps][lanes]`: what sums start with, then the query tokens' steps.
    pub(super) panel: &'a [u32],
    /// Query tokens of the panel, those included that fill it up.
    pub(super) lanes: usize,
    /// The document.
    pub(super) rows: Rows<'a>,
    /// Which rows of it.
    pub(super) range: Range<usize>,
    /// What will be read after these rows; only ever prefetched.
    pub(super) next: *const u8,
    /// Bytes from `next` on to prefetch while a row is computed; 0 for the rows that follow it, and `next` after them.
    pub(super) ahead: usize,
    /// Largest similarity so far, `[lanes]`.
    pub(super) values: &'a mut [f32],
    /// Whose it is, `[lanes]`; empty if nobody asks.
    pub(super) tokens: &'a mut [u32],
    /// All similarities, `[range.end][32]`; null if nobody asks.
    pub(super) all: *mut f32,
}

/// Scale of what has none.
static ONE: f32 = 1.0;
/// Steps that are converted at a time: 256 bytes of each row, so that the first cache level holds the tile.
const BLOCK: usize = 64;
/// Rows of the largest tile.
const ROWS_MAX: usize = 12;
const CACHE_LINE: usize = 64;
/// Rows this many bytes apart compete for the same few places of the first cache level.
const CONFLICT: usize = 2048;

/// Converted steps of a tile's rows.
#[repr(C, align(64))]
struct Scratch([MaybeUninit<u8>; ROWS_MAX * BLOCK * 4]);

impl<'a> Rows<'a> {
    /// Of a document whose rows are whole.
    pub(super) fn new(tokens: Tokens<'a>, dim: usize) -> Self {
        Self { tokens, dim }
    }

    /// Where row `row` begins, or would.
    #[inline(always)]
    pub(super) fn at(&self, row: usize) -> *const u8 {
        self.base().wrapping_add(row * self.row_bytes())
    }

    /// How they are stored.
    pub(super) fn storage(&self) -> Storage {
        self.tokens.storage()
    }

    /// Components of a row.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn dim(&self) -> usize {
        self.dim
    }

    /// Bytes of a row.
    #[inline(always)]
    pub(super) fn row_bytes(&self) -> usize {
        self.tokens.storage().row_bytes(self.dim)
    }

    #[inline(always)]
    fn base(&self) -> *const u8 {
        match self.tokens {
            Tokens::F32(x) => x.as_ptr().cast(),
            Tokens::F16(x) => x.as_ptr().cast(),
            Tokens::Int8 { codes, .. } => codes.as_ptr(),
            Tokens::Binary(bits) => bits.as_ptr(),
        }
    }

    /// The scale of row 0, and how far it is to the next row's.
    #[inline(always)]
    fn scales(&self) -> (*const f32, usize) {
        match self.tokens {
            Tokens::Int8 { scales, .. } => (scales.as_ptr(), 1),
            _ => (&raw const ONE, 0),
        }
    }
}

/// Does the work in tiles of `R` rows and `V` registers.
///
/// # Safety
/// The machine has the instructions of `A`; the rows lie in the document; `lanes = V · WIDTH`, and the slices have the
/// lengths that [`Work`] says.
#[inline(always)]
pub(super) unsafe fn run<A: Arithmetic, T: Track<A::Lanes>, const R: usize, const V: usize>(work: &mut Work<'_>) {
    const { assert!(R <= ROWS_MAX) }
    let width = A::Lanes::WIDTH;
    let kept = Kept { values: work.values.as_mut_ptr(), tokens: work.tokens.as_mut_ptr(), all: work.all };
    let mut scratch = Scratch([MaybeUninit::uninit(); ROWS_MAX * BLOCK * 4]);
    let scratch = scratch.0.as_mut_ptr().cast::<u8>();
    // SAFETY: what `T` keeps has V · WIDTH lanes.
    let mut tracks = unsafe { [T::load(&kept, 0); V] };
    for (v, track) in tracks.iter_mut().enumerate().skip(1) {
        // SAFETY: as above.
        *track = unsafe { T::load(&kept, v * width) };
    }
    let Range { start, end } = work.range;
    let mut row = start;
    while row < end {
        let size = tile_rows::<R>(end - row, end - start);
        let first = row.min(end - size);
        row = first + size;
        let next = match work.ahead {
            0 if row < end => work.rows.at(row),
            ahead => work.next.wrapping_add((first - start) * ahead),
        };
        // SAFETY: rows first..first + size are within the range: `size` is at most its length. The rest as promised.
        unsafe {
            match size {
                12 => tile::<A, T, 12, V>(work, first, next, scratch, &mut tracks),
                8 => tile::<A, T, 8, V>(work, first, next, scratch, &mut tracks),
                6 => tile::<A, T, 6, V>(work, first, next, scratch, &mut tracks),
                4 => tile::<A, T, 4, V>(work, first, next, scratch, &mut tracks),
                2 => tile::<A, T, 2, V>(work, first, next, scratch, &mut tracks),
                _ => tile::<A, T, 1, V>(work, first, next, scratch, &mut tracks),
            }
        }
    }
    for (v, track) in tracks.into_iter().enumerate() {
        // SAFETY: as above.
        unsafe { track.store(&kept, v * width) };
    }
}

/// Rows of the next tile, of at most `R`: the smallest tile that takes all of the `left` rows, if there are as many rows
/// in `all`; else the largest one that they fill.
#[inline(always)]
fn tile_rows<const R: usize>(left: usize, all: usize) -> usize {
    let sizes: &[usize] = const {
        match R {
            12 => &[1, 2, 4, 8, 12],
            8 => &[1, 2, 4, 8],
            6 => &[1, 2, 4, 6],
            4 => &[1, 2, 4],
            _ => &[1, 2],
        }
    };
    if left >= R {
        return R;
    }
    let enough = sizes.iter().copied().find(|&size| size >= left).unwrap_or(R);
    if enough <= all { enough } else { sizes.iter().copied().rfind(|&size| size <= left).unwrap_or(1) }
}

/// Rows `first..first + R`.
#[inline(always)]
unsafe fn tile<A: Arithmetic, T: Track<A::Lanes>, const R: usize, const V: usize>(
    work: &Work<'_>,
    first: usize,
    next: *const u8,
    scratch: *mut u8,
    tracks: &mut [T; V],
) {
    let width = A::Lanes::WIDTH;
    let Work { rows, panel, .. } = work;
    let (dim, stored) = (rows.dim, rows.tokens.storage());
    let row_bytes = stored.row_bytes(dim);
    let steps = dim.div_ceil(A::COMPONENTS);
    let direct = stored == A::AS_STORED && dim.is_multiple_of(A::COMPONENTS) && !row_bytes.is_multiple_of(CONFLICT);
    let ahead = (R * if work.ahead > 0 { work.ahead } else { row_bytes }).div_ceil(steps);
    let panel = panel.as_ptr();
    // SAFETY: a panel begins with what its V · WIDTH sums start with.
    let mut sums = unsafe { [[A::start(panel); V]; R] };
    for v in 1..V {
        // SAFETY: as above.
        let start = unsafe { A::start(panel.add(v * width)) };
        for row in &mut sums {
            row[v] = start;
        }
    }
    let mut done = 0;
    while done < steps {
        let count = if direct { steps } else { BLOCK.min(steps - done) };
        let (at, stride) = if direct {
            (rows.at(first), row_bytes)
        } else {
            let component = done * A::COMPONENTS;
            let components = (count * A::COMPONENTS).min(dim - component);
            for r in 0..R {
                let from = rows.at(first + r).wrapping_add(stored.row_bytes(component));
                // SAFETY: the components are of a row of the document; a row of the scratch takes BLOCK steps.
                unsafe { A::convert(stored, from, components, scratch.add(r * BLOCK * 4)) };
            }
            (scratch.cast_const(), BLOCK * 4)
        };
        // SAFETY: the panel has `steps` steps behind its start; the rows have `count` from `at`.
        unsafe {
            let query = panel.add((1 + done) * V * width);
            multiply::<A, T, R, V>(&mut sums, (query, at, stride), count, (next.wrapping_add(done * ahead), ahead));
        }
        done += count;
    }
    let (scales, apart) = rows.scales();
    for v in 0..V {
        // SAFETY: the machine has the instructions; there is a scale for every row, or one for all.
        unsafe {
            let mut values = [A::values(sums[0][v], *scales.add(first * apart)); R];
            for r in 1..R {
                values[r] = A::values(sums[r][v], *scales.add((first + r) * apart));
            }
            tracks[v].see(&values, first);
        }
    }
}

/// `steps` steps of `R` rows, `stride` bytes apart, times the panel's. The next tile is prefetched on the way.
#[inline(always)]
unsafe fn multiply<A: Arithmetic, T: Track<A::Lanes>, const R: usize, const V: usize>(
    sums: &mut [[A::Sums; V]; R],
    (query, at, stride): (*const u32, *const u8, usize),
    steps: usize,
    (next, ahead): (*const u8, usize),
) {
    let width = A::Lanes::WIDTH;
    let mut local = *sums;
    for step in 0..steps {
        // SAFETY: the caller says that there are `steps` steps in the panel and in each row.
        unsafe {
            if T::LINES == 1 {
                A::Lanes::prefetch(next.wrapping_add(step * ahead));
            } else {
                for line in 0..T::LINES {
                    A::Lanes::prefetch_far(next.wrapping_add(step * ahead + line * CACHE_LINE));
                }
            }
            let query = query.add(step * V * width);
            let mut columns = [A::query(query); V];
            for (v, column) in columns.iter_mut().enumerate().skip(1) {
                *column = A::query(query.add(v * width));
            }
            for (r, row) in local.iter_mut().enumerate() {
                let document = A::document(at.add(r * stride + step * 4));
                for (sum, &column) in row.iter_mut().zip(&columns) {
                    *sum = A::multiply_add(*sum, document, column);
                }
            }
        }
    }
    *sums = local;
}

/// Whether a storage is computed with codes rather than floats.
pub(super) fn has_codes(storage: Storage) -> bool {
    matches!(storage, Storage::Int8 | Storage::Binary)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiles<const R: usize>(rows: usize) -> Vec<(usize, usize)> {
        let (mut row, mut tiles) = (0, Vec::new());
        while row < rows {
            let size = tile_rows::<R>(rows - row, rows);
            let first = row.min(rows - size);
            tiles.push((first, size));
            row = first + size;
        }
        tiles
    }

    #[test]
    fn tiles_cover_every_row_and_no_other() {
        for rows in 0..100 {
            for tiles in [tiles::<12>(rows), tiles::<8>(rows), tiles::<6>(rows), tiles::<4>(rows)] {
                let mut seen = vec![false; rows];
                for &(first, size) in &tiles {
                    seen[first..first + size].fill(true);
                }
                assert!(seen.iter().all(|&seen| seen), "{rows} rows: {tiles:?}");
            }
        }
        assert_eq!(tiles::<12>(180).len(), 15);
        assert_eq!(tiles::<12>(29), [(0, 12), (12, 12), (21, 8)]);
        assert_eq!(tiles::<12>(3), [(0, 2), (2, 1)]);
        assert_eq!(tiles::<12>(0), []);
    }
}
