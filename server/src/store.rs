//! The token store as the server uses it: lookups where they are asked for, changes on a thread that may wait for a disk.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use sluice_service::status::Refusal;
use sluice_tokenstore::{
    self as tokenstore, Compact, CompactError, Compacted, ContentHash, DeleteError, Layout, LayoutError, ModelDigest,
    Namespace, OpenError, PutDocument, PutError, Stats, Storage, Stored, TokenStore, Tokens,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    config::TokenStoreConfig,
    job::{DeleteJob, StoredAs},
    subject::StoredVectors,
    vectors::{OwnedComponents, OwnedVectors},
};

mod kept;
mod refusals;

use kept::Kept;
use refusals::{disk, read_only, refusal};

/// A store that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// How far behind its writer a store that is only read may be.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// Puts that are encoded or stored at a time: each has up to `put_vectors_max` vectors in memory. Two, so that one is
/// encoded while the other waits for the disk.
const PUTS_MAX: usize = 2;

/// Changes that wait for the store's thread; further ones wait in their own request's task, in order.
const WAITING_CHANGES_MAX: usize = 64;

type Change = Box<dyn FnOnce() + Send>;

/// Cheap to clone; its thread ends with the last clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<TokenStore>,
    /// The store changes one thing at a time: one thread is enough, and waits for the disk instead of the network's.
    changes: mpsc::Sender<Change>,
    /// How vectors of a new collection are kept where nothing is said.
    storage: StoredAs,
    read_only: bool,
    /// Puts whose vectors are in memory.
    puts: Arc<Semaphore>,
    /// Compactions that run.
    compactions: Arc<Semaphore>,
    /// Reads anew what another process writes, until the last clone is gone.
    following: Option<Arc<AbortOnDropHandle<()>>>,
}

/// Documents to keep: all of them or none.
pub struct Batch {
    /// Where.
    pub namespace: Namespace,
    /// Whose vectors these are.
    pub model: ModelDigest,
    /// Components of a vector.
    pub dim: usize,
    /// How to keep them; `None` as those of the collection, or of a new one as configured.
    pub storage: Option<StoredAs>,
    /// Each of `dim` components.
    pub documents: Vec<BatchDocument>,
}

/// One document to keep.
pub struct BatchDocument {
    /// 1 to 512 bytes.
    pub id: String,
    /// SHA-256 of its text.
    pub content_hash: ContentHash,
    /// The vectors stand for a part of it.
    pub truncated: bool,
    /// The vectors.
    pub vectors: OwnedVectors,
}

impl Store {
    /// Opens the store in `dir`, or makes one. Blocks.
    ///
    /// # Errors
    /// [`StoreError`] names the file and what was expected of it.
    pub fn open(dir: &Path, config: &TokenStoreConfig) -> Result<Self, StoreError> {
        let options =
            tokenstore::Options { segment_bytes_max: config.segment_bytes_max, ..tokenstore::Options::default() };
        let inner = if config.read_only { TokenStore::open_read_only(dir)? } else { TokenStore::open(dir, options)? };
        let (changes, mut waiting) = mpsc::channel::<Change>(WAITING_CHANGES_MAX);
        thread::Builder::new().name("sluice-token-store".to_owned()).spawn(move || {
            while let Some(change) = waiting.blocking_recv() {
                // A change that panics loses its reply, which its caller sees; the thread goes on.
                let _ = catch_unwind(AssertUnwindSafe(change));
            }
        })?;
        Ok(Self {
            inner: Arc::new(inner),
            changes,
            storage: config.storage,
            read_only: config.read_only,
            puts: Arc::new(Semaphore::new(PUTS_MAX)),
            compactions: Arc::new(Semaphore::new(1)),
            following: None,
        })
    }

    /// The same; one that is only read takes over what another process writes, now and then. Inside a runtime.
    #[must_use]
    pub fn following(mut self) -> Self {
        if self.read_only {
            let follower = self.clone();
            self.following = Some(Arc::new(AbortOnDropHandle::new(tokio::spawn(follower.follow()))));
        }
        self
    }

    /// Whether it may be changed at all, before work is spent on a change.
    ///
    /// # Errors
    /// [`Refusal::FailedPrecondition`] for a store that is only read.
    pub fn check_writable(&self) -> Result<(), Refusal> {
        if self.read_only { Err(read_only()) } else { Ok(()) }
    }

    /// Waits until the vectors of one more put may be in memory.
    pub async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        // Never closed.
        Arc::clone(&self.puts).acquire_owned().await.ok()
    }

    /// `work` on the store's thread.
    async fn on_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        let store = self.clone();
        let change = Box::new(move || {
            // Whoever asked may have left: a change that has begun is not undone.
            let _ = reply.send(work(&store));
        });
        self.changes.send(change).await.map_err(|_| Refusal::Internal)?;
        answer.await.unwrap_or_else(|_| {
            tracing::error!("the token store panicked");
            Err(Refusal::Internal)
        })
    }

    async fn follow(self) {
        let mut ticks = tokio::time::interval(REFRESH_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let refreshed = self.on_thread(|store| {
                if let Err(error) = store.inner.refresh() {
                    tracing::error!(%error, "the token store cannot be read anew; what was read stays");
                }
                Ok(())
            });
            // What there is to say has been logged.
            let _ = refreshed.await;
        }
    }

    /// What is kept of each document. Touches the disk only for vectors that were not read before.
    #[must_use]
    pub fn look_up(&self, namespace: &Namespace, model: ModelDigest, ids: &[&str]) -> Vec<Option<StoredVectors>> {
        let found = self.inner.lookup(namespace, model, ids);
        self.log_corrupt();
        let vectors = |stored: Stored| StoredVectors {
            content_hash: stored.content_hash(),
            truncated: stored.truncated(),
            vectors: Arc::new(Kept(stored)),
        };
        found.into_iter().map(|stored| stored.map(vectors)).collect()
    }

    /// Keeps documents, durably, all or none. What is `held` is let go when that is done, though the caller may have left.
    ///
    /// # Errors
    /// [`Refusal::FailedPrecondition`] if vectors are kept in another way there, [`Refusal::InvalidArgument`] for a
    /// document that does not fit, [`Refusal::Unavailable`] if the disk refuses.
    pub async fn put(&self, batch: Batch, held: impl Send + 'static) -> Result<(), Refusal> {
        let put = move |store: &Self| {
            let result = store.put_now(batch);
            drop(held);
            result
        };
        self.on_thread(put).await
    }

    /// Removes documents, durably, and says how many were there, counted once per model. `held` as for [`put`](Self::put).
    ///
    /// # Errors
    /// [`Refusal::FailedPrecondition`] for a store that is only read, [`Refusal::Unavailable`] if the disk refuses.
    pub async fn delete(&self, job: DeleteJob, held: impl Send + 'static) -> Result<u64, Refusal> {
        let delete = move |store: &Self| {
            let deleted = store.inner.delete(&job.namespace, None, &job.ids);
            drop(held);
            match deleted {
                Ok(deleted) => Ok(deleted as u64),
                Err(DeleteError::ReadOnly) => Err(read_only()),
                Err(DeleteError::Disk(error)) => Err(disk(&error)),
            }
        };
        self.on_thread(delete).await
    }

    /// Rewrites files without what was replaced or deleted.
    ///
    /// # Errors
    /// As for [`delete`](Self::delete).
    pub async fn compact(&self, namespace: Option<Namespace>) -> Result<Compacted, Refusal> {
        // Every file that holds anything dead: whoever asks wants the space.
        let which = Compact::DeadShare(0.0);
        self.check_writable()?;
        // Beside the store's thread: compaction goes on while documents are put. One at a time, so that those who wait
        // for it hold no thread.
        let turn = Arc::clone(&self.compactions).acquire_owned().await;
        let store = self.clone();
        let compacted = tokio::task::spawn_blocking(move || {
            let done = match &namespace {
                Some(namespace) => store.inner.compact_namespace(namespace, which),
                None => store.inner.compact(which),
            };
            drop(turn);
            match done {
                Ok(done) => Ok(done),
                Err(CompactError::ReadOnly) => Err(read_only()),
                Err(CompactError::Disk(error)) => Err(disk(&error)),
                Err(CompactError::CorruptSegment(file)) => {
                    tracing::error!(%file, "a segment of the token store is damaged, and left as it is");
                    Err(Refusal::Internal)
                }
            }
        })
        .await;
        compacted.unwrap_or_else(|error| {
            tracing::error!(%error, "the token store panicked");
            Err(Refusal::Internal)
        })
    }

    /// What is kept.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.inner.stats()
    }

    /// Whether vectors of that kind can be put there, before work is spent on making them. Another put may still come
    /// first: [`put`](Self::put) checks again.
    ///
    /// # Errors
    /// [`Refusal::FailedPrecondition`] if vectors are kept in another way there.
    pub fn check_layout(
        &self,
        namespace: &Namespace,
        model: ModelDigest,
        (storage, dim): (Option<StoredAs>, usize),
    ) -> Result<(), Refusal> {
        let Some(collection) = self.inner.layout(namespace, model) else { return Ok(()) };
        let asked = Layout::new(storage.map_or(collection.storage(), storage_of), dim).map_err(unstorable)?;
        if asked == collection { Ok(()) } else { Err(refusal(PutError::Layout { collection, asked })) }
    }

    fn put_now(&self, batch: Batch) -> Result<(), Refusal> {
        let Batch { namespace, model, dim, storage, documents } = batch;
        let known = self.inner.layout(&namespace, model).map(|layout| stored_as(layout.storage()));
        let storage = storage.or(known).unwrap_or(self.storage);
        let layout = Layout::new(storage_of(storage), dim).map_err(unstorable)?;
        // What comes in int8 and is kept in another way goes through plain numbers.
        let documents: Vec<BatchDocument> = documents.into_iter().map(|document| document.kept_as(storage)).collect();
        let puts: Vec<PutDocument<'_>> = documents.iter().map(BatchDocument::as_put).collect();
        self.inner.put(&namespace, model, layout, &puts).map(|_| ()).map_err(refusal)
    }

    fn log_corrupt(&self) {
        for record in self.inner.take_corrupt_records() {
            tracing::error!(?record, "a stored document is corrupt, and counts as missing");
        }
    }
}

impl BatchDocument {
    fn kept_as(self, storage: StoredAs) -> Self {
        let same = matches!(
            (&self.vectors.components, storage),
            (OwnedComponents::F32(_) | OwnedComponents::F16(_), _) | (OwnedComponents::Int8 { .. }, StoredAs::Int8)
        );
        if same {
            return self;
        }
        Self { vectors: self.vectors.into_matrix().into(), ..self }
    }

    fn as_put(&self) -> PutDocument<'_> {
        let vectors = match &self.vectors.components {
            OwnedComponents::F32(x) => Tokens::F32(x),
            OwnedComponents::F16(x) => Tokens::F16(x),
            OwnedComponents::Int8 { codes, scales } => Tokens::Int8 { codes, scales },
        };
        PutDocument { id: &self.id, content_hash: self.content_hash, truncated: self.truncated, vectors }
    }
}

fn unstorable(error: LayoutError) -> Refusal {
    Refusal::invalid("model", error.to_string())
}

fn storage_of(storage: StoredAs) -> Storage {
    match storage {
        StoredAs::F16 => Storage::F16,
        StoredAs::Int8 => Storage::Int8,
        StoredAs::Binary => Storage::Binary,
    }
}

/// How a collection keeps components, as configurations and messages say it.
pub(crate) fn stored_as(storage: Storage) -> StoredAs {
    match storage {
        Storage::F16 | Storage::F32 => StoredAs::F16,
        Storage::Int8 => StoredAs::Int8,
        Storage::Binary => StoredAs::Binary,
    }
}
