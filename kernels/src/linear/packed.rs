//! Weights as panels, `[panels][inputs][columns]`: the inner loop reads them in order, whole cache lines at a time.

use crate::{Isa, aligned::Aligned, simd::tile_columns};

/// A linear layer whose weights lie as the inner loop reads them.
#[derive(Clone, Debug)]
pub struct PackedLinear {
    isa: Isa,
    inputs: usize,
    outputs: usize,
    /// Outputs of a panel.
    columns: usize,
    /// Panels end to end; outputs beyond the last are 0.
    panels: Aligned<f32>,
    /// As many as the panels have columns.
    bias: Aligned<f32>,
}

impl PackedLinear {
    /// Of checked arguments: row `j` of `weight` becomes column `j`.
    pub(super) fn of_rows(isa: Isa, weight: &[f32], bias: &[f32], inputs: usize) -> Self {
        let (outputs, columns) = (bias.len(), tile_columns(isa));
        let padded = outputs.next_multiple_of(columns);
        let mut panels = Aligned::zeros(padded * inputs);
        for (j, row) in weight.chunks_exact(inputs).enumerate() {
            let panel = &mut panels.as_mut_slice()[j / columns * columns * inputs..][..columns * inputs];
            for (step, &w) in panel.chunks_exact_mut(columns).zip(row) {
                step[j % columns] = w;
            }
        }
        let mut padded_bias = Aligned::zeros(padded);
        padded_bias.as_mut_slice()[..outputs].copy_from_slice(bias);
        Self { isa, inputs, outputs, columns, panels, bias: padded_bias }
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

    /// Memory of weights and bias.
    #[must_use]
    pub fn bytes(&self) -> usize {
        (self.panels.as_slice().len() + self.bias.as_slice().len()) * size_of::<f32>()
    }

    /// Outputs of a panel.
    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// `[inputs][columns]` of one panel.
    pub(super) fn panel(&self, index: usize) -> &[f32] {
        &self.panels.as_slice()[index * self.columns * self.inputs..][..self.columns * self.inputs]
    }

    /// The bias of one panel's columns.
    pub(super) fn panel_bias(&self, index: usize) -> &[f32] {
        &self.bias.as_slice()[index * self.columns..][..self.columns]
    }
}
