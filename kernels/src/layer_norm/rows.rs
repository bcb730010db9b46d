//! Three passes over a row that is in cache, once for every instruction set: sums, the variance around their mean, and
//! the result. A row's sums add up in lanes and then as a tree, in an order that its length alone decides.

use super::LayerNorm;
use crate::simd::{Kernel, Simd, load, registers, store};

pub(super) struct Rows<'a> {
    pub(super) args: LayerNorm<'a>,
    pub(super) x: &'a mut [f32],
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { args, x } = self;
        let dim = args.gamma.len();
        for (i, row) in x.chunks_exact_mut(dim).enumerate() {
            let residual = args.residual.get(i * dim..(i + 1) * dim).unwrap_or_default();
            normalize(simd, &args, residual, row);
        }
    }
}

#[inline(always)]
fn normalize<S: Simd>(simd: S, args: &LayerNorm<'_>, residual: &[f32], row: &mut [f32]) {
    let count = row.len() as f32;
    let mut total = simd.splat(0.0);
    for (at, lanes) in registers::<S>(row.len()) {
        let mut x = load(simd, row, at, lanes);
        for other in [args.bias, residual] {
            if !other.is_empty() {
                x = simd.add(x, load(simd, other, at, lanes));
            }
        }
        store(simd, row, at, lanes, x);
        total = simd.add(total, x);
    }
    let mean = simd.sum(total) / count;
    let mut squares = simd.splat(0.0);
    for (at, lanes) in registers::<S>(row.len()) {
        let distance = simd.sub(load(simd, row, at, lanes), simd.splat(mean));
        let distance = if lanes == S::LANES { distance } else { simd.first(distance, lanes) };
        squares = simd.fma(distance, distance, squares);
    }
    let variance = simd.sum(squares) / count;
    let scale = 1.0 / (variance + args.epsilon).sqrt();
    for (at, lanes) in registers::<S>(row.len()) {
        let distance = simd.sub(load(simd, row, at, lanes), simd.splat(mean));
        let scaled = simd.mul(distance, simd.splat(scale));
        let y = simd.fma(scaled, load(simd, args.gamma, at, lanes), load(simd, args.beta, at, lanes));
        store(simd, row, at, lanes, y);
    }
}
