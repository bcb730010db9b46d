//! Weights as small integers in panels, `[panels][words of inputs][columns]`.

use std::iter;

use crate::{
    Isa,
    aligned::Aligned,
    simd::{codes_of_a_word, tile_columns},
};

/// The largest code of a weight, either way.
const CODE_MAX: f32 = 127.0;

/// A linear layer whose weights are small integers, packed as the inner loop reads them.
#[derive(Clone, Debug)]
pub struct QuantizedLayer {
    isa: Isa,
    inputs: usize,
    outputs: usize,
    codes_of_a_word: usize,
    /// Outputs of a panel.
    columns: usize,
    /// Panels end to end; outputs beyond the last, and inputs beyond the last, are 0.
    panels: Aligned<i32>,
    /// Of each output, as the panels have them: the sum of its codes, its scale, its bias.
    sums: Aligned<i32>,
    scales: Aligned<f32>,
    bias: Aligned<f32>,
    /// Of each input, 1 / factor; empty for none.
    inverse_factors: Vec<f32>,
}

/// What a panel's columns need besides their codes.
#[derive(Clone, Copy)]
pub(super) struct Columns<'a> {
    pub(super) sums: &'a [i32],
    pub(super) scales: &'a [f32],
    pub(super) bias: &'a [f32],
}

impl QuantizedLayer {
    /// Of checked arguments: row `j` of `weight` becomes column `j`.
    pub(super) fn of_rows(isa: Isa, weight: &[f32], bias: &[f32], inputs: usize, factors: &[f32]) -> Self {
        let (outputs, columns, codes) = (bias.len(), tile_columns(isa), codes_of_a_word(isa));
        let padded = outputs.next_multiple_of(columns);
        let steps = inputs.div_ceil(codes);
        let mut layer = Self {
            isa,
            inputs,
            outputs,
            codes_of_a_word: codes,
            columns,
            panels: Aligned::zeros(padded * steps),
            sums: Aligned::zeros(padded),
            scales: Aligned::zeros(padded),
            bias: Aligned::zeros(padded),
            inverse_factors: factors.iter().map(|factor| 1.0 / factor).collect(),
        };
        layer.bias.as_mut_slice()[..outputs].copy_from_slice(bias);
        let bits = 32 / codes;
        for (j, row) in weight.chunks_exact(inputs).enumerate() {
            let factors = factors.iter().copied().chain(iter::repeat(1.0));
            let row: Vec<f32> = row.iter().zip(factors).map(|(w, factor)| w * factor).collect();
            let largest = row.iter().fold(0.0_f32, |max, w| max.max(w.abs()));
            let inverse = if largest > f32::MIN_POSITIVE { CODE_MAX / largest } else { 0.0 };
            layer.scales.as_mut_slice()[j] = largest / CODE_MAX;
            let panel = &mut layer.panels.as_mut_slice()[j / columns * columns * steps..][..columns * steps];
            for (k, w) in row.iter().enumerate() {
                let code = (w * inverse).round_ties_even().clamp(-CODE_MAX, CODE_MAX) as i32;
                layer.sums.as_mut_slice()[j] += code;
                let word = &mut panel[k / codes * columns + j % columns];
                *word |= (((code as u32) << (32 - bits)) >> (32 - bits) << (bits * (k % codes))) as i32;
            }
        }
        layer
    }

    /// The instructions it was packed for.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Elements of a row of `x`.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Elements of a row of `out`.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// What a step of one code is worth in that output's weights.
    #[must_use]
    pub fn scale(&self, output: usize) -> f32 {
        self.scales.as_slice()[output]
    }

    /// One weight's code, −127…127.
    #[must_use]
    pub fn code(&self, output: usize, k: usize) -> i8 {
        let panel = self.panel(output / self.columns);
        let word = panel[k / self.codes_of_a_word * self.columns + output % self.columns];
        (word >> (32 / self.codes_of_a_word * (k % self.codes_of_a_word))) as i8
    }

    /// Of each input, what it is multiplied with before it becomes a code; empty for nothing.
    pub(super) fn inverse_factors(&self) -> &[f32] {
        &self.inverse_factors
    }

    /// Memory of weights, scales and bias.
    #[must_use]
    pub fn bytes(&self) -> usize {
        4 * (self.panels.as_slice().len() + 3 * self.bias.as_slice().len())
    }

    pub(super) fn codes_of_a_word(&self) -> usize {
        self.codes_of_a_word
    }

    /// Outputs of a panel.
    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// Words of an output's weights.
    pub(super) fn steps(&self) -> usize {
        self.inputs.div_ceil(self.codes_of_a_word)
    }

    /// `[words of inputs][columns]` of one panel.
    pub(super) fn panel(&self, index: usize) -> &[i32] {
        let size = self.columns * self.steps();
        &self.panels.as_slice()[index * size..][..size]
    }

    /// The rest of one panel.
    pub(super) fn panel_columns(&self, index: usize) -> Columns<'_> {
        let range = index * self.columns..(index + 1) * self.columns;
        Columns {
            sums: &self.sums.as_slice()[range.clone()],
            scales: &self.scales.as_slice()[range.clone()],
            bias: &self.bias.as_slice()[range],
        }
    }
}
