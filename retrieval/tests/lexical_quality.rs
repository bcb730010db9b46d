//! How good BM25's order is on judged collections, where they are beside the workspace.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helper functions too")]
#![allow(clippy::disallowed_methods, reason = "tests are their own rim")]
#![allow(clippy::print_stderr, reason = "says what was skipped, and what was found")]

mod judged;

use std::collections::BTreeMap;

use judged::{Text, lines};
use sluice_core::evaluate::Run;
use sluice_retrieval::{
    identity::{DocId, Lsn},
    lexical::{LexicalIndex, LexicalOptions, LexicalQuery, Texts},
    schema::{Language, Schema},
    vector_index::{Change, Never},
};
use tempfile::TempDir;

fn check(collection: &str, ndcg_min: f64, recall_min: f64) {
    let Some(folder) = judged::folder(collection) else { return };
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
    judged::check(&folder, &run, ndcg_min, recall_min);
}

#[test]
fn scifact() {
    check("scifact", 0.670, 0.905);
}

#[test]
fn cranfield() {
    check("cranfield", 0.510, 0.735);
}
