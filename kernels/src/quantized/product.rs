//! The product, once for every instruction set. As in f32, panel after panel, and for each the tiles of rows one below
//! the other; a panel of 384 × 32 weights is 12 KiB, and with 12 rows of 384 codes stays in the first level of cache.

#![allow(unsafe_code, reason = "tiles are read and written through pointers")]

use super::{QuantizedLinear, layer::Columns};
use crate::{
    linear::Finish,
    simd::{Kernel, Micro, Out, Rows, Simd, Steps, TILE_MAX, dot, for_each_tile},
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
            for_each_tile::<S>(x.rows(), |start, count, shape| {
                let left = Rows { first: x.words()[start * row_words..].as_ptr(), stride: row_words, count };
                let right = Steps { first: weights, stride: columns };
                let to = Out { first: tile.0.as_mut_ptr(), stride: columns };
                // SAFETY: these are some of the rows of `x`, each of at least `steps` words; the panel has `steps`
                // steps of `columns`, which are those of the tiles; the buffer holds any tile.
                unsafe { dot(simd, shape, left, right, steps, to) };
                for (r, sums) in tile.0.chunks_exact(columns).take(count).enumerate() {
                    let row = &mut out[(start + r) * layer.outputs()..][..layer.outputs()];
                    let (scale, zero) = (simd.splat(x.scale(start + r)), simd.splat_i32(x.zero(start + r)));
                    finish.row(simd, row, |v| number::<S>(simd, sums, v, of_columns, (scale, zero)));
                }
            });
        }
    }
}

/// Sums of one tile.
#[repr(align(64))]
struct TileBuffer([i32; TILE_MAX]);

/// The numbers that some sums of a row stand for.
#[inline(always)]
fn number<S: Simd>(simd: S, sums: &[i32], v: usize, columns: Columns<'_>, (scale, zero): (S::F32, S::I32)) -> S::F32 {
    // SAFETY: a row of the tile, and all that a panel says of its columns, have as many elements as the tile has
    // columns, and `v` is that of a register of them.
    unsafe {
        let zeros = simd.mul_i32(zero, simd.load_i32(columns.sums[v..].as_ptr()));
        let sum = simd.to_f32(simd.sub_i32(simd.load_i32(sums[v..].as_ptr()), zeros));
        let scaled = simd.mul(sum, scale);
        simd.fma(scaled, simd.load(columns.scales[v..].as_ptr()), simd.load(columns.bias[v..].as_ptr()))
    }
}
