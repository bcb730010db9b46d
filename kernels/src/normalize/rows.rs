//! Two passes over a row that is in cache, once for every instruction set.

use crate::simd::{Kernel, Simd, load, registers, store};

pub(super) struct Rows<'a> {
    pub(super) x: &'a mut [f32],
    pub(super) dim: usize,
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for row in self.x.chunks_exact_mut(self.dim) {
            let mut squares = simd.splat(0.0);
            for (at, lanes) in registers::<S>(row.len()) {
                let x = load(simd, row, at, lanes);
                squares = simd.fma(x, x, squares);
            }
            let squares = simd.sum(squares);
            // Where squares are so small that they lost bits, or overflowed, f32 is not enough.
            if !(1e-20..f32::INFINITY).contains(&squares) {
                in_f64(row);
                continue;
            }
            let inverse = simd.splat(1.0 / squares.sqrt());
            for (at, lanes) in registers::<S>(row.len()) {
                let y = simd.mul(load(simd, row, at, lanes), inverse);
                store(simd, row, at, lanes, y);
            }
        }
    }
}

#[cold]
fn in_f64(row: &mut [f32]) {
    let norm = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    if norm != 0.0 {
        for x in row {
            *x = (f64::from(*x) / norm) as f32;
        }
    }
}
