//! For any machine: per sequence and head, keys and values packed into panels, then a few query rows at a time.
//!
//! A block of [`BLOCK`] query rows keeps its scores (32 KiB for 512 keys) in cache from Q·Kᵀ through the
//! softmax to the product with V, so the matrix of scores of a whole head never exists.

use super::Attention;
use crate::{
    shape::ranges,
    softmax::softmax_row,
    tile::{LANES, Panels, ROWS, for_each_row},
};

/// Query rows worked on at once; whole tiles.
const BLOCK: usize = 4 * ROWS;

/// Output of checked arguments.
pub(super) fn attention(args: Attention<'_>, out: &mut [f32]) {
    let mut scratch = Scratch::default();
    for rows in ranges(args.cu_seqlens) {
        for head in 0..args.num_heads {
            let (start, length) = (rows.start, rows.len());
            scratch.keys.pack_transposed(length, args.head_dim, |j| args.vector(start + j, 1, head));
            scratch.values.pack(args.head_dim, length, |j| args.vector(start + j, 2, head));
            for block in (0..length).step_by(BLOCK) {
                let block = start + block..start + (block + BLOCK).min(length);
                attend(&args, head, block, length, &mut scratch, out);
            }
        }
    }
}

/// What one head of one sequence needs.
#[derive(Default)]
struct Scratch {
    /// Kᵀ, `[head_dim, length]`.
    keys: Panels,
    /// V, `[length, head_dim]`.
    values: Panels,
    /// Scores and then weights of a block of query rows, `[BLOCK, length]`.
    weights: Vec<f32>,
}

fn attend(
    args: &Attention<'_>,
    head: usize,
    block: std::ops::Range<usize>,
    length: usize,
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    let Scratch { keys, values, weights } = scratch;
    weights.resize(BLOCK * length, 0.0);
    for (p, panel) in keys.iter().enumerate() {
        for_each_row(
            block.len(),
            |i| args.vector(block.start + i, 0, head),
            panel,
            |i, sums| {
                store(&mut weights[i * length..(i + 1) * length], p, &sums);
            },
        );
    }
    for row in weights.chunks_exact_mut(length).take(block.len()) {
        softmax_row(row, args.scale);
    }
    for (p, panel) in values.iter().enumerate() {
        for_each_row(
            block.len(),
            |i| &weights[i * length..(i + 1) * length],
            panel,
            |i, sums| {
                let row = (block.start + i) * args.dim() + head * args.head_dim;
                store(&mut out[row..row + args.head_dim], p, &sums);
            },
        );
    }
}

/// Writes the columns of panel `p` that the row has.
#[inline(always)]
fn store(row: &mut [f32], p: usize, sums: &[f32; LANES]) {
    let columns = &mut row[p * LANES..];
    let count = columns.len().min(LANES);
    columns[..count].copy_from_slice(&sums[..count]);
}
