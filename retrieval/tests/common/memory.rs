//! A store in memory, as naive as can be: what the service is tested over where nothing has to last, and where an index
//! has to lag behind on purpose.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_util::{FutureExt, future::BoxFuture};
use roaring::RoaringBitmap;
use sluice_retrieval::{
    document::{Document, StoredDocument},
    filter::Filter,
    identity::{ContentHash, DocId, Lsn},
    payload::{PayloadValue, Scalar, words},
    schema::{Metric, Schema},
    search::{
        Facet, FacetJob, Leg, LegQuery, LexicalQuery, Projection, ReadDocument, SearchError, Snapshot, Snippet,
        SnippetJob, Source, SourceError,
    },
    store::{
        Collection, CollectionInfo, CollectionStats, Engine, IndexStats, Reading, SnapshotInfo, Store, StoreError,
        Write, Written,
    },
    vector_index::{Hit, IndexError, Stop},
};
use tokio::sync::Notify;

/// A moment of a collection.
#[derive(Clone, Debug, Default)]
struct State {
    lsn: u64,
    next: u32,
    documents: BTreeMap<u32, (Document, Lsn)>,
    content: BTreeMap<u32, ContentHash>,
    /// Those that are not there any more: what ended them, and their ids.
    ended: BTreeMap<u32, (u64, String)>,
}

impl State {
    fn find(&self, id: &str) -> Option<u32> {
        self.documents.iter().find(|(_, (document, _))| document.id == id).map(|(number, _)| *number)
    }

    fn stored(&self, number: u32) -> Option<StoredDocument> {
        let (document, version) = self.documents.get(&number)?;
        Some(StoredDocument {
            doc: DocId(number),
            version: *version,
            content_hash: self.content[&number],
            id: document.id.clone(),
            texts: document.texts.clone(),
            payload: document.payload.clone(),
        })
    }
}

/// One collection: what is true, and what its indexes know of it.
#[derive(Debug)]
pub struct MemoryCollection {
    name: String,
    identity: String,
    schema: Schema,
    truth: Mutex<Arc<State>>,
    indexed: Arc<Indexed>,
}

#[derive(Debug, Default)]
struct Indexed {
    state: Mutex<(Arc<State>, bool)>,
    moved: Notify,
}

impl Indexed {
    fn lsn(&self) -> Lsn {
        Lsn(self.state.lock().unwrap_or_else(PoisonError::into_inner).0.lsn)
    }
}

impl MemoryCollection {
    fn new(name: &str, schema: Schema, state: State) -> Self {
        static CREATED: AtomicU64 = AtomicU64::new(0);
        let identity = format!("{name}/{}", CREATED.fetch_add(1, Ordering::Relaxed));
        let state = Arc::new(state);
        let indexed = Indexed { state: Mutex::new((Arc::clone(&state), false)), moved: Notify::new() };
        Self { name: name.to_owned(), identity, schema, truth: Mutex::new(state), indexed: Arc::new(indexed) }
    }

    /// Lets the indexes stand where they are, or come to where the truth is.
    pub fn hold_indexes(&self, hold: bool) {
        let truth = self.now();
        let mut indexed = self.indexed.state.lock().unwrap_or_else(PoisonError::into_inner);
        *indexed = if hold { (Arc::clone(&indexed.0), true) } else { (truth, false) };
        self.indexed.moved.notify_waiters();
    }

    fn now(&self) -> Arc<State> {
        Arc::clone(&self.truth.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Collection for MemoryCollection {
    fn name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> &str {
        &self.identity
    }

    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn engine(self: Arc<Self>) -> Engine {
        Engine::Here(self)
    }

    fn read(&self, ids: &[String], projection: &Projection) -> Result<Reading, StoreError> {
        Ok(Reading::of(self, ids, projection)?)
    }

    fn write(&self, write: Write) -> Result<Written, StoreError> {
        let mut truth = self.truth.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = State::clone(&truth);
        state.lsn += 1;
        let before = state.documents.len();
        match write {
            Write::Upsert(documents) => {
                for document in documents {
                    let old = state.find(&document.id);
                    old.map(|old| state.documents.remove(&old));
                    let number = state.next;
                    state.next += 1;
                    state.content.insert(number, self.schema.content.hash(&document));
                    state.documents.insert(number, (document, Lsn(state.lsn)));
                }
            }
            Write::Delete(ids) => state.documents.retain(|_, (document, _)| !ids.contains(&document.id)),
            Write::DeleteWhere(filter) => {
                let gone: Vec<u32> = matching(&state, &filter).iter().collect();
                state.documents.retain(|number, _| !gone.contains(number));
            }
        }
        for (number, (document, _)) in
            truth.documents.iter().filter(|(number, _)| !state.documents.contains_key(number))
        {
            state.ended.insert(*number, (state.lsn, document.id.clone()));
        }
        let written = Written { lsn: Lsn(state.lsn), deleted: before.saturating_sub(state.documents.len()) as u64 };
        *truth = Arc::new(state);
        let mut indexed = self.indexed.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !indexed.1 {
            indexed.0 = Arc::clone(&truth);
        }
        self.indexed.moved.notify_waiters();
        Ok(written)
    }

    fn stats(&self) -> Result<CollectionStats, StoreError> {
        let (now, indexed) = (self.now(), self.indexed.state.lock().unwrap_or_else(PoisonError::into_inner));
        let index = IndexStats {
            name: "lexical".to_owned(),
            engine: "memory".to_owned(),
            documents: indexed.0.documents.len() as u64,
            applied: Lsn(indexed.0.lsn),
            bytes: 1,
        };
        let (name, documents) = (self.name.clone(), now.documents.len() as u64);
        Ok(CollectionStats { name, documents, lsn: Lsn(now.lsn), bytes: 1, indexes: vec![index] })
    }
}

impl Source for MemoryCollection {
    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, SourceError> {
        Ok(Arc::new(Moment(self.now())))
    }

    fn leg(&self, query: &LegQuery) -> Result<Box<dyn Leg + '_>, SourceError> {
        Ok(Box::new(NaiveLeg { indexed: &self.indexed, schema: &self.schema, query: query.clone() }))
    }

    fn reached<'a>(&'a self, _: &'a LegQuery, lsn: Lsn) -> BoxFuture<'a, bool> {
        async move {
            loop {
                // Before it is looked at: what moves afterwards is heard.
                let mut moved = std::pin::pin!(self.indexed.moved.notified());
                moved.as_mut().enable();
                if self.indexed.lsn() >= lsn {
                    return true;
                }
                moved.await;
            }
        }
        .boxed()
    }
}

struct Moment(Arc<State>);

fn matching(state: &State, filter: &Filter) -> RoaringBitmap {
    let numbers = state.documents.keys().copied();
    numbers.filter(|number| state.stored(*number).is_some_and(|document| filter.matches(&document))).collect()
}

impl Snapshot for Moment {
    fn lsn(&self) -> Lsn {
        Lsn(self.0.lsn)
    }

    fn documents(&self) -> u64 {
        self.0.documents.len() as u64
    }

    fn matching(&self, filter: &Filter) -> Result<RoaringBitmap, SourceError> {
        Ok(matching(&self.0, filter))
    }

    fn live(&self) -> Result<RoaringBitmap, SourceError> {
        Ok(self.0.documents.keys().copied().collect())
    }

    fn ended_after(&self, lsn: Lsn) -> Result<Option<RoaringBitmap>, SourceError> {
        let after = self.0.ended.iter().filter(|(_, (ended, _))| *ended > lsn.0);
        Ok(Some(after.map(|(number, _)| *number).collect()))
    }

    fn current(&self, documents: &[DocId]) -> Result<Vec<Option<DocId>>, SourceError> {
        let live = |number: &u32| self.0.documents.get(number).map(|(document, _)| document.id.as_str());
        let ended = |number: &u32| self.0.ended.get(number).map(|(_, id)| id.as_str());
        let current = |DocId(number): &DocId| self.0.find(live(number).or_else(|| ended(number))?).map(DocId);
        Ok(documents.iter().map(current).collect())
    }

    fn ids(&self, documents: &[DocId]) -> Result<Vec<Option<Arc<str>>>, SourceError> {
        let id = |number: &DocId| self.0.documents.get(&number.0).map(|(document, _)| document.id.as_str().into());
        Ok(documents.iter().map(id).collect())
    }

    fn find(&self, id: &str) -> Result<Option<DocId>, SourceError> {
        Ok(self.0.find(id).map(DocId))
    }

    fn read(&self, document: DocId, projection: &Projection) -> Result<Option<ReadDocument>, SourceError> {
        let Some(stored) = self.0.stored(document.0) else { return Ok(None) };
        let (whole, _) = &self.0.documents[&document.0];
        let dense = whole.dense.clone().into_iter().filter(|(name, _)| projection.vectors.has(name)).collect();
        let sparse = whole.sparse.clone().into_iter().filter(|(name, _)| projection.vectors.has(name)).collect();
        Ok(Some(ReadDocument { stored, dense, sparse }))
    }

    fn facet(&self, facet: &FacetJob, among: Option<&RoaringBitmap>, _: &dyn Stop) -> Result<Facet, SearchError> {
        let mut counts: Vec<(Scalar, u64)> = Vec::new();
        for (number, (document, _)) in &self.0.documents {
            if among.is_some_and(|among| !among.contains(*number)) {
                continue;
            }
            for value in document.payload.get(&facet.field).map_or(&[][..], PayloadValue::scalars) {
                match counts.iter_mut().find(|(known, _)| known == value) {
                    Some((_, count)) => *count += 1,
                    None => counts.push((value.clone(), 1)),
                }
            }
        }
        counts.sort_by_key(|(value, count)| (std::cmp::Reverse(*count), format!("{value:?}")));
        let distinct = counts.len() as u64;
        counts.truncate(facet.limit);
        Ok(Facet { field: facet.field.clone(), values: counts, distinct })
    }
}

struct NaiveLeg<'a> {
    indexed: &'a Indexed,
    schema: &'a Schema,
    query: LegQuery,
}

impl Leg for NaiveLeg<'_> {
    fn applied(&self) -> Lsn {
        self.indexed.lsn()
    }

    fn search(&self, k: usize, among: Option<&RoaringBitmap>, stop: &dyn Stop) -> Result<Vec<Hit>, IndexError> {
        if stop.stop() {
            return Err(IndexError::Stopped);
        }
        let state = Arc::clone(&self.indexed.state.lock().unwrap_or_else(PoisonError::into_inner).0);
        let mut hits = Vec::new();
        for (number, (document, _)) in &state.documents {
            if among.is_none_or(|among| among.contains(*number))
                && let Some(score) = score(document, &self.query, self.schema)
            {
                hits.push(Hit { document: DocId(*number), score });
            }
        }
        hits.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.document.cmp(&b.document)));
        hits.truncate(k);
        Ok(hits)
    }

    fn rarity(&self) -> Option<f64> {
        matches!(self.query, LegQuery::Lexical(_)).then_some(0.5)
    }

    fn snippets(
        &self,
        job: &SnippetJob,
        documents: &[&StoredDocument],
        _: &dyn Stop,
    ) -> Result<Vec<Vec<Snippet>>, IndexError> {
        let LegQuery::Lexical(query) = &self.query else { return Ok(vec![Vec::new(); documents.len()]) };
        let of = |document: &&StoredDocument| {
            let pieces = job.fields.iter().filter_map(|field| snippet(query, field, document.texts.get(field)?));
            pieces.collect()
        };
        Ok(documents.iter().map(of).collect())
    }
}

/// The whole text, with the first of the query's words in it.
fn snippet(query: &LexicalQuery, field: &str, text: &str) -> Option<Snippet> {
    let highlight = words(&query.text).find_map(|word| text.find(&*word).map(|at| at..at + word.len()))?;
    Some(Snippet { field: field.to_owned(), text: text.to_owned(), highlights: vec![highlight] })
}

/// Words in common; cosine or dot product; dot product.
fn score(document: &Document, query: &LegQuery, schema: &Schema) -> Option<f32> {
    match query {
        LegQuery::Lexical(query) => {
            let fields: Vec<&str> = match &query.fields[..] {
                [] => schema.texts.iter().map(|field| field.name.as_str()).collect(),
                fields => fields.iter().map(|field| field.field.as_str()).collect(),
            };
            let texts = fields.iter().filter_map(|field| document.texts.get(*field));
            let there: BTreeSet<_> = texts.flat_map(|text| words(text)).collect();
            let common = words(&query.text).filter(|word| there.contains(word)).count();
            (common > 0).then_some(common as f32)
        }
        LegQuery::Dense { vector, query, metric, .. } => {
            let found = document.dense.get(vector)?;
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            let norm = dot(query, query).sqrt() * dot(found, found).sqrt();
            Some(if *metric == Metric::Cosine { dot(query, found) / norm } else { dot(query, found) })
        }
        LegQuery::Sparse { vector, query } => {
            let found = document.sparse.get(vector)?;
            let value = |index| found.indices.binary_search(index).ok().map(|at| found.values[at]);
            let products = query.indices.iter().zip(&query.values);
            let products: Vec<f32> = products.filter_map(|(index, weight)| Some(value(index)? * weight)).collect();
            (!products.is_empty()).then(|| products.iter().sum())
        }
    }
}

/// Collections, aliases and copies by name.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<Names>);

#[derive(Debug, Default)]
struct Names {
    collections: BTreeMap<String, Arc<MemoryCollection>>,
    aliases: BTreeMap<String, String>,
    snapshots: BTreeMap<String, (Schema, State)>,
}

impl MemoryStore {
    /// To hold its indexes.
    pub fn collection(&self, name: &str) -> Arc<MemoryCollection> {
        Arc::clone(&self.names().collections[name])
    }

    fn names(&self) -> std::sync::MutexGuard<'_, Names> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Names {
    fn find(&self, name: &str) -> Result<&Arc<MemoryCollection>, StoreError> {
        let target = self.aliases.get(name).map_or(name, String::as_str);
        self.collections.get(target).ok_or_else(|| not_found("collection", name))
    }

    fn free(&self, name: &str) -> Result<(), StoreError> {
        let by = match (self.collections.contains_key(name), self.aliases.contains_key(name)) {
            (true, _) => "a collection",
            (_, true) => "an alias",
            _ => return Ok(()),
        };
        Err(StoreError::Exists { by, name: name.to_owned() })
    }

    fn info(&self, collection: &MemoryCollection) -> CollectionInfo {
        let aliases = self.aliases.iter().filter(|(_, target)| **target == collection.name);
        CollectionInfo {
            name: collection.name.clone(),
            aliases: aliases.map(|(alias, _)| alias.clone()).collect(),
            schema: collection.schema.clone(),
            documents: collection.now().documents.len() as u64,
        }
    }
}

fn not_found(kind: &'static str, name: &str) -> StoreError {
    StoreError::NotFound { kind, name: name.to_owned() }
}

impl Store for MemoryStore {
    fn create(&self, name: &str, schema: Schema) -> Result<CollectionInfo, StoreError> {
        let mut names = self.names();
        names.free(name)?;
        let created = Arc::new(MemoryCollection::new(name, schema, State::default()));
        names.collections.insert(name.to_owned(), Arc::clone(&created));
        Ok(names.info(&created))
    }

    fn drop_collection(&self, name: &str) -> Result<u64, StoreError> {
        let mut names = self.names();
        let dropped = names.collections.remove(name).ok_or_else(|| not_found("collection", name))?;
        names.aliases.retain(|_, target| target != name);
        Ok(dropped.now().documents.len() as u64)
    }

    fn list(&self) -> Result<Vec<CollectionInfo>, StoreError> {
        let names = self.names();
        Ok(names.collections.values().map(|collection| names.info(collection)).collect())
    }

    fn find(&self, name: &str) -> Result<Arc<dyn Collection>, StoreError> {
        let found: Arc<MemoryCollection> = Arc::clone(self.names().find(name)?);
        Ok(found)
    }

    fn known(&self, name: &str) -> Option<Arc<dyn Collection>> {
        self.find(name).ok()
    }

    fn set_alias(&self, alias: &str, collection: &str) -> Result<Option<String>, StoreError> {
        let mut names = self.names();
        if !names.collections.contains_key(collection) {
            return Err(not_found("collection", collection));
        }
        if names.collections.contains_key(alias) {
            return Err(StoreError::Exists { by: "a collection", name: alias.to_owned() });
        }
        Ok(names.aliases.insert(alias.to_owned(), collection.to_owned()))
    }

    fn delete_alias(&self, alias: &str) -> Result<String, StoreError> {
        self.names().aliases.remove(alias).ok_or_else(|| not_found("alias", alias))
    }

    fn snapshot(&self, collection: &str, name: &str) -> Result<SnapshotInfo, StoreError> {
        let mut names = self.names();
        let found = Arc::clone(names.find(collection)?);
        if names.snapshots.contains_key(name) {
            return Err(StoreError::Exists { by: "a snapshot", name: name.to_owned() });
        }
        let state = State::clone(&found.now());
        let info = SnapshotInfo { lsn: Lsn(state.lsn), documents: state.documents.len() as u64, bytes: 1 };
        names.snapshots.insert(name.to_owned(), (found.schema.clone(), state));
        Ok(info)
    }

    fn restore(&self, snapshot: &str, collection: &str) -> Result<SnapshotInfo, StoreError> {
        let mut names = self.names();
        names.free(collection)?;
        let copy = names.snapshots.get(snapshot).ok_or_else(|| not_found("snapshot", snapshot))?;
        let (schema, state) = copy.clone();
        let info = SnapshotInfo { lsn: Lsn(state.lsn), documents: state.documents.len() as u64, bytes: 1 };
        let restored = Arc::new(MemoryCollection::new(collection, schema, state));
        names.collections.insert(collection.to_owned(), restored);
        Ok(info)
    }

    fn close(&self) {}
}
