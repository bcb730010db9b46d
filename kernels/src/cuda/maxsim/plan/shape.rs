//! What is planned, for what, and why it cannot be.

use std::fmt;

use crate::tokens::Storage;

/// A query and how many documents it is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryShape {
    /// Token vectors.
    pub rows: u32,
    /// Its documents: the next so many.
    pub documents: u32,
}

/// What is to be scored.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    /// How documents are stored.
    pub storage: Storage,
    /// Components of a vector.
    pub dim: usize,
    /// Queries, each followed by its documents.
    pub queries: &'a [QueryShape],
    /// Rows of each document, of all queries.
    pub lengths: &'a [u32],
    /// Whether each query row's best token is wanted too.
    pub alignment: bool,
}

/// What of a device matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceShape {
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Dynamic shared memory that a block may have, in bytes.
    pub shared_bytes_per_block: u32,
    /// Shared memory of a multiprocessor, in bytes.
    pub shared_bytes_per_multiprocessor: u32,
}

/// Why there is no plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// No kernel reads this storage.
    Storage(Storage),
    /// `dim` is 0.
    NoDim,
    /// The queries' documents are not as many as there are lengths.
    Documents {
        /// Sum over queries.
        expected: u64,
        /// Lengths.
        found: usize,
    },
    /// A count that has 32 bits, or a launch's limit, is exceeded.
    TooMuch(&'static str),
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Storage(storage) => write!(f, "no CUDA kernel reads {}", storage.name()),
            Self::NoDim => f.write_str("dim is 0"),
            Self::Documents { expected, found } => write!(f, "{expected} documents, but {found} lengths"),
            Self::TooMuch(what) => write!(f, "too many {what} for one launch"),
        }
    }
}

impl std::error::Error for PlanError {}
