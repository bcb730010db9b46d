//! Attention over packed sequences.
//!
//! For each sequence and head: out = softmax(Q·Kᵀ · scale) · V, the softmax over the keys of the same
//! sequence (Vaswani et al., "Attention Is All You Need", 2017, equation 1). Every row attends to every
//! row of its sequence, in both directions, and to no other.
//!
//! | argument | shape | layout |
//! |---|---|---|
//! | `qkv` | `[total, 3, num_heads, head_dim]` | row-major, sequences end to end |
//! | `cu_seqlens` | `[sequences + 1]` | first row of each sequence, then `total` |
//! | `out` | `[total, num_heads, head_dim]` | row-major |
//!
//! A sequence without rows has no output. NaN in a sequence's `qkv` makes NaN of what it touches in that
//! sequence and head; other sequences are not affected.
//!
//! Keys are multiplied with `scale · log₂ e` when they are packed, so that the softmax is of powers of 2 and needs no
//! further product: softmax(x) = 2^(x·log₂ e) over its sum.
//!
//! Accuracy: within 1e-5 of the reference for components of at most 2 with the usual scale, and 512 rows.
//! Cost: `4 · num_heads · head_dim · Σ length²` FLOPs, and one power for each of `num_heads · Σ length²` weights.
//! Scratch of one head of the longest sequence: keys, and the weights of a tile of queries (24 KiB for 512 keys), which
//! stay in the first level of cache. The matrix of a whole head's weights never exists.

pub mod reference;

mod packed;
mod sequence;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::{Isa, ShapeError, shape, simd::dispatch};

pub use packed::AttentionScratch;

/// Arguments of [`attention`].
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Queries, keys and values of every row, `[total, 3, num_heads, head_dim]`.
    pub qkv: &'a [f32],
    /// Where each sequence begins, and the end of the last, in rows: `[sequences + 1]`.
    pub cu_seqlens: &'a [u32],
    /// Heads; at least 1.
    pub num_heads: usize,
    /// Components of a head; at least 1.
    pub head_dim: usize,
    /// Factor of Q·Kᵀ, usually `1 / √head_dim`.
    pub scale: f32,
}

/// Arguments of [`attend`]: some queries of one sequence.
#[derive(Clone, Debug)]
pub struct Attend<'a> {
    /// Queries, keys and values of the sequence's rows, `[length, 3, num_heads, head_dim]`.
    pub qkv: &'a [f32],
    /// Rows whose output is wanted.
    pub queries: Range<usize>,
    /// Heads; at least 1.
    pub num_heads: usize,
    /// Components of a head; at least 1.
    pub head_dim: usize,
    /// Factor of Q·Kᵀ, usually `1 / √head_dim`.
    pub scale: f32,
}

/// Writes one row per row of `qkv`. See the [module](self).
///
/// # Errors
/// [`ShapeError`] if the arguments do not fit together.
pub fn attention(isa: Isa, args: Attention<'_>, out: &mut [f32]) -> Result<(), ShapeError> {
    let Attention { qkv, cu_seqlens, num_heads, head_dim, scale } = args;
    let dim = row_size(num_heads, head_dim)?;
    let rows = shape::rows("qkv", qkv.len(), 3 * dim)?;
    shape::sequences(cu_seqlens, rows)?;
    shape::length("out", rows * dim, out.len())?;
    let mut scratch = AttentionScratch::default();
    for rows in shape::ranges(cu_seqlens) {
        let qkv = &qkv[rows.start * 3 * dim..rows.end * 3 * dim];
        let args = Attend { qkv, queries: 0..rows.len(), num_heads, head_dim, scale };
        attend(isa, args, &mut scratch, &mut out[rows.start * dim..rows.end * dim])?;
    }
    Ok(())
}

/// Writes one row, `[num_heads, head_dim]`, for each of `queries`; its bits are the same whichever others are asked
/// for. Allocates only where `scratch` is too small. See the [module](self).
///
/// # Errors
/// [`ShapeError`] if the arguments do not fit together.
pub fn attend(isa: Isa, args: Attend<'_>, scratch: &mut AttentionScratch, out: &mut [f32]) -> Result<(), ShapeError> {
    let dim = row_size(args.num_heads, args.head_dim)?;
    let length = shape::rows("qkv", args.qkv.len(), 3 * dim)?;
    if args.queries.start > args.queries.end || args.queries.end > length {
        return Err(ShapeError::Length { argument: "queries", expected: length, found: args.queries.end });
    }
    shape::length("out", args.queries.len() * dim, out.len())?;
    dispatch(isa, sequence::Sequence { args, length, scratch, out });
    Ok(())
}

/// Components of an output row.
fn row_size(num_heads: usize, head_dim: usize) -> Result<usize, ShapeError> {
    shape::not_zero("num_heads", num_heads)?;
    shape::not_zero("head_dim", head_dim)?;
    Ok(num_heads * head_dim)
}

impl Attention<'_> {
    /// Components of an output row.
    fn dim(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Query (0), key (1) or value (2) of one row and head.
    fn vector(&self, row: usize, which: usize, head: usize) -> &[f32] {
        &self.qkv[(row * 3 + which) * self.dim() + head * self.head_dim..][..self.head_dim]
    }
}
