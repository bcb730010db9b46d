//! The product, once for every instruction set.
//!
//! Panel after panel, and for each the tiles of rows one below the other. A panel of 384 × 32 weights (48 KiB) comes
//! from memory, or the cache that all cores share, while the tiles of the panel before it are computed, each of which
//! fetches a part of it; it is in the core's own cache for all of its own tiles. 12 rows of 384 (18 KiB) stay in the first
//! level meanwhile.

#![allow(unsafe_code, reason = "tiles are read and written through pointers")]

use std::{marker::PhantomData, mem::MaybeUninit, ops::Range, slice};

use half::f16;

use super::{Linear, packed::Panels};
use crate::{
    activation::Activation,
    simd::{
        Ahead, Function, GeluErf, GeluTanh, Identity, Kernel, Micro, Out, Relu, Rows, Simd, Sink, Steps, Stored,
        TILE_MAX, TileRows, multiply, tiles,
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
        match self.args.layer.panels() {
            Panels::F32(panels) => self.stored::<S, F, f32>(simd, panels.as_slice()),
            Panels::F16(panels) => self.stored::<S, F, f16>(simd, panels.as_slice()),
        }
    }

    /// Of the layer's panels, end to end.
    #[inline(always)]
    fn stored<S: Simd, F: Function, W: Stored>(self, simd: S, stored: &[W]) {
        let Self { args: Linear { layer, x, outputs, .. }, rows, out } = self;
        let (inputs, columns) = (layer.inputs(), layer.columns());
        let first = |panel: usize| stored[panel * columns * inputs..][..columns * inputs].as_ptr();
        assert_eq!(columns, S::Full::VECTORS * S::LANES, "a layer is run with the set that it was packed for");
        let panels = outputs.start / columns..outputs.end.div_ceil(columns);
        for panel in panels.clone() {
            let weights = first(panel);
            let next = (panel + 1 < panels.end).then(|| first(panel + 1));
            let mut place = PanelOut::new(out, layer.outputs(), panel * columns..layer.outputs(), columns);
            for TileRows { start, count, shape } in tiles::<S>(rows) {
                let left = Rows { first: x[start * inputs..].as_ptr(), stride: inputs, count };
                let part = (start / S::Full::ROWS, rows.div_ceil(S::Full::ROWS));
                let ahead = match next {
                    Some(next) => Ahead::part(next, (inputs, columns), part),
                    None => Ahead::nothing(weights),
                };
                let right = Steps { first: weights, stride: columns, ahead };
                let sink = Biased::<F> {
                    out: place.tile(simd, start, count),
                    bias: layer.panel_bias(panel),
                    function: PhantomData,
                };
                // SAFETY: `x` has `rows` rows of `inputs`, of which these are some; the panel has `inputs` steps of
                // `columns`, which are those of the tiles; the place has as many rows of whole panels, and there is a
                // bias for each column; the tile writes all of the place.
                unsafe {
                    multiply(simd, shape, left, right, inputs, &sink);
                    place.done(start, count);
                }
            }
        }
    }
}

/// A panel's part of the rows of an output.
pub(crate) struct PanelOut<'a> {
    out: &'a mut [f32],
    /// Elements of a row.
    stride: usize,
    /// The panel's first.
    first: usize,
    /// How many there are, and how many a panel has.
    width: usize,
    columns: usize,
    /// Takes the sums of a tile if the panel is wider than what is left of a row. Not cleared before: most panels never
    /// use it, and clearing it for each of them took 1 to 4 % of an encoder's time.
    edge: MaybeUninit<Edge>,
}

/// A tile.
#[repr(align(64))]
struct Edge {
    _sums: [f32; TILE_MAX],
}

impl<'a> PanelOut<'a> {
    /// The first `columns` of `range`, or as many as there are, of each row of `stride` elements of `out`.
    #[inline(always)]
    pub(crate) fn new(out: &'a mut [f32], stride: usize, range: Range<usize>, columns: usize) -> Self {
        let (first, width) = (range.start, columns.min(range.len()));
        Self { out, stride, first, width, columns, edge: MaybeUninit::uninit() }
    }

    /// Where a tile of `count` rows from `start` on may write whole registers.
    #[inline(always)]
    pub(crate) fn tile<S: Simd>(&mut self, simd: S, start: usize, count: usize) -> Out {
        if self.width < self.columns {
            return Out { first: self.edge.as_mut_ptr().cast(), stride: self.columns };
        }
        let rows = &mut self.out[start * self.stride..(start + count) * self.stride][self.first..];
        let out = Out { first: rows.as_mut_ptr(), stride: self.stride };
        out.fetch(simd, count, self.columns);
        out
    }

    /// Those rows are written.
    ///
    /// # Safety
    /// All `count` rows of whole panels of the place that [`tile`](Self::tile) gave for them.
    #[inline(always)]
    pub(crate) unsafe fn done(&mut self, start: usize, count: usize) {
        if self.width < self.columns {
            // SAFETY: as the caller vouches, and a tile has no more rows than the edge.
            let edge = unsafe { slice::from_raw_parts(self.edge.as_ptr().cast::<f32>(), count * self.columns) };
            let rows = self.out[start * self.stride..].chunks_exact_mut(self.stride);
            for (row, sums) in rows.zip(edge.chunks_exact(self.columns)) {
                row[self.first..][..self.width].copy_from_slice(&sums[..self.width]);
            }
        }
    }
}

/// f(sum + bias).
struct Biased<'a, F> {
    out: Out,
    bias: &'a [f32],
    function: PhantomData<F>,
}

impl<S: Simd, F: Function> Sink<S, S::F32> for Biased<'_, F> {
    const LIGHT: bool = F::LIGHT;

    #[inline(always)]
    unsafe fn row<const V: usize>(&self, simd: S, r: usize, sums: [S::F32; V]) {
        let mut out = sums;
        for (v, sum) in sums.into_iter().enumerate() {
            // SAFETY: there is a bias for each column of the tile.
            let bias = unsafe { simd.load(self.bias.as_ptr().add(v * S::LANES)) };
            out[v] = F::apply(simd, simd.add(sum, bias));
        }
        // SAFETY: as the caller vouches.
        unsafe { self.out.row(simd, r, out) };
    }
}
