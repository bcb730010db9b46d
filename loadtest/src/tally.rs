//! What all requests came to: counts, percentiles and how certain they are.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;
use sluice_core::workload::{Stream, Workload};

use crate::{
    interval::{SLICES, inflation, quantile_ranks, sum_half_width},
    report::{Estimate, Figures, Latency, OutcomeCount, Rate},
};

/// Longest time that is told apart from longer ones.
const TIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// What became of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Position of its stream in the workload.
    pub stream: usize,
    /// When it was to be sent, from the start of the run.
    pub intended: Duration,
    /// From then to when it was sent; for one that was not, to when that was given up.
    pub lag: Duration,
    /// From sending to its end; zero if it was not sent.
    pub service: Duration,
    /// Its documents.
    pub documents: u32,
    /// How it ended.
    pub end: End,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With an answer.
    Answered {
        /// Why the answer is less than was asked for; empty if it is whole.
        partial: Vec<String>,
    },
    /// With a status.
    Failed {
        /// As gRPC spells it.
        status: &'static str,
        /// The server's reason, such as `QUEUE_FULL`; `NO_ANSWER` where a timer ended the call at its deadline, and
        /// `UNREACHABLE` where there was no connection.
        reason: String,
    },
    /// Its caller left, as the workload has it.
    Abandoned,
    /// It could not be sent before the run was over: too many others were in flight.
    Unsent,
}

/// Everything counted so far.
#[derive(Debug)]
pub struct Tally {
    workload: Workload,
    streams: Vec<Counts>,
}

impl Tally {
    /// Nothing yet.
    #[must_use]
    pub fn new(workload: &Workload) -> Self {
        let streams = workload.streams.iter().map(|_| Counts::default()).collect();
        Self { workload: workload.clone(), streams }
    }

    /// Counts a request, unless it is of the warm-up.
    pub fn add(&mut self, sample: &Sample) {
        let Workload { warm_up, duration, .. } = self.workload;
        let (Some(counts), Some(since)) = (self.streams.get_mut(sample.stream), sample.intended.checked_sub(warm_up))
        else {
            return;
        };
        let slice = since.as_secs_f64() / (duration - warm_up).as_secs_f64() * SLICES as f64;
        counts.add(sample, (slice as usize).min(SLICES - 1), self.workload.streams[sample.stream].deadline);
    }

    /// The figures of each stream, in their order.
    #[must_use]
    pub fn streams(&self) -> Vec<Figures> {
        let seconds = self.seconds();
        self.streams.iter().map(|counts| counts.figures(seconds)).collect()
    }

    /// The figures of all streams that `counts`, together.
    #[must_use]
    pub fn of(&self, which: impl Fn(&Stream) -> bool) -> Figures {
        let mut sum = Counts::default();
        let chosen = self.workload.streams.iter().zip(&self.streams).filter(|(stream, _)| which(stream));
        chosen.for_each(|(_, counts)| sum.merge(counts));
        sum.figures(self.seconds())
    }

    /// Length of the counted part of the run.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        (self.workload.duration - self.workload.warm_up).as_secs_f64()
    }
}

/// Of one stream, or of several together.
#[derive(Debug)]
struct Counts {
    requests: u64,
    sent: u64,
    good: [u64; SLICES],
    answered: [u64; SLICES],
    partial: BTreeMap<String, u64>,
    partial_answers: u64,
    documents: u64,
    outcomes: BTreeMap<(String, String), u64>,
    /// Of answered requests, from the intended time, by slice.
    latency: Vec<Histogram<u32>>,
    /// Of answered requests, from sending.
    service: Histogram<u32>,
    /// Of requests that the server refused, from sending; what expired there is not among them.
    refusal: Histogram<u32>,
    /// From the intended time to sending.
    lag: Histogram<u32>,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            requests: 0,
            sent: 0,
            good: [0; SLICES],
            answered: [0; SLICES],
            partial: BTreeMap::new(),
            partial_answers: 0,
            documents: 0,
            outcomes: BTreeMap::new(),
            latency: (0..SLICES).map(|_| histogram()).collect(),
            service: histogram(),
            refusal: histogram(),
            lag: histogram(),
        }
    }
}

/// Microseconds to a day, to three significant digits, in 106 KiB.
fn histogram() -> Histogram<u32> {
    Histogram::new_with_max(microseconds(TIME_MAX), 3).expect("a day and three digits are within its limits")
}

fn record(histogram: &mut Histogram<u32>, time: Duration) {
    histogram.saturating_record(microseconds(time.min(TIME_MAX)));
}

/// Rounded up: a time is never told as shorter than it was, and none as nothing.
fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX).max(1)
}

impl Counts {
    fn add(&mut self, sample: &Sample, slice: usize, deadline: Duration) {
        self.requests += 1;
        if sample.end != End::Unsent {
            self.sent += 1;
            record(&mut self.lag, sample.lag);
        }
        let (status, reason) = match &sample.end {
            End::Answered { partial } => {
                let latency = sample.lag + sample.service;
                self.answered[slice] += 1;
                self.good[slice] += u64::from(latency <= deadline);
                self.documents += u64::from(sample.documents);
                self.partial_answers += u64::from(!partial.is_empty());
                partial.iter().for_each(|reason| *self.partial.entry(reason.clone()).or_default() += 1);
                record(&mut self.latency[slice], latency);
                record(&mut self.service, sample.service);
                ("OK", "")
            }
            End::Failed { status, reason } => {
                // What ended at its deadline, or never reached a server, nobody refused.
                if *status != "DEADLINE_EXCEEDED" && reason != UNREACHABLE {
                    record(&mut self.refusal, sample.service);
                }
                (*status, reason.as_str())
            }
            End::Abandoned => ("ABANDONED", ""),
            End::Unsent => ("UNSENT", ""),
        };
        *self.outcomes.entry((status.to_owned(), reason.to_owned())).or_default() += 1;
    }

    fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.sent += other.sent;
        self.documents += other.documents;
        self.partial_answers += other.partial_answers;
        for slice in 0..SLICES {
            self.good[slice] += other.good[slice];
            self.answered[slice] += other.answered[slice];
            add(&mut self.latency[slice], &other.latency[slice]);
        }
        other.partial.iter().for_each(|(key, count)| *self.partial.entry(key.clone()).or_default() += count);
        other.outcomes.iter().for_each(|(key, count)| *self.outcomes.entry(key.clone()).or_default() += count);
        add(&mut self.service, &other.service);
        add(&mut self.refusal, &other.refusal);
        add(&mut self.lag, &other.lag);
    }

    fn figures(&self, seconds: f64) -> Figures {
        let (good, answered): (u64, u64) = (self.good.iter().sum(), self.answered.iter().sum());
        let rate = |count: u64| count as f64 / seconds;
        let half = sum_half_width(&self.good) / seconds;
        let outcomes = self.outcomes.iter().map(|((status, reason), count)| OutcomeCount {
            status: status.clone(),
            reason: reason.clone(),
            count: *count,
        });
        Figures {
            requests: self.requests,
            sent: self.sent,
            answered,
            good,
            good_share: if self.requests == 0 { 0.0 } else { good as f64 / self.requests as f64 },
            partial: self.partial_answers,
            partial_reasons: self.partial.clone(),
            offered_per_second: rate(self.requests),
            answered_per_second: rate(answered),
            goodput_per_second: Rate { value: rate(good), low: (rate(good) - half).max(0.0), high: rate(good) + half },
            documents_per_second: rate(self.documents),
            outcomes: outcomes.collect(),
            latency_seconds: latency_of_slices(&self.latency),
            service_seconds: latency_of_slices(std::slice::from_ref(&self.service)),
            refusal_seconds: latency_of_slices(std::slice::from_ref(&self.refusal)),
            lag_seconds: latency_of_slices(std::slice::from_ref(&self.lag)),
        }
    }
}

/// Reason of what a timer ended at its deadline.
pub(crate) const NO_ANSWER: &str = "NO_ANSWER";
/// Reason of what found no connection.
pub(crate) const UNREACHABLE: &str = "UNREACHABLE";

fn add(sum: &mut Histogram<u32>, other: &Histogram<u32>) {
    // Both are made by `histogram`, so the range fits.
    sum.add(other).expect("histograms of one range add up");
}

/// Percentiles over all slices; their intervals allow for slices that differ. A single slice says nothing about that,
/// so its samples are taken for independent.
fn latency_of_slices(slices: &[Histogram<u32>]) -> Option<Latency> {
    let mut all = histogram();
    slices.iter().for_each(|slice| add(&mut all, slice));
    let count = all.len();
    if count == 0 {
        return None;
    }
    let seconds = |microseconds: u64| microseconds as f64 / 1e6;
    let at_rank = |rank: u64| seconds(all.value_at_quantile(rank as f64 / count as f64));
    let estimate = |q: f64| {
        let found = all.value_at_quantile(q);
        let above = |slice: &Histogram<u32>| {
            let below = slice.count_between(0, found);
            (slice.len(), slice.len() - below.min(slice.len()))
        };
        let shares: Vec<(u64, u64)> = slices.iter().map(above).collect();
        let (low, high) = quantile_ranks(count, q, inflation(&shares));
        Estimate { value: seconds(found), low: low.map(at_rank), high: high.map(at_rank) }
    };
    Some(Latency {
        count,
        mean: all.mean() / 1e6,
        p50: estimate(0.5),
        p90: estimate(0.9),
        p95: estimate(0.95),
        p99: estimate(0.99),
        p999: estimate(0.999),
        max: seconds(all.max()),
    })
}

#[cfg(test)]
mod tests {
    use sluice_core::workload::{Process, Sizes};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn workload() -> Workload {
        let stream = |name: &str| Stream {
            deadline: 100 * MS,
            ..Stream::new(name, Process::Constant { rate: 1.0 }, Sizes::Fixed(10))
        };
        let streams = vec![stream("a"), stream("b")];
        Workload { duration: 21_000 * MS, warm_up: 1_000 * MS, seed: 0, streams }
    }

    fn sample(stream: usize, intended: Duration, lag: Duration, service: Duration, end: End) -> Sample {
        Sample { stream, intended, lag, service, documents: 10, end }
    }

    fn answered() -> End {
        End::Answered { partial: Vec::new() }
    }

    fn failed(status: &'static str, reason: &str) -> End {
        End::Failed { status, reason: reason.to_owned() }
    }

    #[test]
    fn each_end_is_counted_as_what_it_is() {
        let mut tally = Tally::new(&workload());
        let at = 2_000 * MS;
        let partial = End::Answered { partial: vec!["budget".to_owned()] };
        let ends = [
            // Good: at the deadline counts as within it.
            (0, at, MS, 99 * MS, answered()),
            (0, at, MS, 20 * MS, partial),
            // The wait before sending makes it late.
            (0, at, 90 * MS, 20 * MS, answered()),
            (0, at, MS, 2 * MS, failed("RESOURCE_EXHAUSTED", "QUEUE_FULL")),
            (0, at, MS, 100 * MS, failed("DEADLINE_EXCEEDED", NO_ANSWER)),
            (0, at, MS, 5 * MS, End::Abandoned),
            (0, at, 9 * MS, Duration::ZERO, End::Unsent),
            (1, at, MS, MS, answered()),
            // Of the warm-up.
            (0, 999 * MS, MS, MS, answered()),
        ];
        for (stream, intended, lag, service, end) in ends {
            tally.add(&sample(stream, intended, lag, service, end));
        }
        let figures = &tally.streams()[0];
        assert_eq!((figures.requests, figures.sent, figures.answered, figures.good, figures.partial), (7, 6, 3, 2, 1));
        assert_eq!(figures.partial_reasons, BTreeMap::from([("budget".to_owned(), 1)]));
        assert_eq!((figures.offered_per_second, figures.goodput_per_second.value), (0.35, 0.1));
        assert_eq!(figures.documents_per_second, 1.5);
        let outcomes: Vec<(&str, &str, u64)> = figures
            .outcomes
            .iter()
            .map(|outcome| (outcome.status.as_str(), outcome.reason.as_str(), outcome.count))
            .collect();
        let expected = [
            ("ABANDONED", "", 1),
            ("DEADLINE_EXCEEDED", NO_ANSWER, 1),
            ("OK", "", 3),
            ("RESOURCE_EXHAUSTED", "QUEUE_FULL", 1),
            ("UNSENT", "", 1),
        ];
        assert_eq!(outcomes, expected);
        let latency = figures.latency_seconds.as_ref().expect("three are answered");
        assert_eq!(latency.count, 3);
        // Three digits: the largest is told as at most 1/1000 more.
        assert!((0.110..=0.1102).contains(&latency.max), "{}", latency.max);
        assert!((0.099..=0.0992).contains(&figures.service_seconds.as_ref().expect("as many").max));
        assert_eq!(figures.refusal_seconds.as_ref().expect("one is refused").count, 1);
        assert_eq!(tally.of(|_| true).requests, 8);
        assert_eq!(tally.of(|stream| stream.name == "b").answered, 1);
        assert_eq!(tally.of(|_| false).latency_seconds, None);
    }

    #[test]
    fn percentiles_are_those_of_the_samples_and_their_intervals_hold_them() {
        // 1 to 1,000 ms, in an order without pattern, spread over the run.
        let mut tally = Tally::new(&workload());
        for n in 0..1_000_u32 {
            let service = MS * (1 + n * 337 % 1_000);
            tally.add(&sample(0, 1_000 * MS + 20 * MS * n, Duration::ZERO, service, answered()));
        }
        let latency = tally.streams()[0].latency_seconds.clone().expect("all are answered");
        let cases = [
            (&latency.p50, 0.5, 0.12),
            (&latency.p90, 0.9, 0.08),
            (&latency.p95, 0.95, 0.06),
            (&latency.p99, 0.99, 0.04),
        ];
        for (estimate, expected, width) in cases {
            assert!((estimate.value - expected).abs() <= 0.001, "{estimate:?}");
            let (low, high) = (estimate.low.expect("far from the ends"), estimate.high.expect("far from the ends"));
            assert!(low < expected && expected < high && high - low < width, "{estimate:?}");
        }
        assert_eq!(latency.p999.high, None, "a thousand samples do not bound it from above");
        assert!((latency.mean - 0.5005).abs() < 0.001);
    }
}
