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
//! Accuracy: within 1e-5 of the reference for components of at most 2 with the usual scale, and 512 rows.
//! Cost: `4 · num_heads · head_dim · Σ length²` FLOPs; scratch of one head of the longest sequence.

pub mod reference;

mod fallback;
#[cfg(test)]
mod tests;

use crate::{ShapeError, shape};

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

impl Attention<'_> {
    /// Components of an output row.
    fn dim(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Query (0), key (1) or value (2) of one row and head.
    #[inline(always)]
    fn vector(&self, row: usize, which: usize, head: usize) -> &[f32] {
        &self.qkv[(row * 3 + which) * self.dim() + head * self.head_dim..][..self.head_dim]
    }
}

/// Writes one row per row of `qkv`. See the [module](self).
///
/// # Errors
/// [`ShapeError`] if the arguments do not fit together.
pub fn attention(args: Attention<'_>, out: &mut [f32]) -> Result<(), ShapeError> {
    shape::not_zero("num_heads", args.num_heads)?;
    shape::not_zero("head_dim", args.head_dim)?;
    let rows = shape::rows("qkv", args.qkv.len(), 3 * args.dim())?;
    shape::sequences(args.cu_seqlens, rows)?;
    shape::length("out", rows * args.dim(), out.len())?;
    fallback::attention(args, out);
    Ok(())
}
