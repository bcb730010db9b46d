//! Batches between `submit` and `collect`.

use std::collections::VecDeque;

use sluice_core::{
    Operation,
    backend::{BackendError, BackendLimits, Ticket},
    batch::PackedBatch,
};

/// A queue of what was submitted; at most `in_flight_batches_max` long.
#[derive(Debug)]
pub(crate) struct Submitted<T> {
    waiting: VecDeque<(u64, T)>,
    tickets: u64,
}

impl<T> Submitted<T> {
    pub(crate) fn new() -> Self {
        Self { waiting: VecDeque::new(), tickets: 0 }
    }

    /// Keeps a batch until it is collected.
    pub(crate) fn push(&mut self, limits: &BackendLimits, batch: T) -> Result<Ticket, BackendError> {
        if self.waiting.len() >= limits.in_flight_batches_max as usize {
            return Err(BackendError::Failed(format!("{} batches are in flight already", self.waiting.len())));
        }
        let ticket = self.tickets;
        self.tickets += 1;
        self.waiting.push_back((ticket, batch));
        Ok(Ticket(ticket))
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

/// Refuses a batch over the limits.
pub(crate) fn check_limits(limits: &BackendLimits, batch: &PackedBatch) -> Result<(), BackendError> {
    let (tokens, sequences) = (batch.total_tokens(), batch.len());
    if tokens > limits.batch_tokens_max as usize || sequences > limits.batch_sequences_max as usize {
        return Err(BackendError::LimitExceeded { tokens, sequences });
    }
    Ok(())
}

/// The answer of a model's backend to a batch that no model computes.
pub(crate) fn no_vectors_here(operation: Operation) -> BackendError {
    BackendError::Failed(format!("{} is not for a model's backend", operation.name()))
}
