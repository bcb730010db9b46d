//! Why an encoder's device did not do what it was asked to.

use std::fmt;

use super::launch::OpError;
use crate::cuda::{CudaError, late_interaction::CompareError};

/// Why a device did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EncoderError {
    /// An operation is at fault; none of those beside it was started.
    Op(OpError),
    /// A comparison is; it was not started.
    Compare(CompareError),
    /// More words than a slot's staging or results have.
    Words {
        /// Which of the two.
        what: &'static str,
        /// Where the words would end.
        found: usize,
        /// Words that there are.
        most: usize,
    },
    /// Results were asked for whose end nothing marks.
    Unfinished,
    /// The device is.
    Cuda(CudaError),
}

impl fmt::Display for EncoderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Op(error) => error.fmt(f),
            Self::Compare(error) => error.fmt(f),
            Self::Words { what, found, most } => write!(f, "{found} words of {what}, at most {most}"),
            Self::Unfinished => f.write_str("results are waited for that nobody has finished"),
            Self::Cuda(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for EncoderError {}

impl From<OpError> for EncoderError {
    fn from(error: OpError) -> Self {
        Self::Op(error)
    }
}

impl From<CompareError> for EncoderError {
    fn from(error: CompareError) -> Self {
        Self::Compare(error)
    }
}

impl From<CudaError> for EncoderError {
    fn from(error: CudaError) -> Self {
        Self::Cuda(error)
    }
}
