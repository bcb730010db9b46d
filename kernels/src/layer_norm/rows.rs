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

/// Registers side by side, so that no sum waits for itself.
const CHAINS: usize = 4;

#[inline(always)]
fn normalize<S: Simd>(simd: S, args: &LayerNorm<'_>, residual: &[f32], row: &mut [f32]) {
    let count = row.len() as f32;
    let whole = row.len() / (CHAINS * S::LANES) * (CHAINS * S::LANES);
    let mut totals = [simd.splat(0.0); CHAINS];
    for block in (0..whole).step_by(CHAINS * S::LANES) {
        for (chain, total) in totals.iter_mut().enumerate() {
            *total = simd.add(*total, sum(simd, args, residual, row, (block + chain * S::LANES, S::LANES)));
        }
    }
    for (at, lanes) in registers::<S>(row.len() - whole) {
        totals[0] = simd.add(totals[0], sum(simd, args, residual, row, (whole + at, lanes)));
    }
    let mean = simd.sum(all(simd, totals)) / count;
    let mut squares = [simd.splat(0.0); CHAINS];
    for block in (0..whole).step_by(CHAINS * S::LANES) {
        for (chain, squares) in squares.iter_mut().enumerate() {
            let distance = simd.sub(load(simd, row, block + chain * S::LANES, S::LANES), simd.splat(mean));
            *squares = simd.fma(distance, distance, *squares);
        }
    }
    for (at, lanes) in registers::<S>(row.len() - whole) {
        let distance = simd.sub(load(simd, row, whole + at, lanes), simd.splat(mean));
        let distance = if lanes == S::LANES { distance } else { simd.first(distance, lanes) };
        squares[0] = simd.fma(distance, distance, squares[0]);
    }
    let variance = simd.sum(all(simd, squares)) / count;
    let scale = 1.0 / (variance + args.epsilon).sqrt();
    for (at, lanes) in registers::<S>(row.len()) {
        let distance = simd.sub(load(simd, row, at, lanes), simd.splat(mean));
        let scaled = simd.mul(distance, simd.splat(scale));
        let y = simd.fma(scaled, load(simd, args.gamma, at, lanes), load(simd, args.beta, at, lanes));
        store(simd, row, at, lanes, y);
    }
}

/// Adds bias and residual to some elements of a row, and returns them.
#[inline(always)]
fn sum<S: Simd>(
    simd: S,
    args: &LayerNorm<'_>,
    residual: &[f32],
    row: &mut [f32],
    (at, lanes): (usize, usize),
) -> S::F32 {
    let mut x = load(simd, row, at, lanes);
    for other in [args.bias, residual] {
        if !other.is_empty() {
            x = simd.add(x, load(simd, other, at, lanes));
        }
    }
    store(simd, row, at, lanes, x);
    x
}

#[inline(always)]
fn all<S: Simd>(simd: S, [a, b, c, d]: [S::F32; CHAINS]) -> S::F32 {
    simd.add(simd.add(a, b), simd.add(c, d))
}
