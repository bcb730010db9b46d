//! One layer behind its attention.

use sluice_kernels::{Isa, ShapeError, activation::Activation, layer_norm::layer_norm};

use super::{
    product::{Product, even_factors},
    scratch::Worker,
};
use crate::{
    bert_weights::{LayerWeights, Norm},
    model::Precision,
};

/// The weights of a layer, packed.
pub(super) struct Layer {
    isa: Isa,
    activation: Activation,
    /// `hidden` → query, key and value, `3·hidden`.
    pub(super) qkv: Product,
    attention_output: Product,
    attention_norm: Norm,
    intermediate: Product,
    output: Product,
    pub(super) output_norm: Norm,
}

impl Layer {
    /// `input_norm` is what the layer's input came out of.
    pub(super) fn pack(
        isa: Isa,
        precision: Precision,
        activation: Activation,
        input_norm: &Norm,
        weights: LayerWeights,
    ) -> Result<Self, ShapeError> {
        let pack = |weights| Product::pack(isa, precision, weights, &[]);
        Ok(Self {
            isa,
            activation,
            qkv: Product::pack(isa, precision, &weights.qkv, &even_factors(input_norm, &weights.qkv))?,
            attention_output: pack(&weights.attention_output)?,
            attention_norm: weights.attention_norm,
            intermediate: pack(&weights.intermediate)?,
            output: pack(&weights.output)?,
            output_norm: weights.output_norm,
        })
    }

    /// Replaces rows of the layer's input by its output: `attended` is what attention made of them.
    pub(super) fn forward(&self, attended: &[f32], hidden: &mut [f32], worker: &mut Worker) -> Result<(), ShapeError> {
        let Worker { projected, intermediate, codes, .. } = worker;
        let (outputs, inner) = (self.attention_output.outputs(), self.intermediate.outputs());
        let rows = hidden.len() / outputs;
        projected.grow(rows * outputs);
        intermediate.grow(rows * inner);
        let projected = &mut projected.as_mut_slice()[..rows * outputs];
        let intermediate = &mut intermediate.as_mut_slice()[..rows * inner];

        self.attention_output.forward(attended, 0..outputs, None, codes, projected)?;
        layer_norm(self.isa, self.attention_norm.args(&[], hidden), projected)?;
        self.intermediate.forward(projected, 0..inner, Some(self.activation), codes, intermediate)?;
        self.output.forward(intermediate, 0..outputs, None, codes, hidden)?;
        layer_norm(self.isa, self.output_norm.args(&[], projected), hidden)
    }
}
