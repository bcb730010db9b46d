//! The product, once for every instruction set.
//!
//! Panel after panel, and for each the tiles of rows one below the other. A panel of 384 × 32 weights (48 KiB) comes
//! from memory, or the cache that all cores share, for the first tile and from the core's own cache for the others; 12
//! rows of 384 (18 KiB) stay in the first level meanwhile.

#![allow(unsafe_code, reason = "tiles are read and written through pointers")]

use super::Linear;
use crate::{
    activation::Activation,
    simd::{Kernel, Micro, Out, Rows, Simd, Steps, TILE_MAX, for_each_tile, gelu_tanh, multiply, positive},
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
            for_each_tile::<S>(rows, |start, count, shape| {
                let left = Rows { first: x[start * inputs..].as_ptr(), stride: inputs, count };
                let right = Steps { first: weights, stride: columns };
                let to = Out { first: tile.0.as_mut_ptr(), stride: columns };
                // SAFETY: `x` has `rows` rows of `inputs`, of which these are some; the panel has `inputs` steps of
                // `columns`, which are those of the tiles; the buffer holds any tile.
                unsafe { multiply(simd, shape, left, right, inputs, to) };
                for (r, sums) in tile.0.chunks_exact(columns).take(count).enumerate() {
                    let row = &mut out[(start + r) * layer.outputs()..][..layer.outputs()];
                    // SAFETY: a row of the tile and the panel's bias have `columns` elements.
                    finish.row(simd, row, |v| unsafe {
                        simd.add(simd.load(sums[v..].as_ptr()), simd.load(bias[v..].as_ptr()))
                    });
                }
            });
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

impl Finish {
    /// Writes the panel's part of `row`, one register of `value(offset in the panel)` after the other.
    #[inline(always)]
    pub(crate) fn row<S: Simd>(self, simd: S, row: &mut [f32], value: impl Fn(usize) -> S::F32) {
        let out = &mut row[self.first..];
        match self.activation {
            None => store::<S>(simd, out, value),
            Some(Activation::GeluErf) => store::<S>(simd, out, |v| simd.gelu_erf(value(v))),
            Some(Activation::GeluTanh) => store::<S>(simd, out, |v| gelu_tanh(simd, value(v))),
            Some(Activation::Relu) => store::<S>(simd, out, |v| positive(simd, value(v))),
        }
    }
}

/// Writes a panel's columns, as far as `out` goes.
#[inline(always)]
fn store<S: Simd>(simd: S, out: &mut [f32], value: impl Fn(usize) -> S::F32) {
    for v in 0..S::Full::VECTORS {
        let at = v * S::LANES;
        let Some(rest) = out.get_mut(at..).filter(|rest| !rest.is_empty()) else { return };
        // SAFETY: `rest` has all lanes, or those that are written.
        unsafe {
            match rest.len() {
                all if all >= S::LANES => simd.store(rest.as_mut_ptr(), value(at)),
                some => simd.store_first(rest.as_mut_ptr(), some, value(at)),
            }
        }
    }
}
