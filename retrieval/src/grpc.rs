//! The gRPC service: decoding, deadlines, answers. The only module that knows tonic, besides [`serve`](crate::serve).

mod call;
mod collections;
mod documents;
mod search;
mod service;
mod wire;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use sluice_service::{drain::Drain, status::Refusal};
use tokio::time::Instant;

use crate::{
    config::Limits,
    search::{Lacking, LegReport, LegState, Pool, PoolError, SearchError, Searcher, SourceError},
    store::{Collection, Store, StoreError},
    truth::StorageError,
    validate,
};

/// Threads that wait for the disk: writes that wait together are committed together.
const WRITERS: usize = 16;
/// Writes that wait for one of them.
const QUEUED_WRITES_MAX: usize = 1024;
/// When trying again makes sense where all threads are busy.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// What the services share. Complete only once the collections are open: until then calls are refused.
#[derive(Clone)]
pub struct App(Arc<Shared>);

struct Shared {
    limits: Limits,
    default_deadline: Duration,
    searcher: Searcher,
    writers: Pool,
    drain: Drain,
    store: OnceLock<Arc<dyn Store>>,
}

/// What an [`App`] is made of before its collections are there.
pub struct AppParts {
    /// Bounds of one request.
    pub limits: Limits,
    /// Deadline of a call that brings none.
    pub default_deadline: Duration,
    /// Runs searches.
    pub searcher: Searcher,
    /// Whether the shard is stopping.
    pub drain: Drain,
}

impl App {
    /// An app that refuses calls until [`open`](Self::open).
    #[must_use]
    pub fn new(parts: AppParts) -> Self {
        let AppParts { limits, default_deadline, searcher, drain } = parts;
        let writers = Pool::new(WRITERS, QUEUED_WRITES_MAX);
        Self(Arc::new(Shared { limits, default_deadline, searcher, writers, drain, store: OnceLock::new() }))
    }

    /// Lets calls in. Once; later calls change nothing.
    pub fn open(&self, store: Arc<dyn Store>) {
        let _ = self.0.store.set(store);
    }

    /// Lets the store end well, where it has been opened.
    pub async fn close(&self) {
        if let Some(store) = self.0.store.get().map(Arc::clone) {
            // Whether its thread panicked makes no difference any more.
            let _ = tokio::task::spawn_blocking(move || store.close()).await;
        }
    }

    fn default_deadline(&self) -> Duration {
        self.0.default_deadline
    }

    fn store(&self) -> Result<&Arc<dyn Store>, Refusal> {
        self.0.store.get().ok_or(Refusal::Unavailable {
            reason: "LOADING",
            message: "the collections are still being opened",
            retry_after: Some(Duration::from_secs(1)),
        })
    }

    /// The collection that a request names.
    async fn collection(
        &self,
        field: &'static str,
        name: &str,
        until: Instant,
    ) -> Result<Arc<dyn Collection>, Refusal> {
        validate::existing(field, name)?;
        if let Some(known) = self.store()?.known(name) {
            return Ok(known);
        }
        let name = name.to_owned();
        self.on_disk(until, move |store| store.find(&name)).await
    }

    /// Does what may wait for the disk. Work that has begun goes on where this answers `DEADLINE_EXCEEDED`.
    async fn on_disk<T: Send + 'static>(
        &self,
        until: Instant,
        work: impl FnOnce(&dyn Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let store = Arc::clone(self.store()?);
        let done = self.0.writers.run(until, move || work(&*store)).await;
        done.map_err(not_done)?.map_err(refusal)
    }
}

/// What a caller is told where the writers' threads did not do it.
fn not_done(error: PoolError) -> Refusal {
    match error {
        PoolError::Overloaded => overloaded("writes"),
        PoolError::TimedOut => Refusal::DeadlineExceeded { phase: "disk" },
        PoolError::Panicked => Refusal::Internal,
    }
}

fn overloaded(what: &str) -> Refusal {
    Refusal::ResourceExhausted { what: what.to_owned(), limit: QUEUED_WRITES_MAX as u64, retry_after: RETRY_AFTER }
}

/// What a caller is told about a store that did not do it.
fn refusal(error: StoreError) -> Refusal {
    match error {
        StoreError::NotFound { kind, name } => Refusal::NotFound { resource_type: kind, name },
        StoreError::Exists { .. } => Refusal::FailedPrecondition { reason: "NAME_TAKEN", message: error.to_string() },
        StoreError::TooManyCollections { .. } => {
            Refusal::FailedPrecondition { reason: "TOO_MANY_COLLECTIONS", message: error.to_string() }
        }
        StoreError::Busy { .. } => overloaded("writes"),
        StoreError::Refused(message) => Refusal::invalid("documents", message),
        StoreError::Lacks(lacking) => lacks(&lacking),
        StoreError::Unreachable(error) => unreachable(&error),
        StoreError::Full(error) => {
            tracing::error!(%error, "no room left");
            Refusal::Unavailable {
                reason: "NO_ROOM",
                message: "there is no room left for this write",
                retry_after: Some(Duration::from_secs(10)),
            }
        }
        StoreError::Failed(error) => failed(&error),
    }
}

/// What a caller is told about a search without an answer.
fn unanswered(error: SearchError) -> Refusal {
    match error {
        SearchError::Ahead { lsn } => {
            Refusal::invalid("min_lsn", format!("is ahead of the collection, which is at {lsn}"))
        }
        SearchError::Cursor(error) => {
            Refusal::FailedPrecondition { reason: "CURSOR_EXPIRED", message: format!("the cursor's page: {error}") }
        }
        SearchError::AllLegsFailed(legs) => all_failed(&legs),
        SearchError::Source(error) => failed(&error),
        SearchError::Overloaded => overloaded("searches"),
        SearchError::Expired => Refusal::DeadlineExceeded { phase: "search" },
        SearchError::Lacks(lacking) => lacks(&lacking),
        SearchError::Unreachable(error) => unreachable(&error),
        SearchError::Gone { name } => Refusal::NotFound { resource_type: "collection", name },
    }
}

/// What a caller is told whose collection failed. Readers that ran out do not: searches that end give theirs back.
fn failed(error: &SourceError) -> Refusal {
    if let Some(StorageError::Readers { max }) = error.cause.downcast_ref() {
        let (what, limit) = ("readers".to_owned(), u64::from(*max));
        return Refusal::ResourceExhausted { what, limit, retry_after: RETRY_AFTER };
    }
    tracing::error!(%error, "the store failed");
    Refusal::Internal
}

/// What a caller is told that asks an engine for what it does not do.
fn lacks(lacking: &Lacking) -> Refusal {
    Refusal::FailedPrecondition { reason: "NOT_ON_THIS_ENGINE", message: lacking.to_string() }
}

fn unreachable(error: &SourceError) -> Refusal {
    tracing::warn!(%error, "the cluster could not be reached");
    let message = "the cluster that has the collections could not be reached";
    Refusal::Unavailable { reason: "CLUSTER_UNREACHABLE", message, retry_after: Some(RETRY_AFTER) }
}

fn all_failed(legs: &[LegReport]) -> Refusal {
    let all = |states: &[LegState]| legs.iter().all(|leg| states.contains(&leg.state));
    if all(&[LegState::TimedOut, LegState::Behind]) {
        Refusal::DeadlineExceeded { phase: "legs" }
    } else if all(&[LegState::Overloaded]) {
        overloaded("legs")
    } else {
        let message = "none of the search's legs could answer";
        Refusal::Unavailable { reason: "ALL_LEGS_FAILED", message, retry_after: Some(RETRY_AFTER) }
    }
}

#[cfg(test)]
mod tests {
    use tonic::{Code, Status};

    use super::*;

    #[test]
    fn callers_can_tell_late_work_from_work_that_was_not_begun() {
        let cases = [
            (PoolError::Overloaded, Code::ResourceExhausted),
            (PoolError::TimedOut, Code::DeadlineExceeded),
            (PoolError::Panicked, Code::Internal),
        ];
        for (error, code) in cases {
            assert_eq!(Status::from(not_done(error)).code(), code, "{error:?}");
        }
    }

    #[test]
    fn readers_that_ran_out_are_an_overload() {
        let failed = |cause| SourceError::of("opening a reader")(cause);
        let cases =
            [(StorageError::Readers { max: 512 }, Code::ResourceExhausted), (StorageError::Broken, Code::Internal)];
        for (cause, code) in cases {
            assert_eq!(Status::from(unanswered(SearchError::Source(failed(cause)))).code(), code);
        }
        let read = refusal(StoreError::Failed(failed(StorageError::Readers { max: 512 })));
        assert!(matches!(read, Refusal::ResourceExhausted { limit: 512, .. }), "{read:?}");
    }
}
