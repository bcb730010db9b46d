//! Which collections and aliases there are, and what was last known of them.
//!
//! A collection of ours says in its metadata what its schema is. What was asked once is known for a while
//! (`names_age_max`), so that a search need not ask for it; what this shard changes it knows at once.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use qdrant_client::qdrant::{
    self, CollectionInfo, CreateCollection, CreateFieldIndexCollection, FieldType, Value, alias_operations::Action,
    value::Kind, vectors_config,
};
use tokio::{runtime::Handle, time::Instant};

use super::{
    collection::{Parts, QdrantCollection},
    link::{Fault, Link, answer, request},
    name, value,
    version::Versions,
    words::WordFields,
};
use crate::{
    payload::PayloadKind,
    schema::{Metric, Schema},
    search::SourceError,
    store::StoreError,
};

/// Names that are known at once: bounds the memory where a cluster has very many.
const KNOWN_MAX: usize = 4_096;

/// Names of a cluster.
pub(super) struct Catalogue {
    link: Arc<Link>,
    versions: Arc<Versions>,
    runtime: Handle,
    known: RwLock<Known>,
}

/// What was asked once.
#[derive(Default)]
struct Known {
    /// With the moment at which it was asked.
    names: HashMap<String, (Arc<QdrantCollection>, Instant)>,
    /// How often names have changed: what was asked before a change is not kept after it.
    changes: u64,
}

impl Catalogue {
    pub(super) fn new(link: Arc<Link>, versions: Arc<Versions>, runtime: Handle) -> Self {
        Self { link, versions, runtime, known: RwLock::default() }
    }

    /// What is known of a name, if that is not too old.
    pub(super) fn known(&self, name: &str) -> Option<Arc<QdrantCollection>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let (collection, asked) = known.names.get(name)?;
        (asked.elapsed() < self.link.config().names_age_max).then(|| Arc::clone(collection))
    }

    /// Forgets everything: names have changed.
    pub(super) fn forget(&self) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.names.clear();
        known.changes += 1;
    }

    /// The collection of a name or alias, asked for now.
    pub(super) async fn look_up(&self, name: &str) -> Result<Arc<QdrantCollection>, Fault> {
        let (asked, changes) = (Instant::now(), self.known.read().unwrap_or_else(PoisonError::into_inner).changes);
        let target = self.aliases().await?.remove(name).unwrap_or_else(|| name.to_owned());
        let info = self.info(&target).await?;
        let collection = info.and_then(|info| self.ours(name, &target, &info)).ok_or(Fault::NotFound)?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.changes == changes {
            if known.names.len() >= KNOWN_MAX {
                known.names.clear();
            }
            known.names.insert(name.to_owned(), (Arc::clone(&collection), asked));
        }
        Ok(collection)
    }

    /// Collections by alias.
    pub(super) async fn aliases(&self) -> Result<BTreeMap<String, String>, Fault> {
        let (until, mut collections) = (self.link.until(), self.link.collections());
        let asking = collections.list_aliases(request(qdrant::ListAliasesRequest {}, until));
        let listed = answer("listing aliases", until, asking).await?;
        Ok(listed.aliases.into_iter().map(|alias| (alias.alias_name, alias.collection_name)).collect())
    }

    /// Names of all collections, whosever they are, ascending.
    pub(super) async fn names(&self) -> Result<Vec<String>, Fault> {
        let (until, mut collections) = (self.link.until(), self.link.collections());
        let asking = collections.list(request(qdrant::ListCollectionsRequest {}, until));
        let listed = answer("listing collections", until, asking).await?;
        let mut names: Vec<_> = listed.collections.into_iter().map(|collection| collection.name).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// The collection of a name, not an alias, if it is ours.
    pub(super) async fn own(&self, name: &str) -> Result<Option<Arc<QdrantCollection>>, Fault> {
        Ok(self.info(name).await?.and_then(|info| self.ours(name, name, &info)))
    }

    /// Changes aliases, all at once.
    pub(super) async fn change_aliases(&self, actions: Vec<Action>) -> Result<(), Fault> {
        if actions.is_empty() {
            return Ok(());
        }
        let actions = actions.into_iter().map(|action| qdrant::AliasOperations { action: Some(action) }).collect();
        let (until, mut collections) = (self.link.until(), self.link.collections());
        let change = qdrant::ChangeAliases { actions, timeout: None };
        let changed = answer("changing aliases", until, collections.update_aliases(request(change, until))).await;
        self.forget();
        done("changing aliases", changed?.result)
    }

    /// Creates a collection with its indexes. One that cannot have all of them is taken away again, also one of which the
    /// cluster did not say in time that it is there.
    pub(super) async fn create(&self, name: &str, schema: &Schema) -> Result<(), Fault> {
        let identity = format!("{name}-{}", self.versions.next());
        let (until, mut collections) = (self.link.until(), self.link.collections());
        let creating = collections.create(request(self.creation(name, schema, &identity), until));
        let created = answer("creating a collection", until, creating).await;
        self.forget();
        if let Err(Fault::TimedOut { .. } | Fault::Unreachable(_)) = created
            && let Ok(Some(there)) = self.own(name).await
            && there.parts.identity == identity
        {
            self.take_away(name).await;
        }
        done("creating a collection", created?.result)?;
        let made = async {
            let versions = (name::VERSION.to_owned(), FieldType::Integer);
            for field in schema.payload.iter().map(|field| indexed(&field.name, field.kind)).chain([versions]) {
                let (until, mut points) = (self.link.until(), self.link.points());
                let index = points.create_field_index(request(index(name, field), until));
                answer("indexing a payload field", until, index).await?;
            }
            match self.own(name).await? {
                Some(_) => Ok(()),
                None => Err(SourceError::of("creating a collection")(
                    "the cluster keeps no metadata of collections, as Qdrant does from 1.16 on",
                )
                .into()),
            }
        };
        let made: Result<(), Fault> = made.await;
        if made.is_err() {
            self.take_away(name).await;
        }
        made
    }

    async fn take_away(&self, name: &str) {
        if let Err(error) = self.delete(name).await {
            tracing::warn!(collection = name, %error, "a collection that is not complete could not be removed");
        }
    }

    pub(super) async fn delete(&self, name: &str) -> Result<(), Fault> {
        let (until, mut collections) = (self.link.until(), self.link.collections());
        let delete = qdrant::DeleteCollection { collection_name: name.to_owned(), timeout: None };
        let deleted = answer("dropping a collection", until, collections.delete(request(delete, until))).await;
        self.forget();
        match deleted?.result {
            true => Ok(()),
            false => Err(Fault::NotFound),
        }
    }

    /// Says who has a name, if anybody does.
    pub(super) async fn check_free(&self, wanted: &str) -> Result<(), Fault> {
        let taken = |by| Fault::Store(StoreError::Exists { by, name: wanted.to_owned() });
        if self.aliases().await?.contains_key(wanted) {
            return Err(taken("an alias"));
        }
        if self.names().await?.iter().any(|name| name == wanted) {
            return Err(taken("a collection"));
        }
        Ok(())
    }

    async fn info(&self, name: &str) -> Result<Option<CollectionInfo>, Fault> {
        let (until, mut collections) = (self.link.until(), self.link.collections());
        let message = qdrant::GetCollectionInfoRequest { collection_name: name.to_owned() };
        match answer("describing a collection", until, collections.get(request(message, until))).await {
            Ok(described) => Ok(described.result),
            Err(Fault::NotFound) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// What a collection is to us; `None` if it is not ours.
    fn ours(&self, called: &str, name: &str, info: &CollectionInfo) -> Option<Arc<QdrantCollection>> {
        let metadata = &info.config.as_ref()?.metadata;
        let schema: Schema = serde_json::from_str(text(metadata, name::SCHEMA)?).ok()?;
        let average_words = match metadata.get(name::AVERAGE_WORDS)?.kind {
            Some(Kind::DoubleValue(words)) => words as f32,
            Some(Kind::IntegerValue(words)) => words as f32,
            _ => return None,
        };
        Some(Arc::new(QdrantCollection::new(Parts {
            name: called.to_owned(),
            target: name.to_owned(),
            identity: text(metadata, name::IDENTITY)?.to_owned(),
            words: WordFields::new(&schema, average_words),
            schema,
            link: Arc::clone(&self.link),
            versions: Arc::clone(&self.versions),
            runtime: self.runtime.clone(),
        })))
    }

    fn creation(&self, name: &str, schema: &Schema, identity: &str) -> CreateCollection {
        let config = self.link.config();
        let some = |number: u32| (number > 0).then_some(number);
        let dense = schema.dense.iter().map(|field| {
            let params = qdrant::VectorParams {
                size: field.dim.into(),
                distance: distance(field.metric).into(),
                ..Default::default()
            };
            (field.name.clone(), params)
        });
        let map = qdrant::VectorParamsMap { map: dense.collect() };
        let vectors = (!map.map.is_empty())
            .then_some(qdrant::VectorsConfig { config: Some(vectors_config::Config::ParamsMap(map)) });
        let idf = |idf: bool| qdrant::SparseVectorParams {
            modifier: idf.then_some(qdrant::Modifier::Idf.into()),
            ..Default::default()
        };
        let mut sparse: HashMap<_, _> =
            schema.sparse.iter().map(|field| (field.name.clone(), idf(field.idf))).collect();
        if !schema.texts.is_empty() {
            sparse.insert(name::WORDS_VECTOR.to_owned(), idf(true));
        }
        // A schema is plain data: it has a JSON.
        let json = serde_json::to_string(schema).unwrap_or_default();
        let average_words = Value { kind: Some(Kind::DoubleValue(config.average_words.into())) };
        let metadata = [
            (name::SCHEMA, value::string(json)),
            (name::IDENTITY, value::string(identity.to_owned())),
            (name::AVERAGE_WORDS, average_words),
        ];
        CreateCollection {
            collection_name: name.to_owned(),
            vectors_config: vectors,
            sparse_vectors_config: (!sparse.is_empty()).then_some(qdrant::SparseVectorConfig { map: sparse }),
            shard_number: some(config.shard_number),
            replication_factor: some(config.replication_factor),
            write_consistency_factor: some(config.write_consistency_factor),
            metadata: metadata.map(|(key, value)| (key.to_owned(), value)).into(),
            ..CreateCollection::default()
        }
    }
}

/// Where the values of a payload field stand, and how they are compared.
fn indexed(field: &str, kind: PayloadKind) -> (String, FieldType) {
    match kind {
        PayloadKind::Keyword => (name::payload_key(field), FieldType::Keyword),
        PayloadKind::Integer => (name::payload_key(field), FieldType::Integer),
        PayloadKind::Float => (name::payload_key(field), FieldType::Float),
        PayloadKind::Boolean => (name::payload_key(field), FieldType::Bool),
        PayloadKind::Datetime => (name::payload_key(field), FieldType::Datetime),
        PayloadKind::Text => (name::words_key(field), FieldType::Keyword),
    }
}

fn index(collection: &str, (key, kind): (String, FieldType)) -> CreateFieldIndexCollection {
    CreateFieldIndexCollection {
        collection_name: collection.to_owned(),
        wait: Some(true),
        field_name: key,
        field_type: Some(kind.into()),
        ..CreateFieldIndexCollection::default()
    }
}

fn distance(metric: Metric) -> qdrant::Distance {
    match metric {
        Metric::Cosine => qdrant::Distance::Cosine,
        Metric::Dot => qdrant::Distance::Dot,
        Metric::Euclidean => qdrant::Distance::Euclid,
    }
}

fn text<'a>(metadata: &'a HashMap<String, Value>, key: &str) -> Option<&'a str> {
    match metadata.get(key)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text),
        _ => None,
    }
}

fn done(doing: &'static str, result: bool) -> Result<(), Fault> {
    match result {
        true => Ok(()),
        false => Err(SourceError::of(doing)("the cluster says that it did not do it").into()),
    }
}
