//! The running server against independent oracles: token counts, MaxSim, cosine and pair logits that ONNX
//! Runtime and f64 arithmetic gave for the same weights.
//!
//! Needs the default model and the shared test collections; says what it skips. A sample by default,
//! everything with `SLUICE_FULL_ORACLE` set:
//!
//! ```text
//! SLUICE_FULL_ORACLE=1 cargo test --release -p sluice-server --test oracle -- --nocapture
//! ```

#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "helper functions of tests, which say what they skip"
)]

mod common;

use std::{env, fs, path::Path, time::Duration};

use common::{TestServer, document, query, shared_data};
use serde::{Deserialize, de::DeserializeOwned};
use sluice_inference::testing::{default_model, write_cross_encoder};
use sluice_proto::rerank::v1::{Method, RerankRequest, RerankResponse};

const TOLERANCE: f64 = 1e-3;
const SAMPLE_QUERIES: usize = 2;
const SAMPLE_DOCUMENTS: usize = 30;

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
struct Row {
    qid: String,
    /// Absent from the pair oracle.
    query_tokens: Option<u64>,
    documents: Vec<Expected>,
}

#[derive(Deserialize)]
struct Expected {
    id: String,
    tokens: u32,
    maxsim: Option<f64>,
    cosine: Option<f64>,
    logit: Option<f64>,
}

#[tokio::test]
async fn late_interaction_and_dense_agree() {
    let (Some(model), Some(data)) = (default_model(), data()) else { return };
    let server = TestServer::model(model.path.display().to_string(), patient).await;
    let candidates: Vec<Candidates> = lines(&data.join("dl19/candidates.jsonl"));
    let oracle: Vec<Row> = lines(&data.join("dl19/oracle-minilm.jsonl"));
    let mut drift = Drift::default();
    for (candidates, row) in sample(candidates.iter().zip(&oracle), SAMPLE_QUERIES) {
        assert_eq!(candidates.qid, row.qid);
        for method in [Method::LateInteraction, Method::Dense] {
            let answer = rerank(&server, candidates, method).await;
            assert_eq!(answer.usage.map(|usage| usage.query_tokens), row.query_tokens, "query {}", row.qid);
            drift.compare(&answer, row, method);
        }
    }
    drift.report("maxsim and cosine");
}

#[tokio::test]
async fn pair_logits_agree() {
    let (Some(model), Some(data)) = (default_model(), data()) else { return };
    let head = fs::read(data.join("cross-encoder-oracle/head.safetensors")).unwrap();
    let candidates: Vec<Candidates> = lines(&data.join("dl19/candidates.jsonl"));
    let oracle: Vec<Row> = lines(&data.join("cross-encoder-oracle/scores.jsonl"));
    for prefix in ["", "bert."] {
        let folder = tempfile::tempdir().unwrap();
        write_cross_encoder(folder.path(), &model.path, &head, prefix);
        let server = TestServer::model(folder.path().display().to_string(), patient).await;
        let mut drift = Drift::default();
        for row in sample(oracle.iter(), SAMPLE_QUERIES) {
            let candidates = candidates.iter().find(|candidates| candidates.qid == row.qid).unwrap();
            // The model has a classification head: no method named means this one.
            let answer = rerank(&server, candidates, Method::Unspecified).await;
            assert_eq!(answer.method(), Method::CrossEncoder);
            drift.compare(&answer, row, Method::CrossEncoder);
        }
        drift.report(&format!("logits, names with {prefix:?}"));
    }
}

/// The largest distance from an oracle.
#[derive(Default)]
struct Drift {
    worst: f64,
    documents: usize,
}

impl Drift {
    fn compare(&mut self, answer: &RerankResponse, row: &Row, method: Method) {
        assert!(answer.results.is_sorted_by(|a, b| a.score >= b.score), "best first");
        for result in &answer.results {
            let expected = &row.documents[result.index as usize];
            let what = format!("{method:?} of {} and {}", row.qid, expected.id);
            assert_eq!((&result.id, result.tokens), (&expected.id, expected.tokens), "{what}");
            let score = match method {
                Method::LateInteraction => expected.maxsim,
                Method::Dense => expected.cosine,
                Method::CrossEncoder | Method::Unspecified => expected.logit,
            };
            let distance = (f64::from(result.score) - score.unwrap()).abs();
            assert!(distance <= TOLERANCE, "{what}: {}, expected {score:?}", result.score);
            self.worst = self.worst.max(distance);
            self.documents += 1;
        }
    }

    fn report(&self, what: &str) {
        assert!(self.documents > 0);
        eprintln!("{what}: {} scores, largest drift {:.2e}", self.documents, self.worst);
    }
}

async fn rerank(server: &TestServer, candidates: &Candidates, method: Method) -> RerankResponse {
    let documents = sample(candidates.documents.iter(), SAMPLE_DOCUMENTS);
    let request = RerankRequest {
        query: query(&candidates.query),
        documents: documents.map(|candidate| document(&candidate.id, &candidate.text)).collect(),
        method: method.into(),
        ..RerankRequest::default()
    };
    server.rerank().await.rerank(request).await.expect("an answer").into_inner()
}

fn patient(config: &mut sluice_server::ServerConfig) {
    config.default_deadline = Duration::from_secs(600);
}

fn data() -> Option<std::path::PathBuf> {
    let data = shared_data("");
    if data.is_none() {
        eprintln!("skipped, for want of the shared test collections");
    }
    data
}

fn sample<T>(all: impl Iterator<Item = T>, count: usize) -> impl Iterator<Item = T> {
    all.take(if env::var_os("SLUICE_FULL_ORACLE").is_some() { usize::MAX } else { count })
}

fn lines<T: DeserializeOwned>(path: &Path) -> Vec<T> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
