//! The figures of a run, as JSON.
//!
//! Times are in seconds, rates per second. Everything but `generator` leaves the warm-up out. `null` where there is
//! nothing to tell.
//!
//! ```text
//! {"schema": "sluice-load/run/1",
//!  "server": URL, "workload": {as in its file}, "seconds": counted part, "elapsed_seconds": all of it, "interrupted",
//!  "generator": {"connections", "in_flight_max", "in_flight_peak", "waited_for_a_slot", "late_starts", "late_after_seconds"},
//!  "total": FIGURES,
//!  "classes": [{"class", …FIGURES}],
//!  "streams": [{"name", "class", "tenant", "deadline_seconds", …FIGURES}]}
//! ```
//!
//! FIGURES:
//!
//! | key | meaning |
//! |---|---|
//! | `requests`, `sent`, `answered` | intended; those that left; those with an answer, whole or partial, in time or not |
//! | `good`, `good_share` | answered, whole or partial, within the stream's deadline from the intended time; of all requests |
//! | `partial`, `partial_reasons` | answers that are less than was asked for, and why: `{reason: count}` |
//! | `offered_per_second`, `answered_per_second`, `documents_per_second` | the last counts answered documents |
//! | `goodput_per_second` | `{"value", "low", "high"}` of good answers |
//! | `outcomes` | `[{"status", "reason", "count"}]`; see below |
//! | `latency_seconds` | of answers, from the intended time |
//! | `service_seconds` | of answers, from sending: what a closed loop would have told |
//! | `refusal_seconds` | from sending to a status that the server sent; without `DEADLINE_EXCEEDED`, which comes when it must |
//! | `lag_seconds` | from the intended time to sending |
//!
//! Each of the last four is `null` or `{"count", "mean", "p50", "p90", "p95", "p99", "p999", "max"}` with percentiles
//! `{"value", "low", "high"}`, to three significant digits.
//!
//! A `status` is `OK`, another one of gRPC's, `ABANDONED` (the caller left, as the workload has it) or `UNSENT` (too
//! many others were in flight until the run was over). A `reason` is the server's own, such as `QUEUE_FULL`, or
//! `NO_ANSWER` (nothing came before the deadline) or `UNREACHABLE` (no connection), or empty.
//!
//! `low` and `high` bound a 95 % confidence interval. For `goodput_per_second` it is Student's t over 20 equal slices of
//! intended time. For percentiles of `latency_seconds` it is between the samples of binomial ranks, widened by how much
//! more the slices differ than independent samples would; for the other percentiles samples count as independent. A
//! bound that is beyond the samples is `null`.

use std::collections::BTreeMap;

use serde::Serialize;
use sluice_core::workload::{Class, Workload};

/// What [`Report::schema`] says. It changes when a key does.
pub const SCHEMA: &str = "sluice-load/run/1";

/// The figures of a run. The [module](self) says what they mean.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Names this form.
    pub schema: &'static str,
    /// Who was asked.
    pub server: String,
    /// What was sent.
    pub workload: Workload,
    /// Length of the counted part.
    pub seconds: f64,
    /// From the first request to the last end.
    pub elapsed_seconds: f64,
    /// It was stopped before its end: what was not sent by then is not counted.
    pub interrupted: bool,
    /// Whether the generator kept up.
    pub generator: Generator,
    /// Of all streams.
    pub total: Figures,
    /// Of the classes that the workload has, the most urgent first.
    pub classes: Vec<ClassFigures>,
    /// Of each stream, in the workload's order.
    pub streams: Vec<StreamFigures>,
}

/// Whether the generator kept up; the warm-up counts here.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Generator {
    /// Connections for each tenant.
    pub connections: usize,
    /// Requests that it lets be in flight at once; callers of closed loops are not among them.
    pub in_flight_max: usize,
    /// Most that were, callers of closed loops among them.
    pub in_flight_peak: usize,
    /// Requests that had to wait because so many were: the bound was met, and the loop was not quite open.
    pub waited_for_a_slot: u64,
    /// Requests that left later than intended by more than [`late_after_seconds`](Self::late_after_seconds).
    pub late_starts: u64,
    /// What counts as late.
    pub late_after_seconds: f64,
}

/// Of one class.
#[derive(Clone, Debug, Serialize)]
pub struct ClassFigures {
    /// Which.
    pub class: Class,
    /// Its figures.
    #[serde(flatten)]
    pub figures: Figures,
}

/// Of one stream.
#[derive(Clone, Debug, Serialize)]
pub struct StreamFigures {
    /// Its name.
    pub name: String,
    /// Its class.
    pub class: Class,
    /// Its tenant.
    pub tenant: Option<String>,
    /// Until when an answer is good.
    pub deadline_seconds: f64,
    /// Its figures.
    #[serde(flatten)]
    pub figures: Figures,
}

/// What some requests came to. The [module](self) says what each is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the module has the table, which is the reference of the JSON")]
pub struct Figures {
    pub requests: u64,
    pub sent: u64,
    pub answered: u64,
    pub good: u64,
    pub good_share: f64,
    pub partial: u64,
    pub partial_reasons: BTreeMap<String, u64>,
    pub offered_per_second: f64,
    pub answered_per_second: f64,
    pub goodput_per_second: Rate,
    pub documents_per_second: f64,
    pub outcomes: Vec<OutcomeCount>,
    pub latency_seconds: Option<Latency>,
    pub service_seconds: Option<Latency>,
    pub refusal_seconds: Option<Latency>,
    pub lag_seconds: Option<Latency>,
}

impl Figures {
    /// Requests that ended with this status.
    #[must_use]
    pub fn count(&self, status: &str) -> u64 {
        self.outcomes.iter().filter(|outcome| outcome.status == status).map(|outcome| outcome.count).sum()
    }
}

/// How many ended so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OutcomeCount {
    /// gRPC's, `ABANDONED` or `UNSENT`.
    pub status: String,
    /// Why; may be empty.
    pub reason: String,
    /// How many.
    pub count: u64,
}

/// A rate with its confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rate {
    /// A second.
    pub value: f64,
    /// At least 0.
    pub low: f64,
    /// The other end.
    pub high: f64,
}

/// Percentiles, in seconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// Samples.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// The median.
    pub p50: Estimate,
    /// 90 % are at most this.
    pub p90: Estimate,
    /// 95 %.
    pub p95: Estimate,
    /// 99 %.
    pub p99: Estimate,
    /// 99.9 %.
    pub p999: Estimate,
    /// The largest.
    pub max: f64,
}

/// A percentile with its confidence interval, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// Of the samples.
    pub value: f64,
    /// `None`: so few samples do not bound it from below.
    pub low: Option<f64>,
    /// `None`: so few samples do not bound it from above.
    pub high: Option<f64>,
}
