//! Linear layers: a product with weights that were packed once.
//!
//! y = f(x·Wᵀ + b), row by row, with f the identity or an [`Activation`].
//!
//! | argument | shape | layout |
//! |---|---|---|
//! | `weight` | `[outputs, inputs]` | row-major, as checkpoints have it; packed into panels once, in f32 or f16 |
//! | `bias` | `[outputs]` | |
//! | `x` | `[rows, inputs]` | row-major |
//! | `out` | `[rows, outputs]` | row-major |
//!
//! NaN and ±∞ spread as IEEE arithmetic has it, within their row of `x` and their column of weights.
//!
//! An output's bits depend on its row of `x` and its row of weights alone: products add up in order of `inputs`, one
//! sum per output, whatever else is in the call.
//!
//! Accuracy: within `inputs · 2⁻²³ · Σ|x·w|` of the reference, besides the activation's own error.
//! Cost: `2 · rows · inputs · outputs` FLOPs. Weights are read once for a call, so a call should be of as many rows as
//! keep `x` and `out` in the cache of a core: 48 rows of 1,536 are 288 KiB.

pub mod reference;

mod packed;
mod product;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::{Isa, ShapeError, activation::Activation, shape, simd::dispatch};

pub use packed::{PackedLinear, Storage};
pub(crate) use product::PanelOut;

/// Arguments of [`linear`].
#[derive(Clone, Debug)]
pub struct Linear<'a> {
    /// Weights and bias.
    pub layer: &'a PackedLinear,
    /// Rows to multiply, `[rows, inputs]`.
    pub x: &'a [f32],
    /// Which outputs are wanted; whole panels are computed, so neighbours may be written too. The others stay as they are.
    pub outputs: Range<usize>,
    /// What is applied to the sums.
    pub activation: Option<Activation>,
}

/// Writes one row per row of `x`, with the instructions that the layer was packed for. See the [module](self).
///
/// # Errors
/// [`ShapeError`] if the arguments do not fit together.
pub fn linear(args: Linear<'_>, out: &mut [f32]) -> Result<(), ShapeError> {
    let layer = args.layer;
    let rows = shape::rows("x", args.x.len(), layer.inputs())?;
    shape::length("out", rows * layer.outputs(), out.len())?;
    if args.outputs.start > args.outputs.end || args.outputs.end > layer.outputs() {
        return Err(ShapeError::Length { argument: "outputs", expected: layer.outputs(), found: args.outputs.end });
    }
    dispatch(layer.isa(), product::Product { args, rows, out });
    Ok(())
}

impl PackedLinear {
    /// Packs weights `[outputs, inputs]` and their bias, which stays in f32, for a machine's instructions.
    ///
    /// # Errors
    /// [`ShapeError`] if there are no outputs, no inputs, or `weight` has another length than they imply.
    pub fn pack(isa: Isa, storage: Storage, weight: &[f32], bias: &[f32], inputs: usize) -> Result<Self, ShapeError> {
        shape::not_zero("inputs", inputs)?;
        shape::not_zero("bias", bias.len())?;
        shape::length("weight", bias.len() * inputs, weight.len())?;
        Ok(Self::of_rows(isa, storage, weight, bias, inputs))
    }
}
