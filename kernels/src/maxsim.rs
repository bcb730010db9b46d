//! Late-interaction scores.
//!
//! score(q, d) = Σᵢ maxⱼ ⟨qᵢ, dⱼ⟩, over the rows `i` of the query and `j` of the document
//! (Khattab and Zaharia, "ColBERT", SIGIR 2020, equation 3).
//!
//! | argument | shape | layout |
//! |---|---|---|
//! | `query` | `[q_len, dim]` | row-major |
//! | `documents` | `[total, dim]` | row-major, documents end to end |
//! | `cu_seqlens` | `[documents + 1]` | first row of each document, then `total` |
//! | `scores` | `[documents]` | |
//!
//! | edge | score |
//! |---|---|
//! | query without rows | 0: the empty sum, whatever the document |
//! | document without rows | −∞: the empty maximum, for a query with rows |
//! | NaN in a document row or a query row that are compared | NaN |
//! | ±∞ | what IEEE arithmetic makes of it: ∞ · 0 and ∞ − ∞ are NaN |
//!
//! A score does not depend on what other documents are in the call: the bits are equal.
//!
//! Accuracy: dot products are summed in f32 in order of `dim`, so each is within
//! `dim · 2⁻²⁴ · Σₖ |qₖ·dₖ|` of its value; the outer sum is in f64.
//! Cost: `2 · q_len · total · dim` FLOPs over `4 · total · dim` bytes of documents.

pub mod reference;

mod fallback;
#[cfg(test)]
mod tests;

use crate::{ShapeError, shape};

/// Arguments of [`maxsim`].
#[derive(Clone, Copy, Debug)]
pub struct MaxSim<'a> {
    /// Token vectors of the query, `[q_len, dim]`.
    pub query: &'a [f32],
    /// Token vectors of all documents, `[total, dim]`.
    pub documents: &'a [f32],
    /// Where each document begins, and the end of the last, in rows: `[documents + 1]`.
    pub cu_seqlens: &'a [u32],
    /// Components of a vector; at least 1.
    pub dim: usize,
}

/// Writes one score per document. See the [module](self).
///
/// # Errors
/// [`ShapeError`] if the arguments do not fit together.
pub fn maxsim(args: MaxSim<'_>, scores: &mut [f32]) -> Result<(), ShapeError> {
    shape::not_zero("dim", args.dim)?;
    shape::rows("query", args.query.len(), args.dim)?;
    let rows = shape::rows("documents", args.documents.len(), args.dim)?;
    let documents = shape::sequences(args.cu_seqlens, rows)?;
    shape::length("scores", documents, scores.len())?;
    fallback::maxsim(args, scores);
    Ok(())
}
