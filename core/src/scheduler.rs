//! Which units go into the next batch, and when.
//!
//! A state machine without I/O. Whoever drives it calls [`Scheduler::enqueue`], [`Scheduler::cancel`],
//! [`Scheduler::take_expired`] and [`Scheduler::complete`] as things happen, and after each change asks
//! [`Scheduler::next`] until it stops dispatching.
//!
//! The policy: requests in order of deadline, then of arrival. A batch takes the lane of the first
//! request and packs units of that lane, request by request, until its token budget is full; a unit
//! that does not fit ends its own request's turn and not the batch. A batch is chosen only when a slot
//! is free (late binding), so what arrives meanwhile competes for it.
//!
//! Invariants, asserted by `tests/simulation.rs` over seeded traffic:
//! every unit leaves exactly once (dispatched, cancelled or expired); units of a request leave in order
//! of index; no batch exceeds its budgets or mixes lanes; nothing is dispatched at or after its
//! deadline, or after its cancellation; no slot stays free while a live unit waits.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use crate::{Lane, RequestId, Time, Unit, UnitId};

/// Bounds of a scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Tokens of one batch: bounds activation memory and how long a newcomer waits for the slot.
    pub batch_tokens_max: u32,
    /// Sequences of one batch.
    pub batch_sequences_max: u32,
    /// Batches dispatched and not completed.
    pub in_flight_batches_max: u32,
    /// Units that wait; more are refused. Bounds the scheduler's memory.
    pub queued_units_max: usize,
    /// Requests looked at for one batch whose next unit did not fit: bounds the time of a decision.
    pub look_ahead_requests_max: usize,
}

/// A batch between its dispatch and its completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub u64);

/// Units to run together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// To be completed under this id.
    pub batch: BatchId,
    /// The lane of every unit.
    pub lane: Lane,
    /// At least one, in the order to pack them.
    pub units: Vec<UnitId>,
    /// Sum of their costs.
    pub tokens: u32,
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Run this batch, and ask again.
    Dispatch(Plan),
    /// Nothing to dispatch; a deadline passes then.
    WaitUntil(Time),
    /// Nothing waits.
    Idle,
}

/// Why a unit was not enqueued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnqueueError {
    /// The queue is at its bound.
    #[error("{queued} units wait already")]
    QueueFull {
        /// Units waiting.
        queued: usize,
    },
    /// No batch could ever hold it.
    #[error("a unit of {tokens} tokens exceeds the batch budget of {budget}")]
    ExceedsBudget {
        /// Its cost.
        tokens: u32,
        /// Tokens of one batch.
        budget: u32,
    },
}

/// See the [module](self).
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    /// Requests with waiting units, in the order in which they are served.
    order: BTreeMap<Rank, RequestId>,
    waiting: HashMap<RequestId, WaitingRequest>,
    queued_units: usize,
    queued_tokens: u64,
    in_flight: HashMap<BatchId, Lane>,
    arrivals: u64,
    batches: u64,
}

/// Earlier deadline first, then earlier arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    deadline: Time,
    arrival: u64,
}

#[derive(Debug)]
struct WaitingRequest {
    rank: Rank,
    /// Never empty while the request is listed.
    units: VecDeque<Unit>,
}

impl Scheduler {
    /// An empty scheduler.
    #[must_use]
    pub fn new(config: SchedulerConfig) -> Self {
        Self {
            config,
            order: BTreeMap::new(),
            waiting: HashMap::new(),
            queued_units: 0,
            queued_tokens: 0,
            in_flight: HashMap::new(),
            arrivals: 0,
            batches: 0,
        }
    }

    /// Adds a unit behind the others of its request. The request's place is that of the unit with which
    /// it began to wait: all units of a request are expected to have one deadline.
    ///
    /// # Errors
    /// [`EnqueueError`]; the unit is then not in the queue.
    pub fn enqueue(&mut self, unit: Unit) -> Result<(), EnqueueError> {
        if unit.tokens > self.config.batch_tokens_max {
            return Err(EnqueueError::ExceedsBudget { tokens: unit.tokens, budget: self.config.batch_tokens_max });
        }
        if self.queued_units >= self.config.queued_units_max {
            return Err(EnqueueError::QueueFull { queued: self.queued_units });
        }
        let request = unit.id.request;
        let entry = self.waiting.entry(request).or_insert_with(|| {
            let rank = Rank { deadline: unit.deadline, arrival: self.arrivals };
            self.arrivals += 1;
            self.order.insert(rank, request);
            WaitingRequest { rank, units: VecDeque::new() }
        });
        entry.units.push_back(unit);
        self.queued_units += 1;
        self.queued_tokens += u64::from(unit.tokens);
        Ok(())
    }

    /// Removes what waits of a request, and says how many units that was. What is in flight stays there.
    pub fn cancel(&mut self, request: RequestId) -> usize {
        let Some(waiting) = self.waiting.remove(&request) else { return 0 };
        self.order.remove(&waiting.rank);
        self.forget(&waiting.units);
        waiting.units.len()
    }

    /// Removes and returns every request whose deadline is not after `now`, with the number of its units that waited.
    pub fn take_expired(&mut self, now: Time) -> Vec<(RequestId, usize)> {
        let mut expired = Vec::new();
        while let Some((&rank, &request)) = self.order.first_key_value() {
            if rank.deadline > now {
                break;
            }
            expired.push((request, self.cancel(request)));
        }
        expired
    }

    /// What to do at `now`. Never dispatches a request whose deadline is not after `now`.
    pub fn next(&mut self, now: Time) -> Decision {
        let Some(earliest) = self.order.keys().next().map(|rank| rank.deadline) else { return Decision::Idle };
        if self.in_flight.len() < self.config.in_flight_batches_max as usize
            && let Some(plan) = self.pack(now)
        {
            return Decision::Dispatch(plan);
        }
        Decision::WaitUntil(earliest)
    }

    /// Frees the slot of a batch. Returns whether it was in flight.
    ///
    /// The measured cost is taken now and used by later policies; this one does not predict.
    pub fn complete(&mut self, _now: Time, batch: BatchId, _measured: Duration) -> bool {
        self.in_flight.remove(&batch).is_some()
    }

    /// Units that wait.
    #[must_use]
    pub fn queued_units(&self) -> usize {
        self.queued_units
    }

    /// Tokens of the units that wait.
    #[must_use]
    pub fn queued_tokens(&self) -> u64 {
        self.queued_tokens
    }

    /// Batches dispatched and not completed.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    fn pack(&mut self, now: Time) -> Option<Plan> {
        let mut units = Vec::new();
        let mut tokens = 0_u32;
        let mut lane = None;
        let mut drained = Vec::new();
        let mut passed_over = 0;
        for (rank, request) in self.order.range(Rank { deadline: now, arrival: u64::MAX }..) {
            let waiting = self.waiting.get_mut(request).expect("an ordered request waits");
            let before = units.len();
            while let Some(unit) = waiting.units.front() {
                let fits = unit.tokens <= self.config.batch_tokens_max - tokens
                    && units.len() < self.config.batch_sequences_max as usize
                    && *lane.get_or_insert(unit.lane) == unit.lane;
                if !fits {
                    break;
                }
                tokens += unit.tokens;
                units.push(unit.id);
                waiting.units.pop_front();
            }
            if waiting.units.is_empty() {
                drained.push((*rank, *request));
            } else if units.len() == before {
                passed_over += 1;
            }
            let full =
                tokens == self.config.batch_tokens_max || units.len() == self.config.batch_sequences_max as usize;
            if full || passed_over > self.config.look_ahead_requests_max {
                break;
            }
        }
        for (rank, request) in drained {
            self.order.remove(&rank);
            self.waiting.remove(&request);
        }
        let lane = lane?;
        self.queued_units -= units.len();
        self.queued_tokens -= u64::from(tokens);
        let batch = BatchId(self.batches);
        self.batches += 1;
        self.in_flight.insert(batch, lane);
        Some(Plan { batch, lane, units, tokens })
    }

    fn forget(&mut self, units: &VecDeque<Unit>) {
        self.queued_units -= units.len();
        self.queued_tokens -= units.iter().map(|unit| u64::from(unit.tokens)).sum::<u64>();
    }
}

#[cfg(test)]
mod tests;
