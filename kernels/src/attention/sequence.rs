//! Attention within one sequence, once for every instruction set.
//!
//! Head by head: a tile of queries times all keys, its rows' softmax without the division, times the values, divided.

#![allow(unsafe_code, reason = "tiles are read and written through pointers")]

use super::{
    Attend,
    packed::{AttentionScratch, Head},
};
use crate::simd::{
    Kernel, Micro, Out, Rows, Simd, Steps, TILE_MAX, TileRows, exp2, load, multiply, registers, store, tiles,
};

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
        let whole_panels = args.head_dim.is_multiple_of(columns);
        for head in 0..args.num_heads {
            scratch.pack_keys(&args, head, length, columns);
            if !whole_panels {
                scratch.pack_values(&args, head, length, columns);
            }
            let packed = scratch.head(stride * ROWS_MAX);
            let values = if whole_panels {
                Values { first: args.from(0, 2, head), step: 3 * args.dim(), panel: columns }
            } else {
                Values { first: packed.values, step: columns, panel: columns * length }
            };
            let mut block = Block { args: &args, head, length, stride, packed, values };
            for tile in tiles::<S>(args.queries.len()) {
                let inverses = block.weights(simd, tile);
                block.attended(simd, tile, &inverses, out);
            }
        }
    }
}

/// Values of a head, panel by panel.
#[derive(Clone, Copy)]
struct Values<'a> {
    first: &'a [f32],
    /// From one value to the next.
    step: usize,
    /// From one panel to the next.
    panel: usize,
}

/// One head.
struct Block<'a> {
    args: &'a Attend<'a>,
    head: usize,
    length: usize,
    /// From one row of weights to the next.
    stride: usize,
    packed: Head<'a>,
    values: Values<'a>,
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
            let right = Steps { first: panel.as_ptr(), stride: columns };
            let to = Out { first: weights[first..].as_mut_ptr(), stride };
            // SAFETY: the queries are `count` rows of `qkv`; a panel of keys has `head_dim` steps of the tile's
            // columns; there are as many rows of weights as any tile has, each with room for whole panels.
            unsafe { multiply(simd, shape, left, right, head_dim, to) };
        }
        let mut inverses = [0.0; ROWS_MAX];
        for (row, inverse) in weights.chunks_exact_mut(stride).zip(&mut inverses).take(count) {
            let row = &mut row[..length.next_multiple_of(S::LANES)];
            row[length..].fill(f32::NEG_INFINITY);
            *inverse = 1.0 / powers(simd, row);
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
        let mut tile = [0.0; TILE_MAX];
        let left = Rows { first: self.packed.weights.as_ptr(), stride, count };
        for (panel, first) in (0..args.head_dim).step_by(columns).enumerate() {
            let right = Steps {
                first: self.values.first.as_ptr().wrapping_add(panel * self.values.panel),
                stride: self.values.step,
            };
            // SAFETY: `count` rows of `length` weights were just filled; each of the `length` values has a panel's
            // columns at that distance, in `qkv` or packed; the buffer holds any tile.
            unsafe { multiply(simd, shape, left, right, length, Out { first: tile.as_mut_ptr(), stride: columns }) };
            let width = columns.min(args.head_dim - first);
            for (r, (sums, &inverse)) in tile.chunks_exact(columns).zip(inverses).take(count).enumerate() {
                let to = &mut out[(start + r) * args.dim() + head * args.head_dim + first..][..width];
                for (column, lanes) in registers::<S>(width) {
                    let sum = load(simd, sums, column, lanes);
                    store(simd, to, column, lanes, simd.mul(sum, simd.splat(inverse)));
                }
            }
        }
    }
}

/// Replaces whole registers of scores by 2^(score − largest), and returns their sum.
#[inline(always)]
fn powers<S: Simd>(simd: S, row: &mut [f32]) -> f32 {
    let mut largest = simd.splat(f32::NEG_INFINITY);
    for lanes in row.chunks_exact(S::LANES) {
        // SAFETY: a chunk has all lanes.
        largest = unsafe { simd.max(simd.load(lanes.as_ptr()), largest) };
    }
    let largest = simd.splat(simd.largest(largest));
    let mut sum = simd.splat(0.0);
    for lanes in row.chunks_exact_mut(S::LANES) {
        // SAFETY: a chunk has all lanes.
        unsafe {
            let power = exp2(simd, simd.sub(simd.load(lanes.as_ptr()), largest));
            simd.store(lanes.as_mut_ptr(), power);
            sum = simd.add(sum, power);
        }
    }
    simd.sum(sum)
}
