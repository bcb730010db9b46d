//! What `sluice eval` prints; `sluice eval --help` documents it.

use std::time::Duration;

use comfy_table::Cell;
use serde::{Serialize, Serializer};
use sluice_client::table;

use crate::output::width;

/// How good one order is.
#[derive(Debug, Serialize)]
pub(super) struct Output {
    pub queries: usize,
    pub method: String,
    #[serde(serialize_with = "as_object")]
    pub metrics: Vec<(String, f64)>,
    pub documents_per_second: f64,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub within: Option<Within>,
}

/// What came of a budget of time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Within {
    pub budget_ms: u64,
    pub partial_queries: usize,
    pub scored_share: f64,
    pub latency_seconds: Latencies,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Latencies {
    p50: f64,
    p90: f64,
    max: f64,
}

impl Latencies {
    /// Of those, in order: at least so large a share of them is no longer than a percentile.
    pub(super) fn of(sorted: &[Duration]) -> Self {
        let at = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100).max(1);
            sorted.get(rank - 1).map_or(0.0, Duration::as_secs_f64)
        };
        Self { p50: at(50), p90: at(90), max: at(100) }
    }
}

/// One order as a list of its metrics; several, each within a budget, as one table with a row for each.
pub(super) fn table(outputs: &[Output]) -> String {
    let mut table = table::plain(width());
    match outputs {
        [output] if output.within.is_none() => {
            table.set_header(["metric", &output.method]);
            for (name, value) in &output.metrics {
                table.add_row([name.into(), table::right(format!("{value:.4}"))]);
            }
            table.add_row(["queries".into(), table::right(output.queries.to_string())]);
            table.add_row(["documents/s".into(), table::right(format!("{:.1}", output.documents_per_second))]);
        }
        _ => {
            let metrics = outputs.iter().take(1).flat_map(|output| &output.metrics).take(METRICS_SHOWN_MAX);
            let columns = ["budget ms"].into_iter().chain(metrics.map(|(name, _)| name.as_str()));
            let columns = columns.chain(["scored %", "partial", "p50 ms", "p90 ms", "max ms"]);
            table.set_header(columns.map(|name| table::right(name.to_owned())).collect::<Vec<Cell>>());
            for output in outputs {
                table.add_row(row(output));
            }
        }
    }
    table.to_string()
}

/// The others are in the JSON: a line has room for so many beside the times.
const METRICS_SHOWN_MAX: usize = 4;

fn row(output: &Output) -> Vec<Cell> {
    let metrics = output.metrics.iter().take(METRICS_SHOWN_MAX).map(|(_, value)| format!("{value:.4}"));
    let mut cells: Vec<String> = Vec::new();
    cells.push(output.within.as_ref().map(|within| within.budget_ms.to_string()).unwrap_or_default());
    cells.extend(metrics);
    if let Some(within) = &output.within {
        let Latencies { p50, p90, max } = within.latency_seconds;
        cells.push(format!("{:.1}", within.scored_share * 100.0));
        cells.push(format!("{}/{}", within.partial_queries, output.queries));
        cells.extend([p50, p90, max].map(|seconds| format!("{:.1}", seconds * 1e3)));
    }
    cells.into_iter().map(table::right).collect()
}

/// An object whose keys keep their order.
fn as_object<S: Serializer>(metrics: &[(String, f64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(metrics.iter().map(|(name, value)| (name, value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let milliseconds = |count: u64| (1..=count).map(Duration::from_millis).collect::<Vec<_>>();
        let cases = [(0, [0.0; 3]), (1, [0.001; 3]), (2, [0.001, 0.002, 0.002]), (10, [0.005, 0.009, 0.01])];
        for (count, [p50, p90, max]) in cases {
            assert_eq!(Latencies::of(&milliseconds(count)), Latencies { p50, p90, max }, "{count}");
        }
    }
}
