//! The formula, in integers and f64.

use super::{Codes, QuantizedLayer};
use crate::activation::{Activation, reference::activation as activate};

/// Rows of codes times a layer's codes, plus the bias, which is `[outputs]`.
#[must_use]
pub fn linear_int8(x: &Codes, layer: &QuantizedLayer, bias: &[f32], activation: Option<Activation>) -> Vec<f64> {
    let mut out = Vec::with_capacity(x.rows() * bias.len());
    for row in 0..x.rows() {
        for (output, &bias) in bias.iter().enumerate() {
            let product = |k| (i64::from(x.code(row, k)) - i64::from(x.zero(row))) * i64::from(layer.code(output, k));
            let sum: i64 = (0..x.dim()).map(product).sum();
            let y = sum as f64 * f64::from(x.scale(row)) * f64::from(layer.scale(output)) + f64::from(bias);
            out.push(activation.map_or(y, |activation| activate(activation, y)));
        }
    }
    out
}
