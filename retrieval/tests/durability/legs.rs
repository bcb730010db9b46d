//! Every leg finds exactly what the truth has, and scores it as its vectors and words say.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::Duration,
};

use sluice_retrieval::{
    DocId,
    collection::{Collection, Index, Leg, LegFault},
    document::SparseVector,
    lexical::query::LexicalQuery,
    truth::Reader,
    vector_index::{Hit, Never},
};

use crate::fixture::wait;

/// A word that all documents have.
pub(crate) const COMMON: &str = "common";
const QUERY: [f32; 4] = [1.0, 2.0, 3.0, 4.0];

/// Waits until all legs are where the reader is, without what has ended, and compares what they find with what it shows.
pub(crate) fn check_legs(collection: &Collection, reader: &Reader, context: &str) {
    for (leg, _) in collection.progress() {
        // One that could not go on, as when the disk was full, says so until it is tried again.
        let retried = (0..100).find_map(|_| match wait(collection.settled(&leg, reader.lsn())) {
            Err(LegFault::Stuck { .. }) => {
                thread::sleep(Duration::from_millis(100));
                None
            }
            settled => Some(settled),
        });
        assert_eq!(retried, Some(Ok(())), "{context}, {leg}: {:?}", collection.progress());
    }
    let live: BTreeSet<_> = reader.live().unwrap().into_iter().map(DocId).collect();
    // More than there are, so that one too many shows.
    let k = live.len() + 10;
    for leg in [Leg::Lexical, Leg::Dense("dense".into()), Leg::Sparse("sparse".into())] {
        let context = format!("{context}, {leg}");
        match collection.index(&leg).unwrap() {
            Index::Lexical(index) => {
                let find = |text: &str| index.search(&LexicalQuery::any(text), k, None, &Never).unwrap();
                assert_eq!(docs(&find(COMMON)), live, "{context}");
                for (title, expected) in by_title(reader, &live) {
                    assert_eq!(docs(&find(&title)), expected, "{context}: {title}");
                }
            }
            Index::Dense(index) => {
                let hits = index.search(&QUERY, k, None, &Never).unwrap();
                assert_eq!(docs(&hits), live, "{context}");
                for Hit { document, score } in hits {
                    let expected = cosine(&reader.dense(document, "dense").unwrap().unwrap());
                    assert!((score - expected).abs() < 1e-5, "{context}: {document} has {score}, not {expected}");
                }
            }
            Index::Sparse(index) => {
                let vectors: Vec<_> =
                    live.iter().map(|doc| (*doc, reader.sparse(*doc, "sparse").unwrap().unwrap())).collect();
                let indices: BTreeSet<_> = vectors.iter().map(|(_, vector)| vector.indices[0]).collect();
                let values = vec![1.0; indices.len()];
                let query = SparseVector { indices: indices.into_iter().collect(), values };
                let hits = index.search(&query, k, None, &Never).unwrap();
                assert_eq!(docs(&hits), live, "{context}");
                let scores: BTreeMap<_, _> = hits.iter().map(|hit| (hit.document, hit.score)).collect();
                assert!(vectors.iter().all(|(doc, vector)| scores[doc] == vector.values[0]), "{context}");
            }
        }
    }
}

/// Every leg that a search asks finds all documents that its reader shows, and each once. They are asked for among
/// themselves: an index has any number of others while writes go on, which have ended or begun later.
pub(crate) fn check_found(collection: &Collection, reader: &Reader, context: &str) -> Result<(), String> {
    let among = reader.live().unwrap();
    let live: BTreeSet<_> = among.into_iter().map(DocId).collect();
    let (k, among) = (live.len() + 10, Some(among));
    for leg in [Leg::Lexical, Leg::Dense("dense".into()), Leg::Sparse("sparse".into())] {
        let hits = match collection.index(&leg).unwrap() {
            Index::Lexical(index) => index.search(&LexicalQuery::any(COMMON), k, among, &Never),
            Index::Dense(index) => index.search(&QUERY, k, among, &Never),
            Index::Sparse(index) => {
                let query = SparseVector { indices: (0..1_000).collect(), values: vec![1.0; 1_000] };
                index.search(&query, k, among, &Never)
            }
        };
        let found = docs(&hits.unwrap());
        if found != live {
            return Err(format!("{context}, {leg}: {:?}", live.difference(&found).collect::<Vec<_>>()));
        }
    }
    Ok(())
}

fn docs(hits: &[Hit]) -> BTreeSet<DocId> {
    let docs: BTreeSet<_> = hits.iter().map(|hit| hit.document).collect();
    assert_eq!(docs.len(), hits.len(), "a document is found once");
    docs
}

/// A title is the number of the batch that wrote the document.
fn by_title(reader: &Reader, live: &BTreeSet<DocId>) -> BTreeMap<String, BTreeSet<DocId>> {
    let mut titles: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for doc in live {
        let texts = reader.texts(*doc).unwrap().unwrap();
        titles.entry(texts["title"].clone()).or_default().insert(*doc);
    }
    titles
}

fn cosine(vector: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    (dot(vector, &QUERY) / (dot(vector, vector) * dot(&QUERY, &QUERY)).sqrt()) as f32
}
