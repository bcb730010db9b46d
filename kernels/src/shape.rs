//! What is checked before a kernel runs.

use std::{fmt, ops::Range};

/// Arguments whose shapes do not fit together. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShapeError {
    /// A size that must be at least 1.
    Zero {
        /// Which argument.
        argument: &'static str,
    },
    /// A slice that is not whole rows.
    NotRows {
        /// Which argument.
        argument: &'static str,
        /// Elements of a row.
        dim: usize,
        /// Elements of the slice.
        found: usize,
    },
    /// A slice of another length than the other arguments imply.
    Length {
        /// Which argument.
        argument: &'static str,
        /// Elements it should have.
        expected: usize,
        /// Elements it has.
        found: usize,
    },
    /// `cu_seqlens` that does not begin with 0, decreases, or does not end at the number of rows.
    CuSeqlens {
        /// Rows that it should divide into sequences.
        rows: usize,
    },
}

impl fmt::Display for ShapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero { argument } => write!(f, "{argument} is 0"),
            Self::NotRows { argument, dim, found } => {
                write!(f, "{argument} has {found} elements, which are not whole rows of {dim}")
            }
            Self::Length { argument, expected, found } => {
                write!(f, "{argument} has {found} elements instead of {expected}")
            }
            Self::CuSeqlens { rows } => write!(f, "cu_seqlens does not divide {rows} rows into sequences"),
        }
    }
}

impl std::error::Error for ShapeError {}

/// Checks that `size` is at least 1.
pub(crate) fn not_zero(argument: &'static str, size: usize) -> Result<(), ShapeError> {
    if size == 0 { Err(ShapeError::Zero { argument }) } else { Ok(()) }
}

/// Number of rows of `dim` elements in a slice of `found`.
pub(crate) fn rows(argument: &'static str, found: usize, dim: usize) -> Result<usize, ShapeError> {
    if found.is_multiple_of(dim) { Ok(found / dim) } else { Err(ShapeError::NotRows { argument, dim, found }) }
}

/// Checks a slice's length.
pub(crate) fn length(argument: &'static str, expected: usize, found: usize) -> Result<(), ShapeError> {
    if expected == found { Ok(()) } else { Err(ShapeError::Length { argument, expected, found }) }
}

/// Checks that `cu_seqlens` divides `rows` rows into sequences, and returns how many.
pub(crate) fn sequences(cu_seqlens: &[u32], rows: usize) -> Result<usize, ShapeError> {
    let divides = cu_seqlens.first() == Some(&0)
        && cu_seqlens.is_sorted()
        && cu_seqlens.last().is_some_and(|&end| end as usize == rows);
    if divides { Ok(cu_seqlens.len() - 1) } else { Err(ShapeError::CuSeqlens { rows }) }
}

/// The rows of each sequence.
pub(crate) fn ranges(cu_seqlens: &[u32]) -> impl Iterator<Item = Range<usize>> + '_ {
    cu_seqlens.windows(2).map(|pair| pair[0] as usize..pair[1] as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cu_seqlens_divides_rows() {
        let cases: [(&[u32], usize, Result<usize, ShapeError>); 8] = [
            (&[0], 0, Ok(0)),
            (&[0, 3], 3, Ok(1)),
            (&[0, 0, 2, 2], 2, Ok(3)),
            (&[], 0, Err(ShapeError::CuSeqlens { rows: 0 })),
            (&[1, 3], 3, Err(ShapeError::CuSeqlens { rows: 3 })),
            (&[0, 2, 1, 3], 3, Err(ShapeError::CuSeqlens { rows: 3 })),
            (&[0, 2], 3, Err(ShapeError::CuSeqlens { rows: 3 })),
            (&[0, 4], 3, Err(ShapeError::CuSeqlens { rows: 3 })),
        ];
        for (cu_seqlens, rows, expected) in cases {
            assert_eq!(sequences(cu_seqlens, rows), expected, "{cu_seqlens:?} over {rows} rows");
        }
    }
}
