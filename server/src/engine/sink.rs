//! Where a request's results arrive: one per request, never one per pair.
//!
//! The executor fills slots and never waits; the reader takes whatever has come since it last looked.
//! A slow reader therefore costs at most its own request's results, and merges updates instead of
//! queueing them.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sluice_core::{
    Time,
    batch::{Alignment, TokenMatrix},
};
use tokio::sync::Notify;

use super::EngineError;

/// The result of one unit.
#[derive(Clone, Debug, PartialEq)]
pub enum SlotValue {
    /// A score; 0 for the query of a late-interaction request.
    Score(f32),
    /// A vector per token.
    Tokens(TokenMatrix),
    /// A pooled vector.
    Dense(Vec<f32>),
    /// A score, taken apart.
    Alignment(Alignment),
}

/// What [`next`](super::Answer::next) returns.
#[derive(Debug, PartialEq)]
pub enum Progress {
    /// New results, by unit index; at least one. More may follow.
    Ready(Vec<(u32, SlotValue)>),
    /// Every unit's result has been returned.
    Done,
}

#[derive(Debug)]
pub(super) struct Sink {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    ready: Vec<(u32, SlotValue)>,
    /// Units without a result. 0 means complete.
    remaining: usize,
    failure: Option<EngineError>,
    first_dispatch: Option<Time>,
    compute: Duration,
}

impl Sink {
    pub(super) fn new(slots: usize) -> Self {
        let state =
            State { ready: Vec::new(), remaining: slots, failure: None, first_dispatch: None, compute: Duration::ZERO };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    /// Takes results of one batch. After a failure they are dropped.
    pub(super) fn fill(&self, results: Vec<(u32, SlotValue)>) {
        let mut state = self.lock();
        if state.failure.is_none() {
            state.remaining -= results.len();
            state.ready.extend(results);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Ends the request. The first failure counts, and only while something is missing.
    pub(super) fn fail(&self, error: EngineError) {
        let mut state = self.lock();
        if state.remaining > 0 && state.failure.is_none() {
            state.failure = Some(error);
            // What was computed in time is worth something to who asked for parts.
            if !matches!(error, EngineError::Expired | EngineError::Unreachable) {
                state.ready = Vec::new();
            }
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Notes that a batch carries a part. Returns whether it is the first.
    pub(super) fn dispatched(&self, now: Time) -> bool {
        let mut state = self.lock();
        let first = state.first_dispatch.is_none();
        state.first_dispatch.get_or_insert(now);
        first
    }

    /// Adds the time of a batch that carried a part.
    pub(super) fn computed(&self, time: Duration) {
        self.lock().compute += time;
    }

    pub(super) fn times(&self) -> (Option<Time>, Duration) {
        let state = self.lock();
        (state.first_dispatch, state.compute)
    }

    /// Whether every unit has its result. One that failed has not: some of its units may still wait.
    pub(super) fn is_complete(&self) -> bool {
        self.lock().remaining == 0
    }

    /// Why nothing more comes, if so.
    pub(super) fn failure(&self) -> Option<EngineError> {
        self.lock().failure
    }

    pub(super) async fn next(&self) -> Result<Progress, EngineError> {
        loop {
            if let Some(progress) = self.take() {
                return progress;
            }
            // A notification since `take` is kept for us: there is one reader.
            self.changed.notified().await;
        }
    }

    fn take(&self) -> Option<Result<Progress, EngineError>> {
        let mut state = self.lock();
        if !state.ready.is_empty() {
            return Some(Ok(Progress::Ready(std::mem::take(&mut state.ready))));
        }
        if let Some(error) = state.failure {
            return Some(Err(error));
        }
        (state.remaining == 0).then_some(Ok(Progress::Done))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics with the lock held, and each update is complete in itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
