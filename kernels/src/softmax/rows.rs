//! Three passes over a row that is in cache, once for every instruction set.

use std::f32::consts::LOG2_E;

use crate::simd::{Kernel, Simd, load, registers, store};

pub(super) struct Rows<'a> {
    pub(super) x: &'a mut [f32],
    pub(super) dim: usize,
    pub(super) scale: f32,
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for row in self.x.chunks_exact_mut(self.dim) {
            softmax_row(simd, row, self.scale);
        }
    }
}

/// A negative `scale` would make the smallest element the largest: m is taken after scaling.
#[inline(always)]
fn softmax_row<S: Simd>(simd: S, row: &mut [f32], scale: f32) {
    let mut largest = f32::NEG_INFINITY;
    for x in row.iter_mut() {
        *x *= scale;
        largest = if *x > largest { *x } else { largest };
    }
    let mut sum = simd.splat(0.0);
    for (at, lanes) in registers::<S>(row.len()) {
        let distance = simd.sub(load(simd, row, at, lanes), simd.splat(largest));
        let power = simd.exp2(simd.mul(distance, simd.splat(LOG2_E)));
        store(simd, row, at, lanes, power);
        sum = simd.add(sum, if lanes == S::LANES { power } else { simd.first(power, lanes) });
    }
    let inverse = simd.splat(1.0 / simd.sum(sum));
    for (at, lanes) in registers::<S>(row.len()) {
        let y = simd.mul(load(simd, row, at, lanes), inverse);
        store(simd, row, at, lanes, y);
    }
}
