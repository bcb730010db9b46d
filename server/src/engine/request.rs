//! A request between its submission and its last result.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use sluice_core::{Lane, RequestId, Time, admission::Outcome, batch::Sequence};

use super::{
    EngineError, Submission,
    permit::{Permit, Terms},
    sink::Sink,
};

/// Shared by whoever waits for it, the driver while units wait, and each batch that carries some.
/// The permit goes with the last of them.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) id: RequestId,
    pub(super) lane: Lane,
    /// By unit index.
    pub(super) sequences: Vec<Sequence>,
    pub(super) submitted: Time,
    /// Shared apart from the request, so that it can be filled by who holds no room any more.
    pub(super) sink: Arc<Sink>,
    /// Set when nobody waits any more: a cancellation may overtake its submission.
    abandoned: AtomicBool,
    permit: Permit,
}

impl Request {
    pub(super) fn new(id: RequestId, submission: Submission, submitted: Time) -> Self {
        let Submission { lane, sequences, permit } = submission;
        let sink = Arc::new(Sink::new(sequences.len()));
        Self { id, lane, sequences, submitted, sink, abandoned: AtomicBool::new(false), permit }
    }

    /// Whom a sequence of it can share a batch with.
    pub(super) fn lane_of(&self, sequence: &Sequence) -> Lane {
        super::lane_of(self.lane, sequence)
    }

    pub(super) fn terms(&self) -> Terms {
        self.permit.terms()
    }

    /// The scheduler knows all of it.
    pub(super) fn queued(&self) {
        self.permit.queued();
    }

    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
    }

    /// Whether somebody still waits for its results, and can have them.
    pub(super) fn is_wanted(&self) -> bool {
        !self.is_abandoned() && self.sink.failure().is_none()
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }
}

impl Drop for Request {
    /// Says how it ended, which admission learns from.
    fn drop(&mut self) {
        let late = || match self.sink.failure() {
            Some(EngineError::Expired | EngineError::Unreachable) => true,
            Some(_) => false,
            None => self.permit.now() >= self.permit.terms().deadline,
        };
        self.permit.note(match self.sink.is_complete() {
            true => Outcome::Answered,
            false if late() => Outcome::Late,
            false => Outcome::Gone,
        });
    }
}
