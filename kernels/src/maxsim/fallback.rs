//! For any machine: query rows in the lanes, document rows in the tile's rows.
//!
//! Each lane keeps one query row's running maximum, so there is neither a similarity matrix nor a
//! horizontal maximum. A panel of 8 query rows stays in the first cache level (12 KiB at 384
//! components) while the document streams past it.

use super::MaxSim;
use crate::{
    shape::ranges,
    tile::{LANES, Panels, for_each_row},
};

/// Scores of checked arguments.
pub(super) fn maxsim(args: MaxSim<'_>, scores: &mut [f32]) {
    let MaxSim { query, documents, cu_seqlens, dim } = args;
    let q_len = query.len() / dim;
    let mut panels = Panels::default();
    panels.pack_transposed(q_len, dim, |i| &query[i * dim..][..dim]);
    for (score, rows) in scores.iter_mut().zip(ranges(cu_seqlens)) {
        *score = score_document(&panels, q_len, &documents[rows.start * dim..rows.end * dim], dim);
    }
}

fn score_document(panels: &Panels, q_len: usize, document: &[f32], dim: usize) -> f32 {
    let mut score = 0.0_f64;
    for (p, panel) in panels.iter().enumerate() {
        let mut maxima = [f32::NEG_INFINITY; LANES];
        for_each_row(
            document.len() / dim,
            |j| &document[j * dim..][..dim],
            panel,
            |_, sums| {
                for (max, sum) in maxima.iter_mut().zip(sums) {
                    // NaN is taken, and then kept: nothing is larger.
                    *max = if sum > *max || sum.is_nan() { sum } else { *max };
                }
            },
        );
        score += maxima.iter().take(q_len - p * LANES).map(|&max| f64::from(max)).sum::<f64>();
    }
    score as f32
}
