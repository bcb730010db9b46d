//! What every index of vectors can do, whatever is behind it.
//!
//! An index is an *applier*: it takes the changes of the log in order, says up to which log sequence number it has
//! them, and can be dropped and built again from the truth. It holds one vector per [`DocId`]; a document that is
//! updated gets a new number, so a number's vector never changes.
//!
//! Vectors live in memory, and in the truth, from which an index is filled when it is opened: with all live documents
//! in any order, and then with what the log has beyond that. So an index has no watermark on disk that could be wrong,
//! and the log is kept for no index of vectors. What is dear to compute, the graph of
//! [`GraphDense`](crate::dense::GraphDense), is kept in a file that is a cache: any state of it serves.
//!
//! Searching and applying go on side by side. Changes are applied by one thread at a time (others wait).

mod top;

use std::fmt;

use roaring::RoaringBitmap;

pub(crate) use self::top::TopK;
use crate::{
    identity::{DocId, Lsn},
    schema::VectorFault,
};

/// A document that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Which one.
    pub document: DocId,
    /// The larger the better, on the scale of its index; never NaN.
    pub score: f32,
}

/// What happens to a document in an index.
#[derive(Debug, PartialEq, Eq)]
pub enum Change<'a, V: ?Sized> {
    /// It has this vector now. Replaces the one that the number had, which happens only when a log is replayed.
    Insert(DocId, &'a V),
    /// It is gone. Nothing happens if it never was there.
    Remove(DocId),
}

impl<V: ?Sized> Clone for Change<'_, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V: ?Sized> Copy for Change<'_, V> {}

/// Asked now and then by a search whether it should end: its share of the deadline is over, or nobody waits for it.
///
/// Any `Fn() -> bool` is one.
pub trait Stop: Sync {
    /// Whether to end.
    fn stop(&self) -> bool;
}

impl<F: Fn() -> bool + Sync> Stop for F {
    fn stop(&self) -> bool {
        self()
    }
}

/// Nothing ends the search.
#[derive(Clone, Copy, Debug, Default)]
pub struct Never;

impl Stop for Never {
    fn stop(&self) -> bool {
        false
    }
}

/// Why an index could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// [`Stop`] said so before the search was done.
    #[error("the search was stopped before it was done")]
    Stopped,
    /// It was emptied while it was searched, or before, and does not have all documents yet.
    #[error("the index is being filled")]
    Filling,
    /// A vector that the schema refuses came here all the same.
    #[error("a vector: {0}")]
    Vector(#[from] VectorFault),
    /// A bound of the index is reached.
    #[error("the index holds at most {limit} {what}")]
    Full {
        /// What there is too much of.
        what: &'static str,
        /// How much of it there may be.
        limit: u64,
    },
    /// A text field that the schema does not have.
    #[error("{field} is no text field")]
    TextField {
        /// What was asked for.
        field: String,
    },
    /// What the index keeps on disk could not be read or written.
    #[error("{doing}: {cause}")]
    Storage {
        /// What was being done.
        doing: &'static str,
        /// What the storage said.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What is on disk is not what this index wrote, or is of other settings: it wants to be built again.
    #[error("the index on disk cannot be used: {0}")]
    Unusable(String),
}

impl IndexError {
    /// What turns the storage's error into one of ours.
    pub(crate) fn storage<E>(doing: &'static str) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        move |cause| Self::Storage { doing, cause: cause.into() }
    }
}

/// How much of an approximate index a search looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Effort {
    /// As much as the index is set to.
    #[default]
    Usual,
    /// So many candidates (`ef_search`), at least as many as are to be found.
    Candidates(usize),
    /// All of it: what is found is exact.
    Everything,
}

/// An index over one named vector of the documents of a collection.
pub trait VectorIndex: fmt::Debug + Send + Sync {
    /// `[f32]` for dense vectors, [`SparseVector`](crate::document::SparseVector) for sparse ones.
    type Vector: ?Sized;

    /// Applies what happened up to and with `lsn`, in order. A search that begins afterwards sees it.
    ///
    /// Applying changes twice is as good as once; an `lsn` below [`applied`](Self::applied) is not refused, and does
    /// not take the watermark back.
    ///
    /// # Errors
    /// [`IndexError`]; the watermark stays, and changes may have been applied in part: apply them again.
    fn apply(&self, changes: &[Change<'_, Self::Vector>], lsn: Lsn) -> Result<(), IndexError>;

    /// The last `lsn` that was applied.
    fn applied(&self) -> Lsn;

    /// The `k` best documents, best first, equal scores by ascending number; only those in `among` if that is given.
    ///
    /// # Errors
    /// [`IndexError::Stopped`] if `stop` said so, and others.
    fn search(
        &self,
        query: &Self::Vector,
        k: usize,
        among: Option<&RoaringBitmap>,
        stop: &dyn Stop,
    ) -> Result<Vec<Hit>, IndexError>;

    /// As [`search`](Self::search), with an effort of its own. An index that is exact anyway does not look at it.
    ///
    /// # Errors
    /// As [`search`](Self::search).
    fn search_with(
        &self,
        query: &Self::Vector,
        k: usize,
        among: Option<&RoaringBitmap>,
        effort: Effort,
        stop: &dyn Stop,
    ) -> Result<Vec<Hit>, IndexError> {
        let _ = effort;
        self.search(query, k, among, stop)
    }

    /// Keeps on disk what would be dear to compute again, if the index has such a thing.
    ///
    /// # Errors
    /// [`IndexError::Storage`].
    fn flush(&self) -> Result<(), IndexError> {
        Ok(())
    }

    /// Documents in it.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Documents that it finds by comparing them all, because it has not come round to doing better.
    fn pending(&self) -> usize {
        0
    }

    /// Memory that it holds, in bytes, about; files that are mapped not counted.
    fn bytes(&self) -> usize;
}
