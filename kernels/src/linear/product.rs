//! The product, once for every instruction set.
//!
//! Panel after panel, and for each the tiles of rows one below the other. A panel of 384 × 32 weights (48 KiB) comes
//! from memory, or the cache that all cores share, for the first tile and from the core's own cache for the others; 12
//! rows of 384 (18 KiB) stay in the first level meanwhile.

#![allow(unsafe_code, reason = "tiles are read and written through pointers")]

use super::Linear;
use crate::{
    activation::Activation,
    simd::{
        Function, GeluErf, GeluTanh, Identity, Kernel, Micro, Out, Relu, Rows, Simd, Steps, TILE_MAX, TileRows, load,
        multiply, registers, store, tiles,
    },
};

pub(super) struct Product<'a> {
    pub(super) args: Linear<'a>,
    pub(super) rows: usize,
    pub(super) out: &'a mut [f32],
}

impl Kernel for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { args: Linear { layer, x, outputs, activation }, rows, out } = self;
        let (inputs, columns) = (layer.inputs(), layer.columns());
        debug_assert_eq!(columns, S::Full::VECTORS * S::LANES, "packed for other tiles");
        let mut tile = TileBuffer([0.0; TILE_MAX]);
        for panel in outputs.start / columns..outputs.end.div_ceil(columns) {
            let weights = layer.panel(panel).as_ptr();
            let finish = Finish { activation, first: panel * columns };
            let bias = layer.panel_bias(panel);
            for TileRows { start, count, shape } in tiles::<S>(rows) {
                let left = Rows { first: x[start * inputs..].as_ptr(), stride: inputs, count };
                let right = Steps { first: weights, stride: columns };
                let to = Out { first: tile.0.as_mut_ptr(), stride: columns };
                // SAFETY: `x` has `rows` rows of `inputs`, of which these are some; the panel has `inputs` steps of
                // `columns`, which are those of the tiles; the buffer holds any tile.
                unsafe { multiply(simd, shape, left, right, inputs, to) };
                for (r, sums) in tile.0.chunks_exact(columns).take(count).enumerate() {
                    let row = &mut out[(start + r) * layer.outputs()..][..layer.outputs()];
                    finish.row(simd, row, &Biased { sums, bias });
                }
            }
        }
    }
}

/// Sums of one tile.
#[repr(align(64))]
struct TileBuffer([f32; TILE_MAX]);

/// What happens to a row of sums of a panel on its way out.
#[derive(Clone, Copy)]
pub(crate) struct Finish {
    pub(crate) activation: Option<Activation>,
    /// The panel's first output.
    pub(crate) first: usize,
}

/// A panel's part of a row of outputs, before the activation.
pub(crate) trait Sums<S: Simd> {
    /// The register that begins at that column of the panel.
    fn register(&self, simd: S, column: usize) -> S::F32;
}

/// Sums of a tile's row, and the bias of its columns.
struct Biased<'a> {
    sums: &'a [f32],
    bias: &'a [f32],
}

impl<S: Simd> Sums<S> for Biased<'_> {
    #[inline(always)]
    fn register(&self, simd: S, column: usize) -> S::F32 {
        simd.add(load(simd, self.sums, column, S::LANES), load(simd, self.bias, column, S::LANES))
    }
}

impl Finish {
    /// Writes the panel's part of `row`.
    #[inline(always)]
    pub(crate) fn row<S: Simd>(self, simd: S, row: &mut [f32], sums: &impl Sums<S>) {
        let out = &mut row[self.first..];
        match self.activation {
            None => write::<S, Identity>(simd, out, sums),
            Some(Activation::GeluErf) => write::<S, GeluErf>(simd, out, sums),
            Some(Activation::GeluTanh) => write::<S, GeluTanh>(simd, out, sums),
            Some(Activation::Relu) => write::<S, Relu>(simd, out, sums),
        }
    }
}

/// Writes a panel's columns, as far as `out` goes.
#[inline(always)]
fn write<S: Simd, F: Function>(simd: S, out: &mut [f32], sums: &impl Sums<S>) {
    for (column, lanes) in registers::<S>(out.len().min(S::Full::VECTORS * S::LANES)) {
        store(simd, out, column, lanes, F::apply(simd, sums.register(simd, column)));
    }
}
