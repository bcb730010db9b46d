//! The figures for people.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};

use crate::report::{Estimate, Figures, Latency, Report};

/// Rates and latencies of each stream and of all, how requests ended, and what a reader should know before believing
/// them. Ends with a line break.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut text = String::new();
    let mut rows: Vec<(String, &Figures)> =
        report.streams.iter().map(|stream| (stream.name.clone(), &stream.figures)).collect();
    if rows.len() > 1 {
        let several = report.classes.iter().map(|class| (format!("all {}", class.class.name()), &class.figures));
        rows.extend(several.filter(|_| report.classes.len() > 1));
        rows.push(("all".to_owned(), &report.total));
    }
    let _ = writeln!(text, "{}", rates(&rows));
    let _ = writeln!(
        text,
        "Latency in ms, of answers, from the intended time\n{}",
        latencies(&rows, |figures| { figures.latency_seconds.as_ref() })
    );
    let _ = writeln!(
        text,
        "The same from sending, as a closed loop would tell it\n{}",
        latencies(&rows, |figures| { figures.service_seconds.as_ref() })
    );
    let _ = writeln!(text, "{}", outcomes(&report.total));
    remarks(report).iter().for_each(|remark| {
        let _ = writeln!(text, "- {remark}");
    });
    text
}

fn rates(rows: &[(String, &Figures)]) -> Table {
    let header = ["", "requests", "offered/s", "answered/s", "goodput/s", "95 %", "good", "partial", "documents/s"];
    table(
        &header,
        rows.iter().map(|(name, figures)| {
            let goodput = figures.goodput_per_second;
            vec![
                name.clone(),
                figures.requests.to_string(),
                short(figures.offered_per_second),
                short(figures.answered_per_second),
                short(goodput.value),
                format!("{}…{}", short(goodput.low), short(goodput.high)),
                format!("{:.1} %", 100.0 * figures.good_share),
                figures.partial.to_string(),
                short(figures.documents_per_second),
            ]
        }),
    )
}

fn latencies(rows: &[(String, &Figures)], which: impl Fn(&Figures) -> Option<&Latency>) -> Table {
    let header = ["", "answers", "p50", "p90", "p95", "p99", "95 %", "p99.9", "max"];
    table(
        &header,
        rows.iter().map(|(name, figures)| {
            let Some(latency) = which(figures) else {
                return vec![name.clone(), "0".to_owned()];
            };
            let mut row = vec![name.clone(), latency.count.to_string()];
            row.extend(
                [latency.p50, latency.p90, latency.p95, latency.p99].map(|estimate| milliseconds(estimate.value)),
            );
            row.push(interval(&latency.p99));
            row.extend([milliseconds(latency.p999.value), milliseconds(latency.max)]);
            row
        }),
    )
}

fn outcomes(figures: &Figures) -> Table {
    let rows = figures
        .outcomes
        .iter()
        .map(|outcome| vec![outcome.status.clone(), outcome.count.to_string(), outcome.reason.clone()]);
    table(&["status", "requests", "reason"], rows)
}

/// What a reader should know before believing the figures.
fn remarks(report: &Report) -> Vec<String> {
    let generator = &report.generator;
    let mut remarks = vec![format!(
        "95 % intervals: of goodput, Student's t over 20 slices of {} s; of p99, binomial ranks widened by how the \
         slices differ.",
        short(report.seconds / 20.0)
    )];
    if let Some(lag) = &report.total.lag_seconds {
        let lags = [lag.p50.value, lag.p99.value, lag.max].map(milliseconds);
        remarks.push(format!(
            "Requests left {} ms after their time (p50), {} ms (p99), {} ms (max).",
            lags[0], lags[1], lags[2]
        ));
    }
    if generator.waited_for_a_slot > 0 {
        remarks.push(format!(
            "THE BOUND WAS MET: {} requests waited because {} were in flight; raise --in-flight for an open loop.",
            generator.waited_for_a_slot, generator.in_flight_max
        ));
    }
    if generator.late_starts > 0 {
        let late_after = milliseconds(generator.late_after_seconds);
        remarks.push(format!("{} requests left more than {late_after} ms late.", generator.late_starts));
    }
    let unsent = report.total.count("UNSENT");
    if unsent > 0 {
        remarks.push(format!("{unsent} requests were never sent: too many others were in flight."));
    }
    if report.interrupted {
        remarks.push("The run was stopped before its end: rates are over its whole length.".to_owned());
    }
    remarks
}

fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).force_no_tty();
    table.set_header(header.iter().copied());
    rows.for_each(|row| {
        table.add_row(row);
    });
    for (index, name) in header.iter().enumerate().skip(1) {
        if let Some(column) = table.column_mut(index).filter(|_| *name != "reason") {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn interval(estimate: &Estimate) -> String {
    let end = |bound: Option<f64>| bound.map_or_else(|| "?".to_owned(), milliseconds);
    format!("{}…{}", end(estimate.low), end(estimate.high))
}

fn milliseconds(seconds: f64) -> String {
    short(1e3 * seconds)
}

/// Three significant digits, without an exponent.
fn short(value: f64) -> String {
    let decimals = match value.abs() {
        value if value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        value if value >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}
