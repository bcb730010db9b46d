//! Weights as panels, `[panels][inputs][columns]`: the inner loop reads them in order, whole cache lines at a time.

use half::f16;

use crate::{Isa, aligned::Aligned, simd::tile_columns};

/// A linear layer whose weights lie as the inner loop reads them.
#[derive(Clone, Debug)]
pub struct PackedLinear {
    isa: Isa,
    inputs: usize,
    outputs: usize,
    /// Outputs of a panel.
    columns: usize,
    panels: Panels,
    /// As many as the panels have columns.
    bias: Aligned<f32>,
}

/// Panels end to end; outputs beyond the last are 0.
#[derive(Clone, Debug)]
pub(super) enum Panels {
    F32(Aligned<f32>),
    F16(Aligned<f16>),
}

/// How weights are stored. They are multiplied in f32 either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// As they are.
    F32,
    /// Rounded to f16, in half the memory; ±∞ beyond its range.
    F16,
}

impl PackedLinear {
    /// Of checked arguments: row `j` of `weight` becomes column `j`.
    pub(super) fn of_rows(isa: Isa, storage: Storage, weight: &[f32], bias: &[f32], inputs: usize) -> Self {
        let (outputs, columns) = (bias.len(), tile_columns(isa));
        let padded = outputs.next_multiple_of(columns);
        let panels = match storage {
            Storage::F32 => Panels::F32(in_panels(weight, inputs, columns, padded, |w| w)),
            Storage::F16 => Panels::F16(in_panels(weight, inputs, columns, padded, f16::from_f32)),
        };
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
        let weights = match &self.panels {
            Panels::F32(panels) => size_of_val(panels.as_slice()),
            Panels::F16(panels) => size_of_val(panels.as_slice()),
        };
        weights + size_of_val(self.bias.as_slice())
    }

    /// Outputs of a panel.
    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// `[panels][inputs][columns]`.
    pub(super) fn panels(&self) -> &Panels {
        &self.panels
    }

    /// The bias of one panel's columns.
    pub(super) fn panel_bias(&self, index: usize) -> &[f32] {
        &self.bias.as_slice()[index * self.columns..][..self.columns]
    }
}

/// `[panels][inputs][columns]` of rows of `inputs` weights, for a whole number of panels.
fn in_panels<T: Copy + Default>(
    weight: &[f32],
    inputs: usize,
    columns: usize,
    padded: usize,
    stored: impl Fn(f32) -> T,
) -> Aligned<T> {
    let mut panels = Aligned::zeros(padded * inputs);
    for (j, row) in weight.chunks_exact(inputs).enumerate() {
        let panel = &mut panels.as_mut_slice()[j / columns * columns * inputs..][..columns * inputs];
        for (step, &w) in panel.chunks_exact_mut(columns).zip(row) {
            step[j % columns] = stored(w);
        }
    }
    panels
}
