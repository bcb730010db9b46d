//! The formula, in f64.

use crate::activation::{Activation, reference::activation as activate};

/// Rows of `x`, `inputs` long, times weights `[outputs, inputs]`, plus the bias.
#[must_use]
pub fn linear(x: &[f32], weight: &[f32], bias: &[f32], inputs: usize, activation: Option<Activation>) -> Vec<f64> {
    let mut out = Vec::with_capacity(x.len() / inputs * bias.len());
    for row in x.chunks_exact(inputs) {
        for (weights, &bias) in weight.chunks_exact(inputs).zip(bias) {
            let dot: f64 = row.iter().zip(weights).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
            let sum = dot + f64::from(bias);
            out.push(activation.map_or(sum, |activation| activate(activation, sum)));
        }
    }
    out
}
