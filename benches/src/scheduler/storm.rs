//! Two hundred callers, of whom half leave midway.

use super::{
    Findings, Options, at_most,
    process::{Policy, ServerProcess},
    single, summary, traffic,
};
use crate::machine::Machine;

pub(super) fn run(options: &Options, machine: &Machine) -> anyhow::Result<Findings> {
    (machine.progress)("200 callers, half of whom leave");
    let mut found = Findings::default();
    let server = ServerProcess::scripted(&options.server, Policy::Fair, &[])?;
    let before = server.scrape()?;
    let load = server.load(traffic::workload(traffic::storm(), options.warm_up(), options.time))?.report;
    let after = server.scrape()?;
    let grown = |name, label| after.sum(name, label) - before.sum(name, label);

    let wasted = grown("sluice_wasted_device_seconds_sum", "");
    // The warm-up's callers leave too, and their waste counts above; so it is set against all who were refused or left
    // in the whole run, as the server saw them.
    let gone = grown("sluice_finished_total", "outcome=\"cancelled\"").max(load.total.count("ABANDONED") as f64);
    if gone > 0.0 {
        let found_ms = single(1e3 * wasted / gone);
        let batch = ("a batch", 1e3 * traffic::batch_seconds());
        found.rows.push(at_most(
            "storm/wasted for each who left",
            "ms of the device (less is better)",
            found_ms,
            batch,
        ));
    }
    found.notes.push(summary("storm", &load));
    found.notes.push(format!(
        "storm: {:.0} units queued, {:.0} dispatched, {:.0} cancelled in the queue; {wasted:.3} s of the device for {gone:.0} who \
         had left",
        grown("sluice_units_total", "event=\"enqueued\""),
        grown("sluice_units_total", "event=\"dispatched\""),
        grown("sluice_units_total", "event=\"cancelled\""),
    ));
    Ok(found)
}
