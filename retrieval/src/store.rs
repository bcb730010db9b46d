//! What the services need of whoever keeps the collections.

mod durable;

use std::sync::Arc;

pub use self::durable::DurableStore;

use crate::{
    document::Document,
    filter::Filter,
    identity::Lsn,
    schema::Schema,
    search::{Cluster, Lacking, Projection, ReadDocument, Source, SourceError},
};

/// Collections by name. Every call may wait for the disk.
pub trait Store: Send + Sync {
    /// Creates an empty collection, durably.
    ///
    /// # Errors
    /// [`StoreError::Exists`], and others.
    fn create(&self, name: &str, schema: Schema) -> Result<CollectionInfo, StoreError>;

    /// Removes a collection and its aliases, durably; how many documents were in it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], also for an alias, and others.
    fn drop_collection(&self, name: &str) -> Result<u64, StoreError>;

    /// Every collection, by name.
    ///
    /// # Errors
    /// [`StoreError`].
    fn list(&self) -> Result<Vec<CollectionInfo>, StoreError>;

    /// The collection of a name or alias.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    fn find(&self, name: &str) -> Result<Arc<dyn Collection>, StoreError>;

    /// The same without waiting for anything; `None` sends to [`find`](Self::find).
    fn known(&self, name: &str) -> Option<Arc<dyn Collection>>;

    /// Lets an alias stand for a collection from now on, durably; what it stood for before.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for the collection, [`StoreError::Exists`] if a collection has the alias's name.
    fn set_alias(&self, alias: &str, collection: &str) -> Result<Option<String>, StoreError>;

    /// Removes an alias, durably; what it stood for.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    fn delete_alias(&self, alias: &str) -> Result<String, StoreError>;

    /// Copies a collection (or alias) while it serves.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Exists`] for the copy's name.
    fn snapshot(&self, collection: &str, name: &str) -> Result<SnapshotInfo, StoreError>;

    /// Makes a new collection from a copy.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for the copy, [`StoreError::Exists`] for the collection's name.
    fn restore(&self, snapshot: &str, collection: &str) -> Result<SnapshotInfo, StoreError>;

    /// Makes durable what indexes hold, and ends their threads. What was acknowledged is durable without it.
    fn close(&self);
}

/// Who answers a collection's searches.
pub enum Engine {
    /// Indexes of this process, over a truth of this process.
    Here(Arc<dyn Source>),
    /// A cluster, which has the documents too.
    Cluster(Arc<dyn Cluster>),
}

/// One collection.
pub trait Collection: Send + Sync {
    /// Its name.
    fn name(&self) -> &str;

    /// Tells it from every other, also from one of the same name before or after it. Has no zero byte.
    fn identity(&self) -> &str;

    /// What its documents look like.
    fn schema(&self) -> &Schema;

    /// Who answers its searches.
    fn engine(self: Arc<Self>) -> Engine;

    /// Documents by id, with at least what is asked for. What was acknowledged before is in it.
    ///
    /// # Errors
    /// [`StoreError`].
    fn read(&self, ids: &[String], projection: &Projection) -> Result<Reading, StoreError>;

    /// Writes all of it or nothing; it is on disk when this returns.
    ///
    /// # Errors
    /// [`StoreError`].
    fn write(&self, write: Write) -> Result<Written, StoreError>;

    /// What it weighs.
    ///
    /// # Errors
    /// [`StoreError`].
    fn stats(&self) -> Result<CollectionStats, StoreError>;
}

/// Documents that were read.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The moment at which they were read.
    pub lsn: Lsn,
    /// In the order that they were asked for; `None` for what is not there.
    pub documents: Vec<Option<ReadDocument>>,
}

impl Reading {
    /// Reads from the present moment of a source.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn of(source: &dyn Source, ids: &[String], projection: &Projection) -> Result<Self, SourceError> {
        let snapshot = source.snapshot()?;
        let read = |id: &String| match snapshot.find(id)? {
            Some(number) => snapshot.read(number, projection),
            None => Ok(None),
        };
        Ok(Self { lsn: snapshot.lsn(), documents: ids.iter().map(read).collect::<Result<_, _>>()? })
    }
}

/// What is to be written at once.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Documents, each in place of what its id had.
    Upsert(Vec<Document>),
    /// Documents of these ids go.
    Delete(Vec<String>),
    /// Documents go of which this is true.
    DeleteWhere(Filter),
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its number.
    pub lsn: Lsn,
    /// Documents that went.
    pub deleted: u64,
}

/// A collection in a list.
#[derive(Clone, Debug, PartialEq)]
pub struct CollectionInfo {
    /// Its name.
    pub name: String,
    /// Its other names, ascending.
    pub aliases: Vec<String>,
    /// What its documents look like.
    pub schema: Schema,
    /// Documents in it.
    pub documents: u64,
}

/// A collection in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectionStats {
    /// Its name.
    pub name: String,
    /// Documents in it.
    pub documents: u64,
    /// Its last write.
    pub lsn: Lsn,
    /// Bytes on disk, indexes not counted.
    pub bytes: u64,
    /// Its indexes.
    pub indexes: Vec<IndexStats>,
}

/// An index in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexStats {
    /// `lexical`, or the vector's name.
    pub name: String,
    /// What it is made with.
    pub engine: String,
    /// Documents in it.
    pub documents: u64,
    /// The last write that it has.
    pub applied: Lsn,
    /// Bytes that it takes.
    pub bytes: u64,
}

/// A copy of a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// The last write in it.
    pub lsn: Lsn,
    /// Documents in it.
    pub documents: u64,
    /// Bytes that it takes.
    pub bytes: u64,
}

/// Why a store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such thing.
    #[error("no {kind} {name:?}")]
    NotFound {
        /// `collection`, `alias` or `snapshot`.
        kind: &'static str,
        /// The name that was asked for.
        name: String,
    },
    /// The name is taken.
    #[error("the name {name:?} is taken by {by}")]
    Exists {
        /// What has it, such as `a collection`.
        by: &'static str,
        /// The name.
        name: String,
    },
    /// What was to be written cannot be. Validation finds most of that before.
    #[error("{0}")]
    Refused(String),
    /// As many writes wait as may.
    #[error("{max} writes wait already")]
    Busy {
        /// The bound.
        max: usize,
    },
    /// As many collections as there may be.
    #[error("there are {max} collections already, and there may be no more")]
    TooManyCollections {
        /// The bound.
        max: usize,
    },
    /// The engine does not do this.
    #[error(transparent)]
    Lacks(#[from] Lacking),
    /// The cluster that has the collections could not be reached. A write may have been done, and may be sent again.
    #[error("the cluster could not be reached: {0}")]
    Unreachable(#[source] SourceError),
    /// There is no room for it; there may be later.
    #[error("no room left: {0}")]
    Full(#[source] SourceError),
    /// Anything else. What was acknowledged before is as it was.
    #[error(transparent)]
    Failed(#[from] SourceError),
}
