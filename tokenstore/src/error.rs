//! What can go wrong, one enum for each kind of call.

use std::{
    io,
    path::{Path, PathBuf},
};

use sluice_kernels::tokens::Storage;

use crate::{Layout, TokenStore, segment::scan::ScanError};

/// The system refused to do something with a file.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct DiskError {
    /// What was to be done, as a verb.
    pub action: &'static str,
    /// To which file or folder.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

impl DiskError {
    /// Whether there was no room: the same call may succeed when something was deleted.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// A file that does not say what it must.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} is corrupt at byte {offset}: expected {expected}", file.display())]
pub struct CorruptFile {
    /// Which.
    pub file: PathBuf,
    /// Where, in bytes.
    pub offset: u64,
    /// What should be there.
    pub expected: &'static str,
}

impl CorruptFile {
    pub(crate) fn new(file: &Path, offset: u64, expected: &'static str) -> Self {
        Self { file: file.to_owned(), offset, expected }
    }
}

/// A store did not open. Nothing was changed that was acknowledged before.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Another process writes to it, or this one does already.
    #[error("{} is open for writing already", folder.display())]
    Locked {
        /// The store's folder.
        folder: PathBuf,
    },
    /// The list of segments is damaged, or lists what cannot be.
    #[error("manifest: {0}")]
    CorruptManifest(CorruptFile),
    /// A segment's own structure is damaged. (Damaged vectors are found when they are looked up.)
    #[error("segment: {0}")]
    CorruptSegment(CorruptFile),
    /// Written by a version of this crate that writes another format.
    #[error("{} has format version {found}; this build reads {supported}", file.display())]
    Version {
        /// Which file.
        file: PathBuf,
        /// Its version.
        found: u32,
        /// The one that is read here.
        supported: u32,
    },
    /// An option is out of its bounds.
    #[error("{option} is {found}, not {min} to {max}")]
    Option {
        /// Which field of [`Options`](crate::Options).
        option: &'static str,
        /// Its value.
        found: u64,
        /// The least allowed.
        min: u64,
        /// The largest allowed.
        max: u64,
    },
}

impl From<ScanError> for OpenError {
    fn from(error: ScanError) -> Self {
        match error {
            ScanError::Disk(error) => Self::Disk(error),
            ScanError::Corrupt(file) => Self::CorruptSegment(file),
        }
    }
}

/// A put changed nothing, and nothing of it appears after a restart.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// The store was opened to be read.
    #[error("the store is open read-only")]
    ReadOnly,
    /// The collection is of another layout since its first put.
    #[error("the collection stores {} of dim {}, not {} of dim {}",
        .collection.storage().name(), .collection.dim(), .asked.storage().name(), .asked.dim())]
    Layout {
        /// What the collection stores.
        collection: Layout,
        /// What was to be put.
        asked: Layout,
    },
    /// A document cannot be stored.
    #[error("document {position}: {fault}")]
    Document {
        /// Which of the batch, from 0.
        position: usize,
        /// Why.
        fault: DocumentFault,
    },
    /// All documents together do not fit a segment.
    #[error("the batch exceeds {max} bytes with document {position}")]
    BatchTooLarge {
        /// The first document that does not fit.
        position: usize,
        /// Bytes that a batch may have.
        max: u64,
    },
    /// There are as many collections as the store may have.
    #[error("the store has {max} collections already")]
    TooManyCollections {
        /// The bound.
        max: usize,
    },
    /// The system refused. The store is as it was, and usable.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Why a document cannot be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentFault {
    /// Its id is empty or too long.
    #[error("an id has 1 to {} bytes, not {bytes}", TokenStore::ID_BYTES_MAX)]
    Id {
        /// Bytes of the id.
        bytes: usize,
    },
    /// It has no token vectors.
    #[error("it has no rows")]
    NoRows,
    /// Its vectors are not whole rows, or its scales are not one per row.
    #[error(transparent)]
    Shape(#[from] sluice_kernels::ShapeError),
    /// Its vectors are stored in another way, from which the collection's cannot be made.
    #[error("vectors of {} cannot be stored as {}", .found.name(), .expected.name())]
    Storage {
        /// How the collection stores.
        expected: Storage,
        /// How they came.
        found: Storage,
    },
    /// A component or a scale is NaN or infinite, or too large for f16, or a scale is negative.
    #[error("row {row} has a component or scale that is not a finite number of its type")]
    NotFinite {
        /// Which row.
        row: usize,
    },
    /// A bit beyond `dim` is set.
    #[error("row {row} has bits set beyond dim")]
    StrayBits {
        /// Which row.
        row: usize,
    },
    /// It does not fit a segment by itself.
    #[error("it needs {bytes} bytes, a segment takes {max}")]
    TooLarge {
        /// Bytes it needs.
        bytes: u64,
        /// Bytes there are.
        max: u64,
    },
}

/// A delete did not finish. What it did of it is durable; asking again does the rest.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// The store was opened to be read.
    #[error("the store is open read-only")]
    ReadOnly,
    /// The system refused. The store is usable.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// A compaction did not finish. Every document is where it was, or in a new segment; asking again does the rest.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    /// The store was opened to be read.
    #[error("the store is open read-only")]
    ReadOnly,
    /// A segment's own structure was damaged since it was opened: it is left alone.
    #[error("segment: {0}")]
    CorruptSegment(CorruptFile),
    /// The system refused. The store is usable.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl From<ScanError> for CompactError {
    fn from(error: ScanError) -> Self {
        match error {
            ScanError::Disk(error) => Self::Disk(error),
            ScanError::Corrupt(file) => Self::CorruptSegment(file),
        }
    }
}
