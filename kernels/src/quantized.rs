//! Linear layers of small integers: 8 bits a weight, 8 bits an activation, exact sums of 32 bits.
//!
//! | | codes | scale | zero |
//! |---|---|---|---|
//! | row of `x` | 0…255 | (hi − lo) / 255, with lo = min(0, x) and hi = max(0, x) over the row | round(−lo / scale) |
//! | output's weights | −127…127 | max\|w\| / 127 over the output's weights | none |
//!
//! y = f(Σₖ (code(x)ₖ − zero) · code(w)ₖ · scale(x) · scale(w) + b), with f the identity or an [`Activation`]. Scales of
//! `x` are taken from each row when it is computed ("dynamic", per token), so that a row's result does not depend on
//! the rows beside it; zero is always a code, so that x = 0 is exact.
//!
//! | argument | shape | layout |
//! |---|---|---|
//! | `weight` | `[outputs, inputs]` | row-major, as checkpoints have it; packed into panels once |
//! | `bias` | `[outputs]` | |
//! | `x` | `[rows, inputs]` | row-major; quantised first |
//! | `out` | `[rows, outputs]` | row-major |
//!
//! Columns of `x` of very different size waste codes on the small ones. A layer may be packed with a factor for each input
//! that evens them out: `x` is divided and the weights are multiplied by it, which changes nothing but the rounding (Xiao
//! et al., "SmoothQuant", 2022).
//!
//! NaN or ±∞ in a row of `x` makes the whole row of `out` NaN. The sum is the same integer on every machine; for
//! `inputs` up to 66,000 it cannot overflow.
//!
//! Accuracy: a code is within half a scale of its number, so an output is within
//! `½·scale(x)·Σ|w| + ½·scale(w)·Σ|x| + ¼·inputs·scale(x)·scale(w)` of the product in f32.
//! Cost: `2 · rows · inputs · outputs` integer operations, 4 times as many a cycle as in f32 where the machine
//! multiplies bytes (VNNI), twice as many with AVX2; weights are a quarter (VNNI) or half of their size in f32.

pub mod reference;

mod codes;
mod layer;
mod product;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::{Isa, ShapeError, activation::Activation, shape, simd::dispatch};

pub use codes::Codes;
pub use layer::QuantizedLayer;

/// Arguments of [`linear_int8`].
#[derive(Clone, Debug)]
pub struct QuantizedLinear<'a> {
    /// Weights and bias.
    pub layer: &'a QuantizedLayer,
    /// Rows to multiply, quantised for this layer.
    pub x: &'a Codes,
    /// Which outputs are wanted; whole panels are computed, so neighbours may be written too. The others stay as they are.
    pub outputs: Range<usize>,
    /// What is applied to the sums.
    pub activation: Option<Activation>,
}

/// Replaces `codes` by the codes of rows of `x` for that layer. Allocates only where there is too little room. See the
/// [module](self).
///
/// # Errors
/// [`ShapeError`] if `x` is not whole rows.
pub fn quantize(layer: &QuantizedLayer, x: &[f32], codes: &mut Codes) -> Result<(), ShapeError> {
    let rows = shape::rows("x", x.len(), layer.inputs())?;
    dispatch(layer.isa(), codes::Quantize { layer, x, rows, codes });
    Ok(())
}

/// Writes one row per row of `x`, with the instructions that the layer was packed for. See the [module](self).
///
/// # Errors
/// [`ShapeError`] if the arguments do not fit together.
pub fn linear_int8(args: QuantizedLinear<'_>, out: &mut [f32]) -> Result<(), ShapeError> {
    let layer = args.layer;
    shape::length("x", layer.inputs(), args.x.dim())?;
    shape::length("codes of a word", layer.codes_of_a_word(), args.x.codes_of_a_word())?;
    shape::length("out", args.x.rows() * layer.outputs(), out.len())?;
    if args.outputs.start > args.outputs.end || args.outputs.end > layer.outputs() {
        return Err(ShapeError::Length { argument: "outputs", expected: layer.outputs(), found: args.outputs.end });
    }
    dispatch(layer.isa(), product::Product { args, out });
    Ok(())
}

impl QuantizedLayer {
    /// Quantises weights `[outputs, inputs]` and packs them for a machine's instructions. `factors` are what the inputs
    /// are divided by before they become codes, `[inputs]` and positive; empty for none.
    ///
    /// # Errors
    /// [`ShapeError`] if there are no outputs, no inputs, or `weight` or `factors` have another length than they imply.
    pub fn pack(isa: Isa, weight: &[f32], bias: &[f32], inputs: usize, factors: &[f32]) -> Result<Self, ShapeError> {
        shape::not_zero("inputs", inputs)?;
        shape::not_zero("bias", bias.len())?;
        shape::length("weight", bias.len() * inputs, weight.len())?;
        if !factors.is_empty() {
            shape::length("factors", inputs, factors.len())?;
        }
        Ok(Self::of_rows(isa, weight, bias, inputs, factors))
    }
}
