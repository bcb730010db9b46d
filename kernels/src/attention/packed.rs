//! Keys and values of one head, as the inner loop reads them.

#![allow(unsafe_code, reason = "blocks are read and written through pointers")]

use super::Attend;
use crate::{
    aligned::Aligned,
    simd::{FLOATS_OF_A_LINE, Out, Rows, Simd, load, registers, store},
};

/// Memory that [`attend`](super::attend) works in, kept from call to call.
#[derive(Clone, Debug, Default)]
pub struct AttentionScratch {
    /// Kᵀ · scale · log₂ e, `[panels][head_dim][columns]`; 0 beyond the last key.
    keys: Aligned<f32>,
    /// V, `[panels][length][columns]`.
    values: Aligned<f32>,
    /// Weights of a tile of queries.
    weights: Aligned<f32>,
}

/// One head's share of the scratch.
pub(super) struct Head<'a> {
    pub(super) keys: &'a [f32],
    pub(super) values: &'a [f32],
    pub(super) weights: &'a mut [f32],
}

impl AttentionScratch {
    /// Packs the keys of one head into panels of `columns`.
    #[inline(always)]
    pub(super) fn pack_keys<S: Simd>(
        &mut self,
        simd: S,
        args: &Attend<'_>,
        head: usize,
        length: usize,
        columns: usize,
    ) {
        let head_dim = args.head_dim;
        let factor = args.scale * std::f32::consts::LOG2_E;
        self.keys.grow(length.next_multiple_of(columns) * head_dim);
        let whole = head_dim / S::LANES * S::LANES;
        let panels = self.keys.as_mut_slice().chunks_exact_mut(columns * head_dim);
        for (panel, start) in panels.zip((0..length).step_by(columns)) {
            let count = (length - start).min(columns);
            if count < columns {
                panel.fill(0.0);
            }
            for column in (0..count).step_by(S::LANES) {
                let keys = &args.from(start + column, 1, head);
                let rows = Rows { first: keys.as_ptr(), stride: 3 * args.dim(), count: (count - column).min(S::LANES) };
                for k in (0..whole).step_by(S::LANES) {
                    let rows = Rows { first: rows.first.wrapping_add(k), ..rows };
                    let to = Out { first: panel[k * columns + column..].as_mut_ptr(), stride: columns };
                    // SAFETY: these are keys of `head_dim` components, all of `qkv`, and components k and on are whole
                    // registers; the panel has as many steps of `columns`, which are whole registers too.
                    unsafe { simd.transpose(rows, simd.splat(factor), to) };
                }
            }
            for j in 0..count {
                let key = &args.vector(start + j, 1, head)[whole..];
                for (step, &x) in panel[whole * columns..].chunks_exact_mut(columns).zip(key) {
                    step[j] = x * factor;
                }
            }
        }
    }

    /// Packs the values of one head into panels of `columns`.
    #[inline(always)]
    pub(super) fn pack_values<S: Simd>(
        &mut self,
        simd: S,
        args: &Attend<'_>,
        head: usize,
        length: usize,
        columns: usize,
    ) {
        let head_dim = args.head_dim;
        self.values.grow(head_dim.next_multiple_of(columns) * length);
        let panels = self.values.as_mut_slice().chunks_exact_mut(columns * length);
        for (panel, start) in panels.zip((0..head_dim).step_by(columns)) {
            let count = (head_dim - start).min(columns);
            for (step, j) in panel.chunks_exact_mut(columns).zip(0..length) {
                let value = &args.vector(j, 2, head)[start..start + count];
                for (at, lanes) in registers::<S>(count) {
                    store(simd, step, at, lanes, load(simd, value, at, lanes));
                }
                step[count..].fill(0.0);
            }
        }
    }

    /// Everything that was packed, and room for weights.
    #[inline(always)]
    pub(super) fn head(&mut self, weights: usize) -> Head<'_> {
        self.weights.grow(weights);
        let Self { keys, values, weights } = self;
        Head { keys: keys.as_slice(), values: values.as_slice(), weights: weights.as_mut_slice() }
    }
}

impl Attend<'_> {
    /// Components of an output row.
    #[inline(always)]
    pub(super) fn dim(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Query (0), key (1) or value (2) of one row and head.
    #[inline(always)]
    fn vector(&self, row: usize, which: usize, head: usize) -> &[f32] {
        &self.from(row, which, head)[..self.head_dim]
    }

    /// Everything from that vector on.
    #[inline(always)]
    pub(super) fn from(&self, row: usize, which: usize, head: usize) -> &[f32] {
        &self.qkv[(row * 3 + which) * self.dim() + head * self.head_dim..]
    }

    /// Has query, key and value of one row and head fetched.
    #[inline(always)]
    pub(super) fn fetch<S: Simd>(&self, simd: S, row: usize, head: usize) {
        for which in 0..3 {
            let vector = self.vector(row, which, head);
            for line in (0..self.head_dim).step_by(FLOATS_OF_A_LINE) {
                simd.fetch(vector[line..].as_ptr());
            }
        }
    }
}
