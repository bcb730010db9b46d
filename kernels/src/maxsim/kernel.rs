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

/// There is no screen where codes are not several times as fast as floats.
#[cfg(not(target_arch = "x86_64"))]
#[allow(dead_code, reason = "says what the screen of x86-64 takes")]
pub(super) mod screen {
    use std::{convert::Infallible, ops::Range};

    use super::super::{panel::Panel, tile::Rows};
    use crate::{Isa, tokens::Storage};

    #[derive(Debug)]
    pub(in super::super) struct Bounds(Infallible);

    impl Bounds {
        pub(in super::super) fn new(_: &[f32], _: usize) -> Option<Self> {
            None
        }
    }

    #[derive(Clone, Copy)]
    pub(in super::super) struct Coded(Infallible);

    pub(in super::super) struct Scratch;

    pub(in super::super) struct Screened<'a> {
        pub(in super::super) query: &'a [f32],
        pub(in super::super) bounds: &'a Bounds,
        pub(in super::super) panel: Panel<'a>,
        pub(in super::super) next: *const u8,
        pub(in super::super) values: &'a mut [f32],
        pub(in super::super) tokens: &'a mut [u32],
    }

    pub(in super::super) fn rows(_: Isa, _: Storage, _: [usize; 3]) -> Option<usize> {
        None
    }

    impl Scratch {
        pub(in super::super) fn new() -> Self {
            Self
        }

        pub(in super::super) fn code(&mut self, _: Isa, _: Rows<'_>, _: Range<usize>) -> Option<Coded> {
            None
        }

        pub(in super::super) fn score(&mut self, _: Isa, coded: Coded, _: &mut Screened<'_>) -> bool {
            match coded.0 {}
        }
    }
}
