//! A linear layer in the precision that the model was loaded with.

use std::ops::Range;

use sluice_kernels::{
    Isa, ShapeError,
    activation::Activation,
    linear::{Linear, PackedLinear, linear},
    quantized::{Codes, QuantizedLayer, QuantizedLinear, linear_int8, quantize},
};

use crate::{bert_weights::LinearWeights, model::Precision};

/// Packed weights.
pub(super) enum Product {
    F32(PackedLinear),
    Int8(QuantizedLayer),
}

impl Product {
    pub(super) fn pack(isa: Isa, precision: Precision, weights: &LinearWeights) -> Result<Self, ShapeError> {
        let LinearWeights { weight, bias, inputs } = weights;
        Ok(match precision {
            Precision::F32 => Self::F32(PackedLinear::pack(isa, weight, bias, *inputs)?),
            Precision::Int8 => Self::Int8(QuantizedLayer::pack(isa, weight, bias, *inputs)?),
        })
    }

    /// Components of an output row.
    pub(super) fn outputs(&self) -> usize {
        match self {
            Self::F32(layer) => layer.outputs(),
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
            Self::F32(layer) => linear(Linear { layer, x, outputs, activation }, out),
            Self::Int8(layer) => {
                quantize(layer.isa(), x, layer.inputs(), codes)?;
                linear_int8(QuantizedLinear { layer, x: codes, outputs, activation }, out)
            }
        }
    }
}
