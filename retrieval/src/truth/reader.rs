//! A collection as it was between two batches.

use std::{
    cell::OnceCell,
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use heed::{RoTxn, WithoutTls};
use roaring::RoaringBitmap;

use super::{State, StorageError, Truth, error::corrupt, key, record};
use crate::{
    document::{SparseVector, StoredDocument},
    identity::{DocId, Lsn},
    schema::Schema,
};

/// A collection as it was between two batches: nothing that is written later is seen through it.
///
/// Keep it for a request, not longer: pages that it sees are not used again, and documents that have ended since stay in
/// the indexes, so that a search that began before an update finds the old version whole.
pub struct Reader {
    txn: RoTxn<'static, WithoutTls>,
    truth: Arc<Truth>,
    state: State,
    /// Read when it is first needed.
    live: OnceCell<RoaringBitmap>,
    _registered: Registered,
}

/// What a collection holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TruthStats {
    /// Documents.
    pub documents: u64,
    /// The last batch.
    pub lsn: Lsn,
    /// Batches that the log still has.
    pub log_entries: u64,
    /// Numbers of documents given so far, of 2^32.
    pub numbers_used: u32,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Bytes that it may grow to.
    pub map_bytes: u64,
}

impl Reader {
    pub(super) fn open(truth: &Arc<Truth>) -> Result<Self, StorageError> {
        // Registered before the snapshot is taken, under the lock that says who is the oldest: whoever asks in between
        // sees this reader at a moment that is not later than its own.
        let mut readers = truth.readers.lock();
        let txn = truth.environment.read_owned()?;
        let state = truth.state(&txn)?;
        *readers.entry(state.lsn).or_default() += 1;
        drop(readers);
        let registered = Registered { registry: Arc::clone(&truth.readers), lsn: state.lsn };
        Ok(Self { txn, truth: Arc::clone(truth), state, live: OnceCell::new(), _registered: registered })
    }

    /// The last batch that is seen.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.state.lsn
    }

    /// Documents there are.
    #[must_use]
    pub fn documents(&self) -> u64 {
        self.state.documents
    }

    /// What they look like.
    #[must_use]
    pub fn schema(&self) -> &Schema {
        &self.truth.schema
    }

    /// The documents there are.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn live(&self) -> Result<&RoaringBitmap, StorageError> {
        if let Some(live) = self.live.get() {
            return Ok(live);
        }
        let live = self.truth.bitmap(&self.txn, &key::live())?;
        Ok(self.live.get_or_init(|| live))
    }

    /// The number of the document of an id.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn find(&self, id: &str) -> Result<Option<DocId>, StorageError> {
        self.truth.find(&self.txn, id)
    }

    /// The document of a number, if it is there.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn document(&self, doc: DocId) -> Result<Option<StoredDocument>, StorageError> {
        if self.live()?.contains(doc.0) { self.stored(doc) } else { Ok(None) }
    }

    fn stored(&self, doc: DocId) -> Result<Option<StoredDocument>, StorageError> {
        self.truth.row(&self.txn, doc)?.map(|bytes| record::stored(doc, bytes)).transpose()
    }

    /// The same without its texts, which are most of it: cheaper.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn without_texts(&self, doc: DocId) -> Result<Option<StoredDocument>, StorageError> {
        if !self.live()?.contains(doc.0) {
            return Ok(None);
        }
        self.truth.row(&self.txn, doc)?.map(|bytes| record::without_texts(doc, bytes)).transpose()
    }

    /// The documents of these numbers, in their order, `None` for those that are not there.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn hydrate(&self, docs: &[DocId]) -> Result<Vec<Option<StoredDocument>>, StorageError> {
        docs.iter().map(|doc| self.document(*doc)).collect()
    }

    /// The document of an id, if it is there.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn get(&self, id: &str) -> Result<Option<StoredDocument>, StorageError> {
        self.find(id)?.map_or(Ok(None), |doc| self.stored(doc))
    }

    /// The caller's id of a document, if it is there. Cheaper than the whole document.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn id(&self, doc: DocId) -> Result<Option<String>, StorageError> {
        if !self.live()?.contains(doc.0) {
            return Ok(None);
        }
        let row = self.truth.row(&self.txn, doc)?;
        Ok(row.map(record::head).transpose()?.map(|head| head.id))
    }

    /// The number that a document's id has now: its own, or that of the version that came after it. `None` if the id is
    /// not there, or if the document ended so long ago that nothing is known of it.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn current(&self, doc: DocId) -> Result<Option<DocId>, StorageError> {
        let row = self.truth.row(&self.txn, doc)?;
        row.map(record::head).transpose()?.map_or(Ok(None), |head| self.find(&head.id))
    }

    /// Texts of a document by field, if it is there or ended so lately that an index may want them.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn texts(&self, doc: DocId) -> Result<Option<BTreeMap<String, String>>, StorageError> {
        self.truth.row(&self.txn, doc)?.map(record::texts).transpose()
    }

    /// A document's dense vector, if both are there; as with [`texts`](Self::texts), also of one that ended lately.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn dense(&self, doc: DocId, name: &str) -> Result<Option<Vec<f32>>, StorageError> {
        let place = self.schema().dense.iter().position(|field| field.name == name);
        place.map_or(Ok(None), |place| self.vector(place, doc)?.map(record::stored_dense).transpose())
    }

    /// A document's sparse vector, if both are there; as with [`texts`](Self::texts), also of one that ended lately.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn sparse(&self, doc: DocId, name: &str) -> Result<Option<SparseVector>, StorageError> {
        let place = self.schema().sparse.iter().position(|field| field.name == name);
        let place = place.map(|place| self.schema().dense.len() + place);
        place.map_or(Ok(None), |place| self.vector(place, doc)?.map(record::stored_sparse).transpose())
    }

    fn vector(&self, place: usize, doc: DocId) -> Result<Option<&[u8]>, StorageError> {
        let key = vector_key(place, doc);
        self.truth.tables.vectors.get(&self.txn, &key).map_err(|error| self.truth.fault(error))
    }

    /// How much there is.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn stats(&self) -> Result<TruthStats, StorageError> {
        let log = self.truth.tables.log.len(&self.txn);
        Ok(TruthStats {
            documents: self.state.documents,
            lsn: self.state.lsn,
            log_entries: log.map_err(|error| self.truth.fault(error))?,
            numbers_used: self.state.next,
            file_bytes: self.truth.environment.file_bytes()?,
            map_bytes: self.truth.environment.map_bytes(),
        })
    }

    pub(super) fn truth(&self) -> &Truth {
        &self.truth
    }

    pub(super) fn txn(&self) -> &RoTxn<'_> {
        &self.txn
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Truth {
    pub(super) fn find(&self, txn: &RoTxn<'_>, id: &str) -> Result<Option<DocId>, StorageError> {
        // An id that cannot be stored is no key either.
        if id.is_empty() || id.len() > Schema::ID_BYTES_MAX {
            return Ok(None);
        }
        let row = self.tables.ids.get(txn, id.as_bytes()).map_err(|error| self.fault(error))?;
        let number = |bytes: &[u8]| bytes.try_into().map(|bytes| DocId(u32::from_be_bytes(bytes)));
        row.map(number).transpose().map_err(|_| corrupt("a document's number"))
    }

    pub(super) fn row<'t>(&self, txn: &'t RoTxn<'_>, doc: DocId) -> Result<Option<&'t [u8]>, StorageError> {
        self.tables.documents.get(txn, &doc.0.to_be_bytes()).map_err(|error| self.fault(error))
    }
}

/// The key of a vector, by the place of its field among the dense and then the sparse ones.
pub(super) fn vector_key(place: usize, doc: DocId) -> [u8; 6] {
    let [high, low] = u16::try_from(place).expect("a schema has at most 128 vectors").to_be_bytes();
    let [a, b, c, d] = doc.0.to_be_bytes();
    [high, low, a, b, c, d]
}

/// The readers there are, by what they see.
#[derive(Default)]
pub(super) struct Registry {
    open: Mutex<BTreeMap<Lsn, usize>>,
    gone: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Registry {
    pub(super) fn oldest(&self) -> Option<Lsn> {
        self.lock().keys().next().copied()
    }

    pub(super) fn on_gone(&self, ring: Box<dyn Fn() + Send + Sync>) {
        // The first to ask is the collection that owns the truth; there is no second.
        let _ = self.gone.set(ring);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Lsn, usize>> {
        // Counts are changed in one step: whoever panicked meanwhile left them whole.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("open", &self.open).finish_non_exhaustive()
    }
}

/// A reader's entry, for as long as it lives.
struct Registered {
    registry: Arc<Registry>,
    lsn: Lsn,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut open = self.registry.lock();
        let last = open.get_mut(&self.lsn).is_none_or(|count| {
            *count -= 1;
            *count == 0
        });
        if last {
            open.remove(&self.lsn);
        }
        drop(open);
        if let Some(ring) = self.registry.gone.get().filter(|_| last) {
            ring();
        }
    }
}
