//! Late-interaction scores.
//!
//! score(q, d) = Σᵢ maxⱼ ⟨qᵢ, dⱼ⟩, over the rows `i` of the query and `j` of the document
//! (Khattab and Zaharia, "ColBERT", SIGIR 2020, equation 3).
//!
//! | argument | shape | layout |
//! |---|---|---|
//! | `query` | `[q_len, dim]` | f32, row-major |
//! | `documents` | `[total, dim]` | any [storage](crate::tokens), row-major, documents end to end |
//! | `cu_seqlens` | `[documents + 1]` | first row of each document, then `total` |
//! | `scores` | `[documents]` | |
//!
//! [`maxsim`] takes documents that lie end to end; [`PackedQuery`] takes them one by one, wherever they lie.
//!
//! | edge | score |
//! |---|---|
//! | query without rows | 0: the empty sum, whatever the document |
//! | document without rows | −∞: the empty maximum, for a query with rows |
//! | NaN in a document row or a query row that are compared | NaN |
//! | ±∞ in f32 and f16 | what IEEE arithmetic makes of it: ∞ · 0 and ∞ − ∞ are NaN |
//! | NaN or ±∞ in a query row, documents in int8 or binary | NaN: such a row has no codes |
//! | int8 row whose scale is NaN, or infinite | NaN; or IEEE arithmetic with (Σ of the products of codes) · scale |
//!
//! A score does not depend on what other documents are in the call, nor on threads: the bits are equal. Another
//! instruction set may round otherwise; scores of int8 and binary documents are equal on all of them.
//!
//! # Accuracy
//!
//! f32 and f16 (which is widened to f32 exactly): dot products are summed in f32, so each is within
//! `dim · 2⁻²⁴ · Σₖ |qₖ·dₖ|` of its value. int8 and binary: the query's rows are rounded to 8 bits with a scale each, as
//! document rows are, so each component of the query moves by at most `max |qᵢ| / 254`; the sum over codes is exact
//! (for `dim` up to 2²⁴; above 132,104 the query has fewer than 8 bits). The outer sum is in f64.
//!
//! # Cost
//!
//! `2 · q_len · total · dim` operations over one read of the documents: 4, 2, 1 or ⅛ bytes a component. Query tokens
//! stand in the lanes of registers, and their maxima stay there: no similarity is written down (see `tile.rs`). f16 and
//! binary rows are widened in the first cache level on the way.
//!
//! With codes, AVX-512 and Neon do four times as many operations an instruction as with floats, AVX2 twice as many. So
//! AVX-512 finds with codes which f32 or f16 rows can be the best at all, with proven bounds, and computes only those
//! with floats (see `screen.rs`).

pub mod reference;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod fallback;
mod kernel;
mod lanes;
#[cfg(target_arch = "aarch64")]
mod neon;
mod panel;
mod query;
#[cfg(target_arch = "x86_64")]
mod screen;
#[cfg(test)]
mod tests;
mod tile;

pub use query::PackedQuery;

use crate::{Isa, ShapeError, shape, tokens::Tokens};

/// Arguments of [`maxsim`].
#[derive(Clone, Copy, Debug)]
pub struct MaxSim<'a> {
    /// Token vectors of the query, `[q_len, dim]`.
    pub query: &'a [f32],
    /// Token vectors of all documents, `[total, dim]`.
    pub documents: Tokens<'a>,
    /// Where each document begins, and the end of the last, in rows: `[documents + 1]`.
    pub cu_seqlens: &'a [u32],
    /// Components of a vector; at least 1.
    pub dim: usize,
}

/// The document token that a query token found most similar.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Alignment {
    /// Its index in the document: the lowest one of equals, the first one whose similarity is NaN if there is any;
    /// `None` for a document without rows.
    pub token: Option<u32>,
    /// Their dot product, which is this query token's part of the score; −∞ for a document without rows.
    pub similarity: f32,
}

/// Writes one score per document, with the fastest instructions of the machine. See the [module](self).
///
/// # Errors
/// [`ShapeError`] if the arguments do not fit together.
pub fn maxsim(args: MaxSim<'_>, scores: &mut [f32]) -> Result<(), ShapeError> {
    maxsim_on(Isa::best(), args, scores)
}

/// As [`maxsim`], with the instructions of `isa`.
///
/// # Errors
/// [`ShapeError`] if the arguments do not fit together.
pub fn maxsim_on(isa: Isa, args: MaxSim<'_>, scores: &mut [f32]) -> Result<(), ShapeError> {
    let documents = check(&args)?;
    shape::length("scores", documents, scores.len())?;
    score(isa, &args, scores)
}

/// Several queries, each against its own documents: writes the scores of the first one's documents, then the second's.
/// The storage may differ from one to the next.
///
/// # Errors
/// [`ShapeError`] if the arguments of one do not fit together, or all of them have not as many documents as `scores`.
pub fn maxsim_batch(isa: Isa, batch: &[MaxSim<'_>], scores: &mut [f32]) -> Result<(), ShapeError> {
    let mut total = 0;
    for args in batch {
        total += check(args)?;
    }
    shape::length("scores", total, scores.len())?;
    let mut rest = scores;
    for args in batch {
        let (scores, after) = rest.split_at_mut(args.cu_seqlens.len() - 1);
        score(isa, args, scores)?;
        rest = after;
    }
    Ok(())
}

/// How many documents there are.
fn check(args: &MaxSim<'_>) -> Result<usize, ShapeError> {
    let MaxSim { query, documents, cu_seqlens, dim } = *args;
    shape::not_zero("dim", dim)?;
    shape::rows("query", query.len(), dim)?;
    shape::sequences(cu_seqlens, documents.rows(dim)?)
}

fn score(isa: Isa, args: &MaxSim<'_>, scores: &mut [f32]) -> Result<(), ShapeError> {
    let query = PackedQuery::new(isa, args.query, args.dim)?;
    query.score_ranges(args.documents, shape::ranges(args.cu_seqlens), scores);
    Ok(())
}
