//! Attention within one sequence, once for every instruction set.
//!
//! Head by head: a tile of queries times all keys, its rows' softmax without the division, times the values, divided.

#![allow(unsafe_code, reason = "tiles are read and written through pointers")]

use super::{
    Attend,
    packed::{AttentionScratch, Head},
};
use crate::linear::PanelOut;
use crate::simd::{self, Kernel, Micro, Out, Rows, Simd, Sink, Steps, TileRows, load, multiply, tiles};

/// Keeps rows of weights out of each other's way: distances of whole pages would share cache sets.
const STRIDE_PADDING: usize = 16;
/// Rows of the highest tile.
const ROWS_MAX: usize = 12;

pub(super) struct Sequence<'a> {
    pub(super) args: Attend<'a>,
    pub(super) length: usize,
    pub(super) scratch: &'a mut AttentionScratch,
    pub(super) out: &'a mut [f32],
}

impl Kernel for Sequence<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { args, length, scratch, out } = self;
        if args.queries.is_empty() {
            return;
        }
        let columns = S::Full::VECTORS * S::LANES;
        let stride = length.next_multiple_of(columns) + STRIDE_PADDING;
        for head in 0..args.num_heads {
            scratch.pack_keys(simd, &args, head, length, columns);
            scratch.pack_values(simd, &args, head, length, columns);
            let mut block = Block { args: &args, head, length, stride, packed: scratch.head(stride * ROWS_MAX) };
            let mut ahead = Ahead::new(&args, head, length);
            for tile in tiles::<S>(args.queries.len()) {
                ahead.fetch(simd, tile.count);
                let inverses = block.weights(simd, tile);
                block.attended(simd, tile, &inverses, out);
            }
        }
    }
}

/// The next head's queries, keys and values, which lie apart and far away: fetched a few at a time, from tile to tile.
struct Ahead<'a> {
    args: &'a Attend<'a>,
    head: usize,
    next: usize,
    length: usize,
    queries: usize,
}

impl<'a> Ahead<'a> {
    #[inline(always)]
    fn new(args: &'a Attend<'a>, head: usize, length: usize) -> Self {
        let head = head + 1;
        Self {
            args,
            head,
            next: 0,
            length: if head < args.num_heads { length } else { 0 },
            queries: args.queries.len(),
        }
    }

    /// As large a part of them as `queries` are of all.
    #[inline(always)]
    fn fetch<S: Simd>(&mut self, simd: S, queries: usize) {
        let end = (self.next + (self.length * queries).div_ceil(self.queries)).min(self.length);
        for row in self.next..end {
            self.args.fetch(simd, row, self.head);
        }
        self.next = end;
    }
}

/// One head.
struct Block<'a> {
    args: &'a Attend<'a>,
    head: usize,
    length: usize,
    /// From one row of weights to the next.
    stride: usize,
    packed: Head<'a>,
}

impl Block<'_> {
    /// Fills the weights of a tile of queries, not yet divided by their sums; returns what to multiply with instead.
    #[inline(always)]
    fn weights<S: Simd>(&mut self, simd: S, tile: TileRows) -> [f32; ROWS_MAX] {
        let TileRows { start, count, shape } = tile;
        let Self { args, head, length, stride, .. } = *self;
        let (head_dim, columns) = (args.head_dim, S::Full::VECTORS * S::LANES);
        let query = args.from(args.queries.start + start, 0, head);
        let left = Rows { first: query.as_ptr(), stride: 3 * args.dim(), count };
        let weights = &mut *self.packed.weights;
        for (panel, first) in self.packed.keys.chunks_exact(columns * head_dim).zip((0..length).step_by(columns)) {
            let right = Steps { first: panel.as_ptr(), stride: columns, ahead: simd::Ahead::nothing(panel.as_ptr()) };
            let to = Out { first: weights[first..].as_mut_ptr(), stride };
            // SAFETY: the queries are `count` rows of `qkv`; a panel of keys has `head_dim` steps of the tile's
            // columns; there are as many rows of weights as any tile has, each with room for whole panels.
            unsafe { multiply(simd, shape, left, right, head_dim, &to) };
        }
        let mut inverses = [0.0; ROWS_MAX];
        let last = length.next_multiple_of(S::LANES) - S::LANES;
        for (row, inverse) in weights.chunks_exact_mut(stride).zip(&mut inverses).take(count) {
            // Not by writing it behind the scores: reading a register from several writes waits for all of them.
            let beyond = load(simd, &BEYOND, LANES_MAX - (length - last), S::LANES);
            *inverse = 1.0 / powers(simd, &mut row[..last + S::LANES], beyond);
        }
        inverses
    }

    /// Writes a tile of outputs: weights times values.
    #[inline(always)]
    fn attended<S: Simd>(
        &self,
        simd: S,
        TileRows { start, count, shape }: TileRows,
        inverses: &[f32; ROWS_MAX],
        out: &mut [f32],
    ) {
        let Self { args, head, length, stride, .. } = *self;
        let columns = S::Full::VECTORS * S::LANES;
        let left = Rows { first: self.packed.weights.as_ptr(), stride, count };
        for (panel, first) in (0..args.head_dim).step_by(columns).enumerate() {
            let values = self.packed.values[panel * columns * length..].as_ptr();
            let right = Steps { first: values, stride: columns, ahead: simd::Ahead::nothing(values) };
            let end = (head + 1) * args.head_dim;
            let mut place = PanelOut::new(out, args.dim(), head * args.head_dim + first..end, columns);
            let sink = Divided { out: place.tile(simd, start, count), inverses };
            // SAFETY: `count` rows of `length` weights were just filled; a panel of values has `length` steps of the
            // tile's columns; the place has as many rows of whole panels, which the tile writes.
            unsafe {
                multiply(simd, shape, left, right, length, &sink);
                place.done(start, count);
            }
        }
    }
}

/// Rows over the sums of their weights.
struct Divided<'a> {
    out: Out,
    inverses: &'a [f32; ROWS_MAX],
}

impl<S: Simd> Sink<S, S::F32> for Divided<'_> {
    const LIGHT: bool = true;

    #[inline(always)]
    unsafe fn row<const V: usize>(&self, simd: S, r: usize, sums: [S::F32; V]) {
        let mut out = sums;
        for sum in &mut out {
            *sum = simd.mul(*sum, simd.splat(self.inverses[r]));
        }
        // SAFETY: as the caller vouches.
        unsafe { self.out.row(simd, r, out) };
    }
}

/// Lanes of the widest register.
const LANES_MAX: usize = 16;
/// As many 0 as lanes, and as many −∞: a register from here, added to the last register of scores, leaves what is a score.
static BEYOND: [f32; 2 * LANES_MAX] = beyond();

const fn beyond() -> [f32; 2 * LANES_MAX] {
    let mut lanes = [0.0; 2 * LANES_MAX];
    let mut i = LANES_MAX;
    while i < lanes.len() {
        lanes[i] = f32::NEG_INFINITY;
        i += 1;
    }
    lanes
}

/// Replaces whole registers of scores by 2^(score − largest), and returns their sum. `beyond` is −∞ in the lanes of the
/// last register that are no scores, 0 in the others.
#[inline(always)]
fn powers<S: Simd>(simd: S, row: &mut [f32], beyond: S::F32) -> f32 {
    let (whole, last) = row.split_at_mut(row.len() - S::LANES);
    // SAFETY: one register is left.
    let end = simd.add(unsafe { simd.load(last.as_ptr()) }, beyond);
    let mut largest = end;
    for lanes in whole.chunks_exact(S::LANES) {
        // SAFETY: a chunk has all lanes.
        largest = unsafe { simd.max(simd.load(lanes.as_ptr()), largest) };
    }
    let largest = simd.splat(simd.largest(largest));
    let mut sum = simd.splat(0.0);
    for lanes in whole.chunks_exact_mut(S::LANES) {
        // SAFETY: a chunk has all lanes.
        unsafe {
            let power = simd.exp2(simd.sub(simd.load(lanes.as_ptr()), largest));
            simd.store(lanes.as_mut_ptr(), power);
            sum = simd.add(sum, power);
        }
    }
    let power = simd.exp2(simd.sub(end, largest));
    // SAFETY: one register is left.
    unsafe { simd.store(last.as_mut_ptr(), power) };
    simd.sum(simd.add(sum, power))
}
