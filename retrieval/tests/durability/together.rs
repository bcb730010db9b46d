//! Writes and searches side by side: no error, no document of two versions, and none that is missing meanwhile.

use std::{
    collections::BTreeSet,
    env,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use sluice_core::fusion::{FINGERPRINT_BYTES, Method};
use sluice_retrieval::{
    DocId, Lsn,
    config::{SearchConfig, StoreConfig},
    document::SparseVector,
    filter::Filter,
    payload::Scalar,
    schema::Metric,
    search::{
        KeptLists, LegJob, LegQuery, LegState, LexicalQuery, Pool, Projection, SearchJob, Searcher, Source, Weights,
    },
    store::{Collection, DurableStore, Engine, Store, Write},
    truth::{Operation, Reader},
    vector_index::Effort,
};
use tempfile::TempDir;
use tokio::{runtime::Runtime, time::timeout};

use crate::{
    fixture::{NAME, Opened, document, open, schema, wait},
    legs::{COMMON, check_found, check_legs},
};

const DOCUMENTS: u32 = 60;
/// What a search waits for a leg: what ends while its reader is open has to be kept for it.
const PATIENCE: Duration = Duration::from_millis(200);

/// A reader, and what the simple index finds. Where none is filled anew meanwhile, every leg finds all that the reader shows.
fn found(opened: &Opened) -> (Reader, Vec<(DocId, String)>) {
    let collection = &opened.collection;
    let fills = || -> Vec<_> {
        let progress = collection.progress().into_iter();
        progress.map(|(_, progress)| progress.filled.then_some(progress.fills)).collect()
    };
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < Duration::from_secs(60), "in vain: {:?}", collection.progress());
        let reader = collection.read().unwrap();
        let legs = async {
            for (leg, _) in collection.progress() {
                collection.reached(&leg, reader.lsn()).await.unwrap();
            }
        };
        if wait(async { timeout(PATIENCE, legs).await }).is_err() {
            continue;
        }
        let before = fills();
        let found = check_found(collection, &reader, "beside writes");
        let texts = opened.index.search();
        if before.iter().all(Option::is_some) && before == fills() {
            found.unwrap();
            return (reader, texts);
        }
    }
}

/// One search: everything that the index finds, as a reader shows it. Every document is of one version throughout, all of
/// them are of the same (each batch writes them all), and none is missing.
fn search(opened: &Opened) -> u64 {
    let (reader, texts) = found(opened);
    let lsn = reader.lsn();
    let value = Scalar::Integer(lsn.0.cast_signed());
    let among = reader.select(&Filter::Match { field: "batch".into(), value: value.clone() }).unwrap();
    let mut ids = BTreeSet::new();
    for (doc, text) in texts {
        let Some(found) = reader.document(doc).unwrap() else { continue };
        assert_eq!(found.version, lsn, "all are of the last batch that is seen");
        assert_eq!(found.texts["title"], lsn.to_string());
        assert_eq!(found.texts["text"], text, "what was found is what is shown");
        assert_eq!(found.payload["batch"].scalars(), std::slice::from_ref(&value));
        assert_eq!(reader.dense(doc, "dense").unwrap().unwrap()[0], 1.0 + lsn.0 as f32);
        assert_eq!(reader.sparse(doc, "sparse").unwrap().unwrap().values, [1.0 + lsn.0 as f32]);
        assert!(among.contains(doc.0), "a filter sees the same");
        assert!(ids.insert(found.id), "once each");
    }
    assert_eq!((ids.len(), among.len()), (DOCUMENTS as usize, u64::from(DOCUMENTS)), "none is missing");
    lsn.0
}

#[test]
fn together() {
    let seconds = env::var("SLUICE_TOGETHER_SECONDS").map_or(2, |seconds| seconds.parse().expect("a number"));
    let folder = TempDir::new().unwrap();
    let opened = open(folder.path(), 1 << 30);
    let write = |batch| {
        let operations = (0..DOCUMENTS).map(|id| Operation::Upsert(document(id, batch, 100))).collect();
        assert_eq!(opened.collection.try_submit(operations).unwrap().wait().unwrap().lsn.0, batch);
    };
    write(1);
    let (over, searches, mut rebuilds) = (AtomicBool::new(false), AtomicU64::new(0), 0);
    let last = thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut seen = 0;
                while !over.load(Ordering::Acquire) {
                    let lsn = search(&opened);
                    assert!(lsn >= seen, "time goes on");
                    seen = lsn;
                    searches.fetch_add(1, Ordering::AcqRel);
                }
            });
        }
        let (begun, mut batch, mut rebuilt) = (Instant::now(), 1, 1);
        // A search that fails ends its thread; the scope says so in the end.
        while begun.elapsed() < Duration::from_secs(seconds) || searches.load(Ordering::Acquire) < 10 && batch < 10_000
        {
            batch += 1;
            write(batch);
            let legs = opened.collection.progress();
            // Not while one is filled already: writes could begin it anew faster than it is done.
            if batch >= rebuilt + 50 && legs.iter().all(|(_, progress)| progress.filled) {
                opened.collection.rebuild(&legs[rebuilds % legs.len()].0).unwrap();
                (rebuilt, rebuilds) = (batch, rebuilds + 1);
            }
        }
        over.store(true, Ordering::Release);
        batch
    });
    println!(
        "{last} batches of {DOCUMENTS} documents, {} searches, {rebuilds} indexes filled anew",
        searches.load(Ordering::Acquire)
    );
    assert_eq!(search(&opened), last);
    check_legs(&opened.collection, &opened.collection.read().unwrap(), "in the end");
    assert!(searches.load(Ordering::Acquire) > 0);
}

/// A collection, and searches as a caller makes them.
struct Asked {
    store: DurableStore,
    collection: Arc<dyn Collection>,
    searcher: Searcher,
    runtime: Runtime,
    _folder: TempDir,
}

impl Asked {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let store = DurableStore::open(folder.path(), &StoreConfig::default()).unwrap();
        store.create(NAME, schema()).unwrap();
        let collection = store.find(NAME).unwrap();
        let searcher = Searcher::new(Pool::new(4, 64), KeptLists::new(0, 0), SearchConfig::default().settings());
        Self { store, collection, searcher, runtime: Runtime::new().unwrap(), _folder: folder }
    }

    fn write(&self, batch: u64) -> Lsn {
        let documents = (0..DOCUMENTS).map(|id| document(id, batch, 100)).collect();
        self.collection.write(Write::Upsert(documents)).unwrap().lsn
    }

    fn source(&self) -> Arc<dyn Source> {
        match Arc::clone(&self.collection).engine() {
            Engine::Here(source) => source,
            Engine::Cluster(_) => unreachable!("a durable store answers itself"),
        }
    }

    /// Ids of what a leg brings.
    fn search(&self, query: LegQuery, k: usize, filter: Option<Filter>, min_lsn: Lsn) -> BTreeSet<String> {
        let leg = LegJob { name: "leg".to_owned(), query, k, weight: None, timeout: None };
        let job = SearchJob {
            legs: vec![leg],
            filter,
            method: Method::default(),
            weights: Weights::Fixed,
            limit: k,
            after: None,
            fingerprint: [0; FINGERPRINT_BYTES],
            min_score: None,
            min_lsn,
            projection: Projection::nothing(),
            snippets: None,
            facets: Vec::new(),
            count: false,
        };
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        let asking = self.searcher.search(self.source(), Arc::new(job), deadline, None);
        let answer = self.runtime.block_on(asking).unwrap();
        assert_eq!(answer.legs[0].state, LegState::Ok);
        answer.hits.into_iter().map(|hit| hit.document.stored.id).collect()
    }

    /// Every leg finds every document, with and without a filter, where it is asked for no more than there are.
    fn check(&self, min_lsn: Lsn) {
        let words = LegQuery::Lexical(LexicalQuery { text: COMMON.to_owned(), ..LexicalQuery::default() });
        let query = vec![1.0, 2.0, 3.0, 4.0];
        let dense =
            LegQuery::Dense { vector: "dense".to_owned(), query, metric: Metric::Cosine, effort: Effort::Everything };
        let sparse = |indices: Vec<u32>| {
            let query = SparseVector { values: vec![1.0; indices.len()], indices };
            LegQuery::Sparse { vector: "sparse".to_owned(), query }
        };
        let all: BTreeSet<_> = (0..DOCUMENTS).map(|id| format!("d{id}")).collect();
        for filter in [None, Some(Filter::Exists { field: "batch".into() })] {
            for query in [&words, &dense, &sparse((0..DOCUMENTS).collect())] {
                let found = self.search(query.clone(), DOCUMENTS as usize, filter.clone(), min_lsn);
                assert_eq!(found, all, "{query:?} {filter:?}");
            }
            let one = self.search(sparse(vec![7]), 1, filter.clone(), min_lsn);
            assert_eq!(one, BTreeSet::from(["d7".to_owned()]), "{filter:?}");
        }
    }
}

#[test]
fn a_document_is_found_while_it_is_replaced() {
    let asked = Asked::new();
    let first = asked.write(1);
    asked.check(first);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Acquire) {
                    asked.check(Lsn::ZERO);
                }
            });
        }
        for batch in 2..60 {
            asked.write(batch);
        }
        over.store(true, Ordering::Release);
    });
    asked.store.close();
}

#[test]
fn versions_that_are_kept_for_an_older_reader_take_no_places() {
    let asked = Asked::new();
    let first = asked.write(1);
    let snapshot = asked.source().snapshot().unwrap();
    assert_eq!(snapshot.lsn(), first);
    let last = (2..6).map(|batch| asked.write(batch)).last().unwrap();
    asked.check(last);
    drop(snapshot);
    asked.store.close();
}
