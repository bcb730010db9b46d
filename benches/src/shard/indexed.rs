//! Many drawn documents in a store: how fast they come in, what that takes of memory, and how they are searched.

use std::{fs, path::Path, thread, time::Duration};

use anyhow::{Context, bail};
use sluice_retrieval::{
    collection::{Index, Leg},
    config::StoreConfig,
    document::Document,
    identity::Lsn,
    indexes::followers,
    schema::{DenseField, Language, Metric, Schema, SparseField},
    search::LegQuery,
    shard::Shard,
    store::{DurableStore, Store},
    truth::Operation,
    vector_index::Effort,
};
use tokio::runtime::Runtime;

use super::{
    Asker, COLLECTION, DENSE, K, Options, SPARSE, Search,
    drawn::{self, Drawn},
    here, overhead,
    rivals::{Tantivy, Usearch},
    row, row_of_cost,
};
use crate::{machine::Machine, report::Report};

const DOCUMENTS_PER_WRITE: usize = 1_000;
/// What the process may hold while it indexes, in GiB, with as many documents as that is said of.
const MEMORY_MAX: f64 = 6.0;
const GRAPH_RECALL_MIN: f64 = 0.98;
/// Queries of which the graph's answer is compared with the exact one.
const RECALL_QUERIES: usize = 100;
/// Between two looks at how far linking is.
const PATIENCE: Duration = Duration::from_millis(50);

/// Indexes, and measures what is asked of what was indexed.
///
/// # Errors
/// If the store, a search or an engine fails.
pub(super) fn measure(
    options: &Options,
    machine: &Machine,
    runtime: &Runtime,
    report: &mut Report,
) -> anyhow::Result<()> {
    let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(&machine.cache)?;
    let drawn = Drawn::new();
    report.notes.push(Drawn::description());
    let shard = folder.path().join("shard");
    let seconds = index(&drawn, options, &shard, (machine, runtime), report)?;

    (machine.progress)("opening it again");
    let began = (machine.clock)();
    let store = DurableStore::open(&shard, &StoreConfig::default())?;
    let source = here(store.find(COLLECTION)?)?;
    let lsn = source.snapshot()?.lsn();
    let asker = Asker::new(source, lsn, machine);
    // A leg that is still being filled makes a search wait.
    asker.ask_now(runtime, Search::of(&drawn.query(0)))?;
    report.notes.push(format!("opened again, and searched, after {:.1} s", ((machine.clock)() - began).as_secs_f64()));

    (machine.progress)("tantivy alone");
    let began = (machine.clock)();
    let alone = folder.path().join("tantivy");
    fs::create_dir(&alone)?;
    let text = |number| {
        let Document { mut texts, .. } = drawn.document(number);
        format!("{} {}", texts.remove("title").unwrap_or_default(), texts.remove("text").unwrap_or_default())
    };
    let tantivy = Tantivy::index(&alone, (0..options.documents).map(text), 10 * DOCUMENTS_PER_WRITE)?;
    let tantivy_seconds = ((machine.clock)() - began).as_secs_f64();
    let rate = |seconds: f64| options.documents as f64 / seconds;
    let rival = ("tantivy alone", rate(tantivy_seconds));
    let case = format!("{}/index", options.documents);
    report.rows.push(row(case, "documents/s, all legs, durable", rate(seconds), rival, None));
    report.notes.push("index: drawing the documents is part of it, on either side".to_owned());

    let usearch = Usearch::load(&shard)?;
    anyhow::ensure!(usearch.len() == options.documents, "the graph that was kept has {} vectors", usearch.len());
    graph_recall(&asker, &drawn, options, runtime, report)?;
    overhead::measure(&asker, (&tantivy, &usearch), &drawn, options, (machine, runtime), report)?;
    store.close();
    Ok(())
}

/// Seconds until everything is durable, found by all legs, and linked.
fn index(
    drawn: &Drawn,
    options: &Options,
    folder: &Path,
    (machine, runtime): (&Machine, &Runtime),
    report: &mut Report,
) -> anyhow::Result<f64> {
    (machine.progress)(&format!("indexing {} drawn documents", options.documents));
    let config = StoreConfig::default();
    let shard = Shard::open(folder, config.shard(), followers(config.indexes()))?;
    let mut schema = Schema::title_and_text(Language::English);
    schema.dense.push(DenseField { name: DENSE.to_owned(), dim: drawn::DIM as u32, metric: Metric::Cosine });
    schema.sparse.push(SparseField { name: SPARSE.to_owned(), idf: false });
    let collection = shard.create(COLLECTION, &schema)?;
    let began = (machine.clock)();
    let mut lsn = Lsn(0);
    for first in (0..options.documents).step_by(DOCUMENTS_PER_WRITE) {
        let batch = first..(first + DOCUMENTS_PER_WRITE).min(options.documents);
        let operations = batch.map(|number| Operation::Upsert(drawn.document(number))).collect();
        lsn = runtime.block_on(collection.submit(operations))?.wait()?.lsn;
        if first.is_multiple_of(20 * DOCUMENTS_PER_WRITE) {
            (machine.progress)(&format!("{first} are durable"));
        }
    }
    let durable = ((machine.clock)() - began).as_secs_f64();
    for (leg, _) in collection.progress() {
        runtime.block_on(collection.reached(&leg, lsn))?;
    }
    let found = ((machine.clock)() - began).as_secs_f64();
    (machine.progress)("linking");
    let Index::Dense(graph) = collection.index(&Leg::Dense(DENSE.to_owned()))? else { bail!("no dense leg") };
    while graph.pending() > 0 {
        thread::sleep(PATIENCE);
    }
    let linked = ((machine.clock)() - began).as_secs_f64();
    // With its threads, the graph is kept.
    shard.close();
    let peak = peak_gibibytes(&fs::read_to_string("/proc/self/status").unwrap_or_default());
    let peak = peak.context("this system does not say how large a process was")?;
    let case = format!("{}/memory", options.documents);
    let allowed = ("allowed", MEMORY_MAX);
    report.rows.push(row_of_cost(case, "GiB at most (less is better)", peak, allowed, Some(1.0)));
    report.notes.push(format!(
        "{} documents: durable after {durable:.0} s, found by all legs after {found:.0} s, linked after {linked:.0} s",
        options.documents
    ));
    Ok(linked)
}

/// The largest resident set so far.
fn peak_gibibytes(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes / (1024.0 * 1024.0))
}

fn graph_recall(
    asker: &Asker,
    drawn: &Drawn,
    options: &Options,
    runtime: &Runtime,
    report: &mut Report,
) -> anyhow::Result<()> {
    let (mut found, mut all) = (0, 0);
    for number in 0..options.queries.min(RECALL_QUERIES) {
        let ask = |wanted: Effort| {
            let mut legs = drawn.query(number).into_iter().filter(|leg| matches!(leg, LegQuery::Dense { .. }));
            let mut leg = legs.next().context("a query has a vector")?;
            if let LegQuery::Dense { effort, .. } = &mut leg {
                *effort = wanted;
            }
            asker.ask_now(runtime, Search::of(&[leg]))
        };
        let (graph, exact) = (ask(Effort::Usual)?, ask(Effort::Everything)?);
        let exact: Vec<&str> = exact.hits.iter().map(|hit| &*hit.fused.id.id).collect();
        found += graph.hits.iter().filter(|hit| exact.contains(&&*hit.fused.id.id)).count();
        all += exact.len();
    }
    let recall = found as f64 / all.max(1) as f64;
    let case = format!("{}/graph recall@{K}", options.documents);
    report.rows.push(row(case, "recall", recall, ("every vector compared", 1.0), Some(GRAPH_RECALL_MIN)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_are_read() {
        assert_eq!(peak_gibibytes("VmPeak: 9 kB\nVmHWM:\t 3145728 kB\n"), Some(3.0));
        assert_eq!(peak_gibibytes("VmHWM: much"), None);
    }
}
