//! How good each way to fuse is on judged collections, and how much of the exact answer the graph finds.
//!
//! Weights and shares that come from judgments are chosen on the *other* collections and used on this one, so that none
//! is fitted to what it is measured on.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use sluice_core::{
    evaluate::{Metric, Run, evaluate},
    fusion::{Method, Normalization},
};
use sluice_retrieval::{
    config::StoreConfig,
    identity::Lsn,
    schema::{self, DenseField, Language, Schema},
    search::{LegQuery, LexicalQuery, Weights},
    store::{DurableStore, Store, Write},
    vector_index::Effort,
};
use tokio::runtime::Runtime;

use super::{
    Asker, COLLECTION, DENSE, K, Search, here,
    judged::{DIM, Judged, Query},
    row,
};
use crate::{machine::Machine, report::Report};

/// What BM25 must reach, by collection: nDCG@10 and recall@100.
const ASKED: [(&str, [f64; 2]); 2] = [("scifact", [0.670, 0.905]), ("cranfield", [0.510, 0.735])];
/// nDCG@10 by which RRF may be worse than the better leg.
const RRF_LOSS_MAX: f64 = 0.005;
/// nDCG@10 by which adaptive weights may be worse than fixed ones.
const ADAPTIVE_LOSS_MAX: f64 = 0.003;
/// Share of the exact answer that the graph must find.
const GRAPH_RECALL_MIN: f64 = 0.98;
/// Shares of the dense leg that are tried.
const SHARES: [f64; 9] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9];
const DOCUMENTS_PER_WRITE: usize = 500;

/// nDCG@10 and recall@100.
type Quality = [f64; 2];

/// A collection in a store.
struct Stored<'a> {
    set: &'a Judged,
    asker: Asker,
    runtime: &'a Runtime,
}

/// Adds rows and notes for every collection.
///
/// # Errors
/// If a store or a search fails.
pub(super) fn measure(
    sets: &[Judged],
    machine: &Machine,
    runtime: &Runtime,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut stored = Vec::new();
    let mut folders = Vec::new();
    for set in sets {
        (machine.progress)(&format!("{}: indexing", set.name));
        let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(&machine.cache)?;
        stored.push(Stored { set, asker: open(set, folder.path(), machine)?, runtime });
        folders.push(folder);
    }
    let mut tried: Vec<BTreeMap<String, Quality>> = Vec::new();
    for stored in &stored {
        (machine.progress)(&format!("{}: searching", stored.set.name));
        tried.push(stored.shares()?);
    }
    for (nth, stored) in stored.iter().enumerate() {
        let others = tried.iter().enumerate().filter(|(other, _)| *other != nth).map(|(_, tried)| tried);
        let others: Vec<&BTreeMap<String, Quality>> = others.collect();
        rows(stored, &others, &tried[nth], report)?;
        graph(stored, report)?;
    }
    Ok(())
}

fn open(set: &Judged, folder: &Path, machine: &Machine) -> anyhow::Result<Asker> {
    let store = DurableStore::open(folder, &StoreConfig::default())?;
    let mut schema = Schema::title_and_text(Language::English);
    schema.dense.push(DenseField { name: DENSE.to_owned(), dim: DIM as u32, metric: schema::Metric::Cosine });
    store.create(COLLECTION, schema)?;
    let collection = store.find(COLLECTION)?;
    let mut lsn = Lsn(0);
    for part in set.documents.chunks(DOCUMENTS_PER_WRITE) {
        lsn = collection.write(Write::Upsert(part.to_vec()))?.lsn;
    }
    // The collection lives on in whoever holds it.
    Ok(Asker::new(here(collection)?, lsn, machine))
}

fn words(query: &Query) -> LegQuery {
    LegQuery::Lexical(LexicalQuery { text: query.text.clone(), ..LexicalQuery::default() })
}

fn dense(query: &Query, effort: Effort) -> LegQuery {
    LegQuery::Dense { vector: DENSE.to_owned(), query: query.vector.clone(), metric: schema::Metric::Cosine, effort }
}

/// Words and the exact dense leg, with the dense leg's share of the weight.
fn both(query: &Query, share: f64, method: Method, weights: Weights) -> Search {
    let legs = vec![(words(query), 2.0 * (1.0 - share)), (dense(query, Effort::Everything), 2.0 * share)];
    Search { legs, method, weights }
}

impl Stored<'_> {
    fn quality(&self, search: impl Fn(&Query) -> Search) -> anyhow::Result<Quality> {
        let mut run = Run::default();
        for query in &self.set.queries {
            let answer = self.asker.ask_now(self.runtime, search(query))?;
            let ranking = answer.hits.iter().map(|hit| hit.fused.id.id.to_string()).collect();
            run.insert(&query.id, ranking)?;
        }
        let metrics: [Metric; 2] = ["ndcg@10".parse()?, "recall@100".parse()?];
        let report = evaluate(&self.set.qrels, &run, &metrics);
        Ok([report.metrics[0].1, report.metrics[1].1])
    }

    /// Of every method that has weights, with every share.
    fn shares(&self) -> anyhow::Result<BTreeMap<String, Quality>> {
        let mut tried = BTreeMap::new();
        for (name, method) in [("rrf", Method::default()), ("convex", Method::Convex(Normalization::TheoreticalMin))] {
            for share in SHARES {
                let quality = self.quality(|query| both(query, share, method, Weights::Fixed))?;
                tried.insert(key(name, share), quality);
            }
        }
        Ok(tried)
    }
}

fn key(method: &str, share: f64) -> String {
    format!("{method} {share:.1}")
}

/// The share that is best on other collections together.
fn share_of_others(method: &str, others: &[&BTreeMap<String, Quality>]) -> Option<f64> {
    let sum = |share: f64| others.iter().map(|tried| tried[&key(method, share)][0]).sum::<f64>();
    (!others.is_empty()).then(|| SHARES.into_iter().max_by(|a, b| sum(*a).total_cmp(&sum(*b))))?
}

fn rows(
    stored: &Stored<'_>,
    others: &[&BTreeMap<String, Quality>],
    own: &BTreeMap<String, Quality>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let name = &stored.set.name;
    let alone = [
        ("bm25", stored.quality(|query| Search::of(&[words(query)]))?),
        ("dense", stored.quality(|query| Search::of(&[dense(query, Effort::Everything)]))?),
    ];
    let convex = Method::Convex(Normalization::TheoreticalMin);
    let method = |method, weights| stored.quality(move |query| both(query, 0.5, method, weights));
    let fixed = [own[&key("rrf", 0.5)], own[&key("convex", 0.5)]];
    let mut found = vec![
        ("rrf".to_owned(), fixed[0]),
        ("rrf, adaptive weights".to_owned(), method(Method::default(), Weights::Adaptive)?),
        ("convex".to_owned(), fixed[1]),
        ("convex, adaptive weights".to_owned(), method(convex, Weights::Adaptive)?),
        ("dbsf".to_owned(), method(Method::Dbsf, Weights::Fixed)?),
        ("combmnz".to_owned(), method(Method::CombMnz(Normalization::MinMax), Weights::Fixed)?),
    ];
    for method in ["rrf", "convex"] {
        if let Some(share) = share_of_others(method, others) {
            found.push((
                format!("{method}, dense counts {share:.1} of 1 as is best elsewhere"),
                own[&key(method, share)],
            ));
        }
    }
    for (nth, metric) in ["nDCG@10", "recall@100"].into_iter().enumerate() {
        let asked = ASKED.iter().find(|(set, _)| set == name).map(|(_, asked)| asked[nth]);
        for (leg, quality) in &alone {
            let other = if *leg == "bm25" { &alone[1] } else { &alone[0] };
            let case = format!("{name}/{leg} {metric}");
            let asked = asked.filter(|_| *leg == "bm25");
            let rival = asked.map_or((other.0, other.1[nth]), |asked| ("asked", asked));
            report.rows.push(row(case, metric, quality[nth], rival, asked.map(|_| 1.0)));
        }
        let better = if alone[0].1[nth] >= alone[1].1[nth] { &alone[0] } else { &alone[1] };
        for (method, quality) in &found {
            let case = format!("{name}/{method} {metric}");
            let target = (method == "rrf" && nth == 0).then(|| 1.0 - RRF_LOSS_MAX / better.1[nth]);
            report.rows.push(row(case, metric, quality[nth], (better.0, better.1[nth]), target));
        }
    }
    for (fused, adaptive) in [(0, 1), (2, 3)] {
        let loss = found[fused].1[0] - found[adaptive].1[0];
        let case = format!("{name}/{} nDCG@10 beside fixed ones", found[adaptive].0);
        let target = Some(1.0 - ADAPTIVE_LOSS_MAX / found[fused].1[0]);
        report.rows.push(row(case, "nDCG@10", found[adaptive].1[0], ("fixed weights", found[fused].1[0]), target));
        report.notes.push(format!("{name}: {} lose {loss:.4} to fixed ones", found[adaptive].0));
    }
    let curve = |method: &str| {
        let points = SHARES.iter().map(|share| format!("{share:.1} {:.4}", own[&key(method, *share)][0]));
        points.collect::<Vec<_>>().join(", ")
    };
    report.notes.push(format!(
        "{name}: nDCG@10 by the dense leg's share: rrf {}; convex {}",
        curve("rrf"),
        curve("convex")
    ));
    Ok(())
}

/// What the graph finds of the exact answer at its default settings.
fn graph(stored: &Stored<'_>, report: &mut Report) -> anyhow::Result<()> {
    // Named, since a collection as small as this is compared as a whole otherwise.
    let candidates = StoreConfig::default().graph_candidates;
    let (mut found, mut all) = (0, 0);
    for query in &stored.set.queries {
        let ask = |effort| stored.asker.ask_now(stored.runtime, Search::of(&[dense(query, effort)]));
        let (graph, exact) = (ask(Effort::Candidates(candidates))?, ask(Effort::Everything)?);
        let exact: Vec<&Arc<str>> = exact.hits.iter().map(|hit| &hit.fused.id.id).collect();
        found += graph.hits.iter().filter(|hit| exact.contains(&&hit.fused.id.id)).count();
        all += exact.len();
    }
    let recall = found as f64 / all.max(1) as f64;
    let case = format!("{}/graph recall@{K}", stored.set.name);
    report.rows.push(row(case, "recall", recall, ("every vector compared", 1.0), Some(GRAPH_RECALL_MIN)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_those_best_elsewhere() {
        let tried = |best: f64| {
            let of = |method, share: f64| (key(method, share), [1.0 - (share - best).abs(), 0.0]);
            SHARES.into_iter().flat_map(|share| [of("rrf", share), of("convex", share)]).collect::<BTreeMap<_, _>>()
        };
        let (low, high) = (tried(0.2), tried(0.8));
        assert_eq!(share_of_others("rrf", &[&low]), Some(0.2));
        assert_eq!(share_of_others("convex", &[&high]), Some(0.8));
        assert_eq!(share_of_others("rrf", &[]), None, "nothing elsewhere");
    }
}
