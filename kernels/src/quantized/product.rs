//! The product, once for every instruction set. As in f32, panel after panel, and for each the tiles of rows one below
//! the other; a panel of 384 × 32 weights is 12 KiB, and with 12 rows of 384 codes stays in the first level of cache.

#![allow(unsafe_code, reason = "tiles are read and written through pointers")]

use std::marker::PhantomData;

use super::{QuantizedLinear, layer::Columns};
use crate::{
    activation::Activation,
    linear::PanelOut,
    simd::{
        Ahead, Function, GeluErf, GeluTanh, Identity, Kernel, Micro, Out, Relu, Rows, Simd, Sink, Steps, TileRows, dot,
        tiles,
    },
};

pub(super) struct Product<'a> {
    pub(super) args: QuantizedLinear<'a>,
    pub(super) out: &'a mut [f32],
}

impl Kernel for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.args.activation {
            None => self.activated::<S, Identity>(simd),
            Some(Activation::GeluErf) => self.activated::<S, GeluErf>(simd),
            Some(Activation::GeluTanh) => self.activated::<S, GeluTanh>(simd),
            Some(Activation::Relu) => self.activated::<S, Relu>(simd),
        }
    }
}

impl Product<'_> {
    #[inline(always)]
    fn activated<S: Simd, F: Function>(self, simd: S) {
        let Self { args: QuantizedLinear { layer, x, outputs, .. }, out } = self;
        let (steps, columns, row_words) = (layer.steps(), layer.columns(), x.row_words());
        assert_eq!(columns, S::Full::VECTORS * S::LANES, "a layer is run with the set that it was packed for");
        let panels = outputs.start / columns..outputs.end.div_ceil(columns);
        for panel in panels.clone() {
            let weights = layer.panel(panel).as_ptr();
            let next = (panel + 1 < panels.end).then(|| layer.panel(panel + 1).as_ptr());
            let mut place = PanelOut::new(out, layer.outputs(), panel * columns..layer.outputs(), columns);
            for TileRows { start, count, shape } in tiles::<S>(x.rows()) {
                let left = Rows { first: x.words()[start * row_words..].as_ptr(), stride: row_words, count };
                let part = (start / S::Full::ROWS, x.rows().div_ceil(S::Full::ROWS));
                let ahead = match next {
                    Some(next) => Ahead::part(next, (steps, columns), part),
                    None => Ahead::nothing(weights),
                };
                let right = Steps { first: weights, stride: columns, ahead };
                let sink = Scaled::<F> {
                    out: place.tile(simd, start, count),
                    columns: layer.panel_columns(panel),
                    scales: &x.scales()[start..start + count],
                    zeros: &x.zeros()[start..start + count],
                    function: PhantomData,
                };
                // SAFETY: these are some of the rows of `x`, each of at least `steps` words; the panel has `steps`
                // steps of `columns`, which are those of the tiles; the place has as many rows of whole panels, and
                // each row and each column has what the sink reads of it; the tile writes all of the place.
                unsafe {
                    dot(simd, shape, left, right, steps, &sink);
                    place.done(start, count);
                }
            }
        }
    }
}

/// f of the numbers that a tile's sums stand for.
struct Scaled<'a, F> {
    out: Out,
    /// Of the panel's columns.
    columns: Columns<'a>,
    /// Of the tile's rows.
    scales: &'a [f32],
    zeros: &'a [i32],
    function: PhantomData<F>,
}

impl<S: Simd, F: Function> Sink<S, S::I32> for Scaled<'_, F> {
    const LIGHT: bool = F::LIGHT;

    #[inline(always)]
    unsafe fn row<const V: usize>(&self, simd: S, r: usize, sums: [S::I32; V]) {
        let Self { columns, .. } = self;
        let mut out = [simd.splat(0.0); V];
        // SAFETY: the tile has row `r`, and a panel `V` registers of columns.
        unsafe {
            let scale = simd.splat(*self.scales.get_unchecked(r));
            let zero = simd.splat_i32(*self.zeros.get_unchecked(r));
            for (v, sum) in sums.into_iter().enumerate() {
                let column = v * S::LANES;
                let codes = simd.load_i32(columns.sums.as_ptr().add(column));
                let scaled = simd.mul(simd.to_f32(simd.sub_i32(sum, simd.mul_i32(zero, codes))), scale);
                let scales = simd.load(columns.scales.as_ptr().add(column));
                out[v] = F::apply(simd, simd.fma(scaled, scales, simd.load(columns.bias.as_ptr().add(column))));
            }
            self.out.row(simd, r, out);
        }
    }
}
