//! What can go wrong with the truth.

use std::{
    io,
    path::{Path, PathBuf},
};

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

/// The store could not do what it was asked for. What was acknowledged before is as it was.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The disk is full, or a quota or a limit on file sizes is reached. The same write succeeds once there is room.
    #[error("no room left for {}", folder.display())]
    NoRoom {
        /// Where.
        folder: PathBuf,
    },
    /// The collection has grown to its bound. Opened with a larger one, it goes on.
    #[error("the collection has grown to its bound of {bytes} bytes")]
    MapFull {
        /// The bound.
        bytes: u64,
    },
    /// As many readers as there may be: one of them must end first.
    #[error("{max} readers are open already")]
    Readers {
        /// The bound.
        max: u32,
    },
    /// All numbers of documents are used up.
    #[error("the collection has used all numbers of documents: restore it from a snapshot")]
    Numbers,
    /// There is no collection in the folder.
    #[error("{} holds no collection", folder.display())]
    Missing {
        /// Where.
        folder: PathBuf,
    },
    /// Written by a version of this crate that writes another format.
    #[error("the collection has format version {found}; this build reads {supported}")]
    Format {
        /// Its version.
        found: u32,
        /// The one that is read here.
        supported: u32,
    },
    /// What is stored is not what was written.
    #[error("the collection's store is corrupt: expected {expected}")]
    Corrupt {
        /// What should be there.
        expected: &'static str,
    },
    /// The disk failed in the last step of a commit. Reads go on; writes do after a restart.
    #[error("the disk failed while a batch was committed; writes are possible again after a restart")]
    Broken,
    /// The system refused otherwise.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// LMDB refused otherwise.
    #[error("LMDB: {0}")]
    Lmdb(String),
}

impl StorageError {
    /// Whether the same write succeeds once there is room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::NoRoom { .. } | Self::MapFull { .. })
    }
}

pub(super) fn corrupt(expected: &'static str) -> StorageError {
    StorageError::Corrupt { expected }
}

/// Says what was to be done when the system refused.
pub(crate) fn disk(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError + use<> {
    let path = path.to_owned();
    move |source| DiskError { action, path, source }
}
