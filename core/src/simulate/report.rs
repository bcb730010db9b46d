//! What came of a simulated workload.

use std::{num::NonZero, time::Duration};

use crate::{
    Priority, Time,
    admission::Refused,
    scheduler::Plan,
    workload::{Class, Workload},
};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ending {
    /// Complete, within its deadline.
    Answered,
    /// Within its budget, as far as that went.
    Partial,
    /// Not within its deadline.
    Late,
    /// Refused by admission.
    Refused(Refused),
    /// Refused by the scheduler.
    QueueFull,
    /// Its caller left.
    Abandoned,
}

/// Requests of one stream, or of several together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Sent after the warm-up. Each has ended in one of the ways below.
    pub offered: u64,
    /// Complete, within their deadline.
    pub answered: u64,
    /// Within their budget, as far as that went.
    pub partial: u64,
    /// Not within their deadline.
    pub late: u64,
    /// Refused because of work ahead, room, or a full queue.
    pub overloaded: u64,
    /// Refused because of their tenant's quota.
    pub over_quota: u64,
    /// Refused because no idle device could be in time.
    pub unreachable: u64,
    /// Their caller left.
    pub abandoned: u64,
    /// Of those answered, partial ones too, from sending.
    pub latencies: Latencies,
    /// Device time spent on requests that had no answer in the end.
    pub wasted: Duration,
}

impl Tally {
    /// Refused for whatever reason.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.overloaded + self.over_quota + self.unreachable
    }

    /// Answered in time, whole or in part.
    #[must_use]
    pub fn good(&self) -> u64 {
        self.answered + self.partial
    }

    fn add(&mut self, other: &Self) {
        self.offered += other.offered;
        self.answered += other.answered;
        self.partial += other.partial;
        self.late += other.late;
        self.overloaded += other.overloaded;
        self.over_quota += other.over_quota;
        self.unreachable += other.unreachable;
        self.abandoned += other.abandoned;
        self.latencies.0.extend(&other.latencies.0);
        self.wasted += other.wasted;
    }
}

/// Times, each kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The smallest that is not exceeded by a part of `q` of them, 0 to 1; `None` of none.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let rank = (q.clamp(0.0, 1.0) * self.0.len() as f64).ceil() as usize;
        let mut times = self.0.clone();
        (!times.is_empty()).then(|| *times.select_nth_unstable(rank.saturating_sub(1)).1)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = Duration> + '_ {
        self.0.iter().copied()
    }
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// From the end of the warm-up to the end of the workload.
    pub counted: Duration,
    /// By stream, in the workload's order.
    pub streams: Vec<Tally>,
    /// Part of the counted time in which the devices computed, on average.
    pub utilisation: f64,
    /// Batches that began in the counted time.
    pub batches: u64,
    /// The longest of them.
    pub batch_duration_max: Duration,
    devices: f64,
    warm_up: Time,
    end: Time,
    names: Vec<(Class, Option<String>)>,
}

impl Report {
    pub(super) fn new(workload: &Workload, devices: NonZero<u16>) -> Self {
        Self {
            counted: workload.duration.saturating_sub(workload.warm_up),
            streams: vec![Tally::default(); workload.streams.len()],
            utilisation: 0.0,
            batches: 0,
            batch_duration_max: Duration::ZERO,
            devices: f64::from(devices.get()),
            warm_up: Time::from_origin(workload.warm_up),
            end: Time::from_origin(workload.duration),
            names: workload.streams.iter().map(|stream| (stream.class, stream.tenant.clone())).collect(),
        }
    }

    /// Requests answered in time, a second.
    #[must_use]
    pub fn goodput(&self) -> f64 {
        self.total().good() as f64 / self.counted.as_secs_f64()
    }

    /// All requests.
    #[must_use]
    pub fn total(&self) -> Tally {
        self.sum(|_| true)
    }

    /// Those of a class.
    #[must_use]
    pub fn class(&self, class: Priority) -> Tally {
        self.sum(|(of, _)| Priority::from(*of) == class)
    }

    /// Those of a tenant by its name; `None`: of those who have none.
    #[must_use]
    pub fn tenant(&self, name: Option<&str>) -> Tally {
        self.sum(|(_, tenant)| tenant.as_deref() == name)
    }

    fn sum(&self, of: impl Fn(&(Class, Option<String>)) -> bool) -> Tally {
        let mut sum = Tally::default();
        self.streams.iter().zip(&self.names).filter(|(_, name)| of(name)).for_each(|(tally, _)| sum.add(tally));
        sum
    }

    pub(super) fn offered(&mut self, stream: usize, sent: Time) {
        self.streams[stream].offered += u64::from(sent >= self.warm_up);
    }

    pub(super) fn ended(&mut self, stream: usize, sent: Time, ending: Ending, took: Duration, spent: Duration) {
        if sent < self.warm_up {
            return;
        }
        let tally = &mut self.streams[stream];
        let count = match ending {
            Ending::Answered => &mut tally.answered,
            Ending::Partial => &mut tally.partial,
            Ending::Late => &mut tally.late,
            Ending::Refused(Refused::Room(_) | Refused::Overloaded { .. }) | Ending::QueueFull => &mut tally.overloaded,
            Ending::Refused(Refused::Quota(_)) => &mut tally.over_quota,
            Ending::Refused(Refused::Unreachable { .. }) => &mut tally.unreachable,
            Ending::Abandoned => &mut tally.abandoned,
        };
        *count += 1;
        if matches!(ending, Ending::Answered | Ending::Partial) {
            tally.latencies.0.push(took);
        } else {
            tally.wasted += spent;
        }
    }

    pub(super) fn computed(&mut self, plan: &Plan, start: Time, takes: Duration) {
        if plan.units.is_empty() || start < self.warm_up || start >= self.end {
            return;
        }
        self.batches += 1;
        self.batch_duration_max = self.batch_duration_max.max(takes);
        let computed = takes.min(self.end.since(start)).as_secs_f64();
        self.utilisation += computed / self.counted.as_secs_f64() / self.devices;
    }
}
