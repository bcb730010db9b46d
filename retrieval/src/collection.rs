//! A collection: its truth, the thread that writes, and the threads that feed its indexes.
//!
//! ```text
//! submit ─► queue ─► writer ─ one transaction, one fsync ─► acknowledged
//!                                │ rings
//!                                ▼
//!                     appliers, one an index: log ─► index ─► progress
//! ```
//!
//! A write is acknowledged when the truth has it. The indexes follow, each in its own time; [`Collection::reached`] waits
//! for one. What an index finds is looked up through a [`Reader`], which shows whole documents of one moment, so that a
//! search never shows half of an update, wherever the indexes are.
//!
//! # Start
//!
//! An index that keeps something on disk goes on where that ends; one that keeps nothing, or from where the log does not
//! reach on, is filled with all documents. Both happen beside searches, which see [`Progress::filled`].
//!
//! # Folder
//!
//! ```text
//! truth/data.mdb          documents, log: everything else can be made from it
//! indexes/                one folder an index
//! ```

mod applier;
mod bell;
mod leg;
mod snapshot;
mod writer;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    thread::{self, JoinHandle},
};

use tokio::sync::{
    mpsc::{self, error::TrySendError},
    oneshot,
};

pub(crate) use self::snapshot::remove_unfinished;
pub use self::{
    applier::Progress,
    leg::{FeedError, Follower, Index, Leg},
    snapshot::{SNAPSHOT_MANIFEST, SnapshotError, SnapshotManifest, restore},
    writer::{PendingWrite, WriteError},
};
use self::{
    applier::{Applier, Station},
    bell::Bell,
    writer::{Backlog, Job, Writer},
};
use crate::{
    identity::Lsn,
    schema::Schema,
    truth::{Batch, MAP_BYTES_DEFAULT, Operation, Reader, StorageError, Truth},
};

/// Bounds of a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollectionOptions {
    /// Bytes that its truth may grow to. Address space alone: the file is as long as what is in it.
    pub map_bytes: u64,
    /// Batches that wait to be written. Beyond, a caller waits or is refused.
    pub queue_batches_max: usize,
    /// Bytes of batches that an index may be behind. Beyond, a commit waits for it, a second at most.
    pub lag_bytes_max: u64,
}

impl Default for CollectionOptions {
    fn default() -> Self {
        Self { map_bytes: MAP_BYTES_DEFAULT, queue_batches_max: 64, lag_bytes_max: 256 << 20 }
    }
}

/// A collection could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its truth could not.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// One of its indexes could not.
    #[error("{leg}: {fault}")]
    Index {
        /// Which.
        leg: Leg,
        /// Why.
        fault: FeedError,
    },
    /// No thread could be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// A leg did not get as far as was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LegFault {
    /// The collection has no such leg.
    #[error("the collection has no leg {0}")]
    Unknown(Leg),
    /// It failed, and is tried again.
    #[error("{leg} is at {lsn} and does not go on: {fault}")]
    Stuck {
        /// Which.
        leg: Leg,
        /// How far it is.
        lsn: Lsn,
        /// Why.
        fault: String,
    },
    /// The collection was closed.
    #[error("the collection is closed")]
    Closed,
}

/// Opens the indexes of a collection: given its folder for indexes and its schema.
pub type OpenFollowers<'a> = dyn Fn(&Path, &Schema) -> Result<Vec<(Leg, Arc<dyn Follower>)>, OpenError> + 'a;

/// A collection that is open. Shared between threads by reference; closed when dropped.
pub struct Collection {
    truth: Arc<Truth>,
    folder: PathBuf,
    options: CollectionOptions,
    bell: Arc<Bell>,
    stations: Vec<Arc<Station>>,
    /// Taken when it closes.
    running: Mutex<Option<Running>>,
}

struct Running {
    jobs: mpsc::Sender<Job>,
    writer: JoinHandle<()>,
    appliers: Vec<JoinHandle<()>>,
}

impl Collection {
    /// Creates a collection in a folder that is not there yet.
    ///
    /// # Errors
    /// [`OpenError`]. The schema must be good ([`Schema::check`]).
    pub fn create(
        folder: &Path,
        schema: &Schema,
        options: CollectionOptions,
        followers: &OpenFollowers<'_>,
    ) -> Result<Self, OpenError> {
        let truth = Truth::create(&truth_folder(folder), schema, options.map_bytes)?;
        Self::start(folder, truth, options, followers)
    }

    /// Opens the collection in a folder: what was acknowledged is there.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(folder: &Path, options: CollectionOptions, followers: &OpenFollowers<'_>) -> Result<Self, OpenError> {
        let truth = Truth::open(&truth_folder(folder), options.map_bytes)?;
        Self::start(folder, truth, options, followers)
    }

    fn start(
        folder: &Path,
        truth: Arc<Truth>,
        options: CollectionOptions,
        followers: &OpenFollowers<'_>,
    ) -> Result<Self, OpenError> {
        let bell = Arc::new(Bell::default());
        let gone = Arc::clone(&bell);
        truth.on_reader_gone(move || gone.ring());
        let followers = followers(&indexes_folder(folder), truth.schema())?;
        let stations: Vec<_> =
            followers.into_iter().map(|(leg, follower)| Arc::new(Station::new(leg, follower))).collect();
        let (jobs, queue) = mpsc::channel(options.queue_batches_max.max(1));
        let writer = Writer {
            truth: Arc::clone(&truth),
            jobs: queue,
            bell: Arc::clone(&bell),
            stations: stations.clone(),
            backlog: Backlog::new(options.lag_bytes_max),
        };
        let writer = spawn("shard-writer".to_owned(), move || writer.run())?;
        let running = Mutex::new(Some(Running { jobs, writer, appliers: Vec::new() }));
        // From here on, an error drops the collection, which ends the threads that it has.
        let collection = Self { truth, folder: folder.to_owned(), options, bell, stations, running };
        for station in &collection.stations {
            let applier =
                Applier::new(Arc::clone(station), Arc::clone(&collection.truth), Arc::clone(&collection.bell));
            let thread = spawn(format!("feed-{}", station.leg), move || applier.run())?;
            if let Some(running) = &mut *collection.lock() {
                running.appliers.push(thread);
            }
        }
        Ok(collection)
    }

    /// What its documents look like.
    #[must_use]
    pub fn schema(&self) -> &Arc<Schema> {
        self.truth.schema()
    }

    /// The collection as it is now.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn read(&self) -> Result<Reader, StorageError> {
        self.truth.read()
    }

    /// Checks a batch and puts it in the queue, waiting for room. Batches are written in the order in which they come to
    /// be in the queue.
    ///
    /// # Errors
    /// [`WriteError::Batch`], [`WriteError::Closed`].
    pub async fn submit(&self, operations: Vec<Operation>) -> Result<PendingWrite, WriteError> {
        let batch = Batch::check(self.schema(), operations)?;
        let jobs = self.jobs()?;
        let (job, pending) = job(batch);
        jobs.send(job).await.map_err(|_| WriteError::Closed)?;
        Ok(pending)
    }

    /// Like [`submit`](Self::submit), without waiting.
    ///
    /// # Errors
    /// [`WriteError::Batch`], [`WriteError::Busy`], [`WriteError::Closed`].
    pub fn try_submit(&self, operations: Vec<Operation>) -> Result<PendingWrite, WriteError> {
        let batch = Batch::check(self.schema(), operations)?;
        let (job, pending) = job(batch);
        self.jobs()?.try_send(job).map_err(|refused| match refused {
            TrySendError::Full(_) => WriteError::Busy { max: self.options.queue_batches_max },
            TrySendError::Closed(_) => WriteError::Closed,
        })?;
        Ok(pending)
    }

    /// The legs there are and how far each is.
    #[must_use]
    pub fn progress(&self) -> Vec<(Leg, Progress)> {
        self.stations.iter().map(|station| (station.leg.clone(), station.progress.borrow().clone())).collect()
    }

    /// Waits until a leg finds everything up to and with a batch; whoever waits sets the time. Reads opened afterwards
    /// see that batch as well.
    ///
    /// # Errors
    /// [`LegFault`]: at once where the leg fails before it is there.
    pub async fn reached(&self, leg: &Leg, lsn: Lsn) -> Result<(), LegFault> {
        self.progressed(leg, |progress| progress.filled && progress.lsn >= lsn).await
    }

    /// Waits until what ended up to and with a batch is gone from a leg: not before readers from before it are gone.
    ///
    /// # Errors
    /// As [`reached`](Self::reached).
    pub async fn settled(&self, leg: &Leg, lsn: Lsn) -> Result<(), LegFault> {
        self.progressed(leg, |progress| progress.filled && progress.complete >= lsn).await
    }

    async fn progressed(&self, leg: &Leg, there: impl Fn(&Progress) -> bool) -> Result<(), LegFault> {
        let station = self.station(leg)?;
        let mut progress = station.progress.subscribe();
        let found = progress.wait_for(|progress| there(progress) || progress.fault.is_some()).await;
        match found.map_err(|_| LegFault::Closed)?.clone() {
            progress if there(&progress) => Ok(()),
            Progress { lsn, fault, .. } => {
                Err(LegFault::Stuck { leg: leg.clone(), lsn, fault: fault.unwrap_or_default() })
            }
        }
    }

    /// The index of a leg, to be searched.
    ///
    /// # Errors
    /// [`LegFault::Unknown`].
    pub fn index(&self, leg: &Leg) -> Result<Index, LegFault> {
        self.station(leg)?.follower.index().ok_or_else(|| LegFault::Unknown(leg.clone()))
    }

    /// Has an index filled again from the truth, beside everything else. Searches find what is there meanwhile.
    ///
    /// # Errors
    /// [`LegFault::Unknown`].
    pub fn rebuild(&self, leg: &Leg) -> Result<(), LegFault> {
        let station = self.station(leg)?;
        station.rebuild.store(true, Ordering::Release);
        // Said before it begins, so that who waits for the leg does not find it there still.
        station.progress.send_modify(|progress| progress.filled = false);
        self.bell.ring();
        Ok(())
    }

    /// Ends its threads: what waits to be written is written first, and indexes are made durable. Calls that come later
    /// are refused. Waits for all of that.
    pub fn close(&self) {
        let Some(Running { jobs, writer, appliers }) = self.lock().take() else { return };
        drop(jobs);
        // A thread that panicked has said so, and took nothing with it that was acknowledged.
        let _ = writer.join();
        self.bell.end();
        for applier in appliers {
            let _ = applier.join();
        }
    }

    pub(crate) fn truth(&self) -> &Arc<Truth> {
        &self.truth
    }

    /// Where it lies.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn station(&self, leg: &Leg) -> Result<&Arc<Station>, LegFault> {
        let found = self.stations.iter().find(|station| station.leg == *leg);
        found.ok_or_else(|| LegFault::Unknown(leg.clone()))
    }

    fn jobs(&self) -> Result<mpsc::Sender<Job>, WriteError> {
        self.lock().as_ref().map(|running| running.jobs.clone()).ok_or(WriteError::Closed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Collection {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Collection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collection").field("folder", &self.folder).field("stations", &self.stations).finish()
    }
}

/// Where a collection's truth lies.
fn truth_folder(folder: &Path) -> PathBuf {
    folder.join("truth")
}

/// Where its indexes lie: all of it can be made from the truth.
pub(crate) fn indexes_folder(folder: &Path) -> PathBuf {
    folder.join("indexes")
}

fn job(batch: Batch) -> (Job, PendingWrite) {
    let (sender, done) = oneshot::channel();
    (Job { batch, done: sender }, PendingWrite { done })
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenError> {
    thread::Builder::new().name(name).spawn(run).map_err(OpenError::Thread)
}

#[cfg(test)]
mod tests;
