//! A request between its submission and its last result.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use sluice_core::{
    Lane, Operation, RequestId, Time,
    batch::{Role, Sequence},
};

use super::{Submission, permit::Permit, sink::Sink};

/// Shared by whoever waits for it, the driver while units wait, and each batch that carries some.
/// The permit goes with the last of them.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) id: RequestId,
    pub(super) lane: Lane,
    /// By unit index.
    pub(super) sequences: Vec<Sequence>,
    pub(super) deadline: Time,
    pub(super) submitted: Time,
    /// Shared apart from the request, so that it can be filled by who holds no room any more.
    pub(super) sink: Arc<Sink>,
    /// Set when nobody waits any more: a cancellation may overtake its submission.
    abandoned: AtomicBool,
    _permit: Permit,
}

impl Request {
    pub(super) fn new(id: RequestId, submission: Submission, submitted: Time) -> Self {
        let Submission { lane, sequences, deadline, permit } = submission;
        let sink = Arc::new(Sink::new(sequences.len()));
        Self { id, lane, sequences, deadline, submitted, sink, abandoned: AtomicBool::new(false), _permit: permit }
    }

    /// Whom a sequence of it can share a batch with.
    pub(super) fn lane_of(&self, sequence: &Sequence) -> Lane {
        let Lane { model, operation } = self.lane;
        let operation = match (&sequence.role, operation) {
            (Role::Compared(_), Operation::Align) => Operation::Align,
            (Role::Compared(_), _) => Operation::MaxSim,
            (Role::Plain | Role::Query(_) | Role::Document(_), operation) => operation,
        };
        Lane { model, operation }
    }

    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
    }

    /// Whether somebody still waits for its results, and can have them.
    pub(super) fn is_wanted(&self) -> bool {
        !self.is_abandoned() && !self.sink.has_failed()
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }
}
