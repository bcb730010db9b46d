//! Where one request's scores arrive, whoever computes them.
//!
//! As the engine's sink: whoever fills never waits, and a slow reader merges updates.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use sluice_core::{Priority, TenantId, Time};
use tokio::sync::Notify;

use crate::engine::{EngineError, Progress, SlotValue, permit::Terms};

/// What decides how soon a request's units are computed, beside their places in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rank {
    pub(super) priority: Priority,
    pub(super) deadline: Time,
    pub(super) tenant: TenantId,
}

impl Rank {
    /// Orders the more urgent first.
    pub(super) fn order(self) -> (usize, Time) {
        (self.class(), self.deadline)
    }

    /// 0 for the most urgent.
    pub(super) fn class(self) -> usize {
        self.priority.index()
    }
}

impl From<Terms> for Rank {
    fn from(terms: Terms) -> Self {
        Self { priority: terms.class, deadline: terms.deadline, tenant: terms.tenant }
    }
}

/// Tokens behind a request's scores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// That went through the model for it.
    pub computed: u64,
    /// That did not have to: their scores were kept, or were being computed for another request.
    pub cached: u64,
}

/// A request that waits for scores.
#[derive(Debug)]
pub(super) struct Waiting {
    /// No other has it.
    pub(super) id: u64,
    pub(super) rank: Rank,
    slots: Mutex<Slots>,
    changed: Notify,
    inherited: Notify,
    /// Units that it has undertaken to compute, ever; and those of them that are computed. Units are computed about in
    /// the order in which they were undertaken.
    undertaken: AtomicU32,
    settled: AtomicU32,
}

#[derive(Debug)]
struct Slots {
    ready: Vec<(u32, SlotValue)>,
    /// By unit.
    filled: Vec<bool>,
    remaining: usize,
    failure: Option<EngineError>,
    /// Units whose owners left them to this request.
    inherited: Vec<u32>,
    /// Of each submission: time to its first batch, and time of its batches.
    times: Vec<(Duration, Duration)>,
    /// Tokens of all units; and those that this request sent through the model.
    tokens: u64,
    computed_tokens: u64,
}

impl Waiting {
    /// Waits for `units` values, without that of the query, if it is one of the units and thus the first; `tokens` are
    /// those of all of them.
    pub(super) fn new(id: u64, rank: Rank, (units, query): (usize, bool), tokens: u64) -> Self {
        let mut filled = vec![false; units];
        filled[..usize::from(query)].fill(true);
        let slots = Slots {
            ready: Vec::new(),
            filled,
            remaining: units - usize::from(query),
            failure: None,
            inherited: Vec::new(),
            times: Vec::new(),
            tokens,
            computed_tokens: 0,
        };
        Self {
            id,
            rank,
            slots: Mutex::new(slots),
            changed: Notify::new(),
            inherited: Notify::new(),
            undertaken: AtomicU32::new(0),
            settled: AtomicU32::new(0),
        }
    }

    /// Takes values. The first one of a unit counts: the same score may be computed twice.
    pub(super) fn fill(&self, values: impl IntoIterator<Item = (u32, SlotValue)>) {
        let mut slots = self.lock();
        for (unit, value) in values {
            if slots.failure.is_none() && !std::mem::replace(&mut slots.filled[unit as usize], true) {
                slots.remaining -= 1;
                slots.ready.push((unit, value));
            }
        }
        drop(slots);
        self.changed.notify_one();
    }

    /// Ends the request, unless it has ended. What is ready goes with it, unless it was only late.
    pub(super) fn fail(&self, error: EngineError) {
        let mut slots = self.lock();
        if slots.remaining > 0 && slots.failure.is_none() {
            slots.failure = Some(error);
            // What came in time is worth something to who asked for parts.
            if !matches!(error, EngineError::Expired | EngineError::Unreachable) {
                slots.ready = Vec::new();
            }
        }
        drop(slots);
        self.changed.notify_one();
    }

    pub(super) fn failure(&self) -> Option<EngineError> {
        self.lock().failure
    }

    pub(super) fn is_complete(&self) -> bool {
        self.lock().remaining == 0
    }

    /// Gives it a unit whose owner has left.
    pub(super) fn inherit(&self, unit: u32) {
        self.lock().inherited.push(unit);
        self.inherited.notify_one();
    }

    /// Units to compute from now on, once there are some. None of them has its value.
    pub(super) async fn inheritance(&self) -> Vec<u32> {
        loop {
            // A notification since the look is kept for us: one task waits here.
            self.inherited.notified().await;
            let mut slots = self.lock();
            let mut units = std::mem::take(&mut slots.inherited);
            units.retain(|unit| !slots.filled[*unit as usize]);
            drop(slots);
            if !units.is_empty() {
                units.sort_unstable();
                return units;
            }
        }
    }

    /// Says where one more unit stands among those that this request computes.
    pub(super) fn undertake(&self) -> u32 {
        self.undertaken.fetch_add(1, Ordering::Relaxed)
    }

    /// Some of those are computed.
    pub(super) fn settle(&self, units: u32) {
        self.settled.fetch_add(units, Ordering::Relaxed);
    }

    /// Units that this request computes before the one at `place`, about.
    pub(super) fn ahead_of(&self, place: u32) -> u32 {
        place.saturating_sub(self.settled.load(Ordering::Relaxed))
    }

    /// A submission of so many tokens; its number.
    pub(super) fn submitted(&self, tokens: u64) -> usize {
        let mut slots = self.lock();
        slots.computed_tokens += tokens;
        slots.times.push((Duration::ZERO, Duration::ZERO));
        slots.times.len() - 1
    }

    /// Where the time of a submission went so far.
    pub(super) fn timed(&self, submission: usize, times: (Duration, Duration)) {
        self.lock().times[submission] = times;
    }

    /// Time to the first batch; and the sum over all batches.
    pub(super) fn times(&self) -> (Duration, Duration) {
        let slots = self.lock();
        let queue = slots.times.first().map_or(Duration::ZERO, |(queue, _)| *queue);
        (queue, slots.times.iter().map(|(_, compute)| *compute).sum())
    }

    pub(super) fn tokens(&self) -> Tokens {
        let slots = self.lock();
        let computed = slots.computed_tokens;
        // A query may go through the model twice, where documents were inherited.
        Tokens { computed, cached: slots.tokens.saturating_sub(computed) }
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
        let mut slots = self.lock();
        if !slots.ready.is_empty() {
            return Some(Ok(Progress::Ready(std::mem::take(&mut slots.ready))));
        }
        if let Some(error) = slots.failure {
            return Some(Err(error));
        }
        (slots.remaining == 0).then_some(Ok(Progress::Done))
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        // No code panics with the lock held, and each update is complete in itself.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
