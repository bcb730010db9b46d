//! Which kernel, by name.

use super::{DeviceShape, PlanError, Shape};
use crate::tokens::Storage;

/// Steps of the ladder, slowest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The formula.
    #[default]
    Naive,
    /// Matrix instructions.
    Mma,
    /// Matrix instructions, with documents streamed through registers.
    Stream,
}

impl Step {
    /// All of them, slowest first.
    pub const ALL: [Self; 3] = [Self::Naive, Self::Mma, Self::Stream];

    /// Its name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Naive => "naive",
            Self::Mma => "mma",
            Self::Stream => "stream",
        }
    }
}

/// A source, compiled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// `maxsim_naive.cu`.
    #[default]
    Naive,
    /// `maxsim_mma.cu`; also has the joins of the next.
    Mma,
    /// `maxsim_stream.cu`.
    Stream,
}

/// Which family of arguments a kernel takes, and its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelName {
    /// A block for each pair of query and document.
    Naive(&'static str),
    /// Blocks, warps, pieces and joins.
    Matrix {
        /// Its name in the source.
        name: &'static str,
        /// Query rows of a chunk.
        query_rows: u32,
        /// Its k-blocks (64 bytes of a row) come in groups of so many.
        group: u32,
    },
}

/// A kernel of `kernels/cuda/maxsim`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Where it is.
    pub unit: Unit,
    /// What it is called there.
    pub name: KernelName,
}

impl Default for Kernel {
    fn default() -> Self {
        Self { unit: Unit::Naive, name: KernelName::Naive("maxsim_naive_f32") }
    }
}

/// Bytes of a k-block.
const K_BLOCK_BYTES: u32 = 64;

impl Kernel {
    /// The highest step, up to `step`, that can do it.
    pub(super) fn choose(shape: &Shape<'_>, device: &DeviceShape, step: Step) -> Result<Self, PlanError> {
        if shape.dim == 0 {
            return Err(PlanError::NoDim);
        }
        let naive = match shape.storage {
            Storage::F32 => "maxsim_naive_f32",
            Storage::F16 => "maxsim_naive_f16",
            Storage::Int8 => "maxsim_naive_int8",
            Storage::Binary => return Err(PlanError::Storage(Storage::Binary)),
        };
        let naive = Self { unit: Unit::Naive, name: KernelName::Naive(naive) };
        if step == Step::Naive || shape.storage == Storage::F32 || shape.dim > 1 << 20 {
            return Ok(naive);
        }
        let rows = shape.queries.iter().map(|query| query.rows).max().unwrap_or(0);
        let pitch = (shape.storage.row_bytes(shape.dim) as u32).next_multiple_of(16);
        let fits = |kernel: &Self| kernel.shared_bytes(pitch) <= device.shared_bytes_per_block;
        let candidates = [rows > 32 && !shape.alignment, false].map(|wide| Self::matrix(shape, pitch, step, wide));
        Ok(candidates.into_iter().find(fits).unwrap_or(naive))
    }

    /// Name, as it is in the source.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.name {
            KernelName::Naive(name) | KernelName::Matrix { name, .. } => name,
        }
    }

    /// Query rows of a chunk; 0 for the naive kernels, which know no chunks.
    #[must_use]
    pub fn query_rows(&self) -> u32 {
        match self.name {
            KernelName::Naive(_) => 0,
            KernelName::Matrix { query_rows, .. } => query_rows,
        }
    }

    /// k-blocks of a query row in shared memory, for rows of `pitch` bytes.
    pub(super) fn k_blocks(&self, pitch: u32) -> u32 {
        match self.name {
            KernelName::Naive(_) => 0,
            KernelName::Matrix { group, .. } => pitch.div_ceil(K_BLOCK_BYTES).next_multiple_of(group),
        }
    }

    /// Dynamic shared memory of a block: a chunk of the query.
    pub(super) fn shared_bytes(&self, pitch: u32) -> u32 {
        self.query_rows() * self.k_blocks(pitch) * K_BLOCK_BYTES
    }

    fn matrix(shape: &Shape<'_>, pitch: u32, step: Step, wide: bool) -> Self {
        let int8 = shape.storage == Storage::Int8;
        let query_rows = if wide { 64 } else { 32 };
        let named = |unit, name, group| Self { unit, name: KernelName::Matrix { name, query_rows, group } };
        if shape.alignment {
            return named(Unit::Mma, if int8 { "maxsim_alignment_int8" } else { "maxsim_alignment_f16" }, 1);
        }
        if step == Step::Mma {
            let name = match (int8, wide) {
                (false, false) => "maxsim_mma_f16_q32",
                (false, true) => "maxsim_mma_f16_q64",
                (true, false) => "maxsim_mma_int8_q32",
                (true, true) => "maxsim_mma_int8_q64",
            };
            return named(Unit::Mma, name, 1);
        }
        // DEPTH of maxsim_stream.cu: for 128 dimensions, for whole groups, and with gaps.
        let [d128, whole, gaps] = match (int8, wide) {
            (false, false) => {
                [("maxsim_stream_f16_q32_d128", 4), ("maxsim_stream_f16_q32", 4), ("maxsim_stream_f16_q32_gaps", 4)]
            }
            (false, true) => {
                [("maxsim_stream_f16_q64_d128", 4), ("maxsim_stream_f16_q64", 2), ("maxsim_stream_f16_q64_gaps", 2)]
            }
            (true, false) => {
                [("maxsim_stream_int8_q32_d128", 2), ("maxsim_stream_int8_q32", 2), ("maxsim_stream_int8_q32_gaps", 2)]
            }
            (true, true) => {
                [("maxsim_stream_int8_q64_d128", 2), ("maxsim_stream_int8_q64", 2), ("maxsim_stream_int8_q64_gaps", 2)]
            }
        };
        let (name, group) = if shape.dim == 128 {
            d128
        } else if pitch.is_multiple_of(K_BLOCK_BYTES * whole.1) {
            whole
        } else {
            gaps
        };
        named(Unit::Stream, name, group)
    }
}
