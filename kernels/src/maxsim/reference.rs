//! The formula, in f64 over the stored values.

use super::MaxSim;
use crate::{
    shape::ranges,
    tokens::{Storage, Tokens},
};

/// Scores of arguments that [`maxsim`](super::maxsim) accepts.
#[must_use]
pub fn maxsim(args: MaxSim<'_>) -> Vec<f64> {
    let MaxSim { query, documents, cu_seqlens, dim } = args;
    ranges(cu_seqlens)
        .map(|rows| {
            query.chunks_exact(dim).map(|q| largest(rows.clone().map(|row| similarity(q, documents, dim, row)))).sum()
        })
        .collect()
}

/// ⟨q, d⟩ for row `row` of the documents. An int8 row's scale is multiplied with the sum; and a query row that is not
/// finite has no codes, so that it is NaN with int8 and binary rows.
#[must_use]
pub fn similarity(q: &[f32], documents: Tokens<'_>, dim: usize, row: usize) -> f64 {
    let coded = matches!(documents.storage(), Storage::Int8 | Storage::Binary);
    if coded && q.iter().any(|x| !x.is_finite()) {
        return f64::NAN;
    }
    let (components, scale) = match documents {
        Tokens::Int8 { codes, scales } => {
            (Tokens::Int8 { codes: &codes[row * dim..][..dim], scales: &[1.0] }, f64::from(scales[row]))
        }
        _ => (documents.slice(dim, row..row + 1), 1.0),
    };
    q.iter().enumerate().map(|(k, &q)| f64::from(q) * f64::from(components.component(dim, 0, k))).sum::<f64>() * scale
}

/// −∞ for nothing, NaN if any is NaN.
fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(f64::NEG_INFINITY, |max, x| if x.is_nan() || max.is_nan() { f64::NAN } else { max.max(x) })
}
