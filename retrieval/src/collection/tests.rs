//! A collection with an index that is as simple as one can be, and that fails and forgets when told to.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, AtomicUsize},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use tempfile::TempDir;

use super::*;
use crate::{document::Document, filter::Filter, identity::DocId, schema::Language};

/// Texts by document. What `keeps` is kept by the test, as a disk would.
#[derive(Debug, Default)]
struct Texts {
    state: Mutex<Kept>,
    kept: Option<Arc<Mutex<Kept>>>,
    /// Calls that fail, counted down.
    failures: AtomicUsize,
    feeds: AtomicU64,
}

#[derive(Clone, Debug, Default)]
struct Kept {
    texts: BTreeMap<DocId, String>,
    complete: Option<Lsn>,
}

impl Texts {
    fn kept(kept: &Arc<Mutex<Kept>>) -> Arc<Self> {
        let state = Mutex::new(kept.lock().unwrap().clone());
        Arc::new(Self { state, kept: Some(Arc::clone(kept)), ..Self::default() })
    }

    /// Texts of the documents that a reader shows, as the index has them.
    fn seen(&self, reader: &Reader) -> BTreeMap<String, String> {
        let state = self.state.lock().unwrap();
        let ids = state.texts.iter().map(|(doc, text)| Some((reader.id(*doc).unwrap()?, text.clone())));
        ids.flatten().collect()
    }
}

impl Follower for Texts {
    fn reached(&self) -> Option<Lsn> {
        self.state.lock().unwrap().complete
    }

    fn clear(&self) -> Result<(), FeedError> {
        *self.state.lock().unwrap() = Kept::default();
        Ok(())
    }

    fn feed(&self, reader: &Reader, began: &[DocId], ended: &[DocId], complete: Lsn) -> Result<(), FeedError> {
        let mut state = self.state.lock().unwrap();
        for doc in began {
            if let Some(texts) = reader.texts(*doc)? {
                state.texts.insert(*doc, texts["text"].clone());
            }
        }
        let failing = self.failures.try_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1));
        if failing.is_ok() {
            return Err(FeedError::Index("told to".into()));
        }
        ended.iter().for_each(|doc| drop(state.texts.remove(doc)));
        state.complete = Some(complete);
        self.feeds.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    fn publish(&self) -> Result<(), FeedError> {
        Ok(())
    }

    fn durable(&self) -> Option<Lsn> {
        let kept = self.kept.as_ref()?.lock().unwrap();
        Some(kept.complete.unwrap_or_default())
    }

    fn flush(&self) -> Result<(), FeedError> {
        if let Some(kept) = &self.kept {
            *kept.lock().unwrap() = self.state.lock().unwrap().clone();
        }
        Ok(())
    }
}

fn schema() -> Schema {
    Schema::title_and_text(Language::English)
}

fn upsert(id: u32, text: &str) -> Operation {
    let texts = [("text".to_owned(), text.to_owned())].into();
    Operation::Upsert(Document { id: format!("d{id}"), texts, ..Document::default() })
}

fn options() -> CollectionOptions {
    CollectionOptions { map_bytes: 64 << 20, queue_batches_max: 4, ..CollectionOptions::default() }
}

fn open(folder: &Path, index: &Arc<Texts>) -> Collection {
    open_with(options(), folder, index)
}

fn open_with(options: CollectionOptions, folder: &Path, index: &Arc<Texts>) -> Collection {
    let index = Arc::clone(index);
    let followers = move |_: &Path, _: &Schema| Ok(vec![(Leg::Lexical, Arc::clone(&index) as Arc<dyn Follower>)]);
    if folder.join("truth").is_dir() {
        Collection::open(folder, options, &followers).unwrap()
    } else {
        Collection::create(folder, &schema(), options, &followers).unwrap()
    }
}

fn write(collection: &Collection, operations: Vec<Operation>) -> Lsn {
    collection.try_submit(operations).unwrap().wait().unwrap().lsn
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), future).await.expect("within 20 s") })
}

fn reached(collection: &Collection, lsn: Lsn) {
    wait(collection.reached(&Leg::Lexical, lsn)).unwrap();
}

fn truth_texts(reader: &Reader) -> BTreeMap<String, String> {
    let live = reader.live().unwrap();
    let documents = live.iter().map(|doc| reader.document(DocId(doc)).unwrap().unwrap());
    documents.map(|document| (document.id, document.texts["text"].clone())).collect()
}

/// Once it has the last batch, the index has exactly what the truth has, and the dead are gone.
fn check_agreement(collection: &Collection, index: &Texts) {
    let reader = collection.read().unwrap();
    reached(collection, reader.lsn());
    assert_eq!(index.seen(&reader), truth_texts(&reader));
}

#[test]
fn an_index_follows_and_a_search_that_began_earlier_keeps_its_documents() {
    let (folder, index) = (TempDir::new().unwrap(), Arc::new(Texts::default()));
    let collection = open(folder.path(), &index);
    let first = write(&collection, vec![upsert(1, "one"), upsert(2, "two")]);
    reached(&collection, first);
    let reader = collection.read().unwrap();
    let second = write(&collection, vec![upsert(1, "uno"), Operation::Delete(vec!["d2".into()]), upsert(3, "tres")]);
    reached(&collection, second);
    let texts = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(id, text)| ((*id).to_owned(), (*text).to_owned())).collect()
    };
    assert_eq!(index.seen(&reader), texts(&[("d1", "one"), ("d2", "two")]));
    assert_eq!(index.seen(&collection.read().unwrap()), texts(&[("d1", "uno"), ("d3", "tres")]));
    assert_eq!(index.state.lock().unwrap().texts.len(), 4);
    assert_eq!(index.reached(), Some(first), "what ended is not done with, and it says so");
    drop(reader);
    // The reader's going is what wakes the index; nothing is written.
    while index.state.lock().unwrap().texts.len() > 2 {
        thread::yield_now();
    }
    assert_eq!(index.reached(), Some(second));
}

#[test]
fn an_index_that_fails_is_fed_again_and_waiting_for_it_says_why() {
    let (folder, index) = (TempDir::new().unwrap(), Arc::new(Texts::default()));
    let collection = open(folder.path(), &index);
    reached(&collection, write(&collection, vec![upsert(1, "one")]));
    index.failures.store(1, Ordering::Release);
    let lsn = write(&collection, vec![upsert(1, "uno"), upsert(2, "two")]);
    let fault = wait(collection.reached(&Leg::Lexical, lsn)).unwrap_err();
    assert_eq!(fault, LegFault::Stuck { leg: Leg::Lexical, lsn: Lsn(1), fault: "told to".into() });
    let mut progress = collection.station(&Leg::Lexical).unwrap().progress.subscribe();
    wait(progress.wait_for(|progress| progress.fault.is_none())).unwrap();
    check_agreement(&collection, &index);
    let unknown = wait(collection.reached(&Leg::Dense("d".into()), lsn)).unwrap_err();
    assert_eq!(unknown, LegFault::Unknown(Leg::Dense("d".into())));
}

#[test]
fn writes_wait_for_an_index_that_is_too_far_behind_but_not_for_ever() {
    let (folder, index) = (TempDir::new().unwrap(), Arc::new(Texts::default()));
    let collection = open_with(CollectionOptions { lag_bytes_max: 0, ..options() }, folder.path(), &index);
    reached(&collection, write(&collection, vec![upsert(1, "one")]));
    let submit = |text| collection.try_submit(vec![upsert(1, text)]).unwrap();

    // The index stands still: what is written first finds it at the end, what comes next does not.
    let held = index.state.lock().unwrap();
    submit("two").wait().unwrap();
    let mut third = submit("three");
    thread::sleep(Duration::from_millis(100));
    assert!(third.done.try_recv().is_err(), "it waits");
    drop(held);
    reached(&collection, third.wait().unwrap().lsn);

    let held = index.state.lock().unwrap();
    submit("four").wait().unwrap();
    submit("five").wait().expect("written, though the index has not moved");
    drop(held);
    check_agreement(&collection, &index);

    // An index that fails is not waited for: that would be a second for each of these.
    index.failures.store(usize::MAX, Ordering::Release);
    let lsn = submit("six").wait().unwrap().lsn;
    wait(collection.reached(&Leg::Lexical, lsn)).unwrap_err();
    let begin = tokio::time::Instant::now();
    for _ in 0..8 {
        submit("seven").wait().unwrap();
    }
    assert!(begin.elapsed() < Duration::from_secs(6), "{:?}", begin.elapsed());
}

#[test]
fn an_index_goes_on_where_it_was_and_is_filled_where_the_log_does_not_reach() {
    let (folder, kept) = (TempDir::new().unwrap(), Arc::new(Mutex::new(Kept::default())));
    let mut rng = SmallRng::seed_from_u64(11);
    for round in 0..12 {
        // What it had made durable at some time, or lost altogether.
        let index = Texts::kept(&kept);
        let collection = open(folder.path(), &index);
        let before = kept.lock().unwrap().clone();
        for _ in 0..rng.random_range(1..40) {
            let id = rng.random_range(0..30);
            let operation = match rng.random_range(0..4) {
                0 => Operation::Delete(vec![format!("d{id}")]),
                _ => upsert(id, &format!("{}", rng.random::<u16>())),
            };
            write(&collection, vec![operation]);
        }
        check_agreement(&collection, &index);
        if rng.random_bool(0.3) {
            collection.rebuild(&Leg::Lexical).unwrap();
            check_agreement(&collection, &index);
        }
        drop(collection);
        match round % 4 {
            // A crash: what was kept before is what is kept.
            1 => *kept.lock().unwrap() = before,
            2 => *kept.lock().unwrap() = Kept::default(),
            _ => {}
        }
    }
}

#[test]
fn the_log_is_cut_once_the_index_has_made_it_durable() {
    let (folder, kept) = (TempDir::new().unwrap(), Arc::new(Mutex::new(Kept::default())));
    let index = Texts::kept(&kept);
    let collection = open(folder.path(), &index);
    for text in 0..600 {
        reached(&collection, write(&collection, vec![upsert(1, &text.to_string())]));
    }
    let stats = collection.read().unwrap().stats().unwrap();
    assert_eq!((stats.lsn, stats.documents), (Lsn(600), 1));
    assert!(stats.log_entries < 400, "{stats:?}");
    assert!(kept.lock().unwrap().complete > Some(Lsn(200)));
}

#[test]
fn batches_that_wait_together_are_acknowledged_in_order_and_one_that_is_refused_alone() {
    let (folder, index) = (TempDir::new().unwrap(), Arc::new(Texts::default()));
    let collection = open(folder.path(), &index);
    let written = wait(async {
        let mut pending = Vec::new();
        for id in 0..100 {
            pending.push(collection.submit(vec![upsert(id, "x")]).await.unwrap());
        }
        let mut written = Vec::new();
        for pending in pending {
            written.push(pending.durable().await.unwrap().lsn);
        }
        written
    });
    assert_eq!(written, (1..=100).map(Lsn).collect::<Vec<_>>());
    let refused = collection.try_submit(vec![upsert(1, "y"), Operation::Delete(vec![String::new()])]).unwrap_err();
    assert!(refused.to_string().starts_with("operation 1: an id has"), "{refused}");
    assert_eq!(collection.read().unwrap().get("d1").unwrap().unwrap().texts["text"], "x");
    collection.close();
    assert!(matches!(collection.try_submit(vec![]), Err(WriteError::Closed)));
    assert_eq!(collection.read().unwrap().documents(), 100);
}

#[test]
fn a_batch_that_does_not_fit_is_no_one_elses_failure() {
    let (folder, index) = (TempDir::new().unwrap(), Arc::new(Texts::default()));
    let collection = open(folder.path(), &index);
    let large = |id| upsert(id, &"x".repeat(7 << 20));
    let answers = wait(async {
        let mut pending = Vec::new();
        for id in 0..8 {
            pending.push(collection.submit(vec![upsert(id, "small")]).await.unwrap());
            let operations = (0..10).map(|part| large(1_000 + id * 10 + part)).collect();
            pending.push(collection.submit(operations).await.unwrap());
        }
        let mut answers = Vec::new();
        for pending in pending {
            answers.push(pending.durable().await);
        }
        answers
    });
    for (position, answer) in answers.iter().enumerate() {
        match answer {
            Ok(_) => assert_eq!(position % 2, 0, "70 MB do not fit 64 MiB"),
            Err(WriteError::Storage(fault)) if position % 2 == 1 => assert!(fault.is_full(), "{fault}"),
            Err(fault) => panic!("{position}: {fault}"),
        }
    }
    let reader = collection.read().unwrap();
    assert_eq!(reader.documents(), 8, "none of a refused batch is there");
    drop(reader);
    check_agreement(&collection, &index);
    write(&collection, vec![Operation::DeleteWhere(Filter::And(vec![]))]);
    check_agreement(&collection, &index);
}

#[test]
fn a_snapshot_is_taken_while_writing_and_restored_elsewhere() {
    let (folder, places, index) = (TempDir::new().unwrap(), TempDir::new().unwrap(), Arc::new(Texts::default()));
    let collection = open(folder.path(), &index);
    write(&collection, (0..50).map(|id| upsert(id, "1")).collect());
    let (snapshot, restored) = (places.path().join("snapshot"), places.path().join("restored"));
    // Every batch writes all documents: whatever moment the copy is of, they are of one text.
    let manifest = thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for version in 2..40 {
                write(&collection, (0..50).map(|id| upsert(id, &version.to_string())).collect());
            }
        });
        let manifest = collection.snapshot(&snapshot).unwrap();
        writing.join().unwrap();
        manifest
    });
    assert_eq!(manifest.documents, 50);
    assert_eq!(restore(&snapshot, &restored).unwrap(), manifest);
    let other = Arc::new(Texts::default());
    let copy = open(&restored, &other);
    check_agreement(&copy, &other);
    let texts = truth_texts(&copy.read().unwrap());
    assert!(texts.values().all(|text| *text == manifest.lsn.to_string()), "{texts:?}");
    assert_eq!(write(&copy, vec![upsert(1, "on")]), manifest.lsn.next());
    check_agreement(&copy, &other);

    let there = restore(&snapshot, &restored).unwrap_err();
    assert!(matches!(there, SnapshotError::Exists(_)), "{there}");
    assert!(matches!(collection.snapshot(&snapshot).unwrap_err(), SnapshotError::Exists(_)));
    let data = snapshot.join("data.mdb");
    let mut bytes = std::fs::read(&data).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&data, bytes).unwrap();
    let again = places.path().join("again");
    let damaged = restore(&snapshot, &again).unwrap_err();
    assert!(matches!(damaged, SnapshotError::Damaged { what: "SHA-256", .. }) && !again.exists(), "{damaged}");
    let missing = restore(places.path(), &again).unwrap_err();
    assert!(matches!(missing, SnapshotError::Missing(_)), "{missing}");
}
