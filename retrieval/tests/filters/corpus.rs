//! Documents, what happens to them, and what is asked of them; all of it drawn.

use std::{collections::BTreeMap, ops::Bound};

use rand::{Rng, rngs::SmallRng, seq::IndexedRandom};
use sluice_retrieval::{
    document::{Document, SparseVector},
    filter::Filter,
    payload::{Datetime, Payload, PayloadKind, PayloadValue, Scalar},
    schema::{DenseField, Language, Metric, PayloadField, Schema, SparseField},
    search::{LegQuery, LexicalQuery},
    store::Write,
    vector_index::Effort,
};

use crate::naive::{matches, words};

/// Ids that documents have: enough for a graph to be searched as one.
const IDS: usize = 400;
pub(crate) const DIM: usize = 6;
const SPARSE_DIMS: u32 = 40;
/// Words, the first the most frequent. None is a stop word, and no analyser changes them.
const WORDS: [&str; 10] = ["sand", "beach", "rock", "Cliff", "tide", "reef", "Dune", "cove", "bay", "gull"];
/// How deep conditions stand in each other, at most.
const DEPTH_MAX: usize = 3;

const FIELDS: [(&str, PayloadKind); 6] = [
    ("keyword", PayloadKind::Keyword),
    ("integer", PayloadKind::Integer),
    ("float", PayloadKind::Float),
    ("boolean", PayloadKind::Boolean),
    ("datetime", PayloadKind::Datetime),
    ("text", PayloadKind::Text),
];

/// Text, vectors of both kinds and a payload field of each kind. Words are what they are: no stems, no stop words.
pub(crate) fn schema() -> Schema {
    let mut schema = Schema::title_and_text(Language::None);
    schema.dense.push(DenseField { name: "dense".into(), dim: DIM as u32, metric: Metric::Cosine });
    schema.sparse.push(SparseField { name: "sparse".into(), idf: false });
    let field = |(name, kind): (&str, PayloadKind)| PayloadField { name: name.to_owned(), kind };
    schema.payload = FIELDS.map(field).to_vec();
    schema
}

/// The documents that there are.
#[derive(Default)]
pub(crate) struct Corpus {
    pub(crate) documents: BTreeMap<String, Document>,
}

impl Corpus {
    /// Some batches: the first fill the collection, later ones replace and delete.
    pub(crate) fn writes(&self, rng: &mut SmallRng) -> Vec<Write> {
        let upserts = if self.documents.is_empty() { IDS } else { rng.random_range(20..120) };
        let mut ids: Vec<usize> = (0..upserts).map(|nth| nth % IDS).collect();
        if !self.documents.is_empty() {
            ids.fill_with(|| rng.random_range(0..IDS));
            // A batch may have an id only once.
            ids.sort_unstable();
            ids.dedup();
        }
        let documents: Vec<Document> = ids.into_iter().map(|id| document(rng, format!("d{id}"))).collect();
        let mut writes: Vec<Write> = documents.chunks(97).map(|part| Write::Upsert(part.to_vec())).collect();
        if !self.documents.is_empty() {
            let gone = (0..rng.random_range(1..20)).map(|_| format!("d{}", rng.random_range(0..IDS)));
            let mut gone: Vec<String> = gone.collect();
            gone.sort();
            gone.dedup();
            writes.insert(rng.random_range(0..=writes.len()), Write::Delete(gone));
            // Not too many of them at once.
            let value = Scalar::Integer(rng.random_range(-5..5));
            let some = Filter::Match { field: "integer".into(), value };
            let true_ones = Filter::Match { field: "boolean".into(), value: Scalar::Boolean(true) };
            let both = Filter::And(vec![some, true_ones]);
            writes.insert(rng.random_range(0..=writes.len()), Write::DeleteWhere(both));
        }
        writes
    }

    /// The same on the model.
    pub(crate) fn apply(&mut self, write: &Write) {
        match write {
            Write::Upsert(documents) => {
                self.documents.extend(documents.iter().map(|document| (document.id.clone(), document.clone())));
            }
            Write::Delete(ids) => self.documents.retain(|id, _| !ids.contains(id)),
            Write::DeleteWhere(filter) => self.documents.retain(|_, document| !matches(filter, document)),
        }
    }

    /// One query for each leg.
    pub(crate) fn queries(&self, rng: &mut SmallRng) -> [LegQuery; 3] {
        let text = [word(rng), word(rng)].join(" ");
        [
            LegQuery::Lexical(LexicalQuery { text, ..LexicalQuery::default() }),
            LegQuery::Dense {
                vector: "dense".into(),
                query: vector(rng),
                metric: Metric::Cosine,
                effort: Effort::Usual,
            },
            LegQuery::Sparse { vector: "sparse".into(), query: sparse(rng) },
        ]
    }

    /// What a leg must find, with the score that its definition gives; `None` where that is BM25.
    pub(crate) fn scored(&self, query: &LegQuery) -> BTreeMap<String, Option<f64>> {
        let score = |document: &Document| match query {
            LegQuery::Lexical(query) => {
                let there: Vec<String> = document.texts.values().flat_map(|text| words(text)).collect();
                words(&query.text).iter().any(|word| there.contains(word)).then_some(None)
            }
            LegQuery::Dense { query, .. } => document.dense.get("dense").map(|vector| Some(cosine(query, vector))),
            LegQuery::Sparse { query, .. } => {
                document.sparse.get("sparse").and_then(|vector| dot(query, vector)).map(Some)
            }
        };
        self.documents.values().filter_map(|document| Some((document.id.clone(), score(document)?))).collect()
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// `None` where they have no dimension in common.
fn dot(a: &SparseVector, b: &SparseVector) -> Option<f64> {
    let in_b: BTreeMap<u32, f32> = b.indices.iter().copied().zip(b.values.iter().copied()).collect();
    let products =
        a.indices.iter().zip(&a.values).filter_map(|(index, a)| Some(f64::from(*a) * f64::from(*in_b.get(index)?)));
    let products: Vec<f64> = products.collect();
    (!products.is_empty()).then(|| products.iter().sum())
}

/// Any part of it may be missing.
fn document(rng: &mut SmallRng, id: String) -> Document {
    let text = |rng: &mut SmallRng| (0..rng.random_range(0..6)).map(|_| word(rng)).collect::<Vec<_>>().join(" ");
    let mut document = Document { id, payload: payload(rng), ..Document::default() };
    document.texts.insert("title".into(), text(rng));
    document.texts.insert("text".into(), text(rng));
    if rng.random_bool(0.9) {
        document.dense.insert("dense".into(), vector(rng));
    }
    if rng.random_bool(0.9) {
        document.sparse.insert("sparse".into(), sparse(rng));
    }
    document
}

fn payload(rng: &mut SmallRng) -> Payload {
    let mut payload = Payload::new();
    for (name, kind) in FIELDS {
        let value = match rng.random_range(0..10) {
            0 | 1 => continue,
            2 => PayloadValue::Many(Vec::new()),
            3..6 => PayloadValue::Many((0..rng.random_range(1..4)).map(|_| scalar(rng, kind)).collect()),
            _ => PayloadValue::One(scalar(rng, kind)),
        };
        payload.insert(name.to_owned(), value);
    }
    payload
}

/// Of few different ones, so that filters find some.
fn scalar(rng: &mut SmallRng, kind: PayloadKind) -> Scalar {
    match kind {
        PayloadKind::Keyword => {
            Scalar::Keyword(["", "red", "Red", "re", "blue", "grün"].choose(rng).unwrap().to_string())
        }
        PayloadKind::Integer => Scalar::Integer(rng.random_range(-5..5)),
        PayloadKind::Float => Scalar::Float(*[-2.5, -0.0, 0.0, 0.125, 1.0, 1e9, -1e-9].choose(rng).unwrap()),
        PayloadKind::Boolean => Scalar::Boolean(rng.random()),
        PayloadKind::Datetime => Scalar::Datetime(Datetime(rng.random_range(-3..4) * 86_400_000_001)),
        PayloadKind::Text => {
            Scalar::Text((0..rng.random_range(1..4)).map(|_| word(rng)).collect::<Vec<_>>().join("  "))
        }
    }
}

fn word(rng: &mut SmallRng) -> &'static str {
    WORDS[rng.random_range(0..WORDS.len()).min(rng.random_range(0..WORDS.len()))]
}

fn vector(rng: &mut SmallRng) -> Vec<f32> {
    (0..DIM).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn sparse(rng: &mut SmallRng) -> SparseVector {
    let mut indices: Vec<u32> = (0..rng.random_range(1..7)).map(|_| rng.random_range(0..SPARSE_DIMS)).collect();
    indices.sort_unstable();
    indices.dedup();
    let values = indices.iter().map(|_| rng.random_range(0.125..2.0)).collect();
    SparseVector { indices, values }
}

/// Any condition that the schema has, alone or within others.
pub(crate) fn filter(rng: &mut SmallRng, depth: usize) -> Filter {
    let nested = if depth < DEPTH_MAX { rng.random_range(0..10) } else { 9 };
    let some = |rng: &mut SmallRng| (0..rng.random_range(0..4)).map(|_| filter(rng, depth + 1)).collect();
    match nested {
        0 | 1 => Filter::And(some(rng)),
        2 | 3 => Filter::Or(some(rng)),
        4 | 5 => Filter::Not(Box::new(filter(rng, depth + 1))),
        _ => condition(rng),
    }
}

fn condition(rng: &mut SmallRng) -> Filter {
    let (name, kind) = FIELDS[rng.random_range(0..FIELDS.len())];
    let field = name.to_owned();
    match (rng.random_range(0..8), kind) {
        (0, _) => Filter::Exists { field },
        (1, _) => {
            // Ids of documents that are not there among them.
            Filter::Ids((0..rng.random_range(0..80)).map(|_| format!("d{}", rng.random_range(0..IDS + 50))).collect())
        }
        (_, PayloadKind::Text) => {
            let text = (0..rng.random_range(1..3)).map(|_| word(rng)).collect::<Vec<_>>().join(" ");
            Filter::Words { field, text: text.to_uppercase() }
        }
        (2 | 3, PayloadKind::Integer | PayloadKind::Float | PayloadKind::Datetime) => {
            Filter::Range { field, lower: bound(rng, kind), upper: bound(rng, kind) }
        }
        (4, _) => {
            let values = (0..rng.random_range(0..4)).map(|_| scalar(rng, kind)).collect();
            Filter::MatchAny { field, values }
        }
        _ => Filter::Match { field, value: scalar(rng, kind) },
    }
}

fn bound(rng: &mut SmallRng, kind: PayloadKind) -> Bound<Scalar> {
    match rng.random_range(0..3) {
        0 => Bound::Unbounded,
        1 => Bound::Included(scalar(rng, kind)),
        _ => Bound::Excluded(scalar(rng, kind)),
    }
}
