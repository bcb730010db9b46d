//! What is asked of a device.

use std::fmt;

use super::{plan::PlanError, query};
use crate::{
    ShapeError,
    tokens::{Storage, Tokens},
};

/// What all vectors of a device's documents have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// How documents are stored: f32, f16 or int8.
    pub storage: Storage,
    /// Components of a vector.
    pub dim: usize,
}

/// A query and how many documents it is compared with.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// Token vectors, `[q_len, dim]`.
    pub rows: &'a [f32],
    /// Its documents: the next so many.
    pub documents: u32,
}

/// A document, by key or by its vectors. A key stands for one content: whoever changes a document gives it another key,
/// or has the old one forgotten.
#[derive(Clone, Copy, Debug)]
pub enum Document<'a> {
    /// One that is in the arena.
    Resident(u64),
    /// One that is in the arena, or else is put there, if there is room.
    Keep(u64, Tokens<'a>),
    /// One that does not stay.
    Host(Tokens<'a>),
}

/// What is to be scored.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Each followed by its documents.
    pub queries: &'a [Query<'a>],
    /// Of all queries.
    pub documents: &'a [Document<'a>],
}

/// Why a request cannot be scored. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// Vectors that are not whole rows of `dim`, or a slice of another length than the request implies.
    Shape(ShapeError),
    /// Documents that are stored otherwise than the device's.
    Storage {
        /// Number of the document.
        document: usize,
    },
    /// A resident document that is not there (any more).
    Missing {
        /// Number of the document.
        document: usize,
    },
    /// The kernels cannot.
    Plan(PlanError),
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape(error) => error.fmt(f),
            Self::Storage { document } => write!(f, "document {document} is not stored as the device's documents are"),
            Self::Missing { document } => write!(f, "document {document} is not resident"),
            Self::Plan(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RequestError {}

impl From<ShapeError> for RequestError {
    fn from(error: ShapeError) -> Self {
        Self::Shape(error)
    }
}

impl<'a> Document<'a> {
    /// Its vectors, if the request brings them.
    pub(super) fn tokens(&self) -> Option<Tokens<'a>> {
        match *self {
            Self::Resident(_) => None,
            Self::Keep(_, tokens) | Self::Host(tokens) => Some(tokens),
        }
    }
}

/// Bytes of a document on the device: its rows with their padding, and behind them the scales of int8.
#[must_use]
pub fn document_bytes(layout: Layout, rows: u32) -> usize {
    let scales = if layout.storage == Storage::Int8 { 4 } else { 0 };
    rows as usize * (query::pitch(layout.storage, layout.dim) + scales)
}
