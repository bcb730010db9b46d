//! For any machine: whole rows are added, so columns are the lanes.

use super::{Pool, Pooling};
use crate::shape::ranges;

/// Rows of checked arguments.
pub(super) fn pool(args: Pool<'_>, out: &mut [f32]) {
    let Pool { x, cu_seqlens, dim, pooling } = args;
    for (target, rows) in out.chunks_exact_mut(dim).zip(ranges(cu_seqlens)) {
        target.fill(0.0);
        let sequence = &x[rows.start * dim..rows.end * dim];
        match pooling {
            Pooling::First => target.iter_mut().zip(sequence).for_each(|(target, &x)| *target = x),
            Pooling::Mean => mean(target, sequence),
        }
    }
}

fn mean(target: &mut [f32], sequence: &[f32]) {
    let dim = target.len();
    for row in sequence.chunks_exact(dim) {
        for (sum, &x) in target.iter_mut().zip(row) {
            *sum += x;
        }
    }
    let rows = sequence.len() / dim;
    if rows > 0 {
        let inverse = 1.0 / rows as f32;
        for sum in target {
            *sum *= inverse;
        }
    }
}
