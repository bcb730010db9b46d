//! Collections on a Qdrant cluster: the engine for what one machine cannot hold.
//!
//! The cluster has everything: documents, vectors, payload, words, aliases, and in a collection's metadata its schema.
//! This process keeps nothing, so any number of shards may serve the same cluster. Fusion is ours, over one list for each
//! leg from one batch call: Qdrant's own counts ranks from 0, with a k of 2 and other weights, and says no leg's score.
//!
//! | ours | in Qdrant |
//! |---|---|
//! | collection, alias | the same, by the same name; only collections with our metadata are ours |
//! | document id | a point id, the first 16 bytes of its SHA-256 as a UUID; the id itself in the payload |
//! | version, log sequence number | microseconds of the shard's clock, each one used once (`version`) |
//! | dense vector, sparse vector | a named vector; the modifier `idf` where the schema says so |
//! | text fields | a sparse vector `lexical.words`, weighted here as BM25 does, with the modifier `idf` (`words`) |
//! | payload field | `payload.NAME`, indexed; of a text its words in `words.NAME` (`point`) |
//! | filter | a filter of the same meaning (`filter`) |
//!
//! `docs/qdrant.md` says what differs from the engine of our own, and what there is none of.

mod catalogue;
mod collection;
mod config;
mod filter;
mod link;
mod name;
mod point;
mod query;
mod value;
mod version;
mod words;

use std::{future::Future, sync::Arc};

use futures_util::{StreamExt, TryStreamExt, stream};
use qdrant_client::qdrant::{CreateAlias, DeleteAlias, alias_operations::Action};
use tokio::runtime::Handle;

use self::{
    catalogue::Catalogue,
    link::{Fault, Link},
    version::Versions,
};
pub use self::{
    config::{QdrantConfig, ReadConsistency},
    version::WallClock,
};
use crate::{
    schema::Schema,
    search::{Lacking, SourceError},
    store::{Collection, CollectionInfo, SnapshotInfo, Store, StoreError},
};

/// Collections that are asked about at once where all of them are.
const ASKED_AT_ONCE: usize = 8;

/// Collections of a Qdrant cluster.
pub struct QdrantStore {
    link: Arc<Link>,
    catalogue: Catalogue,
    runtime: Handle,
}

impl QdrantStore {
    /// A store of the cluster that the configuration names. Does not fail where the cluster cannot be reached now: calls
    /// say so, until it can.
    ///
    /// # Errors
    /// [`StoreError::Failed`] if the configuration names no cluster that could be there.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn open(config: &QdrantConfig, clock: WallClock) -> Result<Self, StoreError> {
        let runtime = Handle::current();
        let link = Arc::new(Link::new(config).map_err(SourceError::of("reading the cluster's address"))?);
        let catalogue = Catalogue::new(Arc::clone(&link), Arc::new(Versions::new(clock)), runtime.clone());
        Ok(Self { link, catalogue, runtime })
    }

    /// Asks once whether the cluster answers, and logs it: a shard that waits for its cluster should not do so in
    /// silence. May wait.
    pub fn greet(&self) {
        let url = &self.link.config().url;
        match self.runtime.block_on(self.catalogue.aliases()) {
            Ok(_) => tracing::info!(url, "the cluster answers"),
            Err(error) => tracing::warn!(url, %error, "the cluster does not answer"),
        }
    }

    /// Waits, on a thread that may.
    fn wait<T>(&self, name: &str, work: impl Future<Output = Result<T, Fault>>) -> Result<T, StoreError> {
        self.runtime.block_on(work).map_err(|fault| fault.of_store(name))
    }

    async fn dropped(&self, name: &str) -> Result<u64, Fault> {
        let collection = self.catalogue.own(name).await?.ok_or(Fault::NotFound)?;
        let documents = collection.counted(None, self.link.until()).await?;
        let aliases = self.catalogue.aliases().await?.into_iter().filter(|(_, of)| of == name);
        let actions = aliases.map(|(alias_name, _)| Action::DeleteAlias(DeleteAlias { alias_name })).collect();
        self.catalogue.change_aliases(actions).await?;
        self.catalogue.delete(name).await?;
        Ok(documents)
    }

    async fn listed(&self) -> Result<Vec<CollectionInfo>, Fault> {
        let aliases = self.catalogue.aliases().await?;
        let names = stream::iter(self.catalogue.names().await?);
        let described = names.map(|name| {
            let of_it = aliases.iter().filter(|(_, of)| **of == name).map(|(alias, _)| alias.clone());
            let aliases: Vec<String> = of_it.collect();
            async move {
                // Somebody else's, or dropped meanwhile.
                let Some(collection) = self.catalogue.own(&name).await? else { return Ok(None) };
                let documents = match collection.counted(None, self.link.until()).await {
                    Err(Fault::NotFound) => return Ok(None),
                    counted => counted?,
                };
                Ok(Some(CollectionInfo { name, aliases, schema: collection.schema().clone(), documents }))
            }
        });
        described.buffered(ASKED_AT_ONCE).try_filter_map(|found| async move { Ok(found) }).try_collect().await
    }

    async fn alias_set(&self, alias: &str, name: &str) -> Result<Option<String>, Fault> {
        if self.catalogue.names().await?.iter().any(|taken| taken == alias) {
            return Err(StoreError::Exists { by: "a collection", name: alias.to_owned() }.into());
        }
        if self.catalogue.own(name).await?.is_none() {
            return Err(Fault::NotFound);
        }
        let before = self.catalogue.aliases().await?.remove(alias);
        let mut actions = Vec::new();
        if before.is_some() {
            actions.push(Action::DeleteAlias(DeleteAlias { alias_name: alias.to_owned() }));
        }
        let create = CreateAlias { collection_name: name.to_owned(), alias_name: alias.to_owned() };
        actions.push(Action::CreateAlias(create));
        self.catalogue.change_aliases(actions).await?;
        Ok(before)
    }

    async fn alias_deleted(&self, alias: &str) -> Result<String, Fault> {
        let missing = || StoreError::NotFound { kind: "alias", name: alias.to_owned() };
        let before = self.catalogue.aliases().await?.remove(alias).ok_or_else(missing)?;
        let delete = DeleteAlias { alias_name: alias.to_owned() };
        self.catalogue.change_aliases(vec![Action::DeleteAlias(delete)]).await?;
        Ok(before)
    }
}

impl Store for QdrantStore {
    fn create(&self, name: &str, schema: Schema) -> Result<CollectionInfo, StoreError> {
        self.wait(name, async {
            self.catalogue.check_free(name).await?;
            self.catalogue.create(name, &schema).await
        })?;
        Ok(CollectionInfo { name: name.to_owned(), aliases: Vec::new(), schema, documents: 0 })
    }

    fn drop_collection(&self, name: &str) -> Result<u64, StoreError> {
        self.wait(name, self.dropped(name))
    }

    fn list(&self) -> Result<Vec<CollectionInfo>, StoreError> {
        self.wait("", self.listed())
    }

    fn find(&self, name: &str) -> Result<Arc<dyn Collection>, StoreError> {
        Ok(self.wait(name, self.catalogue.look_up(name))?)
    }

    fn known(&self, name: &str) -> Option<Arc<dyn Collection>> {
        Some(self.catalogue.known(name)?)
    }

    fn set_alias(&self, alias: &str, collection: &str) -> Result<Option<String>, StoreError> {
        self.wait(collection, self.alias_set(alias, collection))
    }

    fn delete_alias(&self, alias: &str) -> Result<String, StoreError> {
        self.wait(alias, self.alias_deleted(alias))
    }

    fn snapshot(&self, _: &str, _: &str) -> Result<SnapshotInfo, StoreError> {
        Err(Lacking::new("collection", "snapshots of ours: the cluster makes its own").into())
    }

    fn restore(&self, _: &str, _: &str) -> Result<SnapshotInfo, StoreError> {
        Err(Lacking::new("snapshot", "snapshots of ours: the cluster restores its own").into())
    }

    /// Nothing to be done: what was acknowledged is the cluster's.
    fn close(&self) {}
}
