//! The thread that writes.
//!
//! Batches wait in a queue of bounded length. The thread takes what waits there, up to a bound, and commits it in one
//! transaction with one fsync; then each is acknowledged, in order. Where the transaction fails, each batch is tried by
//! itself, so that one that does not fit is no one else's failure.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::{applier::Station, bell::Bell};
use crate::{
    identity::Lsn,
    truth::{Batch, BatchFault, StorageError, Truth, Written},
};

/// Batches that share a commit.
const GROUP_BATCHES_MAX: usize = 64;
/// Bytes of batches that share a commit: what stands in memory besides the queue.
const GROUP_BYTES_MAX: usize = 64 << 20;

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
            self.commit(group);
            self.bell.ring();
        }
    }

    fn commit(&self, group: Vec<Job>) {
        let batches: Vec<_> = group.iter().map(|job| &job.batch).collect();
        match self.truth.write(&batches, self.floor()) {
            Ok(written) => group.into_iter().zip(written).for_each(|(job, written)| answer(job, Ok(written))),
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
