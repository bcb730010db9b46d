//! Which units go into the next batch, and when.
//!
//! A state machine without I/O. Whoever drives it calls [`Scheduler::enqueue`], [`Scheduler::cancel`],
//! [`Scheduler::take_expired`] and [`Scheduler::complete`] as things happen, and after each change asks
//! [`Scheduler::next`] until it stops dispatching.
//!
//! The policy ([`Policy::Fair`]), from the outside in; all service is counted in predicted device time:
//!
//! 1. Classes share the device by weight: the one that has had the least is next (`order`).
//! 2. In a class, the request is next that would end first if tenants shared by weight, and the requests of a tenant
//!    equally: a small one overtakes a large one. One that must begin now to meet its deadline, or has waited for
//!    [`FairPolicy::ageing_max`], comes before the others of its tenant.
//! 3. A batch takes the lane of the first request and is filled in that order, in turns, up to its budgets, to a
//!    duration beyond which larger batches save nothing, and never past the deadline of a request that is in it.
//!    A unit that does not fit ends its own request's turn and not the batch.
//! 4. A batch is chosen only when a device has a slot free (late binding), so what arrives meanwhile competes for it.
//!    Of several such devices the one takes it that is predicted to be free first, then the one that was served longest
//!    ago (`devices`). While a unit that others of its request need is in flight, those run on its device only.
//! 5. A request that cannot be complete in time any more, by the part of the prediction that can be relied on, is
//!    not begun or continued: it expires.
//!
//! Invariants, asserted by `tests/simulation.rs` over seeded traffic:
//! every unit leaves exactly once (dispatched, cancelled or expired); units of a request leave in order
//! of index; no batch exceeds its budgets or mixes lanes; nothing is dispatched at or after its
//! deadline, or after its cancellation, or that cannot be in time; no slot stays free while a live unit waits that may
//! take it (of several devices: no device is idle).
//!
//! Cost: a unit is queued and leaves in constant time. A decision looks at no more requests than it packs units,
//! and [`SchedulerConfig::look_ahead_requests_max`] besides, each for a logarithm of the requests that wait.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use crate::{
    DeviceIndex, Lane, Priority, RequestId, TenantId, Time, Unit, UnitId, Worth,
    cost::{BatchShape, CostModel, duration},
};

mod backlog;
mod devices;
mod forecast;
mod order;
mod pack;
mod policy;
mod rank;
mod shared;

use backlog::Backlog;
use devices::{Devices, InFlight};
pub(crate) use forecast::QueueAhead;
pub use forecast::{Ask, Forecast, Prediction};
use order::{Order, Place, Standing};
pub use policy::{BatchBudget, FairPolicy, Policy, SchedulerConfig};
use shared::Virtual;

/// A batch between its dispatch and its completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub u64);

/// Units to run together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// To be completed under this id.
    pub batch: BatchId,
    /// Where it runs.
    pub device: DeviceIndex,
    /// The lane of every unit.
    pub lane: Lane,
    /// At least one, in the order to pack them.
    pub units: Vec<UnitId>,
    /// Sum of their costs.
    pub tokens: u32,
    /// What its time depends on.
    pub shape: BatchShape,
    /// Time that it is predicted to take.
    pub predicted: Duration,
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Run this batch, and ask again.
    Dispatch(Plan),
    /// Nothing to dispatch; something that waits may be too late then, if nothing else happens.
    WaitUntil(Time),
    /// Nothing waits.
    Idle,
}

/// A request that is too late, and waits no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expired {
    /// Which.
    pub request: RequestId,
    /// Its units that waited.
    pub units: usize,
    /// Whether its deadline is yet to come, but too soon for what is left of it.
    pub unreachable: bool,
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
    cost: CostModel,
    /// Lanes with a budget of their own.
    budgets: BTreeMap<Lane, BatchBudget>,
    order: Order,
    /// Requests with waiting units.
    waiting: HashMap<RequestId, Waiting>,
    /// Those that have changed since they were last ranked.
    changed: Vec<RequestId>,
    /// When each must have begun.
    by_latest_start: BTreeSet<(Time, u64, RequestId)>,
    queued_units: usize,
    queued_tokens: u64,
    devices: Devices,
    arrivals: u64,
    batches: u64,
}

#[derive(Debug)]
struct Waiting {
    place: Place,
    arrival: u64,
    arrived: Time,
    deadline: Time,
    worth: Worth,
    /// Never empty while the request is listed.
    units: VecDeque<Queued>,
    /// The same, summed.
    remaining: Backlog,
    /// Virtual time of its queue when it began to wait.
    origin: Virtual,
    /// Seconds of service that it has had since.
    served: f64,
    changed: bool,
    /// Where it stands; `None` before it was ranked.
    standing: Option<Standing>,
    latest_start: Time,
}

/// A unit without what it shares with the others of its request.
#[derive(Clone, Copy, Debug)]
struct Queued {
    index: u32,
    lane: Lane,
    tokens: u32,
    leads: bool,
}

impl Scheduler {
    /// An empty scheduler that knows nothing of its device.
    #[must_use]
    pub fn new(config: SchedulerConfig) -> Self {
        Self::with_cost(config, CostModel::default())
    }

    /// An empty scheduler that predicts by `cost`, and goes on learning.
    #[must_use]
    pub fn with_cost(config: SchedulerConfig, cost: CostModel) -> Self {
        Self {
            devices: Devices::new(config.devices, config.in_flight_batches_max),
            config,
            cost,
            budgets: BTreeMap::new(),
            order: Order::default(),
            waiting: HashMap::new(),
            changed: Vec::new(),
            by_latest_start: BTreeSet::new(),
            queued_units: 0,
            queued_tokens: 0,
            arrivals: 0,
            batches: 0,
        }
    }

    /// Gives a lane a budget of its own. To be called before its first unit comes.
    pub fn set_budget(&mut self, lane: Lane, budget: BatchBudget) {
        self.budgets.insert(lane, budget);
    }

    /// What a batch of a lane may hold.
    #[must_use]
    pub fn budget(&self, lane: Lane) -> BatchBudget {
        let SchedulerConfig { batch_tokens_max: tokens, batch_sequences_max: sequences, .. } = self.config;
        self.budgets.get(&lane).copied().unwrap_or(BatchBudget { tokens, sequences })
    }

    /// Adds a unit behind the others of its request. Class, tenant, deadline and worth are those of the unit with
    /// which the request began to wait.
    ///
    /// # Errors
    /// [`EnqueueError`]; the unit is then not in the queue.
    pub fn enqueue(&mut self, now: Time, unit: Unit) -> Result<(), EnqueueError> {
        let budget = self.budget(unit.lane).tokens;
        if unit.tokens > budget {
            return Err(EnqueueError::ExceedsBudget { tokens: unit.tokens, budget });
        }
        if self.queued_units >= self.config.queued_units_max {
            return Err(EnqueueError::QueueFull { queued: self.queued_units });
        }
        let id = unit.id.request;
        let place = self.place(unit.class, unit.tenant);
        let weight = self.fair().map_or(1.0, |fair| fair.tenant_weight(unit.tenant));
        let waiting = self.waiting.entry(id).or_insert_with(|| {
            self.arrivals += 1;
            Waiting::new(place, self.arrivals, now, &unit, self.order.enter(place, weight))
        });
        if !waiting.changed {
            waiting.changed = true;
            self.changed.push(id);
        }
        waiting.units.push_back(Queued {
            index: unit.id.index,
            lane: unit.lane,
            tokens: unit.tokens,
            leads: unit.leads,
        });
        let shape = BatchShape::of(unit.tokens);
        waiting.remaining.add(unit.lane, shape);
        self.order.backlog_mut(waiting.place).add(unit.lane, shape);
        self.queued_units += 1;
        self.queued_tokens += u64::from(unit.tokens);
        Ok(())
    }

    /// Removes what waits of a request, and says how many units that was. What is in flight stays there.
    pub fn cancel(&mut self, request: RequestId) -> usize {
        let Some(waiting) = self.waiting.remove(&request) else { return 0 };
        if let Some(standing) = waiting.standing {
            self.order.withdraw(waiting.place, standing);
            self.by_latest_start.remove(&(waiting.latest_start, waiting.arrival, request));
        }
        let backlog = self.order.backlog_mut(waiting.place);
        for (lane, shape) in waiting.remaining.lanes() {
            backlog.subtract(lane, shape);
        }
        // One that was served to its end has left its share early.
        let served = waiting.units.is_empty().then_some((Virtual(waiting.origin.0 + waiting.served), waiting.arrival));
        self.order.leave(waiting.place, served);
        self.queued_units -= waiting.units.len();
        self.queued_tokens -= waiting.units.iter().map(|unit| u64::from(unit.tokens)).sum::<u64>();
        waiting.units.len()
    }

    /// Removes and returns every request that is too late at `now`: its deadline has come, or what is left of it
    /// cannot be done before.
    pub fn take_expired(&mut self, now: Time) -> Vec<Expired> {
        self.rank_changed(now);
        let due: Vec<RequestId> =
            self.by_latest_start.iter().take_while(|(start, ..)| *start <= now).map(|(.., id)| *id).collect();
        let mut expired = Vec::new();
        for request in due {
            let Some(waiting) = self.waiting.get(&request) else { continue };
            if self.is_late(now, request, waiting) {
                let unreachable = waiting.deadline > now;
                expired.push(Expired { request, units: self.cancel(request), unreachable });
            } else {
                // The prediction has become shorter since it was ranked.
                self.rank(now, request);
            }
        }
        expired
    }

    /// What to do at `now`. Never dispatches what is too late.
    pub fn next(&mut self, now: Time) -> Decision {
        self.rank_changed(now);
        for device in self.devices.with_a_slot(now) {
            if let Some(plan) = self.pack(now, device) {
                return Decision::Dispatch(plan);
            }
        }
        self.by_latest_start.first().map_or(Decision::Idle, |(start, ..)| Decision::WaitUntil(*start))
    }

    /// Frees the slot of a batch and learns from the time it took on the device. Returns whether it was in flight.
    pub fn complete(&mut self, now: Time, batch: BatchId, measured: Duration) -> bool {
        let Some(InFlight { lane, shape, .. }) = self.devices.finish(batch) else { return false };
        self.cost.observe(now, lane, shape, measured);
        true
    }

    /// Frees the slot of a batch whose time says nothing: it failed, or was tried again in parts. Returns whether it
    /// was in flight.
    pub fn abandon(&mut self, batch: BatchId) -> bool {
        self.devices.finish(batch).is_some()
    }

    /// When a request that came in now would be complete, after what waits already.
    #[must_use]
    pub fn predict_completion(&self, now: Time, ask: &Ask) -> Time {
        now + self.forecast(now).predict(now, ask).completion
    }

    /// What is known of the time ahead, to be published to whoever admits requests.
    #[must_use]
    pub fn forecast(&self, now: Time) -> Forecast {
        Forecast::new(now, self.devices.busy(now), &self.config.policy, &self.cost, &self.order)
    }

    /// What it has learnt of its device.
    #[must_use]
    pub fn cost(&self) -> &CostModel {
        &self.cost
    }

    /// The same, to restore what an earlier process has learnt.
    pub fn cost_mut(&mut self) -> &mut CostModel {
        &mut self.cost
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
        self.devices.in_flight()
    }

    fn fair(&self) -> Option<&FairPolicy> {
        match &self.config.policy {
            Policy::Fifo => None,
            Policy::Fair(fair) => Some(fair),
        }
    }

    fn place(&self, class: Priority, tenant: TenantId) -> Place {
        if self.fair().is_some() {
            Place { class, tenant }
        } else {
            Place { class: Priority::Standard, tenant: TenantId(0) }
        }
    }
}

impl Waiting {
    fn new(place: Place, arrival: u64, arrived: Time, unit: &Unit, origin: Virtual) -> Self {
        Self {
            place,
            arrival,
            arrived,
            deadline: unit.deadline,
            worth: unit.worth,
            units: VecDeque::new(),
            remaining: Backlog::default(),
            origin,
            served: 0.0,
            changed: false,
            standing: None,
            latest_start: Time::MAX,
        }
    }
}

#[cfg(test)]
mod tests;
