//! What a budget buys: the quality of orders that had to be ready sooner.
//!
//! The queries of TREC DL 2019 with 100 candidates each are reranked by the default model, one after the other: first
//! without a budget, then with 10 % to 100 % of the median time that took.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, anyhow};
use serde::Deserialize;
use sluice_client::{
    Client, ClientOptions,
    proto::rerank::v1::{Budget, Document, Query, RerankRequest, RerankResponse, document, query},
};
use sluice_core::evaluate::{Metric, Qrels, Run, evaluate};

use super::{COST_ERROR, Findings, Options, at_most, compared, plot, process::ServerProcess, single};
use crate::{machine::Machine, report::Spread};

/// Percent of the full time.
const BUDGETS: [u32; 10] = [10, 20, 30, 40, 50, 60, 70, 80, 90, 100];
/// Far more than a request takes.
pub(super) const DEADLINE: Duration = Duration::from_secs(120);

/// A query with its candidates, in the first stage's order.
#[derive(Deserialize)]
pub(super) struct Candidates {
    pub qid: String,
    pub query: String,
    pub documents: Vec<Candidate>,
}

#[derive(Deserialize)]
pub(super) struct Candidate {
    pub id: String,
    pub text: String,
}

/// One pass over all queries.
struct Pass {
    latencies: Vec<f64>,
    ndcg: f64,
    partial: usize,
}

pub(super) fn run(options: &Options, machine: &Machine) -> anyhow::Result<Findings> {
    let mut found = Findings::default();
    let folder = dl19(machine);
    let (candidates, qrels) = (folder.join("candidates.jsonl"), folder.join("qrels.txt"));
    if options.anytime_queries == 0 || !candidates.is_file() || !qrels.is_file() {
        found.notes.push("anytime: left out, without queries or without the files of DL19".to_owned());
        return Ok(found);
    }
    let queries = read(&candidates, options.anytime_queries)?;
    let judged = fs::read_to_string(&qrels).with_context(|| format!("cannot read {}", qrels.display()))?;
    let judged = Qrels::parse(&only(&judged, &queries)).map_err(|error| anyhow!("{}: {error}", qrels.display()))?;
    let server = ServerProcess::default_model(&options.server)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = ClientOptions { deadline: DEADLINE, ..ClientOptions::default() };
    let client = runtime.block_on(Client::connect(server.url(), client))?;
    let pass = |budget: Option<Duration>| -> anyhow::Result<Pass> {
        runtime.block_on(rerank_all(&client, &queries, &judged, budget, machine.clock))
    };

    (machine.progress)("anytime: all queries without a budget");
    pass(None).context("warming up")?;
    let before = server.scrape()?;
    let full = pass(None)?;
    let after = server.scrape()?;
    let grown = |name| after.sum(name, "") - before.sum(name, "");
    let batch = grown("sluice_compute_duration_seconds_sum") / grown("sluice_compute_duration_seconds_count").max(1.0);
    let full_time = Spread::of(full.latencies.iter().copied()).median;
    let first_stage = ndcg(&judged, &queries.iter().map(|query| (query, query.ids())).collect::<Vec<_>>())?;
    found.notes.push(format!(
        "anytime: {} queries, {full_time:.3} s each without a budget (median), batches of {batch:.3} s (mean); nDCG@10 {:.4} in \
         the first stage's order, {:.4} in full",
        queries.len(),
        first_stage,
        full.ndcg
    ));
    if let Some(error) = after.largest("sluice_cost_relative_error", "operation=\"late_interaction\"") {
        let case = "cost/error, default model";
        found.rows.push(at_most(case, "median relative error", single(error), ("10 %", COST_ERROR)));
    }
    let mut curve = vec![(0.0, first_stage)];
    for percent in BUDGETS {
        (machine.progress)(&format!("anytime: {percent} % of the time"));
        let budget = Duration::from_secs_f64(full_time * f64::from(percent) / 100.0);
        let found_here = pass(Some(budget))?;
        let p90 = quantile(&found_here.latencies, 0.9);
        let limit = budget.as_secs_f64() + batch;
        let case = format!("anytime/p90 at {percent} %");
        found.rows.push(at_most(case, "ms (less is better)", single(1e3 * p90), ("budget + a batch", 1e3 * limit)));
        let case = format!("anytime/nDCG@10 at {percent} %");
        let first = ("first stage's order", single(first_stage));
        found.rows.push(compared(case, "nDCG@10", single(found_here.ndcg), first, None));
        found.notes.push(format!(
            "anytime at {percent} %: {} of {} answers partial",
            found_here.partial,
            queries.len()
        ));
        curve.push((f64::from(percent), found_here.ndcg));
    }
    let chart = plot::Chart {
        title: "What a budget buys",
        x: "budget, % of the full time",
        y: "nDCG@10 on DL19",
        lines: vec![plot::Line { name: "default model".to_owned(), points: curve }],
    };
    found.plots.push(("anytime.svg", plot::render(&chart)));
    Ok(found)
}

impl Candidates {
    fn ids(&self) -> Vec<String> {
        self.documents.iter().map(|document| document.id.clone()).collect()
    }

    fn request(&self, budget: Option<Duration>) -> RerankRequest {
        let document = |candidate: &Candidate| Document {
            id: candidate.id.clone(),
            content: Some(document::Content::Text(candidate.text.clone())),
        };
        RerankRequest {
            query: Some(Query { content: Some(query::Content::Text(self.query.clone())) }),
            documents: self.documents.iter().map(document).collect(),
            budget: budget.map(|time| Budget { time: time.try_into().ok(), ..Budget::default() }),
            // What another pass computed must not make this one quick.
            cache: sluice_client::proto::rerank::v1::CachePolicy::Bypass.into(),
            ..RerankRequest::default()
        }
    }
}

async fn rerank_all(
    client: &Client,
    queries: &[Candidates],
    judged: &Qrels,
    budget: Option<Duration>,
    clock: fn() -> Duration,
) -> anyhow::Result<Pass> {
    let (mut latencies, mut orders, mut partial) = (Vec::new(), Vec::new(), 0);
    for query in queries {
        let start = clock();
        let answer: RerankResponse = client.rerank(query.request(budget)).await?;
        latencies.push((clock() - start).as_secs_f64());
        partial += usize::from(answer.partial);
        orders.push((query, answer.results.into_iter().map(|result| result.id).collect()));
    }
    Ok(Pass { latencies, ndcg: ndcg(judged, &orders)?, partial })
}

fn ndcg(judged: &Qrels, orders: &[(&Candidates, Vec<String>)]) -> anyhow::Result<f64> {
    let mut run = Run::new();
    for (query, order) in orders {
        run.insert(&query.qid, order.clone())?;
    }
    let metric: Metric = "ndcg@10".parse()?;
    let report = evaluate(judged, &run, &[metric]);
    report.metrics.first().map(|(_, value)| *value).context("one metric was asked for")
}

/// Where the queries are, on machines that have them.
pub(super) fn dl19(machine: &Machine) -> PathBuf {
    machine.workspace.join("../shared/data/dl19")
}

pub(super) fn read(path: &Path, queries: usize) -> anyhow::Result<Vec<Candidates>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let lines = text.lines().take(queries).map(|line| serde_json::from_str(line).context(path.display().to_string()));
    lines.collect()
}

/// The judgments of those queries: one that is not asked would count as zero.
fn only(qrels: &str, queries: &[Candidates]) -> String {
    let asked: BTreeMap<&str, ()> = queries.iter().map(|query| (query.qid.as_str(), ())).collect();
    let of_asked = |line: &&str| line.split_whitespace().next().is_some_and(|qid| asked.contains_key(qid));
    qrels.lines().filter(of_asked).flat_map(|line| [line, "\n"]).collect()
}

/// The smallest that is not exceeded by a part of `q`.
fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples() {
        for (values, q, expected) in
            [(&[3.0, 1.0, 2.0][..], 0.5, 2.0), (&[1.0, 2.0, 3.0, 4.0], 0.9, 4.0), (&[7.0], 0.1, 7.0)]
        {
            assert_eq!(quantile(values, q), expected);
        }
    }

    #[test]
    fn judgments_of_other_queries_are_left_out() {
        let query = Candidates { qid: "7".to_owned(), query: String::new(), documents: Vec::new() };
        assert_eq!(only("7 0 a 1\n77 0 a 2\n7 0 b 0\n", &[query]), "7 0 a 1\n7 0 b 0\n");
    }
}
