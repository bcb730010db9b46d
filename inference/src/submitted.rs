//! Batches between `submit` and `collect`, and why some are refused: what every backend here has in common.

use std::{collections::VecDeque, fmt::Display, sync::Arc};

use sluice_core::{
    Operation,
    backend::{BackendError, BackendLimits, Ticket},
    batch::PackedBatch,
};

/// A backend's limits, and the queue of what was submitted; at most `in_flight_batches_max` long.
#[derive(Debug)]
pub(crate) struct Submitted<T> {
    limits: BackendLimits,
    waiting: VecDeque<(u64, T)>,
    tickets: u64,
}

impl<T> Submitted<T> {
    pub(crate) fn new(limits: BackendLimits) -> Self {
        Self { limits, waiting: VecDeque::new(), tickets: 0 }
    }

    pub(crate) fn limits(&self) -> BackendLimits {
        self.limits
    }

    /// Refuses a batch over the limits.
    pub(crate) fn check(&self, batch: &PackedBatch) -> Result<(), BackendError> {
        let (tokens, sequences) = (batch.total_tokens(), batch.len());
        if tokens > self.limits.batch_tokens_max as usize || sequences > self.limits.batch_sequences_max as usize {
            return Err(BackendError::LimitExceeded { tokens, sequences });
        }
        Ok(())
    }

    /// Refuses a batch while as many as may be are in flight.
    pub(crate) fn check_room(&self) -> Result<(), BackendError> {
        if self.waiting.len() >= self.limits.in_flight_batches_max as usize {
            return Err(BackendError::Failed(format!("{} batches are in flight already", self.waiting.len())));
        }
        Ok(())
    }

    /// Whether none is in flight.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Keeps a batch until it is collected.
    pub(crate) fn push(&mut self, batch: T) -> Result<Ticket, BackendError> {
        self.check_room()?;
        let ticket = self.tickets;
        self.tickets += 1;
        self.waiting.push_back((ticket, batch));
        Ok(Ticket(ticket))
    }

    /// The batch of `ticket`, if it is the first that was not collected.
    pub(crate) fn first(&self, ticket: &Ticket) -> Option<&T> {
        self.waiting.front().filter(|(first, _)| *first == ticket.0).map(|(_, batch)| batch)
    }

    /// Takes out the batch of `ticket`, which must be the first that was not collected.
    pub(crate) fn pop(&mut self, ticket: &Ticket) -> Result<T, BackendError> {
        if self.waiting.front().is_none_or(|(first, _)| *first != ticket.0) {
            return Err(BackendError::Failed(format!("{ticket:?} is not the next to be collected")));
        }
        let (_, batch) = self.waiting.pop_front().expect("the first was just looked at");
        Ok(batch)
    }

    /// Forgets everything that was submitted.
    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
    }
}

impl Submitted<Arc<PackedBatch>> {
    /// Keeps a batch within the limits until it is collected: main memory overlaps nothing, so it is computed then.
    pub(crate) fn submit(&mut self, batch: Arc<PackedBatch>) -> Result<Ticket, BackendError> {
        self.check(&batch)?;
        self.push(batch)
    }
}

/// The answer of a model's backend to a batch that no model computes.
pub(crate) fn no_vectors_here(operation: Operation) -> BackendError {
    BackendError::Failed(format!("{} is not for a model's backend", operation.name()))
}

/// A batch that failed, and why; a part of it may succeed.
pub(crate) fn failed(error: impl Display) -> BackendError {
    BackendError::Failed(error.to_string())
}
