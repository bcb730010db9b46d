//! Half to five times the capacity, under both policies and in the simulator.

use std::fmt;

use anyhow::{Context, anyhow};
use sluice_core::{
    cost::Coefficients,
    scheduler,
    simulate::{self, Device, Setup},
    workload::{Class, Workload},
};
use sluice_loadtest::report::{Figures, Latency, Report as Load};

use super::{
    COST_ERROR, Findings, MULTIPLES, Options, at_most, compared, of_percentile, of_rate, plot,
    process::{Loaded, Policy, ServerProcess},
    single, summary, traffic,
};
use crate::machine::Machine;

/// Milliseconds of a refusal, inside the server.
const REFUSAL_MS: f64 = 5.0;
/// What counts as flat: the end of a run over a third into it.
const GROWTH: f64 = 1.1;

/// What the server does in a closed loop.
pub(super) struct Capacity {
    pub documents_per_second: f64,
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "capacity: {:.0} documents/s, {:.1} requests/s of the mix ({:.0} documents on average), in a closed loop of \
             {} callers; each batch takes {} + {} a token, ± {:.0} %",
            self.documents_per_second,
            self.requests_per_second(),
            traffic::MIX_DOCUMENTS,
            traffic::CAPACITY_CALLERS,
            traffic::PER_BATCH,
            traffic::PER_TOKEN,
            100.0 * traffic::JITTER,
        )
    }
}

impl Capacity {
    /// Requests of the mix.
    pub(super) fn requests_per_second(&self) -> f64 {
        self.documents_per_second / traffic::MIX_DOCUMENTS
    }
}

/// Measures the capacity of the server as it is configured by default.
pub(super) fn capacity(options: &Options, machine: &Machine) -> anyhow::Result<Capacity> {
    (machine.progress)("capacity, in a closed loop");
    let server = ServerProcess::scripted(&options.server, Policy::Fair, &[])?;
    let workload = traffic::workload(traffic::closed_mix(), options.warm_up(), options.time);
    let found = server.load(workload)?.report.total.documents_per_second;
    if found > 0.0 { Ok(Capacity { documents_per_second: found }) } else { Err(anyhow!("nothing was answered")) }
}

/// One policy, every load.
struct Swept {
    /// By multiple.
    loads: Vec<Loaded>,
    bulk: Load,
    cost_error: Option<f64>,
    /// Seconds that 99 of 100 refusals took inside the server, over all loads, and how many there were.
    refusals: Option<(f64, f64)>,
}

pub(super) fn run(options: &Options, machine: &Machine, capacity: &Capacity) -> anyhow::Result<Findings> {
    let fair = sweep(options, machine, capacity, Policy::Fair)?;
    let fifo = sweep(options, machine, capacity, Policy::Fifo)?;
    let mut found = Findings::default();
    goodput(&mut found, &fair, &fifo);
    interactive(&mut found, &fair, &fifo)?;
    at_five(&mut found, &fair);
    simulation(&mut found, options, capacity, &fair)?;
    Ok(found)
}

fn sweep(options: &Options, machine: &Machine, capacity: &Capacity, policy: Policy) -> anyhow::Result<Swept> {
    let server = ServerProcess::scripted(&options.server, policy, &[])?;
    let mut loads = Vec::new();
    for multiple in MULTIPLES {
        (machine.progress)(&format!("{} at {multiple}×", policy.name()));
        loads.push(server.load(at(options, capacity, multiple))?);
    }
    (machine.progress)(&format!("{} under bulk", policy.name()));
    let bulk = traffic::bulk_overload(capacity.documents_per_second);
    let bulk = server.load(traffic::workload(bulk, options.warm_up(), options.time))?.report;
    let metrics = server.scrape()?;
    let cost_error = metrics.largest("sluice_cost_relative_error", "");
    let refusals = metrics.quantile("sluice_refusal_duration_seconds", 0.99);
    Ok(Swept { loads, bulk, cost_error, refusals })
}

fn at(options: &Options, capacity: &Capacity, multiple: f64) -> Workload {
    let streams = traffic::mix(multiple * capacity.requests_per_second());
    traffic::workload(streams, options.warm_up(), options.time)
}

fn goodput(found: &mut Findings, fair: &Swept, fifo: &Swept) {
    let of = |loaded: &Loaded| of_rate(loaded.report.total.goodput_per_second);
    let peak = fair.loads.iter().map(of).max_by(|a, b| a.median.total_cmp(&b.median)).unwrap_or(single(0.0));
    if let Some(last) = fair.loads.last() {
        let case = "overload/goodput at 5×";
        found.rows.push(compared(case, "good answers/s", of(last), ("best of all loads", peak), Some(0.9)));
    }
    for ((multiple, ours), rival) in MULTIPLES.iter().zip(&fair.loads).zip(&fifo.loads) {
        let case = format!("overload/goodput at {multiple}×");
        found.rows.push(compared(case, "good answers/s", of(ours), ("FIFO", of(rival)), None));
        found.notes.push(summary(&format!("fair at {multiple}×"), &ours.report));
        found.notes.push(summary(&format!("FIFO at {multiple}×"), &rival.report));
    }
    let line = |name: &str, swept: &Swept| plot::Line {
        name: name.to_owned(),
        points: MULTIPLES.iter().zip(&swept.loads).map(|(multiple, loaded)| (*multiple, of(loaded).median)).collect(),
    };
    let chart = plot::Chart {
        title: "Goodput under overload",
        x: "offered load, multiples of the capacity",
        y: "answers within their deadline, 1/s",
        lines: vec![line("fair", fair), line("FIFO", fifo)],
    };
    found.plots.push(("overload-goodput.svg", plot::render(&chart)));
    let p99 = |name: &str, swept: &Swept| plot::Line {
        name: name.to_owned(),
        points: MULTIPLES
            .iter()
            .zip(&swept.loads)
            .filter_map(|(multiple, loaded)| {
                Some((*multiple, 1e3 * latency(&loaded.report, Class::Interactive).ok()?.p99.value))
            })
            .collect(),
    };
    let chart = plot::Chart {
        title: "Interactive p99 under overload",
        x: "offered load, multiples of the capacity",
        y: "from the intended start, ms",
        lines: vec![p99("fair", fair), p99("FIFO", fifo)],
    };
    found.plots.push(("overload-interactive-p99.svg", plot::render(&chart)));
}

fn interactive(found: &mut Findings, fair: &Swept, fifo: &Swept) -> anyhow::Result<()> {
    let p99 =
        |load: &Load| latency(load, Class::Interactive).map(|latency| of_percentile(latency, |latency| latency.p99));
    let quiet = fair.loads.first().context("there is a load of half the capacity")?;
    let (quiet, busy) = (p99(&quiet.report)?, p99(&fair.bulk)?);
    let limit = ("twice that at 0.5×", 2.0 * quiet.median);
    found.rows.push(at_most("overload/interactive p99 under bulk", "ms (less is better)", busy, limit));
    // Where FIFO answers no interactive request in time, there is no latency to compare with.
    if let Ok(rival) = p99(&fifo.bulk) {
        let case = "overload/interactive p99 under bulk, FIFO";
        found.rows.push(compared(case, "ms (less is better)", rival, ("twice fair's at 0.5×", single(limit.1)), None));
    }
    found.notes.push(summary("fair under bulk", &fair.bulk));
    found.notes.push(summary("FIFO under bulk", &fifo.bulk));
    Ok(())
}

fn at_five(found: &mut Findings, fair: &Swept) {
    let Some(five) = fair.loads.last() else { return };
    match fair.refusals {
        Some((seconds, refusals)) => {
            let row =
                at_most("overload/refusal p99", "ms (less is better)", single(1e3 * seconds), ("5 ms", REFUSAL_MS));
            found.rows.push(row);
            found
                .notes
                .push(format!("{refusals} refusals over all loads, timed inside the server; the bound of a bucket"));
        }
        None => found.notes.push("no refusals, or more than one in a hundred took over a second".to_owned()),
    }
    if let Some(refusal) = &five.report.total.refusal_seconds {
        let seen = of_percentile(refusal, |latency| latency.p99).median;
        found.notes.push(format!("{} refusals at 5×: p99 of {seen:.1} ms as their callers saw it", refusal.count));
    }
    let resident = &five.resident;
    if let (Some(third), Some(last)) = (resident.get(resident.len() / 3), resident.last()) {
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let limit = ("1.1 × a third into it", GROWTH * mebibytes(*third));
        found.rows.push(at_most(
            "overload/memory at 5×",
            "MiB resident (less is better)",
            single(mebibytes(*last)),
            limit,
        ));
    }
    match fair.cost_error {
        Some(error) => {
            found.rows.push(at_most("cost/error", "median relative error", single(error), ("10 %", COST_ERROR)));
        }
        None => found.notes.push("the server says nothing of its cost model's error".to_owned()),
    }
}

fn simulation(found: &mut Findings, options: &Options, capacity: &Capacity, fair: &Swept) -> anyhow::Result<()> {
    let model = Coefficients {
        batch: traffic::PER_BATCH.seconds(),
        sequence: 0.0,
        token: traffic::PER_TOKEN.seconds(),
        token_squared: 0.0,
    };
    let default = Setup::default();
    let setup = Setup {
        scheduler: scheduler::SchedulerConfig {
            batch_tokens_max: traffic::BATCH_TOKENS_MAX,
            batch_sequences_max: traffic::BATCH_SEQUENCES_MAX,
            ..default.scheduler.clone()
        },
        device: Device { model, noise: traffic::JITTER, ..default.device },
        ..default
    };
    for (multiple, loaded) in MULTIPLES.iter().zip(&fair.loads) {
        let simulated = simulate::simulate(&at(options, capacity, *multiple), &setup)
            .map_err(|faults| anyhow!("workload: {faults}"))?;
        let real = of_rate(loaded.report.total.goodput_per_second);
        let case = format!("simulation/goodput at {multiple}×");
        found.rows.push(compared(case, "good answers/s", real, ("simulated", single(simulated.goodput())), None));
        let p99 = simulated.class(Class::Interactive.into()).latencies.quantile(0.99);
        let (Some(p99), Ok(real)) = (p99, latency(&loaded.report, Class::Interactive)) else { continue };
        let case = format!("simulation/interactive p99 at {multiple}×");
        let p99 = ("simulated", single(1e3 * p99.as_secs_f64()));
        found.rows.push(compared(case, "ms (less is better)", of_percentile(real, |latency| latency.p99), p99, None));
    }
    Ok(())
}

/// Of the answers of a class.
pub(super) fn latency(load: &Load, class: Class) -> anyhow::Result<&Latency> {
    let figures: &Figures = &load.classes.iter().find(|of| of.class == class).context("no such class")?.figures;
    figures.latency_seconds.as_ref().with_context(|| format!("no {} request was answered", class.name()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Spread;

    #[test]
    fn what_was_found_is_set_against_its_limit() {
        let spread = Spread { median: 4.0, min: 2.0, max: 10.0 };
        let row = at_most("case", "ms", spread, ("5 ms", 5.0));
        assert_eq!((row.ratio.median, row.ratio.min, row.ratio.max), (1.25, 0.5, 2.5));
        assert_eq!(row.target, Some(1.0));
        let row = compared("case", "1/s", spread, ("rival", Spread { median: 2.0, min: 1.0, max: 4.0 }), Some(0.9));
        assert_eq!((row.ratio.median, row.ratio.min, row.ratio.max), (2.0, 0.5, 10.0));
    }
}
