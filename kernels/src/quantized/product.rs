//! The product, once for every instruction set. As in f32, panel after panel, and for each the tiles of rows one below
//! the other; a panel of 384 × 32 weights is 12 KiB, and with 12 rows of 384 codes stays in the first level of cache.

#![allow(unsafe_code, reason = "tiles are read and written through pointers")]

use super::{QuantizedLinear, layer::Columns};
use crate::{
    linear::{Finish, Sums},
    simd::{Kernel, Micro, Out, Rows, Simd, Steps, TILE_MAX, TileRows, dot, load, tiles},
};

pub(super) struct Product<'a> {
    pub(super) args: QuantizedLinear<'a>,
    pub(super) out: &'a mut [f32],
}

impl Kernel for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { args: QuantizedLinear { layer, x, outputs, activation }, out } = self;
        let (steps, columns, row_words) = (layer.steps(), layer.columns(), x.row_words());
        debug_assert_eq!(columns, S::Full::VECTORS * S::LANES, "packed for other tiles");
        let mut tile = TileBuffer([0; TILE_MAX]);
        for panel in outputs.start / columns..outputs.end.div_ceil(columns) {
            let weights = layer.panel(panel).as_ptr();
            let finish = Finish { activation, first: panel * columns };
            let of_columns = layer.panel_columns(panel);
            for TileRows { start, count, shape } in tiles::<S>(x.rows()) {
                let left = Rows { first: x.words()[start * row_words..].as_ptr(), stride: row_words, count };
                let right = Steps { first: weights, stride: columns };
                let to = Out { first: tile.0.as_mut_ptr(), stride: columns };
                // SAFETY: these are some of the rows of `x`, each of at least `steps` words; the panel has `steps`
                // steps of `columns`, which are those of the tiles; the buffer holds any tile.
                unsafe { dot(simd, shape, left, right, steps, to) };
                for (r, sums) in tile.0.chunks_exact(columns).take(count).enumerate() {
                    let row = &mut out[(start + r) * layer.outputs()..][..layer.outputs()];
                    let (scale, zero) = (simd.splat(x.scale(start + r)), simd.splat_i32(x.zero(start + r)));
                    finish.row(simd, row, &Scaled::<S> { sums, columns: of_columns, scale, zero });
                }
            }
        }
    }
}

/// Sums of one tile.
#[repr(align(64))]
struct TileBuffer([i32; TILE_MAX]);

/// Sums of a tile's row, and what makes numbers of them.
struct Scaled<'a, S: Simd> {
    sums: &'a [i32],
    columns: Columns<'a>,
    /// Of the row.
    scale: S::F32,
    zero: S::I32,
}

impl<S: Simd> Sums<S> for Scaled<'_, S> {
    #[inline(always)]
    fn register(&self, simd: S, column: usize) -> S::F32 {
        let Self { sums, columns, scale, zero } = *self;
        let (sums, of_columns) = (&sums[column..][..S::LANES], &columns.sums[column..][..S::LANES]);
        // SAFETY: both slices have all lanes.
        let (sums, of_columns) = unsafe { (simd.load_i32(sums.as_ptr()), simd.load_i32(of_columns.as_ptr())) };
        let scaled = simd.mul(simd.to_f32(simd.sub_i32(sums, simd.mul_i32(zero, of_columns))), scale);
        let (scales, bias) = (load(simd, columns.scales, column, S::LANES), load(simd, columns.bias, column, S::LANES));
        simd.fma(scaled, scales, bias)
    }
}
