//! One pass, once for every instruction set.

use super::Activation;
use crate::simd::{Function, GeluErf, GeluTanh, Identity, Kernel, Relu, Simd, load, registers, store};

pub(super) struct Rows<'a> {
    pub(super) x: &'a mut [f32],
    pub(super) bias: &'a [f32],
    pub(super) activation: Option<Activation>,
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.activation {
            None => self.map::<S, Identity>(simd),
            Some(Activation::GeluErf) => self.map::<S, GeluErf>(simd),
            Some(Activation::GeluTanh) => self.map::<S, GeluTanh>(simd),
            Some(Activation::Relu) => self.map::<S, Relu>(simd),
        }
    }
}

impl Rows<'_> {
    /// Replaces each element by the function of its sum with its column's bias.
    #[inline(always)]
    fn map<S: Simd, F: Function>(self, simd: S) {
        for row in self.x.chunks_exact_mut(self.bias.len()) {
            for (at, lanes) in registers::<S>(row.len()) {
                let sum = simd.add(load(simd, row, at, lanes), load(simd, self.bias, at, lanes));
                store(simd, row, at, lanes, F::apply(simd, sum));
            }
        }
    }
}
