//! How good BM25's order is on judged collections, where they are beside the workspace.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helper functions too")]
#![allow(clippy::disallowed_methods, reason = "tests are their own rim")]
#![allow(clippy::print_stderr, reason = "says what was skipped, and what was found")]

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;
use sluice_core::evaluate::{Metric, Qrels, Run, evaluate};
use sluice_retrieval::{
    identity::{DocId, Lsn},
    lexical::{LexicalIndex, LexicalOptions, LexicalQuery, Texts},
    schema::{Language, Schema},
    vector_index::{Change, Never},
};
use tempfile::TempDir;

/// Set to anything, it turns the absence of the collections from a skip into a failure.
const REQUIRE_SHARED: &str = "SLUICE_REQUIRE_SHARED";

#[derive(Deserialize)]
struct Text {
    id: String,
    #[serde(default)]
    title: String,
    text: String,
}

fn lines(path: &Path) -> Vec<Text> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn check(collection: &str, ndcg_min: f64, recall_min: f64) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data").join(collection);
    if !folder.exists() {
        assert!(
            std::env::var_os(REQUIRE_SHARED).is_none(),
            "{REQUIRE_SHARED} is set, and there is no {}",
            folder.display()
        );
        eprintln!("skipped: there is no {}", folder.display());
        return;
    }
    let corpus = lines(&folder.join("corpus.jsonl"));
    let index_folder = TempDir::new().unwrap();
    let schema = Schema::title_and_text(Language::English);
    let index = LexicalIndex::open(index_folder.path(), &schema, LexicalOptions::default()).unwrap();
    let texts = |document: &Text| -> Texts {
        BTreeMap::from([("title".into(), document.title.clone()), ("text".into(), document.text.clone())])
    };
    let texts: Vec<Texts> = corpus.iter().map(texts).collect();
    let changes: Vec<_> = (0..).zip(&texts).map(|(number, texts)| Change::Insert(DocId(number), texts)).collect();
    index.apply(&changes, Lsn(1)).unwrap();
    index.commit().unwrap();

    let mut run = Run::default();
    for query in lines(&folder.join("queries.jsonl")) {
        let hits = index.search(&LexicalQuery::any(query.text), 100, None, &Never).unwrap();
        let ranking = hits.iter().map(|hit| corpus[hit.document.0 as usize].id.clone()).collect();
        run.insert(&query.id, ranking).unwrap();
    }
    let qrels = Qrels::parse(&fs::read_to_string(folder.join("qrels.txt")).unwrap()).unwrap();
    let metrics: [Metric; 2] = ["ndcg@10", "recall@100"].map(|name| name.parse().unwrap());
    let report = evaluate(&qrels, &run, &metrics);
    eprintln!("{collection}, {} queries: {:?}", report.queries, report.metrics);
    let [ndcg, recall] = [0, 1].map(|metric| report.metrics[metric].1);
    assert!(ndcg >= ndcg_min, "{collection}: nDCG@10 {ndcg}");
    assert!(recall >= recall_min, "{collection}: recall@100 {recall}");
}

#[test]
fn scifact() {
    check("scifact", 0.670, 0.905);
}

#[test]
fn cranfield() {
    check("cranfield", 0.510, 0.735);
}
