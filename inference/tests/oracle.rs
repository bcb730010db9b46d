//! The real model against independent oracles: ONNX Runtime's encoder, scored in f64.
//!
//! Needs the default model and the shared test collections; says what it skips. A sample by default, everything with
//! `SLUICE_FULL_ORACLE` set.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "helper functions of tests, and real time is measured"
)]

mod support;

use std::{
    env, fs,
    path::Path,
    time::{Duration, Instant},
};

use serde::{Deserialize, de::DeserializeOwned};
use sluice_core::{
    Operation,
    backend::BatchOutput,
    batch::{Role, Sequence},
    evaluate::{Qrels, Run, evaluate},
};
use sluice_inference::{CpuOptions, LoadedModel, Precision, load_folder, testing::write_cross_encoder};
use support::{ROOMY, batch, default_model, dense, late_interaction, plain, run, scores, shared_data};
use tempfile::TempDir;

const TOLERANCE: f64 = 2e-4;
/// How far int8 may move nDCG@10, on average over all of DL19's queries; the mean of fewer scatters by the square root
/// of that more.
const NDCG_CHANGE_MAX: f64 = 0.005;
const DL19_QUERIES: f64 = 43.0;
/// Of every list, unless all of it is asked for.
const SAMPLE_QUERIES: usize = 2;
const SAMPLE_DOCUMENTS: usize = 25;
/// Queries of the sample whose ranking is compared.
const SAMPLE_RANKED_QUERIES: usize = 4;

#[derive(Deserialize)]
struct Candidates {
    qid: String,
    query: String,
    documents: Vec<Candidate>,
}

#[derive(Deserialize)]
struct Candidate {
    id: String,
    text: String,
}

#[derive(Deserialize)]
struct EncoderRow {
    qid: String,
    query_tokens: usize,
    documents: Vec<EncoderScore>,
}

#[derive(Deserialize)]
struct EncoderScore {
    id: String,
    tokens: usize,
    maxsim: f64,
    cosine: f64,
}

#[derive(Deserialize)]
struct PairRow {
    qid: String,
    documents: Vec<PairScore>,
}

#[derive(Deserialize)]
struct PairScore {
    id: String,
    tokens: usize,
    logit: f64,
}

/// The largest distance from an oracle, and how fast that was measured.
#[derive(Default)]
struct Drift {
    worst: f64,
    documents: usize,
    compute: Duration,
}

impl Drift {
    fn add(&mut self, found: f32, expected: f64, what: &str) {
        let distance = (f64::from(found) - expected).abs();
        assert!(distance <= TOLERANCE, "{what}: {found}, expected {expected}");
        self.worst = self.worst.max(distance);
        self.documents += 1;
    }

    fn report(&self, what: &str) {
        let rate = self.documents as f64 / self.compute.as_secs_f64();
        eprintln!("{what}: {} documents, largest drift {:.2e}, {rate:.1} documents/s", self.documents, self.worst);
    }
}

#[test]
fn the_encoder_agrees_with_onnx_runtime() {
    let (Some(folder), Some(data)) = (default_model(), shared_data()) else { return };
    let mut model = load_folder(&folder, String::new(), String::new(), &ROOMY).unwrap();
    assert_eq!((model.info.max_tokens, model.info.embedding_dim), (256, 384));
    let candidates: Vec<Candidates> = read_lines(&data.join("dl19/candidates.jsonl"));
    let oracle: Vec<EncoderRow> = read_lines(&data.join("dl19/oracle-minilm.jsonl"));
    let (mut maxsim, mut cosine) = (Drift::default(), Drift::default());
    for (candidates, row) in sample(candidates.iter().zip(&oracle), SAMPLE_QUERIES) {
        assert_eq!(candidates.qid, row.qid);
        let query = sequence(&model, &candidates.query);
        assert_eq!(query.len(), row.query_tokens, "tokens of query {}", row.qid);
        let pairs: Vec<(&Candidate, &EncoderScore)> =
            sample(candidates.documents.iter().zip(&row.documents), SAMPLE_DOCUMENTS).collect();
        let documents: Vec<Vec<u32>> = pairs.iter().map(|(candidate, _)| sequence(&model, &candidate.text)).collect();
        for ((candidate, expected), found) in pairs.iter().zip(&documents) {
            assert_eq!(candidate.id, expected.id);
            assert_eq!(found.len(), expected.tokens, "tokens of document {}", expected.id);
        }
        let units = late_interaction(query.clone(), documents.clone());
        let found = scores(timed(&mut model, Operation::LateInteraction, &units, &mut maxsim.compute));
        let units: Vec<Sequence> = std::iter::once(query).chain(documents).map(plain).collect();
        let vectors = dense(timed(&mut model, Operation::EncodeDense, &units, &mut cosine.compute));
        for (i, (_, expected)) in pairs.iter().enumerate() {
            maxsim.add(found[i + 1], expected.maxsim, &format!("maxsim of {} and {}", row.qid, expected.id));
            let dot: f32 = vectors[0].iter().zip(&vectors[i + 1]).map(|(a, b)| a * b).sum();
            cosine.add(dot, expected.cosine, &format!("cosine of {} and {}", row.qid, expected.id));
        }
    }
    maxsim.report("late interaction");
    cosine.report("dense");
}

#[test]
fn int8_ranks_as_f32_does() {
    let (Some(folder), Some(data)) = (default_model(), shared_data()) else { return };
    let options = CpuOptions { precision: Precision::Int8, ..ROOMY };
    let mut model = load_folder(&folder, String::new(), String::new(), &options).unwrap();
    let candidates: Vec<Candidates> = read_lines(&data.join("dl19/candidates.jsonl"));
    let oracle: Vec<EncoderRow> = read_lines(&data.join("dl19/oracle-minilm.jsonl"));
    let judged = fs::read_to_string(data.join("dl19/qrels.txt")).unwrap();
    // For late interaction and dense: by the oracle's scores, which are those of f32, and by ours.
    let mut runs: [[Run; 2]; 2] = Default::default();
    let mut drifts = [0.0_f64; 2];
    for (candidates, row) in sample(candidates.iter().zip(&oracle), SAMPLE_RANKED_QUERIES) {
        let query = sequence(&model, &candidates.query);
        let documents: Vec<Vec<u32>> = candidates.documents.iter().map(|one| sequence(&model, &one.text)).collect();
        let units = late_interaction(query.clone(), documents.clone());
        let maxsims = scores(run(&mut *model.backend, &batch(Operation::LateInteraction, &units)).unwrap());
        let units: Vec<Sequence> = std::iter::once(query).chain(documents).map(plain).collect();
        let vectors = dense(run(&mut *model.backend, &batch(Operation::EncodeDense, &units)).unwrap());
        let cosines = vectors.iter().map(|vector| vector.iter().zip(&vectors[0]).map(|(a, b)| a * b).sum()).collect();
        let ids: Vec<&str> = row.documents.iter().map(|document| document.id.as_str()).collect();
        for (which, found) in [maxsims, cosines].into_iter().enumerate() {
            let found: Vec<f64> = found[1..].iter().copied().map(f64::from).collect();
            let expected: Vec<f64> =
                row.documents.iter().map(|document| [document.maxsim, document.cosine][which]).collect();
            for (found, expected) in found.iter().zip(&expected) {
                drifts[which] = drifts[which].max((found - expected).abs());
            }
            for (run, scores) in runs[which].iter_mut().zip([expected, found]) {
                run.insert(&row.qid, ranked(&ids, &scores)).unwrap();
            }
        }
    }
    // Of the queries that were ranked: a query without a ranking would count as 0.
    let judged =
        judged.lines().filter(|line| line.split(' ').next().is_some_and(|id| runs[0][0].ranking(id).is_some()));
    let qrels = Qrels::parse(&judged.collect::<Vec<_>>().join("\n")).unwrap();
    for ((name, [exact, coded]), drift) in ["late interaction", "dense"].into_iter().zip(&runs).zip(drifts) {
        let ndcg = |run| evaluate(&qrels, run, &["ndcg@10".parse().unwrap()]);
        let [exact, coded] = [ndcg(exact), ndcg(coded)].map(|report| report.metrics[0].1);
        eprintln!("{name} in int8: nDCG@10 {coded:.4}, f32 {exact:.4}; scores within {drift:.1e}");
        let change_max = NDCG_CHANGE_MAX * (DL19_QUERIES / qrels.queries().count() as f64).sqrt();
        assert!((exact - coded).abs() <= change_max, "{name}: {coded}, {exact} in f32; at most {change_max} apart");
    }
}

/// Ids by falling score, ties in their order.
fn ranked(ids: &[&str], scores: &[f64]) -> Vec<String> {
    let mut order: Vec<usize> = (0..ids.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order.into_iter().map(|index| ids[index].to_owned()).collect()
}

#[test]
fn the_pair_path_agrees_with_onnx_runtime() {
    let (Some(folder), Some(data)) = (default_model(), shared_data()) else { return };
    let head = fs::read(data.join("cross-encoder-oracle/head.safetensors")).unwrap();
    let candidates: Vec<Candidates> = read_lines(&data.join("dl19/candidates.jsonl"));
    let oracle: Vec<PairRow> = read_lines(&data.join("cross-encoder-oracle/scores.jsonl"));
    for prefix in ["", "bert."] {
        let merged = TempDir::new().unwrap();
        write_cross_encoder(merged.path(), &folder, &head, prefix);
        let mut model = load_folder(merged.path(), String::new(), String::new(), &ROOMY).unwrap();
        assert!(model.info.cross_encoder);
        let mut logits = Drift::default();
        for row in sample(oracle.iter(), SAMPLE_QUERIES) {
            let candidates = candidates.iter().find(|candidates| candidates.qid == row.qid).unwrap();
            let expected: Vec<&PairScore> = sample(row.documents.iter(), SAMPLE_DOCUMENTS).collect();
            let pairs: Vec<Sequence> = expected
                .iter()
                .map(|expected| {
                    let document = candidates.documents.iter().find(|document| document.id == expected.id).unwrap();
                    let pair = pair(&model, &candidates.query, &document.text);
                    assert_eq!(pair.input_ids.len(), expected.tokens, "tokens of {} and {}", row.qid, expected.id);
                    pair
                })
                .collect();
            let found = scores(timed(&mut model, Operation::CrossEncode, &pairs, &mut logits.compute));
            for (found, expected) in found.into_iter().zip(&expected) {
                logits.add(found, expected.logit, &format!("logit of {} and {}", row.qid, expected.id));
            }
        }
        logits.report(&format!("pairs, names with {prefix:?}"));
    }
}

/// A text's sequence, cut at the model's maximum.
fn sequence(model: &LoadedModel, text: &str) -> Vec<u32> {
    let limit = model.info.max_tokens as usize - model.text.special_tokens_single();
    model.text.single(&model.text.tokens(text, Some(limit)).unwrap().ids)
}

/// A pair's sequence, the document cut so that it fits.
fn pair(model: &LoadedModel, query: &str, document: &str) -> Sequence {
    let query = model.text.tokens(query, None).unwrap().ids;
    let limit = model.info.max_tokens as usize - model.text.special_tokens_pair() - query.len();
    let document = model.text.tokens(document, Some(limit)).unwrap().ids;
    let (input_ids, second_segment_start) = model.text.pair(&query, &document);
    Sequence { input_ids, second_segment_start, role: Role::Plain }
}

/// Runs a batch of however many tokens, and adds the time it took.
fn timed(model: &mut LoadedModel, operation: Operation, units: &[Sequence], time: &mut Duration) -> BatchOutput {
    let packed = batch(operation, units);
    let start = Instant::now();
    let output = run(&mut *model.backend, &packed).unwrap();
    *time += start.elapsed();
    output
}

fn sample<T>(all: impl Iterator<Item = T>, count: usize) -> impl Iterator<Item = T> {
    all.take(if env::var_os("SLUICE_FULL_ORACLE").is_some() { usize::MAX } else { count })
}

fn read_lines<T: DeserializeOwned>(path: &Path) -> Vec<T> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
