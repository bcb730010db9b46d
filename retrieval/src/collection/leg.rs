//! What the thread that feeds an index needs of it.

use std::{fmt, sync::Arc};

use crate::{
    document::SparseVector,
    identity::{DocId, Lsn},
    lexical::index::LexicalIndex,
    truth::{Reader, StorageError},
    vector_index::VectorIndex,
};

/// One way to find documents.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Leg {
    /// By words.
    Lexical,
    /// By a dense vector of this name.
    Dense(String),
    /// By a sparse vector of this name.
    Sparse(String),
}

impl fmt::Display for Leg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lexical => f.write_str("lexical"),
            Self::Dense(name) => write!(f, "dense:{name}"),
            Self::Sparse(name) => write!(f, "sparse:{name}"),
        }
    }
}

/// An index, to be searched. It may be replaced while it is held: then it is as it was.
#[derive(Clone, Debug)]
pub enum Index {
    /// Of words.
    Lexical(Arc<LexicalIndex>),
    /// Of a dense vector.
    Dense(Arc<dyn VectorIndex<Vector = [f32]>>),
    /// Of a sparse vector.
    Sparse(Arc<dyn VectorIndex<Vector = SparseVector>>),
}

/// An index could not be fed. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The truth could not be read.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The index refused.
    #[error(transparent)]
    Index(#[from] Box<dyn std::error::Error + Send + Sync>),
}

/// An index, as the thread that feeds it sees it. Calls come from that thread alone.
///
/// Feeding is idempotent: documents may begin that are there, and end that are not.
pub trait Follower: fmt::Debug + Send + Sync {
    /// The last batch that it has everything of, as it was opened; `None` if it wants all documents.
    fn reached(&self) -> Option<Lsn>;

    /// Forgets everything: all documents there are will begin, then [`filled`](Self::filled) is called.
    ///
    /// # Errors
    /// [`FeedError`].
    fn clear(&self) -> Result<(), FeedError>;

    /// Documents begin, whose contents are in `reader` (those that are not there any more are passed over), and others
    /// end. With it the index has everything up to and with `complete`, which it notes with what it keeps.
    ///
    /// # Errors
    /// [`FeedError`]; some of it may be done.
    fn feed(&self, reader: &Reader, began: &[DocId], ended: &[DocId], complete: Lsn) -> Result<(), FeedError>;

    /// Searches that begin from now on see what was fed.
    ///
    /// # Errors
    /// [`FeedError`].
    fn publish(&self) -> Result<(), FeedError>;

    /// All documents there were have begun.
    fn filled(&self) {}

    /// The last batch that it would still have after a crash; `None` if it keeps nothing and is filled anew each time,
    /// so that no log is kept for its sake.
    fn durable(&self) -> Option<Lsn>;

    /// Makes durable what it has. Called when there is nothing else to do, and at the end.
    ///
    /// # Errors
    /// [`FeedError`].
    fn flush(&self) -> Result<(), FeedError>;

    /// What searches ask; `None` for one that is followed by other means.
    fn index(&self) -> Option<Index> {
        None
    }
}
