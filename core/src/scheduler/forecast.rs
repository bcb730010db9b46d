//! When a request would be complete, from a summary of what waits.
//!
//! The estimate is the fluid one. While a class of weight `w` is served `a` seconds, another of weight `v` with `T`
//! seconds of work has `min(T, a·v/w)`. A tenant has served what would end before the newcomer by its weight, which is
//! nothing if the request that it offers would not. Of the requests of a tenant, each has no more before the newcomer's
//! end than the newcomer itself. Several devices are filled like vessels: what is ahead goes to whichever is free first,
//! and the newcomer is spread over all of them, but one batch of it takes a batch's time. What comes later is not known here: whoever decides on the estimate keeps a reserve
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
    /// Device time, summed over the devices that share it.
    pub device: Duration,
    /// On idle devices.
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
    /// From then until the batches in flight are done, for each device that computes; empty while none does.
    devices_busy: Vec<Duration>,
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
    pub(super) fn new(
        now: Time,
        devices_busy: Vec<Duration>,
        policy: &Policy,
        cost: &CostModel,
        order: &Order,
    ) -> Self {
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
        Self { as_of: now, devices_busy, fair, queues, lanes, prior: cost.prior() }
    }

    /// When it was made.
    #[must_use]
    pub fn as_of(&self) -> Time {
        self.as_of
    }

    /// Device time of everything that waits or is in flight, summed over the devices.
    #[must_use]
    pub fn backlog(&self) -> Duration {
        let busy = self.devices_busy.iter().fold(Duration::ZERO, |sum, busy| sum.saturating_add(*busy));
        busy.saturating_add(duration(self.queues.iter().map(|queue| queue.seconds).sum()))
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
        let mut own = Service::default();
        // Confidence goes on falling after the forecast was made: an idle device makes no new one.
        let age = now.since(self.as_of).as_secs_f64();
        let lasting = (-age / CostModel::CONFIDENCE_HALF_LIFE.as_secs_f64()).exp2();
        for &(lane, shape) in ask.work.iter().filter(|(_, shape)| !shape.is_empty()) {
            let (coefficients, confidence) = self.lanes.get(&lane).copied().unwrap_or((self.prior, 0.0));
            let seconds = self.seconds(&coefficients, shape);
            let devices = f64::min(self.devices_busy.len().max(1) as f64, shape.sequences as f64);
            own.device += seconds;
            own.alone += (seconds / devices).max(self.batch_seconds(&coefficients).min(seconds));
            own.sure += coefficients.seconds(shape).min(seconds) / devices * confidence * lasting;
        }
        let own = own.at_most(ask.service_max.map_or(f64::INFINITY, |max| max.as_secs_f64()));
        let age = now.since(self.as_of);
        let busy = self.devices_busy.iter().map(|busy| busy.saturating_sub(age).as_secs_f64()).collect();
        let shared = self.shared(ask, own.device, pending);
        Prediction {
            device: duration(own.device),
            service: duration(own.alone),
            service_sure: duration(own.sure),
            completion: duration(completion(busy, shared, own)),
        }
    }

    /// Seconds of a request by itself on one device, in batches of the usual duration.
    fn seconds(&self, coefficients: &Coefficients, shape: BatchShape) -> f64 {
        let work = coefficients.marginal_seconds(shape);
        let room = (self.batch_seconds(coefficients) - coefficients.batch).max(f64::MIN_POSITIVE);
        work + coefficients.batch * (work / room).max(1.0).min(shape.sequences as f64)
    }

    /// The usual duration of a batch.
    fn batch_seconds(&self, coefficients: &Coefficients) -> f64 {
        self.fair.as_ref().map_or(f64::INFINITY, |fair| fair.batch_seconds(coefficients.batch))
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

/// Seconds of a request.
#[derive(Clone, Copy, Debug, Default)]
struct Service {
    /// On one device, or summed over several.
    device: f64,
    /// Until it is done on idle devices, all of them working on it.
    alone: f64,
    /// The part of that which can be relied on.
    sure: f64,
}

impl Service {
    fn at_most(self, seconds: f64) -> Self {
        let Self { device, alone, sure } = self;
        Self { device: device.min(seconds), alone: alone.min(seconds), sure: sure.min(seconds) }
    }
}

/// Seconds until a request is done, if its `shared` seconds of device time, its own among them, follow what keeps each
/// device busy.
fn completion(mut busy: Vec<f64>, shared: f64, own: Service) -> f64 {
    busy.sort_unstable_by(f64::total_cmp);
    let begins = level(&busy, shared - own.device);
    // The fluid end, but the newcomer is no fluid: it takes its time from when the first device comes to it.
    level(&busy, shared).max(if busy.len() > 1 { begins + own.alone } else { 0.0 })
}

/// How high so much work fills the devices, whose levels are given from low to high.
fn level(busy: &[f64], work: f64) -> f64 {
    let Some(lowest) = busy.first() else { return work };
    let (mut level, mut left) = (*lowest, work);
    for (filled, next) in (1_u32..).zip(busy.iter().skip(1).chain([&f64::INFINITY])) {
        let filled = f64::from(filled);
        if left <= (next - level) * filled {
            return level + left / filled;
        }
        left -= (next - level) * filled;
        level = *next;
    }
    level
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_filled_from_the_one_that_is_free_first() {
        let cases: [(&[f64], f64, f64); 7] = [
            (&[], 3.0, 3.0),
            (&[2.0], 3.0, 5.0),
            (&[0.0, 0.0], 3.0, 1.5),
            (&[0.0, 4.0], 3.0, 3.0),
            (&[0.0, 4.0], 4.0, 4.0),
            (&[0.0, 4.0], 6.0, 5.0),
            (&[1.0, 2.0, 6.0], 7.0, 5.0),
        ];
        for (busy, work, expected) in cases {
            assert_eq!(level(busy, work), expected, "{work} over {busy:?}");
        }
    }

    #[test]
    fn a_batch_takes_its_time_however_many_devices_there_are() {
        // What there is to do before the newcomer, and the newcomer: of ten batches of a second each, or of one.
        let ten = |devices: f64| Service { device: 10.0, alone: 10.0 / devices, sure: 0.0 };
        let one = Service { device: 1.0, alone: 1.0, sure: 0.0 };
        let cases: [(&[f64], f64, Service, f64); 7] = [
            (&[], 0.0, one, 1.0),
            (&[0.5], 2.0, one, 3.5),
            (&[0.0, 0.0], 0.0, one, 1.0),
            (&[3.0, 0.0], 0.0, one, 1.0),
            (&[0.0, 0.0], 4.0, one, 3.0),
            (&[0.0, 0.0], 4.0, ten(2.0), 7.0),
            // It has one device for itself until the other is free too.
            (&[8.0, 0.0], 0.0, ten(2.0), 9.0),
        ];
        for (busy, ahead, own, expected) in cases {
            assert_eq!(completion(busy.to_vec(), ahead + own.device, own), expected, "{ahead} over {busy:?}");
        }
    }
}
