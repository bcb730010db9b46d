//! Which implementation runs.

#[cfg(target_arch = "aarch64")]
use super::neon;
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use super::{fallback, panel::Panels, tile::Work};
use crate::{InstructionSet, Isa};

/// What an implementation asks of a packed query.
pub(super) struct Shape {
    /// Lanes of the panels that it has tiles for, the widest first.
    pub(super) widths: &'static [usize],
    /// Codes of a step.
    pub(super) components: usize,
    /// What it takes from a document's code by starting sums at less.
    pub(super) offset: i32,
}

/// A query as floats.
pub(super) fn floats(query: &[f32], dim: usize, isa: Isa) -> Panels {
    Panels::floats(query, dim, shape(isa).widths)
}

/// A query as codes.
pub(super) fn codes(query: &[f32], dim: usize, isa: Isa) -> Panels {
    let Shape { widths, components, offset } = shape(isa);
    Panels::codes(query, dim, widths, components, offset)
}

fn shape(isa: Isa) -> Shape {
    match isa.set() {
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512 => avx512::SHAPE,
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 => avx2::SHAPE,
        #[cfg(target_arch = "aarch64")]
        InstructionSet::Neon => neon::SHAPE,
        _ => fallback::SHAPE,
    }
}

/// Does one panel's work. The panel was packed for the same instruction set.
pub(super) fn run(isa: Isa, work: Work<'_>) {
    match isa.set() {
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512 => avx512::run(isa, work),
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 => avx2::run(isa, work),
        #[cfg(target_arch = "aarch64")]
        InstructionSet::Neon => neon::run(isa, work),
        _ => fallback::run(work),
    }
}
