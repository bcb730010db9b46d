//! One layer behind its attention.

use sluice_kernels::{Aligned, Isa, ShapeError, activation::Activation, layer_norm::layer_norm};

use super::product::{Multiply, Product, even_factors};
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

    /// Replaces rows of the layer's input by its output: `attended` is what attention made of them. `multiply` computes
    /// a product.
    pub(super) fn forward(
        &self,
        attended: &[f32],
        hidden: &mut [f32],
        (projected, intermediate): (&mut Aligned<f32>, &mut Aligned<f32>),
        mut multiply: impl FnMut(Multiply<'_>, &mut [f32]) -> Result<(), ShapeError>,
    ) -> Result<(), ShapeError> {
        let (outputs, inner) = (self.attention_output.outputs(), self.intermediate.outputs());
        let rows = hidden.len() / outputs;
        projected.grow(rows * outputs);
        intermediate.grow(rows * inner);
        let projected = &mut projected.as_mut_slice()[..rows * outputs];
        let intermediate = &mut intermediate.as_mut_slice()[..rows * inner];

        let plain = |product, x| Multiply { product, x, activation: None };
        multiply(plain(&self.attention_output, attended), projected)?;
        layer_norm(self.isa, self.attention_norm.args(&[], hidden), projected)?;
        let activation = Some(self.activation);
        multiply(Multiply { product: &self.intermediate, x: projected, activation }, intermediate)?;
        multiply(plain(&self.output, intermediate), hidden)?;
        layer_norm(self.isa, self.output_norm.args(&[], projected), hidden)
    }
}
