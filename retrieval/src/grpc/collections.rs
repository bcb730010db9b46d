//! Collections, their names, their copies.

use sluice_proto::retrieval::v1 as messages;
use sluice_service::status::Refusal;
use tokio::time::Instant;

use super::{App, wire};
use crate::{
    metrics as counted,
    store::{CollectionInfo, CollectionStats, StoreError},
    validate,
};

impl App {
    pub(super) async fn create(
        &self,
        request: messages::CreateCollectionRequest,
        deadline: Instant,
    ) -> Result<messages::CreateCollectionResponse, Refusal> {
        let (name, schema) = validate::create_collection(request)?;
        let (created, count) =
            self.on_disk(deadline, move |store| Ok((store.create(&name, schema)?, store.list()?.len()))).await?;
        counted::collections(count);
        tracing::info!(collection = created.name, "collection created");
        Ok(messages::CreateCollectionResponse { collection: Some(collection(created)) })
    }

    pub(super) async fn drop_whole(
        &self,
        request: messages::DropCollectionRequest,
        deadline: Instant,
    ) -> Result<messages::DropCollectionResponse, Refusal> {
        let name = request.name;
        validate::existing("name", &name)?;
        let dropped = name.clone();
        let (documents, count) =
            self.on_disk(deadline, move |store| Ok((store.drop_collection(&name)?, store.list()?.len()))).await?;
        counted::collections(count);
        tracing::info!(collection = dropped, documents, "collection dropped");
        Ok(messages::DropCollectionResponse { documents })
    }

    pub(super) async fn list(
        &self,
        _: messages::ListCollectionsRequest,
        deadline: Instant,
    ) -> Result<messages::ListCollectionsResponse, Refusal> {
        let collections = self.on_disk(deadline, |store| store.list()).await?;
        Ok(messages::ListCollectionsResponse { collections: collections.into_iter().map(collection).collect() })
    }

    pub(super) async fn move_alias(
        &self,
        request: messages::SetAliasRequest,
        deadline: Instant,
    ) -> Result<messages::SetAliasResponse, Refusal> {
        validate::alias(&request)?;
        let previous =
            self.on_disk(deadline, move |store| store.set_alias(&request.alias, &request.collection)).await?;
        Ok(messages::SetAliasResponse { previous: previous.unwrap_or_default() })
    }

    pub(super) async fn remove_alias(
        &self,
        request: messages::DeleteAliasRequest,
        deadline: Instant,
    ) -> Result<messages::DeleteAliasResponse, Refusal> {
        validate::existing("alias", &request.alias)?;
        let collection = self.on_disk(deadline, move |store| store.delete_alias(&request.alias)).await?;
        Ok(messages::DeleteAliasResponse { collection })
    }

    pub(super) async fn collection_stats(
        &self,
        request: messages::StatsRequest,
        deadline: Instant,
    ) -> Result<messages::StatsResponse, Refusal> {
        let name = request.collection;
        if !name.is_empty() {
            validate::existing("collection", &name)?;
        }
        let collections = self.on_disk(deadline, move |store| {
            if !name.is_empty() {
                return Ok(vec![store.find(&name)?.stats()?]);
            }
            let mut all = Vec::new();
            for listed in store.list()? {
                match store.find(&listed.name).and_then(|found| found.stats()) {
                    // Dropped meanwhile.
                    Err(StoreError::NotFound { .. }) => {}
                    found => all.push(found?),
                }
            }
            Ok(all)
        });
        Ok(messages::StatsResponse { collections: collections.await?.into_iter().map(stats).collect() })
    }

    pub(super) async fn snapshot_collection(
        &self,
        request: messages::SnapshotRequest,
        deadline: Instant,
    ) -> Result<messages::SnapshotResponse, Refusal> {
        validate::snapshot(&request)?;
        let copied = self.on_disk(deadline, move |store| store.snapshot(&request.collection, &request.name)).await?;
        Ok(messages::SnapshotResponse { lsn: copied.lsn.0, documents: copied.documents, bytes: copied.bytes })
    }

    pub(super) async fn restore_collection(
        &self,
        request: messages::RestoreRequest,
        deadline: Instant,
    ) -> Result<messages::RestoreResponse, Refusal> {
        validate::restore(&request)?;
        let work = move |store: &dyn crate::store::Store| {
            let restored = store.restore(&request.snapshot, &request.collection)?;
            Ok((restored, store.list()?.len()))
        };
        let (restored, count) = self.on_disk(deadline, work).await?;
        counted::collections(count);
        Ok(messages::RestoreResponse { lsn: restored.lsn.0, documents: restored.documents })
    }
}

fn collection(info: CollectionInfo) -> messages::Collection {
    let CollectionInfo { name, aliases, schema, documents } = info;
    messages::Collection { name, aliases, schema: Some(wire::schema(&schema)), documents }
}

fn stats(stats: CollectionStats) -> messages::CollectionStats {
    let indexes = stats.indexes.into_iter().map(|index| messages::IndexStats {
        name: index.name,
        engine: index.engine,
        documents: index.documents,
        applied_lsn: index.applied.0,
        bytes: index.bytes,
    });
    messages::CollectionStats {
        name: stats.name,
        documents: stats.documents,
        lsn: stats.lsn.0,
        bytes: stats.bytes,
        indexes: indexes.collect(),
    }
}
