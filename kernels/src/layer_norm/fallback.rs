//! For any machine: a few passes over a row that is in cache; mean first, then the variance around it.

use super::LayerNorm;
use crate::lanes::sum_by;

/// Rows of checked arguments.
pub(super) fn layer_norm(args: LayerNorm<'_>, x: &mut [f32]) {
    let dim = args.gamma.len();
    for (i, row) in x.chunks_exact_mut(dim).enumerate() {
        add(row, args.bias);
        add(row, args.residual.get(i * dim..(i + 1) * dim).unwrap_or_default());
        normalize(row, &args);
    }
}

/// `other` is as long as the row, or empty.
#[inline(always)]
fn add(row: &mut [f32], other: &[f32]) {
    for (x, &y) in row.iter_mut().zip(other) {
        *x += y;
    }
}

#[inline(always)]
fn normalize(row: &mut [f32], args: &LayerNorm<'_>) {
    let count = row.len() as f32;
    let mean = sum_by(row, |x| x) / count;
    let variance = sum_by(row, |x| (x - mean) * (x - mean)) / count;
    let scale = 1.0 / (variance + args.epsilon).sqrt();
    for ((x, &gamma), &beta) in row.iter_mut().zip(args.gamma).zip(args.beta) {
        *x = (*x - mean) * scale * gamma + beta;
    }
}
