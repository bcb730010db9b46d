//! When a request would be complete, from a summary of what waits.
//!
//! The estimate is the fluid one. While a class of weight `w` is served `a` seconds, another of weight `v` with `T`
//! seconds of work has `min(T, a·v/w)`. A tenant has served what would end before the newcomer by its weight, which is
//! nothing if the request that it offers would not. Of the requests of a tenant, each has no more before the newcomer's
//! end than the newcomer itself. What comes later is not known here: whoever decides on the estimate keeps a reserve
//! ([`crate::admission`]).

use std::{collections::BTreeMap, time::Duration};

use super::{
    Lane, Policy, Priority, TenantId, Time,
    order::{Order, Queue},
};
use crate::cost::{BatchShape, Coefficients, CostModel, duration};

/// Work of a request that might come in.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// How urgent.
    pub class: Priority,
    /// On whose account.
    pub tenant: TenantId,
    /// Its units, summed by lane.
    pub work: Vec<(Lane, BatchShape)>,
    /// As much of it as is asked for, in device time; `None`: all.
    pub service_max: Option<Duration>,
}

/// What would become of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prediction {
    /// On an idle device.
    pub service: Duration,
    /// The part of that which can be relied on: a deadline before it cannot be met.
    pub service_sure: Duration,
    /// Until the last of it is done, after and between what waits already.
    pub completion: Duration,
}

impl Prediction {
    /// What the queue adds.
    #[must_use]
    pub fn wait(&self) -> Duration {
        self.completion.saturating_sub(self.service)
    }
}

/// Work ahead at one moment. Costs as much to make and to keep as there are tenants with work waiting.
#[derive(Clone, Debug, Default)]
pub struct Forecast {
    as_of: Time,
    /// From then until the batches in flight are done.
    device_busy: Duration,
    /// `None` where arrival alone decides.
    fair: Option<super::FairPolicy>,
    queues: Vec<QueueAhead>,
    lanes: BTreeMap<Lane, (Coefficients, f64)>,
    prior: Coefficients,
}

/// A queue of the scheduler, or work on its way there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct QueueAhead {
    pub(crate) class: Priority,
    pub(crate) tenant: TenantId,
    pub(crate) requests: usize,
    pub(crate) seconds: f64,
    /// By how much the tenant is ahead of its share, in seconds divided by its weight.
    pub(crate) lead: f64,
    /// Seconds of the request that it offers.
    pub(crate) head: f64,
}

impl Forecast {
    pub(super) fn new(now: Time, device_busy: Duration, policy: &Policy, cost: &CostModel, order: &Order) -> Self {
        let fair = match policy {
            Policy::Fifo => None,
            Policy::Fair(fair) => Some(fair.clone()),
        };
        let batch_seconds = |fixed| fair.as_ref().map_or(f64::INFINITY, |fair| fair.batch_seconds(fixed));
        let queue = |Queue { place, requests, backlog, lead, head }: Queue<'_>| QueueAhead {
            class: place.class,
            tenant: place.tenant,
            requests,
            seconds: backlog.seconds(cost, batch_seconds),
            lead,
            head,
        };
        let queues = order.queues().map(queue).collect();
        let lanes = cost.lanes().map(|lane| (lane, (cost.coefficients(lane), cost.confidence(now, lane)))).collect();
        Self { as_of: now, device_busy, fair, queues, lanes, prior: cost.prior() }
    }

    /// When it was made.
    #[must_use]
    pub fn as_of(&self) -> Time {
        self.as_of
    }

    /// Device time of everything that waits or is in flight.
    #[must_use]
    pub fn backlog(&self) -> Duration {
        self.device_busy.saturating_add(duration(self.queues.iter().map(|queue| queue.seconds).sum()))
    }

    /// Device time of what waits in a class.
    #[must_use]
    pub fn class_backlog(&self, class: Priority) -> Duration {
        duration(self.queues.iter().filter(|queue| queue.class == class).map(|queue| queue.seconds).sum())
    }

    /// What would become of a request that came in now.
    #[must_use]
    pub fn predict(&self, now: Time, ask: &Ask) -> Prediction {
        self.predict_beside(now, ask, &[])
    }

    /// The same with work that the scheduler has not seen yet.
    pub(crate) fn predict_beside(&self, now: Time, ask: &Ask, pending: &[QueueAhead]) -> Prediction {
        let (mut service, mut sure) = (0.0_f64, 0.0_f64);
        // Confidence goes on falling after the forecast was made: an idle device makes no new one.
        let age = now.since(self.as_of).as_secs_f64();
        let lasting = (-age / CostModel::CONFIDENCE_HALF_LIFE.as_secs_f64()).exp2();
        for &(lane, shape) in ask.work.iter().filter(|(_, shape)| !shape.is_empty()) {
            let (coefficients, confidence) = self.lanes.get(&lane).copied().unwrap_or((self.prior, 0.0));
            let seconds = self.seconds(&coefficients, shape);
            service += seconds;
            sure += coefficients.seconds(shape).min(seconds) * confidence * lasting;
        }
        let most = ask.service_max.map_or(f64::INFINITY, |max| max.as_secs_f64());
        let (service, sure) = (service.min(most), sure.min(most));
        let busy = self.device_busy.saturating_sub(now.since(self.as_of));
        let shared = self.shared(ask, service, pending);
        Prediction {
            service: duration(service),
            service_sure: duration(sure),
            completion: busy.saturating_add(duration(shared)),
        }
    }

    /// Seconds of a request by itself, in batches of the usual duration.
    fn seconds(&self, coefficients: &Coefficients, shape: BatchShape) -> f64 {
        let work = coefficients.marginal_seconds(shape);
        let batch_seconds = self.fair.as_ref().map_or(f64::INFINITY, |fair| fair.batch_seconds(coefficients.batch));
        let room = (batch_seconds - coefficients.batch).max(f64::MIN_POSITIVE);
        work + coefficients.batch * (work / room).max(1.0).min(shape.sequences as f64)
    }

    /// Device seconds until `own` seconds of the newcomer are done.
    fn shared(&self, ask: &Ask, own: f64, pending: &[QueueAhead]) -> f64 {
        let all = || self.queues.iter().chain(pending);
        let Some(fair) = &self.fair else { return own + all().map(|queue| queue.seconds).sum::<f64>() };
        let mut classes = [0.0; Priority::ALL.len()];
        let mut tenants: BTreeMap<TenantId, QueueAhead> = BTreeMap::new();
        for queue in all() {
            if queue.class != ask.class {
                classes[queue.class.index()] += queue.seconds;
                continue;
            }
            let sum = tenants.entry(queue.tenant).or_insert(QueueAhead { requests: 0, seconds: 0.0, ..*queue });
            sum.requests += queue.requests;
            sum.seconds += queue.seconds;
        }
        let same = tenants.remove(&ask.tenant);
        let (lead, same, requests) = same.map_or((0.0, 0.0, 0), |own| (own.lead, own.seconds, own.requests));
        let of_tenant = own + f64::min(same, own * requests as f64);
        let end = lead + of_tenant / fair.tenant_weight(ask.tenant);
        let before = |(tenant, queue): (&TenantId, &QueueAhead)| {
            let weight = fair.tenant_weight(*tenant);
            let offers = queue.lead + queue.head / weight <= end;
            if offers { ((end - queue.lead) * weight).clamp(0.0, queue.seconds) } else { 0.0 }
        };
        let of_class = of_tenant + tenants.iter().map(before).sum::<f64>();
        let share = |amount: f64, (weight, other): (f64, f64), seconds: f64| f64::min(seconds, amount * other / weight);
        let weight = fair.class_weight(ask.class);
        let others = Priority::ALL.into_iter().zip(classes);
        of_class
            + others.map(|(class, seconds)| share(of_class, (weight, fair.class_weight(class)), seconds)).sum::<f64>()
    }
}
