//! A tenant of small requests, alone and beside one of large requests.

use anyhow::Context;
use sluice_loadtest::report::{Latency, Report as Load};

use super::{
    Findings, Options, at_most, of_percentile,
    overload::Capacity,
    process::{Policy, ServerProcess},
    summary, traffic,
};
use crate::machine::Machine;

const TENANTS: [&str; 2] = ["small", "large"];

pub(super) fn run(options: &Options, machine: &Machine, capacity: &Capacity) -> anyhow::Result<Findings> {
    let mut found = Findings::default();
    for policy in [Policy::Fair, Policy::Fifo] {
        (machine.progress)(&format!(
            "{}: 10-document requests alone and beside 1,000-document requests",
            policy.name()
        ));
        let server = ServerProcess::scripted(&options.server, policy, &TENANTS)?;
        let small = || traffic::small_tenant(capacity.documents_per_second);
        let load = |streams| server.load(traffic::workload(streams, options.warm_up(), options.time));
        let alone = load(vec![small()])?.report;
        let beside = load(vec![small(), traffic::large_tenant()])?.report;
        // A little more than a fifth on top of what it has alone, and one batch that was under way.
        let limit = 1e3 * (1.2 * small_of(&alone)?.p95.value + traffic::batch_seconds());
        let name = match policy {
            Policy::Fair => "fairness/p95 of a 10-document tenant",
            Policy::Fifo => "fairness/p95 of a 10-document tenant, FIFO",
        };
        let limit = ("alone + 20 % + a batch", limit);
        let mut row =
            at_most(name, "ms (less is better)", of_percentile(small_of(&beside)?, |latency| latency.p95), limit);
        // FIFO is there to compare with, not to meet what is asked of us.
        row.target = row.target.filter(|_| policy == Policy::Fair);
        found.rows.push(row);
        found.notes.push(summary(&format!("fairness, {}, alone", policy.name()), &alone));
        found.notes.push(summary(&format!("fairness, {}, beside", policy.name()), &beside));
    }
    Ok(found)
}

/// Of the small tenant, the first stream.
fn small_of(load: &Load) -> anyhow::Result<&Latency> {
    let small = load.streams.first().context("there is a stream")?;
    small.figures.latency_seconds.as_ref().context("no request of the small tenant was answered")
}
