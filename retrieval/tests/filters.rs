//! Filters mean the same on every leg: random documents, written, replaced and deleted, random filters, and each leg's
//! answer beside a naive filter over the documents that the test itself holds.
//!
//! What a leg finds with a filter must be what it finds without one, less what the naive filter refuses. What it finds
//! without one is checked against the definition of the leg's score. All of it follows from a seed, which a failure
//! prints.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helper functions too")]
#![allow(clippy::disallowed_methods, reason = "a search needs a deadline, and the clock that it is on")]

#[path = "filters/corpus.rs"]
mod corpus;
#[path = "filters/graph.rs"]
mod graph;
#[path = "filters/naive.rs"]
mod naive;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rand::{SeedableRng, rngs::SmallRng};
use sluice_core::fusion::{FINGERPRINT_BYTES, Method};
use sluice_retrieval::{
    config::{SearchConfig, StoreConfig},
    document::Document,
    filter::Filter,
    identity::Lsn,
    search::{
        KeptLists, LegJob, LegQuery, LegState, Pool, Projection, SearchAnswer, SearchJob, Searcher, Source, Weights,
    },
    store::{Collection, DurableStore, Engine, Store, Write},
};
use tokio::{runtime::Runtime, time::Instant};

use self::{corpus::Corpus, graph::Graphs, naive::matches};

/// Seeds, rounds of writes of each, and filters of each round: so many cases, each on every leg.
const SEEDS: std::ops::Range<u64> = 0..4;
const ROUNDS: usize = 6;
const FILTERS: usize = 20;
/// Hits that a leg is asked for, besides all.
const K: usize = 5;
/// Of the size of a score, or of 1 if that is more: f32, summed in another order.
const TOLERANCE: f64 = 1e-5;

/// Documents and their scores, best first.
type Scored = Vec<(String, f64)>;

struct Run {
    seed: u64,
    runtime: Runtime,
    collection: Arc<dyn Collection>,
    searcher: Searcher,
    corpus: Corpus,
    graphs: Graphs,
    lsn: Lsn,
}

#[test]
fn filters_mean_the_same_on_every_leg() {
    for seed in SEEDS {
        let folder = tempfile::tempdir().unwrap();
        let store = DurableStore::open(folder.path(), &StoreConfig::default()).unwrap();
        store.create("documents", corpus::schema()).unwrap();
        let searcher = Searcher::new(Pool::new(4, 64), KeptLists::new(0, 0), SearchConfig::default().settings());
        let (collection, corpus) = (store.find("documents").unwrap(), Corpus::default());
        let runtime = Runtime::new().unwrap();
        let mut run = Run { seed, runtime, collection, searcher, corpus, graphs: Graphs::new(), lsn: Lsn(0) };
        let mut rng = SmallRng::seed_from_u64(seed);
        let (mut restricting, mut cases) = (0, 0);
        for _ in 0..ROUNDS {
            run.write(&mut rng);
            for query in run.corpus.queries(&mut rng) {
                let all = run.unfiltered(&query);
                for _ in 0..FILTERS {
                    let filter = corpus::filter(&mut rng, 0);
                    let kept = run.check(&query, &all, filter);
                    restricting += usize::from(kept > 0 && kept < all.len());
                    cases += 1;
                }
            }
        }
        assert!(restricting * 4 > cases, "seed {seed}: only {restricting} of {cases} filters take some and leave some");
        store.close();
    }
}

impl Run {
    /// Writes a round's batches, to the collection, to the model and to the graphs.
    fn write(&mut self, rng: &mut SmallRng) {
        for write in self.corpus.writes(rng) {
            let deleted = match &write {
                Write::DeleteWhere(filter) => Some(self.matching(filter).len() as u64),
                Write::Delete(ids) => {
                    Some(ids.iter().filter(|id| self.corpus.documents.contains_key(*id)).count() as u64)
                }
                Write::Upsert(_) => None,
            };
            self.corpus.apply(&write);
            let written = self.collection.write(write).unwrap();
            if let Some(deleted) = deleted {
                assert_eq!(written.deleted, deleted, "{}", self.context());
            }
            self.lsn = written.lsn;
        }
        let snapshot = self.source().snapshot().unwrap();
        assert_eq!(snapshot.documents(), self.corpus.documents.len() as u64, "{}", self.context());
        self.graphs.follow(&*snapshot, &self.corpus.documents);
    }

    /// What a leg finds of everything, which must be what its definition says.
    fn unfiltered(&self, query: &LegQuery) -> Scored {
        let found = hits(&self.search(query, usize::MAX, None));
        let expected = self.corpus.scored(query);
        let context = format!("{}, {query:?} without a filter", self.context());
        let ids = |scored: &Scored| scored.iter().map(|(id, _)| id.clone()).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(ids(&found), expected.keys().cloned().collect(), "{context}");
        for (id, score) in &found {
            // BM25 is the oracle of itself: what is checked of words is which documents have them.
            if let Some(expected) = expected[id] {
                assert!(near(*score, expected), "{context}: {id} has {score}, not {expected}");
            }
        }
        found
    }

    /// Each way to search with a filter brings what is left of `all`; how much that is.
    fn check(&self, query: &LegQuery, all: &Scored, filter: Filter) -> usize {
        let context = format!("{}, {query:?}, {filter:?}", self.context());
        filter.check(self.collection.schema()).unwrap_or_else(|fault| panic!("{context}: {fault}"));
        let wanted = self.matching(&filter);
        let expected: Scored = all.iter().filter(|(id, _)| wanted.contains(&id.as_str())).cloned().collect();
        for k in [K, usize::MAX] {
            let answer = self.search(query, k, Some(filter.clone()));
            assert_eq!(answer.count, Some(wanted.len() as u64), "{context}");
            same(&hits(&answer), &expected, k, &context);
        }
        if let LegQuery::Dense { query, .. } = query {
            let snapshot = self.source().snapshot().unwrap();
            let among = snapshot.matching(&filter).unwrap();
            for (found, exact) in self.graphs.search(query, K, &among) {
                let found: Scored = found
                    .into_iter()
                    .map(|hit| (self.graphs.id(hit.document).to_owned(), f64::from(hit.score)))
                    .collect();
                if exact {
                    same(&found, &expected, K, &context);
                } else {
                    assert_eq!(found.len(), expected.len().min(K), "{context}: the graph");
                    allowed(&found, &expected, &format!("{context}: the graph"));
                }
            }
        }
        expected.len()
    }

    /// Ids of the documents of which the naive filter is true.
    fn matching(&self, filter: &Filter) -> Vec<&str> {
        let documents: &BTreeMap<String, Document> = &self.corpus.documents;
        documents.values().filter(|document| matches(filter, document)).map(|document| document.id.as_str()).collect()
    }

    fn search(&self, query: &LegQuery, k: usize, filter: Option<Filter>) -> SearchAnswer {
        let k = k.min(self.corpus.documents.len() + 1);
        let leg = LegJob { name: "leg".to_owned(), query: query.clone(), k, weight: None, timeout: None };
        let job = SearchJob {
            legs: vec![leg],
            count: filter.is_some(),
            filter,
            method: Method::default(),
            weights: Weights::Fixed,
            limit: k,
            after: None,
            fingerprint: [0; FINGERPRINT_BYTES],
            min_score: None,
            min_lsn: self.lsn,
            projection: Projection::nothing(),
            snippets: None,
            facets: Vec::new(),
        };
        let source = self.source();
        let deadline = Instant::now() + Duration::from_secs(60);
        let answer = self.runtime.block_on(self.searcher.search(source, Arc::new(job), deadline, None));
        let answer = answer.unwrap_or_else(|error| panic!("{}: {error}", self.context()));
        assert_eq!(answer.legs[0].state, LegState::Ok, "{}", self.context());
        answer
    }

    fn source(&self) -> Arc<dyn Source> {
        match Arc::clone(&self.collection).engine() {
            Engine::Here(source) => source,
            Engine::Cluster(_) => unreachable!("a durable store answers itself"),
        }
    }

    fn context(&self) -> String {
        format!("seed {}, write {}", self.seed, self.lsn.0)
    }
}

fn hits(answer: &SearchAnswer) -> Scored {
    let scored =
        |hit: &sluice_retrieval::search::SearchHit| (hit.fused.id.id.to_string(), f64::from(hit.fused.legs[0].score));
    answer.hits.iter().map(scored).collect()
}

/// The first `k` of what is expected. Which of several with one score come last is free.
fn same(found: &Scored, expected: &Scored, k: usize, context: &str) {
    assert_eq!(found.len(), expected.len().min(k), "{context}: {found:?}, expected {expected:?}");
    for ((_, found), (_, expected)) in found.iter().zip(expected) {
        assert!(near(*found, *expected), "{context}: {found}, expected {expected}");
    }
    allowed(found, expected, context);
}

/// Each document is one of those that are expected, once, with its score, and none is before a better one.
fn allowed(found: &Scored, expected: &Scored, context: &str) {
    for (nth, (id, score)) in found.iter().enumerate() {
        let there = expected.iter().find(|(other, _)| other == id);
        let (_, expected) = there.unwrap_or_else(|| panic!("{context}: {id} must not be found"));
        assert!(near(*score, *expected), "{context}: {id} has {score}, not {expected}");
        assert!(found[..nth].iter().all(|(other, better)| other != id && better >= score), "{context}: {found:?}");
    }
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= TOLERANCE * b.abs().max(1.0)
}
