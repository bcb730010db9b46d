//! Puts and deletes.

use std::{collections::HashSet, sync::PoisonError};

use crate::{
    DeleteError, DocumentFault, Layout, ModelDigest, Namespace, Put, PutDocument, PutError, TokenStore,
    batch::Batch,
    collection::{Collection, CollectionKey, index::Index},
    segment::HEADER_BYTES,
    store::{
        Access,
        writer::{Appended, Writer},
    },
};

impl TokenStore {
    /// Stores documents, all or none of them. They are durable when it returns, and found by every lookup from then on;
    /// of two of the same id, the later counts. The collection's layout is that of its first put.
    ///
    /// Quantises before it waits for other writers; then waits for two syncs.
    ///
    /// # Errors
    /// [`PutError`]. Nothing was stored, and nothing appears after a restart. (One exception is nobody's to avoid: if
    /// the disk reports a failure when the batch's commit is synced, refuses every change from then on, and the process
    /// dies, the batch is there, all of it, should the commit have reached the disk.)
    pub fn put(
        &self,
        namespace: &Namespace,
        model: ModelDigest,
        layout: Layout,
        documents: &[PutDocument<'_>],
    ) -> Result<Put, PutError> {
        if let Access::Read(_) = self.access {
            return Err(PutError::ReadOnly);
        }
        let key = CollectionKey { namespace: namespace.clone(), model };
        self.check_collection(&key, layout)?;
        let batch = self.batch(layout, documents)?;
        if batch.is_empty() {
            return Ok(Put::default());
        }
        let mut writer = self.writer().ok_or(PutError::ReadOnly)?;
        self.check_collection(&key, layout)?;
        let replaced = replaced(self.collection(&key).as_deref(), documents);
        let appended = writer.append(&key, layout, &batch)?;
        self.enter(&key, layout, &appended);
        Ok(Put { documents: documents.len(), replaced, bytes: batch.bytes() })
    }

    /// Removes documents from one model's collection of a namespace, or from every model's. Ids that are not stored are
    /// passed over. Durable when it returns. Returns how many documents were removed.
    ///
    /// # Errors
    /// [`DeleteError`]; documents of other collections, or of earlier ids, may be removed already.
    pub fn delete(
        &self,
        namespace: &Namespace,
        model: Option<ModelDigest>,
        ids: &[impl AsRef<str>],
    ) -> Result<usize, DeleteError> {
        let ids: Vec<&str> = ids.iter().map(AsRef::as_ref).collect();
        let mut writer = self.writer().ok_or(DeleteError::ReadOnly)?;
        let mut keys: Vec<CollectionKey> = self.collections().into_keys().collect();
        keys.retain(|key| key.namespace == *namespace && model.is_none_or(|model| key.model == model));
        keys.sort_unstable();
        let mut removed = 0;
        for key in keys {
            let Some(collection) = self.collection(&key) else { continue };
            removed += self.delete_from(&mut writer, &collection, &ids)?;
        }
        Ok(removed)
    }

    fn delete_from(&self, writer: &mut Writer, collection: &Collection, ids: &[&str]) -> Result<usize, DeleteError> {
        let mut stored: Vec<&str> = {
            let index = collection.index();
            ids.iter().copied().filter(|id| index.contains(id)).collect()
        };
        stored.sort_unstable();
        stored.dedup();
        let layout = collection.layout;
        let mut ids = stored.iter().peekable();
        while ids.peek().is_some() {
            let mut batch = Batch::new(layout);
            let room = self.batch_bytes_max() - Batch::bytes_of_one(layout, "", 0) - Self::ID_BYTES_MAX as u64;
            while let Some(id) = ids.next_if(|_| batch.bytes() < room) {
                batch.bury(id, None);
            }
            let appended = writer.append(&collection.key, layout, &batch)?;
            self.enter(&collection.key, layout, &appended);
        }
        Ok(stored.len())
    }

    fn check_collection(&self, key: &CollectionKey, layout: Layout) -> Result<(), PutError> {
        let collections = self.collections.read().unwrap_or_else(PoisonError::into_inner);
        match collections.get(key) {
            Some(known) if known.layout != layout => Err(PutError::Layout { collection: known.layout, asked: layout }),
            None if collections.len() >= self.options.collections_max => {
                Err(PutError::TooManyCollections { max: self.options.collections_max })
            }
            _ => Ok(()),
        }
    }

    /// Bytes that a batch may have: what a segment holds beside its header.
    pub(crate) fn batch_bytes_max(&self) -> u64 {
        self.options.segment_bytes_max - HEADER_BYTES
    }

    fn batch(&self, layout: Layout, documents: &[PutDocument<'_>]) -> Result<Batch, PutError> {
        let max = self.batch_bytes_max();
        let mut batch = Batch::new(layout);
        for (position, document) in documents.iter().enumerate() {
            let refused = |fault| PutError::Document { position, fault };
            // Before anything is copied: what the document will need is known from its shape.
            let rows = document.vectors.rows(layout.dim()).map_err(|error| refused(error.into()))?;
            let rows = u32::try_from(rows).unwrap_or(u32::MAX);
            let bytes = Batch::bytes_of_one(layout, document.id, rows);
            if bytes > max && document.id.len() <= Self::ID_BYTES_MAX {
                return Err(refused(DocumentFault::TooLarge { bytes, max }));
            }
            batch.put(document).map_err(refused)?;
            if batch.bytes() > max {
                return Err(PutError::BatchTooLarge { position, max });
            }
        }
        Ok(batch)
    }

    /// Lets lookups find what is durable: all of it from one moment on.
    fn enter(&self, key: &CollectionKey, layout: Layout, appended: &Appended<'_>) {
        let apply = |index: &mut Index| {
            let map = &appended.map;
            let slot = index.slot(appended.segment);
            let slot = slot.unwrap_or_else(|| index.add_segment(appended.segment, map.clone()));
            index.set_map(slot, map);
            appended.batch.records.iter().for_each(|record| index.apply(slot, record));
        };
        if let Some(collection) = self.collection(key) {
            apply(&mut collection.index_mut());
            return;
        }
        let mut index = Index::new(layout);
        apply(&mut index);
        let collection = Collection::new(key.clone(), layout, index);
        let mut collections = self.collections.write().unwrap_or_else(PoisonError::into_inner);
        collections.insert(key.clone(), collection.into());
    }
}

/// How many documents are stored already, or come earlier in the batch.
fn replaced(collection: Option<&Collection>, documents: &[PutDocument<'_>]) -> usize {
    let index = collection.map(Collection::index);
    let mut seen = HashSet::with_capacity(documents.len());
    let mut is_replaced = |id| !seen.insert(id) || index.as_ref().is_some_and(|index| index.contains(id));
    documents.iter().map(|document| document.id).filter(|id| is_replaced(*id)).count()
}
