//! The first-stage shard, in process: a durable store, its three legs and the searcher over them.
//!
//! | case | ours | rival |
//! |---|---|---|
//! | `SET/METHOD nDCG@10`, `SET/METHOD recall@100` | a way to fuse BM25 and dense vectors on a judged collection | the better of the two alone |
//! | `SET/graph recall@100` | the graph of dense vectors as it is set by default | every vector compared |
//! | `exact scan` | every vector compared, on one thread | NumPy |
//! | `N/memory` | the most that the process held while it indexed N drawn documents | what is allowed |
//! | `N/index` | documents a second, of all legs and the truth | tantivy alone |
//! | `N/LEG …`, `N/three legs …` | a leg, or a search of all, k = 100 | the engine alone; the least that a search of all can take |
//!
//! Judged collections are folders of `corpus.jsonl`, `queries.jsonl` and `qrels.txt`; without them their rows are left
//! out. Scores of the exact scan must be NumPy's, and BM25 of a leg must be tantivy's alone: a run in which they are not
//! fails.

mod drawn;
mod exact;
mod indexed;
mod judged;
mod overhead;
mod quality;
mod rivals;

use std::{path::PathBuf, sync::Arc, time::Duration};

use sluice_core::fusion::{FINGERPRINT_BYTES, Method};
use sluice_retrieval::{
    config::ShardConfig,
    identity::Lsn,
    search::{
        KeptLists, LegJob, LegQuery, LegState, Pool, Projection, SearchAnswer, SearchJob, Searcher, Source, Weights,
    },
    store::{Collection, Engine},
};
use tokio::{runtime::Runtime, time::Instant};

use crate::{
    machine::Machine,
    report::{Report, Row, Spread},
};

/// What is measured, and how long.
#[derive(Debug, Clone)]
pub struct Options {
    /// Drawn documents; 0 leaves them out.
    pub documents: usize,
    /// Folders of judged collections; none takes those beside the source tree, where they are.
    pub data: Vec<PathBuf>,
    /// Queries over the drawn documents.
    pub queries: usize,
    /// Passes over the queries.
    pub passes: usize,
    /// How long each closed loop runs.
    pub loop_time: Duration,
}

/// Candidates of a leg.
const K: usize = 100;
/// Judged collections, seen from the source tree.
const JUDGED: [&str; 2] = ["../shared/data/scifact", "../shared/data/cranfield"];
const COLLECTION: &str = "bench";
const DENSE: &str = "dense";
const SPARSE: &str = "sparse";

/// Runs the scenario.
///
/// # Errors
/// If the model or a rival is not to be had, or somebody fails.
pub fn run(options: &Options, machine: &Machine) -> anyhow::Result<Report> {
    let mut report = Report {
        scenario: "shard",
        host: machine.host(machine.processors.get()),
        commit: machine.commit(),
        rows: Vec::new(),
        notes: Vec::new(),
        faults: Vec::new(),
    };
    let threads = machine.processors.get();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    if options.documents > 0 {
        // First of all, while nothing but the shard is in memory.
        indexed::measure(options, machine, &runtime, &mut report)?;
    }
    let sets = judged::sets(&options.data, machine, &mut report)?;
    quality::measure(&sets, machine, &runtime, &mut report)?;
    exact::measure(&sets, options.passes, machine, &mut report)?;
    Ok(report)
}

/// Runs searches on a collection as a shard of default settings does.
struct Asker {
    searcher: Searcher,
    source: Arc<dyn Source>,
    lsn: Lsn,
}

/// The indexes of a collection in this process.
fn here(collection: Arc<dyn Collection>) -> anyhow::Result<Arc<dyn Source>> {
    match collection.engine() {
        Engine::Here(source) => Ok(source),
        Engine::Cluster(_) => Err(anyhow::anyhow!("a durable store answers itself")),
    }
}

impl Asker {
    fn new(source: Arc<dyn Source>, lsn: Lsn, machine: &Machine) -> Self {
        let config = ShardConfig::default().search;
        let pool = Pool::new(config.places(machine.processors), config.queued_legs_max);
        let searcher =
            Searcher::new(pool, KeptLists::new(config.kept_lists_max, config.kept_hits_max), config.settings());
        Self { searcher, source, lsn }
    }

    /// One search: what it found, and all legs well.
    async fn ask(&self, search: Search) -> anyhow::Result<SearchAnswer> {
        let job = Arc::new(search.job(self.lsn));
        let source = Arc::clone(&self.source);
        let answer = self.searcher.search(source, job, Instant::now() + Duration::from_secs(600), None).await?;
        let fault = answer.legs.iter().find(|leg| leg.state != LegState::Ok);
        anyhow::ensure!(fault.is_none(), "a leg did not answer: {fault:?}");
        Ok(answer)
    }

    fn ask_now(&self, runtime: &Runtime, search: Search) -> anyhow::Result<SearchAnswer> {
        runtime.block_on(self.ask(search))
    }
}

/// What is asked.
struct Search {
    legs: Vec<(LegQuery, f64)>,
    method: Method,
    weights: Weights,
}

impl Search {
    /// Legs that count the same, fused by RRF.
    fn of(legs: &[LegQuery]) -> Self {
        let legs = legs.iter().map(|leg| (leg.clone(), 1.0)).collect();
        Self { legs, method: Method::default(), weights: Weights::Fixed }
    }

    fn job(self, lsn: Lsn) -> SearchJob {
        let legs = self.legs.into_iter().zip(["a", "b", "c"]).map(|((query, weight), name)| LegJob {
            name: name.to_owned(),
            query,
            k: K,
            weight: Some(weight),
            timeout: None,
        });
        SearchJob {
            legs: legs.collect(),
            filter: None,
            method: self.method,
            weights: self.weights,
            limit: K,
            after: None,
            fingerprint: [0; FINGERPRINT_BYTES],
            min_score: None,
            min_lsn: lsn,
            projection: Projection::nothing(),
            snippets: None,
            facets: Vec::new(),
            count: false,
        }
    }
}

/// A row of one value beside another, both larger is better.
fn row(case: String, unit: &'static str, ours: f64, (rival, rival_value): (&str, f64), target: Option<f64>) -> Row {
    Row {
        case,
        unit,
        ours: Spread::of([ours]),
        rival: rival.to_owned(),
        rival_value: Spread::of([rival_value]),
        ratio: Spread::of([ours / rival_value]),
        target,
    }
}

/// The same of what had better be small: the ratio is above 1 where ours is.
fn row_of_cost(case: String, unit: &'static str, ours: f64, rival: (&str, f64), target: Option<f64>) -> Row {
    Row { ratio: Spread::of([rival.1 / ours]), ..row(case, unit, ours, rival, target) }
}

/// The value at `share` (0 to 1) of the sorted values.
fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let nth = (share * sorted.len() as f64).ceil() as usize;
    sorted[nth.clamp(1, sorted.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_occur() {
        let values: Vec<f64> = (1..=20).rev().map(f64::from).collect();
        for (share, expected) in [(0.0, 1.0), (0.5, 10.0), (0.95, 19.0), (1.0, 20.0)] {
            assert_eq!(quantile(&values, share), expected, "{share}");
        }
        assert_eq!(quantile(&[7.0], 0.5), 7.0);
    }

    #[test]
    fn ratios_are_above_1_where_ours_is_better() {
        let better = row("a".to_owned(), "queries/s", 30.0, ("other", 20.0), Some(1.0));
        let cheaper = row_of_cost("a".to_owned(), "ms", 20.0, ("other", 30.0), None);
        assert_eq!((better.ratio.median, cheaper.ratio.median), (1.5, 1.5));
    }
}
