//! A linear layer in the precision that the model was loaded with.

use std::ops::Range;

use sluice_kernels::{
    Isa, ShapeError,
    activation::Activation,
    linear::{Linear, PackedLinear, Storage, linear},
    quantized::{Codes, QuantizedLayer, QuantizedLinear, linear_int8, quantize},
};

use crate::{
    bert_weights::{LinearWeights, Norm},
    model::Precision,
};

/// Packed weights.
pub(super) enum Product {
    /// Multiplied in f32, however stored.
    Floats(PackedLinear),
    Int8(QuantizedLayer),
}

/// A product of a layer that is to be computed.
#[derive(Clone, Copy)]
pub(super) struct Multiply<'a> {
    pub(super) product: &'a Product,
    /// Its rows.
    pub(super) x: &'a [f32],
    /// What is applied to the sums.
    pub(super) activation: Option<Activation>,
}

impl Multiply<'_> {
    /// All of it, on this thread; `codes` is memory to work in.
    pub(super) fn run(self, codes: &mut Codes, out: &mut [f32]) -> Result<(), ShapeError> {
        self.product.forward(self.x, 0..self.product.outputs(), self.activation, codes, out)
    }
}

impl Product {
    /// In int8, inputs are divided by their factors first; empty for none.
    pub(super) fn pack(
        isa: Isa,
        precision: Precision,
        weights: &LinearWeights,
        factors: &[f32],
    ) -> Result<Self, ShapeError> {
        let LinearWeights { weight, bias, inputs } = weights;
        Ok(match precision {
            Precision::F32 => Self::Floats(PackedLinear::pack(isa, Storage::F32, weight, bias, *inputs)?),
            Precision::F16 => Self::Floats(PackedLinear::pack(isa, Storage::F16, weight, bias, *inputs)?),
            Precision::Int8 => Self::Int8(QuantizedLayer::pack(isa, weight, bias, *inputs, factors)?),
        })
    }

    /// Components of an output row.
    pub(super) fn outputs(&self) -> usize {
        match self {
            Self::Floats(layer) => layer.outputs(),
            Self::Int8(layer) => layer.outputs(),
        }
    }

    /// Some of the outputs for rows of `x`, with all their neighbours' places in `out`; `codes` is memory to work in.
    pub(super) fn forward(
        &self,
        x: &[f32],
        outputs: Range<usize>,
        activation: Option<Activation>,
        codes: &mut Codes,
        out: &mut [f32],
    ) -> Result<(), ShapeError> {
        match self {
            Self::Floats(layer) => linear(Linear { layer, x, outputs, activation }, out),
            Self::Int8(layer) => {
                quantize(layer, x, codes)?;
                linear_int8(QuantizedLinear { layer, x: codes, outputs, activation }, out)
            }
        }
    }
}

/// What divides each input of a layer whose inputs come out of a norm, so that 8 bits serve all of them: the square root
/// of how large the input gets over how large its weights are, with a geometric mean of 1.
///
/// How large an input gets follows from the norm's own factor and offset: no text is needed. On TREC DL 2019 it brings
/// the rounding of query, key and value down, which is the largest part of what int8 changes in a late-interaction score.
pub(super) fn even_factors(norm: &Norm, weights: &LinearWeights) -> Vec<f32> {
    let mut largest = vec![0.0_f32; weights.inputs];
    for row in weights.weight.chunks_exact(weights.inputs) {
        for (largest, w) in largest.iter_mut().zip(row) {
            *largest = largest.max(w.abs());
        }
    }
    let ratio = |(input, weight): (f32, &f32)| if input > 0.0 && *weight > 0.0 { (input / weight).sqrt() } else { 1.0 };
    let factors: Vec<f32> = norm.magnitudes().zip(&largest).map(ratio).collect();
    let logarithm = factors.iter().map(|factor| factor.ln()).sum::<f32>() / factors.len() as f32;
    factors.into_iter().map(|factor| factor / logarithm.exp()).collect()
}
