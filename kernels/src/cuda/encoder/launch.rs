//! What an operation starts on a device.

use std::{fmt, ops::Range};

use super::memory::{Arena, CELL, Matrix};

/// A source of `kernels/cuda/encoder`, compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// `encoder_norm.cu`.
    Norm,
    /// `encoder_activate.cu`.
    Activate,
    /// `encoder_product.cu`.
    Product,
    /// `encoder_attention.cu`.
    Attention,
    /// `encoder_sequence.cu`.
    Sequence,
}

/// A kernel with its parameter. Blocks and threads lie along x.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Where it is.
    pub unit: Unit,
    /// What it is called there.
    pub kernel: &'static str,
    /// Blocks, at least 1.
    pub blocks: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// Its one parameter.
    pub parameter: Parameter,
}

/// Why an operation cannot be started. Nothing was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpError {
    /// It does not lie in the arena, or begins where kernels cannot read.
    Arena {
        /// Which argument.
        argument: &'static str,
    },
    /// A width that is 0, no multiple of 8, or more than a kernel holds.
    Width {
        /// Which argument.
        argument: &'static str,
        /// Columns.
        found: usize,
        /// Columns that there may be.
        most: usize,
    },
    /// Another size than the other arguments imply.
    Shape {
        /// Which argument.
        argument: &'static str,
        /// What it should have.
        expected: usize,
        /// What it has.
        found: usize,
    },
    /// What is written lies where something is read.
    Overlap {
        /// What is read.
        argument: &'static str,
    },
    /// Heads that are neither 32 nor 64 wide.
    HeadDim {
        /// Their width.
        found: usize,
    },
    /// A factor that is not positive and finite.
    Number {
        /// Which argument.
        argument: &'static str,
    },
    /// A count that has 32 bits, or a launch's limit, is exceeded.
    TooLarge {
        /// Which argument.
        argument: &'static str,
    },
}

impl fmt::Display for OpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arena { argument } => write!(f, "{argument} does not lie in the arena, or not aligned"),
            Self::Width { argument, found, most } => {
                write!(f, "{argument} has {found} columns, which is not a multiple of 8 up to {most}")
            }
            Self::Shape { argument, expected, found } => write!(f, "{argument} has {found} instead of {expected}"),
            Self::Overlap { argument } => write!(f, "what is written lies where {argument} is read"),
            Self::HeadDim { found } => write!(f, "heads of {found}, not 32 or 64"),
            Self::Number { argument } => write!(f, "{argument} is not positive and finite"),
            Self::TooLarge { argument } => write!(f, "{argument} is too large for one launch"),
        }
    }
}

impl std::error::Error for OpError {}

/// Bytes of the largest structure.
const PARAMETER_BYTES_MAX: usize = 160;

/// A kernel's structure of arguments, as its source lays it out: fields end to end, those of 8 bytes first.
#[derive(Clone, PartialEq, Eq)]
pub struct Parameter {
    bytes: [u8; PARAMETER_BYTES_MAX],
    len: usize,
}

impl fmt::Debug for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Parameter").field(&self.as_bytes()).finish()
    }
}

impl Parameter {
    pub(super) fn new() -> Self {
        Self { bytes: [0; PARAMETER_BYTES_MAX], len: 0 }
    }

    /// Its bytes, which a launch copies.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub(super) fn address(self, address: u64) -> Self {
        self.field(address.to_le_bytes())
    }

    pub(super) fn u32(self, value: u32) -> Self {
        self.field(value.to_le_bytes())
    }

    pub(super) fn f32(self, value: f32) -> Self {
        self.field(value.to_le_bytes())
    }

    /// A `Matrix` of rows.cuh.
    pub(super) fn matrix(self, arena: Arena, argument: &'static str, matrix: &Matrix) -> Result<Self, OpError> {
        let pitch = to_u32(argument, matrix.pitch() / CELL)?;
        let cells = to_u32(argument, matrix.column_count() / CELL)?;
        Ok(self.address(arena.matrix(argument, matrix)?).u32(pitch).u32(cells))
    }

    /// A `Matrix` that is not there.
    pub(super) fn no_matrix(self) -> Self {
        self.address(0).u32(0).u32(0)
    }

    fn field<const N: usize>(mut self, bytes: [u8; N]) -> Self {
        self.bytes[self.len..self.len + N].copy_from_slice(&bytes);
        self.len += N;
        self
    }
}

/// A count as kernels have it.
pub(super) fn to_u32(argument: &'static str, count: usize) -> Result<u32, OpError> {
    u32::try_from(count).map_err(|_| OpError::TooLarge { argument })
}

/// Blocks along x.
pub(super) fn to_blocks(argument: &'static str, blocks: usize) -> Result<u32, OpError> {
    i32::try_from(blocks).map(i32::cast_unsigned).map_err(|_| OpError::TooLarge { argument })
}

pub(super) fn check_size(argument: &'static str, expected: usize, found: usize) -> Result<(), OpError> {
    if expected == found { Ok(()) } else { Err(OpError::Shape { argument, expected, found }) }
}

pub(super) fn check_apart(argument: &'static str, read: &Range<usize>, written: &Range<usize>) -> Result<(), OpError> {
    if read.start < written.end && written.start < read.end { Err(OpError::Overlap { argument }) } else { Ok(()) }
}

/// Factors must be so, or every result is NaN.
pub(super) fn check_positive(argument: &'static str, x: f32) -> Result<(), OpError> {
    if x > 0.0 && x.is_finite() { Ok(()) } else { Err(OpError::Number { argument }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ranges_are_compared() {
        assert_eq!(to_blocks("x", 1 << 31), Err(OpError::TooLarge { argument: "x" }));
        assert_eq!(to_blocks("x", (1 << 31) - 1), Ok(0x7fff_ffff));
        for (read, apart) in
            [(0..8, true), (8..16, false), (4..9, false), (15..16, false), (16..17, true), (0..99, false)]
        {
            assert_eq!(check_apart("x", &read, &(8..16)).is_ok(), apart, "{read:?}");
        }
        for (x, fits) in [(1e-12, true), (0.0, false), (-1.0, false), (f32::NAN, false), (f32::INFINITY, false)] {
            assert_eq!(check_positive("x", x).is_ok(), fits, "{x}");
        }
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let text = OpError::Width { argument: "x", found: 12, most: 2048 }.to_string();
        assert_eq!(text, "x has 12 columns, which is not a multiple of 8 up to 2048");
    }
}
