//! One pass, once for every instruction set.

use super::Activation;
use crate::simd::{Kernel, Simd, for_each_register, gelu_tanh, load, positive, store};

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
            None => self.map(simd, |x| x),
            Some(Activation::GeluErf) => self.map(simd, |x| simd.gelu_erf(x)),
            Some(Activation::GeluTanh) => self.map(simd, |x| gelu_tanh(simd, x)),
            Some(Activation::Relu) => self.map(simd, |x| positive(simd, x)),
        }
    }
}

impl Rows<'_> {
    /// Replaces each element by `f` of its sum with its column's bias.
    #[inline(always)]
    fn map<S: Simd>(self, simd: S, f: impl Fn(S::F32) -> S::F32) {
        for row in self.x.chunks_exact_mut(self.bias.len()) {
            for_each_register::<S>(row.len(), |at, lanes| {
                let sum = simd.add(load(simd, row, at, lanes), load(simd, self.bias, at, lanes));
                store(simd, row, at, lanes, f(sum));
            });
        }
    }
}
