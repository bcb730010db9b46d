//! The store that lasts: collections of a data folder, each with its truth and the indexes that follow it.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{FutureExt, future::BoxFuture};
use roaring::RoaringBitmap;

use self::leg::DurableLeg;
use super::{
    Collection, CollectionInfo, CollectionStats, Engine, IndexStats, Reading, SnapshotInfo, Store, StoreError, Write,
    Written,
};
use crate::{
    collection::{
        self as kept, Collection as Kept, Index, SnapshotError, SnapshotManifest, WriteError, remove_unfinished,
    },
    config::StoreConfig,
    filter::Filter,
    identity::{DocId, Lsn},
    indexes::followers,
    schema::Schema,
    search::{
        Facet, FacetJob, Fields, Lacking, Leg, LegQuery, Projection, ReadDocument, SearchError, Snapshot, Source,
        SourceError,
    },
    shard::{Listed, Shard, ShardError},
    truth::{FacetError, Operation, Reader, sync_folder},
    vector_index::Stop,
};

mod leg;

/// Collections in a folder, of this process alone.
#[derive(Debug)]
pub struct DurableStore {
    shard: Shard,
    snapshots: PathBuf,
}

/// One of them, under the name that it was found by.
struct Named {
    name: String,
    identity: String,
    kept: Arc<Kept>,
}

impl DurableStore {
    /// Opens what is in a folder; makes it where there is none. What was acknowledged is there, and indexes that are kept
    /// in memory are filled beside the first searches.
    ///
    /// # Errors
    /// [`StoreError`]: also where a single collection cannot be opened.
    pub fn open(folder: &Path, config: &StoreConfig) -> Result<Self, StoreError> {
        Self::open_rebuilding(folder, config, &[])
    }

    /// The same, with the indexes of these collections (or aliases) thrown away first: they are filled anew.
    ///
    /// # Errors
    /// As [`open`](Self::open); also where one of them is not there.
    pub fn open_rebuilding(folder: &Path, config: &StoreConfig, rebuild: &[String]) -> Result<Self, StoreError> {
        let shard = Shard::open_rebuilding(folder, config.shard(), rebuild, followers(config.indexes()));
        let shard = shard.map_err(|error| match error {
            ShardError::Unknown { name } => StoreError::NotFound { kind: "collection", name },
            error => failed("", "")(error),
        })?;
        let snapshots = folder.join("snapshots");
        std::fs::create_dir_all(&snapshots).map_err(SourceError::of("creating the folder of snapshots"))?;
        sync_folder(folder).map_err(SourceError::of("making the folder of snapshots durable"))?;
        remove_unfinished(&snapshots).map_err(SourceError::of("removing unfinished snapshots"))?;
        Ok(Self { shard, snapshots })
    }

    fn named(&self, name: &str) -> Result<Named, StoreError> {
        let kept = self.shard.collection(name).map_err(failed("collection", name))?;
        // A folder is of one collection for ever.
        let identity = kept.folder().file_name().map(|number| number.to_string_lossy().into_owned());
        Ok(Named { name: name.to_owned(), identity: identity.unwrap_or_default(), kept })
    }
}

impl Store for DurableStore {
    fn create(&self, name: &str, schema: Schema) -> Result<CollectionInfo, StoreError> {
        self.shard.create(name, &schema).map_err(failed("collection", name))?;
        Ok(CollectionInfo { name: name.to_owned(), aliases: Vec::new(), schema, documents: 0 })
    }

    fn drop_collection(&self, name: &str) -> Result<u64, StoreError> {
        let listed = self.shard.list().into_iter().find(|listed| listed.name == name);
        let documents = match &listed {
            Some(listed) => reader(&listed.collection)?.documents(),
            None => 0,
        };
        self.shard.drop_collection(name).map_err(failed("collection", name))?;
        Ok(documents)
    }

    fn list(&self) -> Result<Vec<CollectionInfo>, StoreError> {
        self.shard.list().into_iter().map(listed_info).collect()
    }

    fn find(&self, name: &str) -> Result<Arc<dyn Collection>, StoreError> {
        Ok(Arc::new(self.named(name)?))
    }

    fn known(&self, name: &str) -> Option<Arc<dyn Collection>> {
        self.find(name).ok()
    }

    fn set_alias(&self, alias: &str, collection: &str) -> Result<Option<String>, StoreError> {
        let before = self.aliased(alias);
        self.shard.set_alias(alias, collection).map_err(|error| match &error {
            ShardError::Exists { .. } => failed("alias", alias)(error),
            _ => failed("collection", collection)(error),
        })?;
        Ok(before)
    }

    fn delete_alias(&self, alias: &str) -> Result<String, StoreError> {
        let before = self.aliased(alias).unwrap_or_default();
        self.shard.drop_alias(alias).map_err(failed("alias", alias))?;
        Ok(before)
    }

    fn snapshot(&self, collection: &str, name: &str) -> Result<SnapshotInfo, StoreError> {
        let taken = self.shard.snapshot(collection, &self.snapshots.join(name));
        taken.map(snapshot_info).map_err(|error| match &error {
            ShardError::Snapshot(_) => failed("snapshot", name)(error),
            _ => failed("collection", collection)(error),
        })
    }

    fn restore(&self, snapshot: &str, collection: &str) -> Result<SnapshotInfo, StoreError> {
        let restored =
            self.shard.restore(collection, &self.snapshots.join(snapshot)).map_err(|error| match &error {
                ShardError::Snapshot(_) => failed("snapshot", snapshot)(error),
                _ => failed("collection", collection)(error),
            })?;
        let read = reader(&restored)?;
        let bytes = read.stats().map_err(SourceError::of("reading how much there is"))?.file_bytes;
        Ok(SnapshotInfo { lsn: read.lsn(), documents: read.documents(), bytes })
    }

    fn close(&self) {
        self.shard.close();
    }
}

impl DurableStore {
    fn aliased(&self, alias: &str) -> Option<String> {
        let listed = self.shard.list().into_iter().find(|listed| listed.aliases.iter().any(|other| other == alias));
        listed.map(|listed| listed.name)
    }
}

fn listed_info(listed: Listed) -> Result<CollectionInfo, StoreError> {
    let Listed { name, aliases, collection } = listed;
    let (schema, documents) = (Schema::clone(collection.schema()), reader(&collection)?.documents());
    Ok(CollectionInfo { name, aliases, schema, documents })
}

fn snapshot_info(manifest: SnapshotManifest) -> SnapshotInfo {
    SnapshotInfo { lsn: manifest.lsn, documents: manifest.documents, bytes: manifest.bytes }
}

fn reader(collection: &Kept) -> Result<Reader, SourceError> {
    collection.read().map_err(SourceError::of("opening a reader"))
}

impl Collection for Named {
    fn name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> &str {
        &self.identity
    }

    fn schema(&self) -> &Schema {
        self.kept.schema()
    }

    fn engine(self: Arc<Self>) -> Engine {
        Engine::Here(self)
    }

    fn read(&self, ids: &[String], projection: &Projection) -> Result<Reading, StoreError> {
        Ok(Reading::of(self, ids, projection)?)
    }

    fn write(&self, write: Write) -> Result<Written, StoreError> {
        let operations = match write {
            Write::Upsert(documents) => documents.into_iter().map(Operation::Upsert).collect(),
            Write::Delete(ids) => vec![Operation::Delete(ids)],
            Write::DeleteWhere(filter) => vec![Operation::DeleteWhere(filter)],
        };
        let written = self.kept.try_submit(operations).and_then(kept::PendingWrite::wait);
        let written = written.map_err(|error| match error {
            WriteError::Batch(fault) => StoreError::Refused(fault.to_string()),
            WriteError::Busy { max } => StoreError::Busy { max },
            // It was dropped while this waited.
            WriteError::Closed => StoreError::NotFound { kind: "collection", name: self.name.clone() },
            WriteError::Storage(error) if error.is_full() => StoreError::Full(SourceError::of("writing")(error)),
            WriteError::Storage(error) => SourceError::of("writing")(error).into(),
        })?;
        Ok(Written { lsn: written.lsn, deleted: written.deleted })
    }

    fn stats(&self) -> Result<CollectionStats, StoreError> {
        let truth = reader(&self.kept)?.stats().map_err(SourceError::of("reading how much there is"))?;
        let indexes = self.kept.progress().into_iter().map(|(leg, progress)| {
            let (engine, documents, bytes) = match self.kept.index(&leg) {
                Ok(Index::Lexical(index)) => ("tantivy", index.len(), index.bytes()),
                Ok(Index::Dense(index)) => ("usearch", index.len(), index.bytes()),
                Ok(Index::Sparse(index)) => ("block-max inverted index", index.len(), index.bytes()),
                Err(_) => ("", 0, 0),
            };
            let name = match leg {
                kept::Leg::Lexical => "lexical".to_owned(),
                kept::Leg::Dense(name) | kept::Leg::Sparse(name) => name,
            };
            let (engine, documents, bytes) = (engine.to_owned(), documents as u64, bytes as u64);
            IndexStats { name, engine, documents, applied: progress.lsn, bytes }
        });
        let (documents, lsn, bytes) = (truth.documents, truth.lsn, truth.file_bytes);
        Ok(CollectionStats { name: self.name.clone(), documents, lsn, bytes, indexes: indexes.collect() })
    }
}

impl Source for Named {
    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, SourceError> {
        let reader = reader(&self.kept)?;
        let (lsn, documents) = (reader.lsn(), reader.documents());
        Ok(Arc::new(Moment { lsn, documents, reader: Mutex::new(reader) }))
    }

    fn leg(&self, query: &LegQuery) -> Result<Box<dyn Leg + '_>, SourceError> {
        Ok(Box::new(DurableLeg { kept: &self.kept, leg: leg_of(query), query: query.clone() }))
    }

    /// Also for an index that is being filled: what it has is not all that there is.
    fn reached<'a>(&'a self, query: &'a LegQuery, lsn: Lsn) -> BoxFuture<'a, bool> {
        async move {
            let leg = leg_of(query);
            let reached = self.kept.reached(&leg, lsn).await;
            if let Err(fault) = &reached {
                tracing::warn!(%leg, %fault, "a leg does not follow");
            }
            reached.is_ok()
        }
        .boxed()
    }
}

/// The leg that answers a query.
fn leg_of(query: &LegQuery) -> kept::Leg {
    match query {
        LegQuery::Lexical(_) => kept::Leg::Lexical,
        LegQuery::Dense { vector, .. } => kept::Leg::Dense(vector.clone()),
        LegQuery::Sparse { vector, .. } => kept::Leg::Sparse(vector.clone()),
    }
}

/// A reader that several threads share: what they ask of it takes microseconds.
struct Moment {
    lsn: Lsn,
    documents: u64,
    reader: Mutex<Reader>,
}

impl Moment {
    fn reader(&self) -> MutexGuard<'_, Reader> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Snapshot for Moment {
    fn lsn(&self) -> Lsn {
        self.lsn
    }

    fn documents(&self) -> u64 {
        self.documents
    }

    fn matching(&self, filter: &Filter) -> Result<RoaringBitmap, SourceError> {
        self.reader().select(filter).map_err(SourceError::of("evaluating a filter"))
    }

    fn live(&self) -> Result<RoaringBitmap, SourceError> {
        self.reader().live().cloned().map_err(SourceError::of("reading which documents there are"))
    }

    fn ended_after(&self, lsn: Lsn) -> Result<Option<RoaringBitmap>, SourceError> {
        self.reader().ended_after(lsn).map_err(SourceError::of("reading which documents ended"))
    }

    fn current(&self, documents: &[DocId]) -> Result<Vec<Option<DocId>>, SourceError> {
        let reader = self.reader();
        let current = |number: &DocId| reader.current(*number).map_err(SourceError::of("finding a later version"));
        documents.iter().map(current).collect()
    }

    fn ids(&self, documents: &[DocId]) -> Result<Vec<Option<Arc<str>>>, SourceError> {
        let reader = self.reader();
        let id = |number: &DocId| reader.id(*number).map_err(SourceError::of("reading an id"));
        documents.iter().map(|number| Ok(id(number)?.map(Arc::from))).collect()
    }

    fn find(&self, id: &str) -> Result<Option<DocId>, SourceError> {
        self.reader().find(id).map_err(SourceError::of("finding a document"))
    }

    fn read(&self, document: DocId, projection: &Projection) -> Result<Option<ReadDocument>, SourceError> {
        let reader = self.reader();
        let without = projection.texts == Fields::none();
        let stored = if without { reader.without_texts(document) } else { reader.document(document) };
        let Some(stored) = stored.map_err(SourceError::of("reading a document"))? else {
            return Ok(None);
        };
        let (mut dense, mut sparse) = (Vec::new(), Vec::new());
        let schema = reader.schema();
        for field in schema.dense.iter().filter(|field| projection.vectors.has(&field.name)) {
            let vector = reader.dense(document, &field.name).map_err(SourceError::of("reading a vector"))?;
            dense.extend(vector.map(|vector| (field.name.clone(), vector)));
        }
        for field in schema.sparse.iter().filter(|field| projection.vectors.has(&field.name)) {
            let vector = reader.sparse(document, &field.name).map_err(SourceError::of("reading a vector"))?;
            sparse.extend(vector.map(|vector| (field.name.clone(), vector)));
        }
        Ok(Some(ReadDocument { stored, dense, sparse }))
    }

    fn facet(&self, facet: &FacetJob, among: Option<&RoaringBitmap>, stop: &dyn Stop) -> Result<Facet, SearchError> {
        let reader = self.reader();
        let among = match among {
            Some(among) => among,
            None => reader.live().map_err(SourceError::of("reading which documents there are"))?,
        };
        let counted = reader.facet(&facet.field, among, facet.limit, stop).map_err(|error| match error {
            FacetError::Stopped => SearchError::Expired,
            FacetError::TooManyValues => Lacking::facet(&facet.field).into(),
            error => SourceError::of("counting values")(error).into(),
        })?;
        let values = counted.values.into_iter().map(|counted| (counted.value, counted.documents)).collect();
        Ok(Facet { field: facet.field.clone(), values, distinct: counted.distinct })
    }
}

/// What a fault of the shard is to a caller that asked for this.
fn failed<'a>(kind: &'static str, name: &'a str) -> impl Fn(ShardError) -> StoreError + 'a {
    move |error| {
        let name = name.to_owned();
        match error {
            ShardError::Unknown { .. } | ShardError::Snapshot(SnapshotError::Missing(_)) => {
                StoreError::NotFound { kind, name }
            }
            ShardError::Snapshot(SnapshotError::Exists(_)) => StoreError::Exists { by: "a snapshot", name },
            ShardError::Exists { .. } => StoreError::Exists { by: "a collection or an alias", name },
            ShardError::TooMany { max } => StoreError::TooManyCollections { max },
            ShardError::Name(_) | ShardError::Schema(_) => StoreError::Refused(error.to_string()),
            ShardError::Storage(storage) if storage.is_full() => StoreError::Full(SourceError::of("writing")(storage)),
            error => SourceError::of("keeping collections")(error).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::schema::Language;

    #[test]
    fn what_a_crash_left_of_a_snapshot_is_removed_and_its_name_is_free() {
        let folder = TempDir::new().unwrap();
        let open = || DurableStore::open(folder.path(), &StoreConfig::default()).unwrap();
        let store = open();
        store.create("docs", Schema::title_and_text(Language::English)).unwrap();
        store.snapshot("docs", "whole").unwrap();
        drop(store);
        let (half, other) = (folder.path().join("snapshots/half"), folder.path().join("snapshots/other"));
        [&half, &other].iter().for_each(|path| fs::create_dir(path).unwrap());
        ["data.mdb", "snapshot.json.new"].iter().for_each(|name| fs::write(half.join(name), "half").unwrap());
        fs::write(other.join("note.txt"), "not ours").unwrap();
        let store = open();
        assert!(!half.exists() && other.exists());
        store.snapshot("docs", "half").unwrap();
        store.restore("half", "one").unwrap();
        store.restore("whole", "two").unwrap();
    }
}
