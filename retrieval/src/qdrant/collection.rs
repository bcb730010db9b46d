//! One collection of a cluster: written, read by id, and counted.

use std::{collections::HashMap, future::Future, sync::Arc};

use qdrant_client::qdrant::{
    self, CountPoints, DeletePoints, GetPoints, HasVectorCondition, PointId, PointsIdsList, PointsSelector,
    RetrievedPoint, UpsertPoints, condition::ConditionOneOf, point_id::PointIdOptions,
    points_selector::PointsSelectorOneOf,
};
use tokio::{runtime::Handle, time::Instant};

use super::{
    filter,
    link::{Fault, Link, answer, completed, request},
    name, point,
    version::{self, Versions},
    words::WordFields,
};
use crate::{
    document::Document,
    filter::Filter,
    identity::Lsn,
    schema::Schema,
    search::{Projection, ReadDocument, SourceError},
    store::{Collection, CollectionStats, Engine, IndexStats, Reading, StoreError, Write, Written},
};

/// What a collection is made of.
pub(super) struct Parts {
    /// The name or alias that it was found by.
    pub(super) name: String,
    /// The collection's own name.
    pub(super) target: String,
    pub(super) identity: String,
    pub(super) schema: Schema,
    pub(super) words: WordFields,
    pub(super) link: Arc<Link>,
    pub(super) versions: Arc<Versions>,
    pub(super) runtime: Handle,
}

/// A collection of a cluster.
pub(super) struct QdrantCollection {
    pub(super) parts: Parts,
}

impl QdrantCollection {
    pub(super) fn new(parts: Parts) -> Self {
        Self { parts }
    }

    fn wait<T>(&self, work: impl Future<Output = Result<T, Fault>>) -> Result<T, StoreError> {
        self.parts.runtime.block_on(work).map_err(|fault| fault.of_store(&self.parts.name))
    }

    async fn upsert(&self, documents: Vec<Document>) -> Result<Written, Fault> {
        let Parts { target, schema, words, link, versions, .. } = &self.parts;
        let lsn = versions.next();
        // Of an id that a batch has twice, the last one counts, as with us.
        let mut points = HashMap::with_capacity(documents.len());
        for document in &documents {
            let point = point::of_document(document, lsn, schema, words);
            let point = point.map_err(|fault| Fault::Store(StoreError::Refused(fault.to_string())))?;
            points.insert(document.id.as_str(), point);
        }
        let points: Vec<_> = points.into_values().collect();
        if !points.is_empty() {
            let upsert = UpsertPoints {
                collection_name: target.clone(),
                wait: Some(true),
                points,
                update_filter: Some(version::replaceable(lsn)),
                ..UpsertPoints::default()
            };
            let (until, mut client) = (link.until(), link.points());
            let done = answer("writing documents", until, client.upsert(request(upsert, until))).await?;
            completed("writing documents", done.result)?;
        }
        Ok(Written { lsn, deleted: 0 })
    }

    /// Counts them first: a cluster does not say how many went.
    async fn delete(&self, filter: Option<qdrant::Filter>, selected: PointsSelectorOneOf) -> Result<Written, Fault> {
        let Parts { target, link, versions, .. } = &self.parts;
        let deleted = self.counted(filter, link.until()).await?;
        let lsn = versions.next();
        let delete = DeletePoints {
            collection_name: target.clone(),
            wait: Some(true),
            points: Some(PointsSelector { points_selector_one_of: Some(selected) }),
            ..DeletePoints::default()
        };
        let (until, mut client) = (link.until(), link.points());
        let done = answer("deleting documents", until, client.delete(request(delete, until))).await?;
        completed("deleting documents", done.result)?;
        Ok(Written { lsn, deleted })
    }

    async fn write_async(&self, write: Write) -> Result<Written, Fault> {
        match write {
            Write::Upsert(documents) => self.upsert(documents).await,
            Write::Delete(ids) => {
                let points: Vec<PointId> = ids.iter().map(|id| name::point_id(id)).collect();
                let there = filter::translate(&Filter::Ids(ids), &self.parts.schema)?;
                self.delete(there, PointsSelectorOneOf::Points(PointsIdsList { ids: points })).await
            }
            Write::DeleteWhere(filter) => {
                let filter = filter::translate(&filter, &self.parts.schema)?;
                let selected = PointsSelectorOneOf::Filter(filter.clone().unwrap_or_default());
                self.delete(filter, selected).await
            }
        }
    }

    /// Points that fulfil a filter, exactly.
    pub(super) async fn counted(&self, filter: Option<qdrant::Filter>, until: Instant) -> Result<u64, Fault> {
        let Parts { target, link, .. } = &self.parts;
        let count = CountPoints {
            collection_name: target.clone(),
            filter,
            exact: Some(true),
            read_consistency: link.read_consistency(),
            ..CountPoints::default()
        };
        let mut client = link.points();
        let counted = answer("counting documents", until, client.count(request(count, until))).await?;
        counted.result.map(|result| result.count).ok_or_else(|| nothing("counting documents"))
    }

    /// Documents by id, in the order of the ids.
    pub(super) async fn documents(
        &self,
        ids: &[&str],
        projection: &Projection,
        until: Instant,
    ) -> Result<Vec<Option<ReadDocument>>, Fault> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let Parts { target, schema, link, .. } = &self.parts;
        let get = GetPoints {
            collection_name: target.clone(),
            ids: ids.iter().map(|id| name::point_id(id)).collect(),
            with_payload: Some(point::payload_of(projection)),
            with_vectors: Some(point::vectors_of(projection, schema)),
            read_consistency: link.read_consistency(),
            ..GetPoints::default()
        };
        let mut client = link.points();
        let found = answer("reading documents", until, client.get(request(get, until))).await?;
        let mut by_point = HashMap::new();
        for RetrievedPoint { id, payload, vectors, .. } in found.result {
            let document = point::document(payload, vectors, schema).map_err(SourceError::of("reading documents"))?;
            by_point.insert(uuid(id), document);
        }
        // Cloned, as an id may be asked for twice.
        Ok(ids.iter().map(|id| by_point.get(&uuid(Some(name::point_id(id)))).cloned()).collect())
    }

    async fn stats_async(&self) -> Result<CollectionStats, Fault> {
        let Parts { name, schema, words, link, versions, .. } = &self.parts;
        let (until, lsn) = (link.until(), versions.now());
        let documents = self.counted(None, until).await?;
        let lexical = (!words.is_empty()).then_some(("lexical", name::WORDS_VECTOR));
        let vectors = schema.dense.iter().map(|field| &field.name).chain(schema.sparse.iter().map(|field| &field.name));
        let names: Vec<_> = lexical.into_iter().chain(vectors.map(|name| (name.as_str(), name.as_str()))).collect();
        let mut indexes = Vec::with_capacity(names.len());
        for (name, vector) in names {
            let has = ConditionOneOf::HasVector(HasVectorCondition { has_vector: vector.to_owned() });
            let filter = qdrant::Filter { must: vec![has.into()], ..qdrant::Filter::default() };
            let documents = self.counted(Some(filter), until).await?;
            let (name, engine) = (name.to_owned(), "qdrant".to_owned());
            indexes.push(IndexStats { name, engine, documents, applied: lsn, bytes: 0 });
        }
        Ok(CollectionStats { name: name.clone(), documents, lsn, bytes: 0, indexes })
    }
}

impl Collection for QdrantCollection {
    fn name(&self) -> &str {
        &self.parts.name
    }

    fn identity(&self) -> &str {
        &self.parts.identity
    }

    fn schema(&self) -> &Schema {
        &self.parts.schema
    }

    fn engine(self: Arc<Self>) -> Engine {
        Engine::Cluster(self)
    }

    fn read(&self, ids: &[String], projection: &Projection) -> Result<Reading, StoreError> {
        let lsn: Lsn = self.parts.versions.now();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let documents = self.wait(self.documents(&ids, projection, self.parts.link.until()))?;
        Ok(Reading { lsn, documents })
    }

    fn write(&self, write: Write) -> Result<Written, StoreError> {
        self.wait(self.write_async(write))
    }

    fn stats(&self) -> Result<CollectionStats, StoreError> {
        self.wait(self.stats_async())
    }
}

fn uuid(id: Option<PointId>) -> String {
    match id.and_then(|id| id.point_id_options) {
        Some(PointIdOptions::Uuid(uuid)) => uuid,
        Some(PointIdOptions::Num(number)) => number.to_string(),
        None => String::new(),
    }
}

/// A fault where an answer has no result.
pub(super) fn nothing(doing: &'static str) -> Fault {
    SourceError::of(doing)("the cluster's answer is empty").into()
}
