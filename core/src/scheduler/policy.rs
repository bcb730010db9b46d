//! Bounds of a scheduler, and in which order it serves.

use std::{collections::BTreeMap, num::NonZero, time::Duration};

use crate::{Priority, TenantId};

/// Bounds of a scheduler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Tokens of one batch: bounds activation memory and how long a newcomer waits for the slot.
    pub batch_tokens_max: u32,
    /// Sequences of one batch.
    pub batch_sequences_max: u32,
    /// Devices, each of which can compute any batch.
    pub devices: NonZero<u16>,
    /// Batches dispatched to one device and not completed.
    pub in_flight_batches_max: u32,
    /// Units that wait; more are refused. Bounds the scheduler's memory.
    pub queued_units_max: usize,
    /// Requests looked at for one batch whose next unit did not fit: bounds the time of a decision.
    pub look_ahead_requests_max: usize,
    /// In which order.
    pub policy: Policy,
}

/// How much one batch of a lane may hold, where that differs from the scheduler's own bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchBudget {
    /// Sum of the units' costs.
    pub tokens: u32,
    /// Units.
    pub sequences: u32,
}

/// In which order requests are served, and how large batches become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Policy {
    /// In order of arrival, batches as large as their budgets; class, tenant and predictions mean nothing. What
    /// other servers do, kept to compare with.
    Fifo,
    /// Shares of predicted device time; see the [module](super).
    Fair(FairPolicy),
}

impl Default for Policy {
    fn default() -> Self {
        Self::Fair(FairPolicy::default())
    }
}

/// Figures of [`Policy::Fair`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FairPolicy {
    /// Shares of the device while several classes wait, by [`Priority::index`]; each at least 1. A class that uses
    /// less than its share comes next whenever it comes: far apart, they are priorities that starve nobody.
    pub class_weights: [u32; Priority::ALL.len()],
    /// Shares inside a class while several tenants wait; 1 for who is not listed.
    pub tenant_weights: BTreeMap<TenantId, u32>,
    /// A request that has waited for so long comes before the younger ones of its tenant and class, whatever their
    /// sizes and deadlines.
    pub ageing_max: [Duration; Priority::ALL.len()],
    /// A batch is predicted to take no longer: bounds how long a newcomer waits for the slot.
    pub batch_duration_max: Duration,
    /// A batch may always take that long.
    pub batch_duration_min: Duration,
    /// Between the two, a batch grows until its fixed cost is this part of it: more would delay everybody in it
    /// for next to nothing.
    pub batch_overhead_percent: u32,
    /// The same for what goes on after a batch in which another request ends: that one would only wait for it.
    pub shared_overhead_percent: u32,
}

impl Default for FairPolicy {
    fn default() -> Self {
        Self {
            class_weights: [64, 16, 1],
            tenant_weights: BTreeMap::new(),
            ageing_max: [Duration::from_secs(2), Duration::from_secs(5), Duration::from_secs(30)],
            batch_duration_max: Duration::from_millis(100),
            batch_duration_min: Duration::from_millis(5),
            batch_overhead_percent: 5,
            shared_overhead_percent: 20,
        }
    }
}

impl FairPolicy {
    /// How long a batch whose fixed cost is so many seconds may take, in seconds.
    pub(super) fn batch_seconds(&self, fixed_seconds: f64) -> f64 {
        self.worthwhile(fixed_seconds, self.batch_overhead_percent)
    }

    /// How long one in which a request ends may become by what goes on after it.
    pub(super) fn shared_seconds(&self, fixed_seconds: f64) -> f64 {
        self.worthwhile(fixed_seconds, self.shared_overhead_percent.max(self.batch_overhead_percent))
    }

    fn worthwhile(&self, fixed_seconds: f64, overhead_percent: u32) -> f64 {
        let worthwhile = fixed_seconds * 100.0 / f64::from(overhead_percent.max(1));
        worthwhile.max(self.batch_duration_min.as_secs_f64()).min(self.batch_duration_max.as_secs_f64())
    }

    pub(super) fn tenant_weight(&self, tenant: TenantId) -> f64 {
        f64::from(self.tenant_weights.get(&tenant).copied().unwrap_or(1).max(1))
    }

    pub(super) fn class_weight(&self, class: Priority) -> f64 {
        f64::from(self.class_weights[class.index()].max(1))
    }
}
