//! The thread that writes.
//!
//! Batches wait in a queue of bounded length. The thread takes what waits there, up to a bound, and commits it in one
//! transaction with one fsync; then each is acknowledged, in order. Where the transaction fails, each batch is tried by
//! itself, so that one that does not fit is no one else's failure.
//!
//! What an index has not followed yet is kept: its log, and the documents that it replaced. Where that gets too much, the
//! thread waits for the index before it commits, the queue fills, and callers wait for their turn; but for so long only,
//! since an index that is filled anew, or held back by a search, is no reason to write nothing.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot};

use super::{applier::Station, bell::Bell};
use crate::{
    identity::Lsn,
    metrics,
    truth::{Batch, BatchFault, StorageError, Truth, Written},
};

/// Batches that share a commit.
const GROUP_BATCHES_MAX: usize = 64;
/// Bytes of batches that share a commit: what stands in memory besides the queue.
const GROUP_BYTES_MAX: usize = 64 << 20;
/// Between two looks at how far indexes are that are too far behind.
const LOOK: Duration = Duration::from_millis(2);
/// Looks before a commit waits no longer: a second.
const LOOKS_MAX: u32 = 500;

/// A batch was not written. Nothing of it is there.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// An operation cannot be done.
    #[error(transparent)]
    Batch(#[from] BatchFault),
    /// As many batches wait as may.
    #[error("{max} batches wait already")]
    Busy {
        /// The bound.
        max: usize,
    },
    /// The collection was closed or dropped.
    #[error("the collection is closed")]
    Closed,
    /// The store refused.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A batch that waits for its turn.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) batch: Batch,
    pub(super) done: oneshot::Sender<Result<Written, WriteError>>,
}

/// A batch that was accepted. It is written whether this is waited for or not.
#[derive(Debug)]
pub struct PendingWrite {
    pub(super) done: oneshot::Receiver<Result<Written, WriteError>>,
}

impl PendingWrite {
    /// Waits until it is durable.
    ///
    /// # Errors
    /// [`WriteError`]: nothing of it is there. `Closed` if the writer ended, and then it is not known.
    pub async fn durable(self) -> Result<Written, WriteError> {
        self.done.await.unwrap_or(Err(WriteError::Closed))
    }

    /// Like [`durable`](Self::durable), for threads that may block.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn wait(self) -> Result<Written, WriteError> {
        self.done.blocking_recv().unwrap_or(Err(WriteError::Closed))
    }
}

/// Writes what comes until no one can send any more.
pub(super) struct Writer {
    pub(super) truth: Arc<Truth>,
    pub(super) jobs: mpsc::Receiver<Job>,
    pub(super) bell: Arc<Bell>,
    pub(super) stations: Vec<Arc<Station>>,
    pub(super) backlog: Backlog,
}

/// Batches that some index has not done with.
pub(super) struct Backlog {
    batches: VecDeque<(Lsn, u64)>,
    bytes: u64,
    /// Beyond, writes wait.
    bytes_max: u64,
}

impl Backlog {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { batches: VecDeque::new(), bytes: 0, bytes_max }
    }

    fn add(&mut self, lsn: Lsn, bytes: u64) {
        self.batches.push_back((lsn, bytes));
        self.bytes += bytes;
    }

    /// Every index is done with everything up to and with `lsn`.
    fn done(&mut self, lsn: Lsn) {
        while let Some(&(_, bytes)) = self.batches.front().filter(|(first, _)| *first <= lsn) {
            self.batches.pop_front();
            self.bytes -= bytes;
        }
    }

    fn is_full(&self) -> bool {
        self.bytes > self.bytes_max
    }
}

impl Writer {
    pub(super) fn run(mut self) {
        while let Some(first) = self.jobs.blocking_recv() {
            let mut bytes = first.batch.bytes();
            let mut group = vec![first];
            while group.len() < GROUP_BATCHES_MAX && bytes < GROUP_BYTES_MAX {
                let Ok(job) = self.jobs.try_recv() else { break };
                bytes += job.batch.bytes();
                group.push(job);
            }
            self.let_indexes_follow();
            self.commit(group);
            self.bell.ring();
        }
    }

    /// Waits while indexes are too far behind, for some time; not where one fails, which may last.
    fn let_indexes_follow(&mut self) {
        if self.may_go_on() {
            return;
        }
        metrics::writes_waited();
        let mut looks = 0;
        while looks < LOOKS_MAX && !self.may_go_on() {
            self.bell.pause(LOOK);
            looks += 1;
        }
    }

    fn may_go_on(&mut self) -> bool {
        let progress = || self.stations.iter().map(|station| station.progress.borrow());
        let failing = progress().any(|progress| progress.fault.is_some());
        let done = progress().map(|progress| progress.complete).min().unwrap_or(Lsn(u64::MAX));
        self.backlog.done(done);
        failing || !self.backlog.is_full()
    }

    fn commit(&mut self, group: Vec<Job>) {
        let batches: Vec<_> = group.iter().map(|job| &job.batch).collect();
        match self.truth.write(&batches, self.floor()) {
            Ok(written) => {
                for (job, written) in group.into_iter().zip(written) {
                    self.backlog.add(written.lsn, job.batch.bytes() as u64);
                    answer(job, Ok(written));
                }
            }
            Err(fault) if group.len() == 1 => {
                if let Some(job) = group.into_iter().next() {
                    answer(job, Err(fault.into()));
                }
            }
            Err(_) => group.into_iter().for_each(|job| self.commit(vec![job])),
        }
    }

    /// The log up to and with here is needed by no index. Without indexes, none is.
    fn floor(&self) -> Lsn {
        self.stations.iter().map(|station| station.floor()).min().unwrap_or(Lsn(u64::MAX))
    }
}

fn answer(job: Job, result: Result<Written, WriteError>) {
    // Who asked may have gone; the batch is written all the same.
    let _ = job.done.send(result);
}
