//! Judged collections, where they are beside the workspace.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use sluice_core::evaluate::{Metric, Qrels, Run, evaluate};

/// Set to anything, it turns the absence of the collections from a skip into a failure.
const REQUIRE_SHARED: &str = "SLUICE_REQUIRE_SHARED";

/// A document or a query.
#[derive(Deserialize)]
pub struct Text {
    pub id: String,
    #[serde(default)]
    pub title: String,
    pub text: String,
}

/// Where a collection lies; says so if it is not there.
pub fn folder(collection: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data").join(collection);
    if folder.exists() {
        return Some(folder);
    }
    let required = std::env::var_os(REQUIRE_SHARED).is_some();
    assert!(!required, "{REQUIRE_SHARED} is set, and there is no {}", folder.display());
    eprintln!("skipped: there is no {}", folder.display());
    None
}

pub fn lines(path: &Path) -> Vec<Text> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Asserts nDCG@10 and recall@100 of what was found.
pub fn check(folder: &Path, run: &Run, ndcg_min: f64, recall_min: f64) {
    let qrels = Qrels::parse(&fs::read_to_string(folder.join("qrels.txt")).unwrap()).unwrap();
    let metrics: [Metric; 2] = ["ndcg@10", "recall@100"].map(|name| name.parse().unwrap());
    let report = evaluate(&qrels, run, &metrics);
    eprintln!("{}, {} queries: {:?}", folder.display(), report.queries, report.metrics);
    let [ndcg, recall] = [0, 1].map(|metric| report.metrics[metric].1);
    assert!(ndcg >= ndcg_min, "{}: nDCG@10 {ndcg}", folder.display());
    assert!(recall >= recall_min, "{}: recall@100 {recall}", folder.display());
}
