//! What a search needs of a collection and of its indexes.

use std::{ops::Range, sync::Arc};

use futures_util::future::BoxFuture;
use roaring::RoaringBitmap;

use super::{FacetJob, LegQuery, Projection, SearchError, SnippetJob};
use crate::{
    document::{SparseVector, StoredDocument},
    filter::Filter,
    identity::{DocId, Lsn},
    lexical::TermScore,
    payload::Scalar,
    vector_index::{Hit, IndexError, Stop},
};

/// A collection, as a search sees it.
pub trait Source: Send + Sync {
    /// Its present moment. What was acknowledged before is in it.
    ///
    /// # Errors
    /// If it cannot be read.
    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, SourceError>;

    /// The index that answers a query, with the query in it.
    ///
    /// # Errors
    /// If there is no such index now.
    fn leg(&self, query: &LegQuery) -> Result<Box<dyn Leg + '_>, SourceError>;

    /// Waits until the index that answers a query finds everything up to and with a write; whoever waits sets the time.
    /// False where it will not come there. Takes no thread meanwhile.
    fn reached<'a>(&'a self, query: &'a LegQuery, lsn: Lsn) -> BoxFuture<'a, bool>;
}

/// A moment of a collection. May be read from several threads.
pub trait Snapshot: Send + Sync {
    /// The last write in it.
    fn lsn(&self) -> Lsn;

    /// Documents in it.
    fn documents(&self) -> u64;

    /// The live documents of which a filter is true.
    ///
    /// # Errors
    /// If it cannot be read.
    fn matching(&self, filter: &Filter) -> Result<RoaringBitmap, SourceError>;

    /// The documents there are.
    ///
    /// # Errors
    /// If it cannot be read.
    fn live(&self) -> Result<RoaringBitmap, SourceError>;

    /// Documents that ended after a write; `None` if that is not known so far back.
    ///
    /// # Errors
    /// If it cannot be read.
    fn ended_after(&self, lsn: Lsn) -> Result<Option<RoaringBitmap>, SourceError>;

    /// The number that each document's id has now, which is another one where a later version came; `None` where the id
    /// is not there.
    ///
    /// # Errors
    /// If it cannot be read.
    fn current(&self, documents: &[DocId]) -> Result<Vec<Option<DocId>>, SourceError>;

    /// The id of each document, `None` for one that is not live.
    ///
    /// # Errors
    /// If it cannot be read.
    fn ids(&self, documents: &[DocId]) -> Result<Vec<Option<Arc<str>>>, SourceError>;

    /// The number of a document's version in it.
    ///
    /// # Errors
    /// If it cannot be read.
    fn find(&self, id: &str) -> Result<Option<DocId>, SourceError>;

    /// A document with at least what is asked for; `None` for one that is not live.
    ///
    /// # Errors
    /// If it cannot be read.
    fn read(&self, document: DocId, projection: &Projection) -> Result<Option<ReadDocument>, SourceError>;

    /// Counts values of a payload field over the documents of `among`, or all.
    ///
    /// # Errors
    /// If it cannot be read, [`SearchError::Lacks`] where there are more than [`FACET_VALUES_MAX`] of them, and
    /// [`SearchError::Expired`] if `stop` said so.
    ///
    /// [`FACET_VALUES_MAX`]: crate::payload::FACET_VALUES_MAX
    fn facet(&self, facet: &FacetJob, among: Option<&RoaringBitmap>, stop: &dyn Stop) -> Result<Facet, SearchError>;
}

/// A document that was read, with the vectors that were asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadDocument {
    /// Everything but vectors.
    pub stored: StoredDocument,
    /// Dense vectors by name.
    pub dense: Vec<(String, Vec<f32>)>,
    /// Sparse vectors by name.
    pub sparse: Vec<(String, SparseVector)>,
}

/// How often values occur.
#[derive(Clone, Debug, PartialEq)]
pub struct Facet {
    /// The payload field.
    pub field: String,
    /// Most frequent first, equal counts by ascending value; with the documents that have it.
    pub values: Vec<(Scalar, u64)>,
    /// Different values in all.
    pub distinct: u64,
}

/// An index with a query.
pub trait Leg {
    /// The last write that it has.
    fn applied(&self) -> Lsn;

    /// The `k` best documents, best first; only those in `among` if that is given.
    ///
    /// # Errors
    /// [`IndexError::Stopped`] if `stop` said so, [`IndexError::Filling`] if it had not all documents throughout, and
    /// others.
    fn search(&self, k: usize, among: Option<&RoaringBitmap>, stop: &dyn Stop) -> Result<Vec<Hit>, IndexError>;

    /// How rare the query's words are, 0 to 1, where it has words.
    fn rarity(&self) -> Option<f64> {
        None
    }

    /// What each word of the query contributes to each document's score, in their order; nothing where it has no words.
    ///
    /// # Errors
    /// [`IndexError::Stopped`] if `stop` said so, and others.
    fn terms(&self, documents: &[DocId], _: &dyn Stop) -> Result<Vec<Vec<TermScore>>, IndexError> {
        Ok(vec![Vec::new(); documents.len()])
    }

    /// Pieces of each document's texts, in their order; nothing where the query has no words.
    ///
    /// # Errors
    /// [`IndexError::Stopped`] if `stop` said so, and others.
    fn snippets(
        &self,
        _: &SnippetJob,
        documents: &[&StoredDocument],
        _: &dyn Stop,
    ) -> Result<Vec<Vec<Snippet>>, IndexError> {
        Ok(vec![Vec::new(); documents.len()])
    }
}

/// A piece of a document's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snippet {
    /// Its field.
    pub field: String,
    /// As it stands there.
    pub text: String,
    /// What matched, in bytes of the piece; ascending.
    pub highlights: Vec<Range<usize>>,
}

/// A collection that could not be read. Logged where it is answered; a caller learns no more than that.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {cause}")]
pub struct SourceError {
    /// What was being done.
    pub doing: &'static str,
    /// What the store said.
    pub cause: Box<dyn std::error::Error + Send + Sync>,
}

impl SourceError {
    /// What turns the store's error into one of ours.
    pub fn of<E>(doing: &'static str) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        move |cause| Self { doing, cause: cause.into() }
    }
}
