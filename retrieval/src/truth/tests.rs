//! The store beside a model of it: a map of documents, and filters evaluated one document at a time.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::atomic::{AtomicUsize, Ordering},
};

use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use roaring::RoaringBitmap;
use tempfile::TempDir;

use super::*;
use crate::{
    document::{Document, SparseVector, StoredDocument},
    filter::Filter,
    identity::DocId,
    payload::{Datetime, FACET_VALUES_MAX, PayloadKind, PayloadValue, Scalar},
    schema::{DenseField, Language, Metric, PayloadField, SparseField},
    vector_index::Never,
};

const MAP_BYTES: u64 = 64 << 20;
const WORDS: [&str; 5] = ["black", "sand", "beach", "Hotel", "été"];

fn schema() -> Schema {
    let mut schema = Schema::title_and_text(Language::English);
    schema.dense.push(DenseField { name: "d".into(), dim: 2, metric: Metric::Cosine });
    schema.sparse.push(SparseField { name: "s".into(), idf: false });
    let kinds = [
        ("keyword", PayloadKind::Keyword),
        ("integer", PayloadKind::Integer),
        ("float", PayloadKind::Float),
        ("boolean", PayloadKind::Boolean),
        ("datetime", PayloadKind::Datetime),
        ("words", PayloadKind::Text),
    ];
    schema.payload = kinds.map(|(name, kind)| PayloadField { name: name.into(), kind }).to_vec();
    schema
}

/// Few distinct values, so that they meet; among them those at the edges of levels, signs and types.
fn scalar(rng: &mut SmallRng, kind: PayloadKind) -> Scalar {
    const EDGES: [i64; 10] = [i64::MIN, -257, -256, -1, 0, 1, 255, 256, 65_536, i64::MAX];
    let integer = |rng: &mut SmallRng| {
        if rng.random_bool(0.5) { *EDGES.choose(rng).unwrap() } else { rng.random_range(-600..600) }
    };
    match kind {
        PayloadKind::Keyword => Scalar::Keyword(["", "a", "ab", "b", "é", "a\0"].choose(rng).unwrap().to_string()),
        PayloadKind::Integer => Scalar::Integer(integer(rng)),
        PayloadKind::Float => {
            let edges = [f64::MIN, -1.0, -0.0, 0.0, f64::MIN_POSITIVE, 0.5, 1e300];
            Scalar::Float(if rng.random_bool(0.5) { *edges.choose(rng).unwrap() } else { rng.random_range(-2.0..2.0) })
        }
        PayloadKind::Boolean => Scalar::Boolean(rng.random()),
        PayloadKind::Datetime => Scalar::Datetime(Datetime(integer(rng))),
        PayloadKind::Text => {
            let words: Vec<_> = (0..rng.random_range(0..4)).map(|_| *WORDS.choose(rng).unwrap()).collect();
            Scalar::Text(words.join(" - "))
        }
    }
}

fn document(rng: &mut SmallRng, schema: &Schema) -> Document {
    let mut document = Document { id: format!("id{}", rng.random_range(0..60)), ..Document::default() };
    for field in &schema.payload {
        let value = match rng.random_range(0..4) {
            0 => continue,
            1 => PayloadValue::One(scalar(rng, field.kind)),
            _ => PayloadValue::Many((0..rng.random_range(0..4)).map(|_| scalar(rng, field.kind)).collect()),
        };
        document.payload.insert(field.name.clone(), value);
    }
    document.payload.insert("free".into(), Scalar::Integer(rng.random()).into());
    document.texts.insert("text".into(), format!("text {}", rng.random::<u32>()));
    if rng.random_bool(0.7) {
        document.dense.insert("d".into(), vec![rng.random_range(0.1..1.0), 0.5]);
    }
    if rng.random_bool(0.7) {
        let vector = SparseVector { indices: vec![1, rng.random_range(2..u32::MAX)], values: vec![0.5, -1.0] };
        document.sparse.insert("s".into(), vector);
    }
    document
}

fn filter(rng: &mut SmallRng, schema: &Schema, depth: usize) -> Filter {
    let field = schema.payload.choose(rng).unwrap();
    let (name, kind) = (field.name.clone(), field.kind);
    let below = |rng: &mut SmallRng| (0..rng.random_range(0..4)).map(|_| filter(rng, schema, depth + 1)).collect();
    match rng.random_range(if depth < 3 { 0 } else { 4 }..10) {
        0 => Filter::And(below(rng)),
        1 => Filter::Or(below(rng)),
        2 | 3 => Filter::Not(Box::new(filter(rng, schema, depth + 1))),
        4 => Filter::Exists { field: name },
        5 => Filter::Ids((0..rng.random_range(0..9)).map(|_| format!("id{}", rng.random_range(0..70))).collect()),
        _ if kind == PayloadKind::Text => {
            let words = (0..rng.random_range(1..3)).map(|_| *WORDS.choose(rng).unwrap());
            Filter::Words { field: name, text: words.collect::<Vec<_>>().join(" ") }
        }
        6 | 7 if kind.is_ordered() => {
            let mut bound = || match rng.random_range(0..3) {
                0 => Bound::Unbounded,
                1 => Bound::Included(scalar(rng, kind)),
                _ => Bound::Excluded(scalar(rng, kind)),
            };
            Filter::Range { field: name, lower: bound(), upper: bound() }
        }
        8 => Filter::MatchAny { field: name, values: (0..rng.random_range(0..4)).map(|_| scalar(rng, kind)).collect() },
        _ => Filter::Match { field: name, value: scalar(rng, kind) },
    }
}

fn operation(rng: &mut SmallRng, schema: &Schema) -> Operation {
    match rng.random_range(0..12) {
        0 => Operation::Delete((0..3).map(|_| format!("id{}", rng.random_range(0..60))).collect()),
        1 if rng.random_bool(0.3) => Operation::DeleteWhere(filter(rng, schema, 2)),
        _ => Operation::Upsert(document(rng, schema)),
    }
}

/// What the store should hold: documents by id, each with the batch that wrote it.
type Model = BTreeMap<String, (Lsn, Document)>;

/// Does to the model what a batch says, in the naive way.
fn apply(model: &mut Model, schema: &Schema, lsn: Lsn, operations: &[Operation]) -> u64 {
    let mut deleted = 0;
    for operation in operations {
        let before = model.len();
        match operation {
            Operation::Upsert(document) => drop(model.insert(document.id.clone(), (lsn, document.clone()))),
            Operation::Delete(ids) => model.retain(|id, _| !ids.contains(id)),
            Operation::DeleteWhere(filter) => {
                model.retain(|_, (lsn, document)| !filter.matches(&as_stored(schema, DocId(0), *lsn, document)));
            }
        }
        deleted += before.saturating_sub(model.len()) as u64;
    }
    deleted
}

fn as_stored(schema: &Schema, doc: DocId, version: Lsn, document: &Document) -> StoredDocument {
    let Document { id, texts, payload, .. } = document.clone();
    StoredDocument { doc, version, content_hash: schema.content.hash(document), id, texts, payload }
}

fn check(truth: &Arc<Truth>, model: &Model, rng: &mut SmallRng, seed: u64) {
    let (reader, schema) = (truth.read().unwrap(), truth.schema());
    assert_eq!(reader.documents(), model.len() as u64, "seed {seed}");
    let live = reader.live().unwrap();
    let docs: Vec<_> = live.iter().map(DocId).collect();
    let documents: Vec<_> =
        reader.hydrate(&docs).unwrap().into_iter().map(|found| found.expect("it is live")).collect();
    assert_eq!(documents.len(), model.len(), "seed {seed}");
    for found in &documents {
        let (version, expected) = &model[&found.id];
        assert_eq!(*found, as_stored(schema, found.doc, *version, expected), "seed {seed}");
        assert_eq!(reader.find(&found.id).unwrap(), Some(found.doc));
        assert_eq!(reader.dense(found.doc, "d").unwrap().as_ref(), expected.dense.get("d"));
        assert_eq!(reader.sparse(found.doc, "s").unwrap().as_ref(), expected.sparse.get("s"));
    }
    for _ in 0..40 {
        let filter = filter(rng, schema, 0);
        filter.check(schema).unwrap();
        let expected: RoaringBitmap =
            documents.iter().filter(|document| filter.matches(document)).map(|document| document.doc.0).collect();
        assert_eq!(reader.select(&filter).unwrap(), expected, "seed {seed}: {filter:?}");
    }
    let among: RoaringBitmap = live.iter().filter(|_| rng.random_bool(0.7)).collect();
    for field in schema.payload.iter().filter(|field| field.kind != PayloadKind::Text) {
        check_facet(&reader, field, &among, &documents, seed);
    }
}

fn check_facet(reader: &Reader, field: &PayloadField, among: &RoaringBitmap, documents: &[StoredDocument], seed: u64) {
    let facet = reader.facet(&field.name, among, 4, &Never).unwrap();
    let all = reader.facet(&field.name, among, usize::MAX, &Never).unwrap();
    assert_eq!(all.distinct, all.values.len() as u64);
    assert_eq!(facet.values, all.values[..all.values.len().min(4)], "seed {seed}");
    assert_eq!(facet.distinct, all.distinct);
    assert!(all.values.is_sorted_by(|a, b| a.documents >= b.documents), "seed {seed}: {all:?}");
    let has = |document: &StoredDocument, value: &Scalar| {
        document.payload.get(&field.name).is_some_and(|values| values.scalars().contains(value))
    };
    let counted = documents.iter().filter(|document| among.contains(document.doc.0));
    let counted: Vec<_> = counted.collect();
    for FacetValue { value, documents } in &all.values {
        let expected = counted.iter().filter(|document| has(document, value)).count();
        assert_eq!(*documents, expected as u64, "seed {seed}: {} {value:?}", field.name);
        assert!(expected > 0);
    }
    let values = counted.iter().filter_map(|document| document.payload.get(&field.name));
    for value in values.flat_map(PayloadValue::scalars) {
        assert!(all.values.iter().any(|found| found.value == *value), "seed {seed}: {} {value:?}", field.name);
    }
}

#[test]
fn the_store_agrees_with_its_model_through_random_batches() {
    for seed in 0..6 {
        let (folder, schema) = (TempDir::new().unwrap(), schema());
        let mut truth = Truth::create(folder.path(), &schema, MAP_BYTES).unwrap();
        let (mut rng, mut model, mut lsn) = (SmallRng::seed_from_u64(seed), Model::new(), Lsn::ZERO);
        // The documents that an index which follows the log would hold.
        let mut followed = RoaringBitmap::new();
        for _ in 0..25 {
            let group: Vec<Vec<_>> = (0..rng.random_range(1..4))
                .map(|_| (0..rng.random_range(0..12)).map(|_| operation(&mut rng, &schema)).collect())
                .collect();
            let batches: Vec<_> =
                group.iter().map(|operations| Batch::check(&schema, operations.clone()).unwrap()).collect();
            let written = truth.write(&batches.iter().collect::<Vec<_>>(), Lsn(lsn.0.saturating_sub(5))).unwrap();
            for (operations, written) in group.iter().zip(written) {
                assert_eq!(written.lsn, lsn.next());
                let before = lsn;
                lsn = written.lsn;
                let deleted = apply(&mut model, &schema, lsn, operations);
                assert_eq!(written.deleted, deleted, "seed {seed}");
                let reader = truth.read().unwrap();
                let (_, entry) = reader.log_after(before, 1).unwrap().expect("it was just written").remove(0);
                followed.extend(entry.began.iter().map(|doc| doc.0));
                entry.ended.iter().for_each(|doc| assert!(followed.remove(doc.0), "seed {seed}"));
            }
            if rng.random_bool(0.2) {
                drop(truth);
                truth = Truth::open(folder.path(), MAP_BYTES).unwrap();
            }
            check(&truth, &model, &mut rng, seed);
            assert_eq!(*truth.read().unwrap().live().unwrap(), followed, "seed {seed}");
        }
        let reader = truth.read().unwrap();
        assert_eq!(reader.lsn(), lsn);
        // Nothing is left of documents and values that are gone.
        assert_eq!(reader.stats().unwrap().documents, model.len() as u64);
        drop(reader);
        let all = Batch::check(&schema, vec![Operation::DeleteWhere(Filter::And(vec![]))]).unwrap();
        truth.write(&[&all], Lsn::ZERO).unwrap();
        truth.write(&[&Batch::default()], lsn.next()).unwrap();
        let reader = truth.read().unwrap();
        for table in [truth.tables.documents, truth.tables.ids, truth.tables.vectors, truth.tables.payload] {
            assert_eq!(table.len(reader.txn()).unwrap(), 0, "seed {seed}");
        }
    }
}

#[test]
fn a_facet_has_bounds() {
    let (folder, schema) = (TempDir::new().unwrap(), schema());
    let truth = Truth::create(folder.path(), &schema, MAP_BYTES).unwrap();
    let values: Vec<Scalar> = (0..=FACET_VALUES_MAX as i64).map(Scalar::Integer).collect();
    let document = |(number, values): (usize, &[Scalar])| Document {
        id: format!("id{number}"),
        payload: [("integer".to_owned(), PayloadValue::Many(values.to_vec()))].into(),
        ..Document::default()
    };
    // The last document has the one value too many.
    let operations: Vec<_> = values.chunks(4_096).enumerate().map(document).map(Operation::Upsert).collect();
    truth.write(&[&Batch::check(&schema, operations).unwrap()], Lsn::ZERO).unwrap();
    let reader = truth.read().unwrap();
    let all = reader.live().unwrap().clone();
    let fault = reader.facet("integer", &all, 1, &Never).unwrap_err();
    assert!(matches!(fault, FacetError::TooManyValues), "{fault}");
    let without: RoaringBitmap = all.iter().take(all.len() as usize - 1).collect();
    assert_eq!(reader.facet("integer", &without, 1, &Never).unwrap().distinct, FACET_VALUES_MAX as u64);
    let asked = AtomicUsize::new(0);
    let stop = || asked.fetch_add(1, Ordering::Relaxed) == 100;
    let fault = reader.facet("integer", &without, 1, &stop).unwrap_err();
    assert!(matches!(fault, FacetError::Stopped) && asked.into_inner() == 101, "{fault}");
}

#[test]
fn a_batch_of_many_values_is_as_many_small_ones() {
    // Random numbers: each has some six keys of its own, more than stand in memory at a time.
    let mut rng = SmallRng::seed_from_u64(12);
    let schema = schema();
    let mut document = |id: u32| {
        let values = (0..40).map(|_| Scalar::Integer(rng.random())).collect();
        let payload = [("integer".to_owned(), PayloadValue::Many(values))].into();
        Operation::Upsert(Document { id: format!("id{id}"), payload, ..Document::default() })
    };
    let mut operations: Vec<_> = (0..600).map(&mut document).collect();
    operations.push(Operation::Delete((0..50).map(|id| format!("id{id}")).collect()));
    operations.extend((30..80).map(&mut document));
    let upper = Bound::Excluded(Scalar::Integer(i64::MIN / 64 * 63));
    operations.push(Operation::DeleteWhere(Filter::Range { field: "integer".into(), lower: Bound::Unbounded, upper }));
    operations.push(document(600));
    let rows = |parts: &[Vec<Operation>]| -> Vec<(Vec<u8>, RoaringBitmap)> {
        let folder = TempDir::new().unwrap();
        let truth = Truth::create(folder.path(), &schema, MAP_BYTES).unwrap();
        for operations in parts {
            truth.write(&[&Batch::check(&schema, operations.clone()).unwrap()], Lsn::ZERO).unwrap();
        }
        let reader = truth.read().unwrap();
        let rows = truth.tables.payload.iter(reader.txn()).unwrap();
        rows.map(|row| row.map(|(key, bytes)| (key.to_vec(), bitmaps::decode(bytes).unwrap())).unwrap()).collect()
    };
    let small: Vec<_> = operations.chunks(20).map(<[Operation]>::to_vec).collect();
    let at_once = rows(&[operations]);
    assert!(at_once.len() > bitmaps::Pending::KEYS_MAX, "{}", at_once.len());
    assert!(at_once == rows(&small));
}

#[test]
fn a_reader_sees_one_moment() {
    let (folder, schema) = (TempDir::new().unwrap(), schema());
    let truth = Truth::create(folder.path(), &schema, MAP_BYTES).unwrap();
    let write = |text: &str| {
        let texts = [("text".to_owned(), text.to_owned())].into();
        let document = Document { id: "a".into(), texts, ..Document::default() };
        truth.write(&[&Batch::check(&schema, vec![Operation::Upsert(document)]).unwrap()], Lsn::ZERO).unwrap();
    };
    write("one");
    let first = truth.read().unwrap();
    write("two");
    let second = truth.read().unwrap();
    assert_eq!((first.lsn(), second.lsn(), truth.oldest_reader()), (Lsn(1), Lsn(2), Some(Lsn(1))));
    let text = |reader: &Reader| reader.get("a").unwrap().unwrap().texts["text"].clone();
    assert_eq!((text(&first), text(&second)), ("one".into(), "two".into()));
    assert_eq!(second.document(first.find("a").unwrap().unwrap()).unwrap(), None);
    drop(first);
    assert_eq!(truth.oldest_reader(), Some(Lsn(2)));
    drop(second);
    assert_eq!(truth.oldest_reader(), None);
}

#[test]
fn the_log_is_cut_and_says_so() {
    let (folder, schema) = (TempDir::new().unwrap(), schema());
    let truth = Truth::create(folder.path(), &schema, MAP_BYTES).unwrap();
    let empty = Batch::check(&schema, vec![]).unwrap();
    let transaction = || truth.read().unwrap().txn().id();
    let before = transaction();
    truth.write(&[&empty; 9], Lsn::ZERO).unwrap();
    assert_eq!(transaction(), before + 1, "nine batches, one commit");
    truth.write(&[&empty], Lsn(4)).unwrap();
    let reader = truth.read().unwrap();
    assert_eq!(reader.log_first().unwrap(), Some(Lsn(5)));
    let cases = [(0, None), (3, None), (4, Some(6)), (9, Some(1)), (10, Some(0)), (11, Some(0))];
    for (after, expected) in cases {
        let found = reader.log_after(Lsn(after), usize::MAX).unwrap();
        assert_eq!(found.map(|entries| entries.len()), expected, "after {after}");
    }
    truth.write(&[&empty], Lsn(11)).unwrap();
    let reader = truth.read().unwrap();
    assert_eq!((reader.log_first().unwrap(), reader.stats().unwrap().log_entries), (None, 0));
    assert_eq!(reader.log_after(Lsn(10), 1).unwrap(), None);
}

#[test]
fn a_full_map_refuses_whole_batches_and_goes_on_with_a_larger_one() {
    let (folder, schema) = (TempDir::new().unwrap(), schema());
    let small = 2 << 20;
    let truth = Truth::create(folder.path(), &schema, small).unwrap();
    let upsert = |number: u32| {
        let document = |part| Document {
            id: format!("{number}.{part}"),
            texts: [("text".to_owned(), "x".repeat(10_000))].into(),
            ..Document::default()
        };
        Batch::check(&schema, (0..10).map(|part| Operation::Upsert(document(part))).collect()).unwrap()
    };
    let mut acknowledged = 0;
    let fault = loop {
        match truth.write(&[&upsert(acknowledged)], Lsn::ZERO) {
            Ok(_) => acknowledged += 1,
            Err(fault) => break fault,
        }
    };
    assert!(matches!(fault, StorageError::MapFull { bytes } if bytes == small) && fault.is_full(), "{fault}");
    assert!(acknowledged > 3);
    let documents = |truth: &Arc<Truth>| truth.read().unwrap().documents();
    assert_eq!(documents(&truth), u64::from(acknowledged) * 10);
    drop(truth);
    let truth = Truth::open(folder.path(), 2 * small).unwrap();
    assert_eq!(documents(&truth), u64::from(acknowledged) * 10);
    truth.write(&[&upsert(acknowledged)], Lsn::ZERO).unwrap();
    assert_eq!(documents(&truth), u64::from(acknowledged + 1) * 10);
}

#[test]
fn a_copy_is_the_collection_at_one_moment() {
    let (folder, copies, schema) = (TempDir::new().unwrap(), TempDir::new().unwrap(), schema());
    let truth = Truth::create(folder.path(), &schema, MAP_BYTES).unwrap();
    let mut rng = SmallRng::seed_from_u64(3);
    let operations: Vec<_> = (0..50).map(|_| Operation::Upsert(document(&mut rng, &schema))).collect();
    truth.write(&[&Batch::check(&schema, operations.clone()).unwrap()], Lsn::ZERO).unwrap();
    truth.copy_to(&copies.path().join("data.mdb")).unwrap();
    truth.write(&[&Batch::check(&schema, vec![Operation::DeleteWhere(Filter::And(vec![]))]).unwrap()], Lsn(1)).unwrap();
    let copy = Truth::open(copies.path(), MAP_BYTES).unwrap();
    let mut model = Model::new();
    apply(&mut model, &schema, Lsn(1), &operations);
    check(&copy, &model, &mut rng, 3);
    assert_eq!((truth.read().unwrap().documents(), truth.schema(), truth.lsn().unwrap()), (0, copy.schema(), Lsn(2)));
}

#[test]
fn what_is_not_a_collection_is_refused() {
    let (folder, schema) = (TempDir::new().unwrap(), schema());
    let missing = Truth::open(folder.path(), MAP_BYTES).unwrap_err();
    assert!(matches!(missing, StorageError::Missing { .. }), "{missing}");
    drop(Truth::create(folder.path(), &schema, MAP_BYTES).unwrap());
    let there = Truth::create(folder.path(), &schema, MAP_BYTES).unwrap_err();
    assert!(matches!(there, StorageError::Corrupt { .. }), "{there}");
    let truth = Truth::open(folder.path(), MAP_BYTES).unwrap();
    let mut txn = truth.environment.write().unwrap();
    truth.tables.state.put(&mut txn, b"format", &9_u32.to_be_bytes()).unwrap();
    truth.environment.commit(txn).unwrap();
    drop(truth);
    let format = Truth::open(folder.path(), MAP_BYTES).unwrap_err();
    assert!(matches!(format, StorageError::Format { found: 9, .. }), "{format}");
    fs::write(folder.path().join("data.mdb"), b"no database").unwrap();
    let corrupt = Truth::open(folder.path(), MAP_BYTES).unwrap_err();
    assert!(matches!(corrupt, StorageError::Lmdb(_)), "{corrupt}");
}
