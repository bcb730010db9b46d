//! Agreement with `ir-measures`, to 1e-6 and better.
//!
//! The files in `ir_measures/` and the figures below were written by `ir_measures/make_golden.py`, which
//! says how; nothing of Python runs here. The collection has graded and negative judgments, queries
//! without a relevant document, queries missing on either side, unjudged documents, rankings longer and
//! shorter than the cutoffs, and tied scores.

#![allow(clippy::print_stderr, reason = "a test that is skipped says so")]

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::Value;
use sluice_core::evaluate::{Metric, Qrels, Run, evaluate};

const QRELS: &str = include_str!("ir_measures/qrels.txt");
const RUN: &str = include_str!("ir_measures/run.txt");
const EXPECTED: &str = include_str!("ir_measures/expected.json");
/// The values were rounded to 12 digits.
const TOLERANCE: f64 = 1e-10;

/// Metrics by name, in the order of their names.
type Values = BTreeMap<String, f64>;

fn check(case: &str, qrels: &Qrels, run: &Run, queries: usize, expected: &Values) {
    let metrics: Vec<Metric> = expected.keys().map(|name| name.parse().expect("a known metric")).collect();
    let report = evaluate(qrels, run, &metrics);
    assert_eq!(report.queries, queries, "{case}");
    for ((name, value), (expected_name, expected)) in report.metrics.iter().zip(expected) {
        assert_eq!(name, expected_name, "{case}");
        assert!((value - expected).abs() < TOLERANCE, "{case}: {name} is {value} instead of {expected}");
    }
}

fn values(json: &Value) -> Values {
    let object = json.as_object().expect("metrics by name");
    object.iter().map(|(name, value)| (name.clone(), value.as_f64().expect("a number"))).collect()
}

/// The lines of a TREC file that are about one query.
fn lines_of(query: &str, text: &str) -> String {
    text.lines().filter(|line| line.split_whitespace().next() == Some(query)).map(|line| format!("{line}\n")).collect()
}

#[test]
fn means_agree() {
    let expected: Value = serde_json::from_str(EXPECTED).expect("JSON");
    let (mean, queries) = (values(&expected["mean"]), expected["by_query"].as_object().expect("an object").len());
    assert_eq!(mean.len(), 16, "every metric, with a cutoff and without");
    let qrels = Qrels::parse(QRELS).expect("well formed");
    let run = Run::parse(RUN).expect("well formed");
    check("as read", &qrels, &run, queries, &mean);
    let again = Run::parse(&run.to_trec("again")).expect("well formed");
    check("written and read", &qrels, &again, queries, &mean);
}

#[test]
fn every_query_agrees() {
    let expected: Value = serde_json::from_str(EXPECTED).expect("JSON");
    for (query, expected) in expected["by_query"].as_object().expect("values by query") {
        let qrels = Qrels::parse(&lines_of(query, QRELS)).expect("well formed");
        let run = Run::parse(&lines_of(query, RUN)).expect("well formed");
        check(query, &qrels, &run, 1, &values(expected));
    }
}

/// The candidates of TREC DL 2019, passage, in BM25's order.
#[test]
fn bm25_on_dl19_agrees() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/dl19");
    if !folder.is_dir() {
        eprintln!("skipped: no {}", folder.display());
        return;
    }
    let read = |name| fs::read_to_string(folder.join(name)).expect("a readable file");
    let qrels = Qrels::parse(&read("qrels.txt")).expect("well formed");
    let mut run = Run::new();
    for line in read("candidates.jsonl").lines() {
        let query: Value = serde_json::from_str(line).expect("JSON");
        let documents = query["documents"].as_array().expect("a list");
        let ids = documents.iter().map(|document| document["id"].as_str().expect("a string").to_owned()).collect();
        run.insert(query["qid"].as_str().expect("a string"), ids).expect("insertable");
    }
    let expected = [
        ("ndcg@10", 0.505_831_002_439_907_2),
        ("mrr@10", 0.823_320_413_436_692_4),
        ("map", 0.299_283_571_603_232_4),
        ("recall@100", 0.453_073_024_838_807_96),
        ("precision@10", 0.618_604_651_162_790_8),
        ("f1@10", 0.180_643_428_870_809_14),
        ("hit_rate@10", 0.976_744_186_046_511_6),
    ];
    let expected = expected.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    check("BM25 on DL19", &qrels, &run, 43, &expected);
}
