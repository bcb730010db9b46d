//! The formulas, in f64.

use super::{Pool, Pooling};
use crate::shape::ranges;

/// Rows of arguments that [`pool`](super::pool) accepts.
#[must_use]
pub fn pool(args: Pool<'_>) -> Vec<f64> {
    let Pool { x, cu_seqlens, dim, pooling } = args;
    let at = |row: usize, j: usize| f64::from(x[row * dim + j]);
    ranges(cu_seqlens)
        .flat_map(|rows| {
            (0..dim).map(move |j| match pooling {
                _ if rows.is_empty() => 0.0,
                Pooling::First => at(rows.start, j),
                Pooling::Mean => rows.clone().map(|row| at(row, j)).sum::<f64>() / rows.len() as f64,
            })
        })
        .collect()
}
