//! The formula, in f64.

use super::MaxSim;
use crate::shape::ranges;

/// Scores of arguments that [`maxsim`](super::maxsim) accepts.
#[must_use]
pub fn maxsim(args: MaxSim<'_>) -> Vec<f64> {
    let MaxSim { query, documents, cu_seqlens, dim } = args;
    ranges(cu_seqlens)
        .map(|rows| {
            let document = &documents[rows.start * dim..rows.end * dim];
            query.chunks_exact(dim).map(|q| largest(document.chunks_exact(dim).map(|d| dot(q, d)))).sum()
        })
        .collect()
}

/// −∞ for nothing, NaN if any is NaN.
fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(f64::NEG_INFINITY, |max, x| if x.is_nan() || max.is_nan() { f64::NAN } else { max.max(x) })
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}
