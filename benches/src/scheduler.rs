//! What a server does when there is more work than it can do: overload, fairness, budgets, callers who leave.
//!
//! A real `sluice-server` process serves a `scripted` model, whose batches take fixed times, and is driven in an open
//! loop ([`sluice_loadtest`]). Beside it stand the same server with the plain FIFO policy, and the simulator of
//! [`sluice_core::simulate`] with the same workload.
//!
//! | case | ours | beside | target |
//! |---|---|---|---|
//! | `overload/goodput at 5×` | good answers a second at five times the capacity | the best of all loads | ≥ 0.9 |
//! | `overload/goodput at K×` | the same at K times the capacity | FIFO | – |
//! | `overload/interactive p99` | under as much bulk as makes twice the capacity | at half the capacity | ≤ 2 × |
//! | `overload/refusal p99` | of requests refused, over all loads, inside the server | 5 ms | ≤ 5 ms |
//! | `overload/memory` | resident set at the end of the 5× run | a third into it | ≤ 1.1 × |
//! | `fairness/p95` | of a tenant of 10-document requests beside one of 1,000-document requests | alone, + 20 % + a batch | ≤ |
//! | `anytime/…` | p90 with a budget, and nDCG@10 | the budget + a batch; the first stage's order | ≤ |
//! | `storm/wasted` | device time for each caller who left | one batch | ≤ |
//! | `cost/error` | median relative error of predicted batch times, scripted and (`anytime`) default model | 10 % | ≤ |
//! | `simulation/goodput at K×` | the real process | the simulation | – |
//!
//! A limit from above is a ratio of the limit to what was found: at least 1 where it holds. The spread of goodput and of
//! percentiles is their 95 % confidence interval, of everything else there is a single value.

mod anytime;
mod early_stop;
mod fairness;
mod metrics;
mod overload;
mod plot;
mod process;
mod storm;
mod traffic;

use std::{fs, path::PathBuf, time::Duration};

use anyhow::Context;
use sluice_loadtest::report::{Estimate, Latency, Rate, Report as Load};

use crate::{
    machine::Machine,
    report::{Report, Row, Spread},
};

/// A part of the scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Half to five times the capacity.
    Overload,
    /// A tenant of small requests beside one of large ones.
    Fairness,
    /// Callers who leave.
    Storm,
    /// Budgets, with the default model.
    Anytime,
    /// What late interaction could leave out, counted.
    EarlyStop,
}

impl Part {
    /// All, in the order in which they are run.
    pub const ALL: [Self; 5] = [Self::Overload, Self::Fairness, Self::Storm, Self::Anytime, Self::EarlyStop];
}

/// What the scenario is run with.
#[derive(Debug, Clone)]
pub struct Options {
    /// The server's executable.
    pub server: PathBuf,
    /// What is run.
    pub parts: Vec<Part>,
    /// Counted time of each load.
    pub time: Duration,
    /// Queries of the cases with texts, at most; 0 leaves them out.
    pub anytime_queries: usize,
    /// Where plots are written; `None`: nowhere.
    pub plots: Option<PathBuf>,
}

impl Options {
    /// Sent before anything is counted: what fills up at first is full then.
    fn warm_up(&self) -> Duration {
        (self.time / 5).clamp(Duration::from_millis(500), Duration::from_secs(3))
    }
}

/// What a part of the scenario found.
#[derive(Default)]
struct Findings {
    rows: Vec<Row>,
    notes: Vec<String>,
    /// Names and contents of files.
    plots: Vec<(&'static str, String)>,
}

impl Findings {
    fn extend(&mut self, other: Self) {
        self.rows.extend(other.rows);
        self.notes.extend(other.notes);
        self.plots.extend(other.plots);
    }
}

/// Runs all parts.
///
/// # Errors
/// If the server does not start, or plots cannot be written.
pub fn run(options: &Options, machine: &Machine) -> anyhow::Result<Report> {
    let mut found = Findings::default();
    let wanted = |part| options.parts.contains(&part);
    if wanted(Part::Overload) || wanted(Part::Fairness) {
        let capacity = overload::capacity(options, machine)?;
        found.notes.push(capacity.to_string());
        if wanted(Part::Overload) {
            found.extend(overload::run(options, machine, &capacity)?);
        }
        if wanted(Part::Fairness) {
            found.extend(fairness::run(options, machine, &capacity)?);
        }
    }
    if wanted(Part::Storm) {
        found.extend(storm::run(options, machine)?);
    }
    if wanted(Part::Anytime) {
        found.extend(anytime::run(options, machine)?);
    }
    if wanted(Part::EarlyStop) {
        found.extend(early_stop::run(options, machine)?);
    }
    if let Some(folder) = &options.plots {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        for (name, svg) in &found.plots {
            let path = folder.join(name);
            fs::write(&path, svg).with_context(|| format!("cannot write {}", path.display()))?;
            found.notes.push(format!("plot: {}", path.display()));
        }
    }
    Ok(Report {
        scenario: "scheduler",
        host: machine.host(machine.processors.get()),
        commit: machine.commit(),
        rows: found.rows,
        notes: found.notes,
        faults: Vec::new(),
    })
}

/// What a prediction of a batch's time may be off by, in the median.
const COST_ERROR: f64 = 0.1;
/// How many times the server can do it is asked.
const MULTIPLES: [f64; 4] = [0.5, 1.0, 2.0, 5.0];

/// A figure and how far it may be off.
fn of_rate(rate: Rate) -> Spread {
    Spread { median: rate.value, min: rate.low, max: rate.high }
}

/// A percentile in milliseconds. Where so few samples do not bound it, the median or the largest sample does.
fn of_percentile(latency: &Latency, percentile: fn(&Latency) -> Estimate) -> Spread {
    let Estimate { value, low, high } = percentile(latency);
    let [median, min, max] =
        [value, low.unwrap_or(latency.p50.value.min(value)), high.unwrap_or(latency.max)].map(|seconds| 1e3 * seconds);
    Spread { median, min, max }
}

fn single(value: f64) -> Spread {
    Spread::of([value])
}

/// `found` must not exceed `limit`.
fn at_most(case: impl Into<String>, unit: &'static str, found: Spread, limit: (&str, f64)) -> Row {
    let (rival, limit) = limit;
    let ratio = Spread { median: limit / found.median, min: limit / found.max, max: limit / found.min };
    Row {
        case: case.into(),
        unit,
        ours: found,
        rival: rival.to_owned(),
        rival_value: single(limit),
        ratio,
        target: Some(1.0),
    }
}

/// Larger is better; the ratio's spread is the least and the most that both spreads allow.
fn compared(
    case: impl Into<String>,
    unit: &'static str,
    ours: Spread,
    rival: (&str, Spread),
    target: Option<f64>,
) -> Row {
    let (rival, value) = rival;
    let ratio = Spread { median: ours.median / value.median, min: ours.min / value.max, max: ours.max / value.min };
    Row { case: case.into(), unit, ours, rival: rival.to_owned(), rival_value: value, ratio, target }
}

/// One line on a load: how many requests, what became of them, and how late the generator itself was.
fn summary(name: &str, load: &Load) -> String {
    let total = &load.total;
    let goodput = total.goodput_per_second;
    let ends: Vec<String> = total
        .outcomes
        .iter()
        .map(|outcome| format!("{} {} {}", outcome.count, outcome.status, outcome.reason).trim_end().to_owned())
        .collect();
    let lag = total.lag_seconds.as_ref().map_or(0.0, |lag| lag.p99.value);
    format!(
        "{name}: {} requests at {:.0}/s, goodput {:.1}/s (95 %: {:.1}…{:.1}), {}; they left {:.1} ms late at p99",
        total.requests,
        total.offered_per_second,
        goodput.value,
        goodput.low,
        goodput.high,
        ends.join(", "),
        1e3 * lag,
    )
}
