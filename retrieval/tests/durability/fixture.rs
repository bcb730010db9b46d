//! A collection, and batches that follow from their number.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write, stdout},
    ops::Bound,
    path::Path,
    process::{Child, ChildStdout},
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use sluice_retrieval::{
    DocId, Lsn,
    collection::{Collection, CollectionOptions, Follower, Leg},
    document::{Document, SparseVector, StoredDocument},
    filter::Filter,
    indexes::{IndexOptions, followers},
    payload::{PayloadKind, Scalar},
    schema::{DenseField, Language, Metric, PayloadField, Schema, SparseField},
    shard::{Shard, ShardOptions},
    truth::{Operation, Reader},
};

use crate::{
    index::Texts,
    legs::{COMMON, check_legs},
};

pub(crate) const NAME: &str = "documents";
/// Ids there are.
const IDS: u32 = 40;

pub(crate) fn schema() -> Schema {
    let mut schema = Schema::title_and_text(Language::English);
    schema.dense.push(DenseField { name: "dense".into(), dim: 4, metric: Metric::Cosine });
    schema.sparse.push(SparseField { name: "sparse".into(), idf: false });
    schema.payload.push(PayloadField { name: "batch".into(), kind: PayloadKind::Integer });
    schema
}

/// The simple index, beside the real ones.
pub(crate) fn texts_leg() -> Leg {
    Leg::Sparse("texts".into())
}

/// A data directory with one collection, all legs that its schema asks for, and a simple index besides.
pub(crate) struct Opened {
    pub(crate) shard: Shard,
    pub(crate) collection: Arc<Collection>,
    pub(crate) index: Arc<Texts>,
}

pub(crate) fn open(folder: &Path, map_bytes: u64) -> Opened {
    let collection = CollectionOptions { map_bytes, queue_batches_max: 8, ..CollectionOptions::default() };
    let made = Arc::new(Mutex::new(None));
    let indexes = followers(IndexOptions::default());
    let keep = Arc::clone(&made);
    let shard = Shard::open(folder, ShardOptions { collection, ..ShardOptions::default() }, move |folder, schema| {
        let index = Arc::new(Texts::open(&folder.join("texts")));
        *keep.lock().unwrap() = Some(Arc::clone(&index));
        let mut legs = indexes(folder, schema)?;
        legs.push((texts_leg(), index as Arc<dyn Follower>));
        Ok(legs)
    });
    let shard = shard.unwrap();
    let collection = shard.collection(NAME).or_else(|_| shard.create(NAME, &schema())).unwrap();
    let index = made.lock().unwrap().take().unwrap();
    Opened { shard, collection, index }
}

/// A document whose every part says which batch wrote it.
pub(crate) fn document(id: u32, batch: u64, padding: usize) -> Document {
    let component = 1.0 + batch as f32;
    Document {
        id: format!("d{id}"),
        texts: [
            ("title".to_owned(), batch.to_string()),
            ("text".to_owned(), format!("{batch} {COMMON} {}", "x".repeat(padding))),
        ]
        .into(),
        payload: [("batch".to_owned(), Scalar::Integer(batch.cast_signed()).into())].into(),
        dense: [("dense".to_owned(), vec![component, 1.0, 0.0, id as f32])].into(),
        sparse: [("sparse".to_owned(), SparseVector { indices: vec![id], values: vec![component] })].into(),
    }
}

/// What batch `number` of a seed does: mostly new versions, some deletes by id and by filter.
pub(crate) fn operations(seed: u64, number: u64) -> Vec<Operation> {
    let mut rng = SmallRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(number));
    (0..rng.random_range(1..8))
        .map(|_| match rng.random_range(0..10) {
            0 => Operation::Delete((0..3).map(|_| format!("d{}", rng.random_range(0..IDS))).collect()),
            1 => {
                let upper = Bound::Included(Scalar::Integer(number.saturating_sub(20).cast_signed()));
                Operation::DeleteWhere(Filter::Range { field: "batch".into(), lower: Bound::Unbounded, upper })
            }
            _ => Operation::Upsert(document(rng.random_range(0..IDS), number, rng.random_range(0..3_000))),
        })
        .collect()
}

/// What a collection holds after some batches.
#[derive(Default)]
pub(crate) struct Model {
    pub(crate) batches: u64,
    documents: BTreeMap<String, (u64, Document)>,
}

impl Model {
    /// Goes on to a batch.
    pub(crate) fn advance(&mut self, seed: u64, to: u64) {
        while self.batches < to {
            self.batches += 1;
            for operation in operations(seed, self.batches) {
                match operation {
                    Operation::Upsert(document) => {
                        drop(self.documents.insert(document.id.clone(), (self.batches, document)));
                    }
                    Operation::Delete(ids) => self.documents.retain(|id, _| !ids.contains(id)),
                    Operation::DeleteWhere(filter) => self
                        .documents
                        .retain(|_, (batch, document)| !filter.matches(&stored(DocId(0), *batch, document))),
                }
            }
        }
    }

    /// The collection holds this, in every part of the truth, and its index finds it.
    pub(crate) fn check(&self, opened: &Opened, context: &str) {
        let reader = opened.collection.read().unwrap();
        assert_eq!(reader.lsn(), Lsn(self.batches), "{context}");
        assert_eq!(reader.documents(), self.documents.len() as u64, "{context}");
        let live = reader.live().unwrap();
        assert_eq!(live.len(), self.documents.len() as u64, "{context}");
        for (id, (batch, document)) in &self.documents {
            let found = reader.get(id).unwrap().unwrap_or_else(|| panic!("{context}: {id} is missing"));
            assert_eq!(found, stored(found.doc, *batch, document), "{context}");
            assert!(live.contains(found.doc.0), "{context}");
            assert_eq!(reader.dense(found.doc, "dense").unwrap().as_ref(), document.dense.get("dense"), "{context}");
            assert_eq!(reader.sparse(found.doc, "sparse").unwrap().as_ref(), document.sparse.get("sparse"));
            let value = document.payload["batch"].scalars()[0].clone();
            let same = reader.select(&Filter::Match { field: "batch".into(), value }).unwrap();
            assert!(same.contains(found.doc.0), "{context}");
        }
        check_legs(&opened.collection, &reader, context);
        check_index(&opened.index, &reader, context);
    }
}

/// The index finds exactly what the truth has.
pub(crate) fn check_index(index: &Texts, reader: &Reader, context: &str) {
    let found: BTreeMap<_, _> = index.search().into_iter().collect();
    for doc in reader.live().unwrap().into_iter().map(DocId) {
        let document = reader.document(doc).unwrap().unwrap();
        assert_eq!(found.get(&doc), document.texts.get("text"), "{context}: {}", document.id);
    }
    let dead = found.keys().filter(|doc| reader.document(**doc).unwrap().is_none()).count();
    // They end when the last reader that could show them has gone: this one cannot, and others there are none.
    assert_eq!(dead, 0, "{context}: dead documents in the index");
}

fn stored(doc: DocId, batch: u64, document: &Document) -> StoredDocument {
    let Document { id, texts, payload, .. } = document.clone();
    let content_hash = schema().content.hash(document);
    StoredDocument { doc, version: Lsn(batch), content_hash, id, texts, payload }
}

pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), future).await.expect("within a minute") })
}

/// What a child says to its parent: a line that is out when this returns.
pub(crate) fn say(line: &str) {
    let mut out = stdout().lock();
    writeln!(out, "@{line}").and_then(|()| out.flush()).unwrap();
}

/// Lines of a child, without what the test runner says.
pub(crate) fn heard(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let out: ChildStdout = child.stdout.take().unwrap();
    let lines = BufReader::new(out).lines().map_while(Result::ok);
    // The runner's own line has no end before the first of ours.
    lines.filter_map(|line| line.split_once('@').map(|(_, line)| line.to_owned()))
}

/// The number after a word.
pub(crate) fn number(line: &str, word: &str) -> Option<u64> {
    line.strip_prefix(word)?.trim().parse().ok()
}
