//! Documents ↔ points.
//!
//! ```text
//! id        UUID of the document's id
//! payload   id, version, content_hash, texts{field: text}, payload{field: value}, words{field: [word]}, other{field: value}
//! vectors   each of the document's by its name, and `lexical.words`
//! ```

use std::{collections::HashMap, sync::Arc};

use qdrant_client::qdrant::{
    DenseVector, NamedVectors, PayloadIncludeSelector, PointStruct, ScoredPoint, SparseVector as QdrantSparse, Value,
    Vector, VectorOutput, Vectors, VectorsOutput, VectorsSelector, WithPayloadSelector, WithVectorsSelector,
    value::Kind, vector, vector_output, vectors, vectors_output, with_payload_selector, with_vectors_selector,
};

use super::{name, value, words::WordFields};
use crate::{
    document::{Document, SparseVector, StoredDocument},
    identity::{ContentHash, DocId, Lsn},
    payload::{Payload, PayloadKind, PayloadValue, Scalar, words},
    schema::{Metric, Schema},
    search::{ClusterHit, Fields, Projection, ReadDocument},
};

/// Why a document cannot be a point, or a point is no document of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PointFault {
    /// Of a document's id.
    #[error("document {id:?}: {field} has {fault}")]
    Value { id: String, field: String, fault: value::OutOfYears },
    #[error("a point without its {0}")]
    Lost(&'static str),
}

/// A document as a point.
pub(super) fn of_document(
    document: &Document,
    version: Lsn,
    schema: &Schema,
    fields: &WordFields,
) -> Result<PointStruct, PointFault> {
    let texts = document.texts.iter().filter(|(_, text)| !text.is_empty());
    let mut payload = HashMap::from([
        (name::ID.to_owned(), value::string(document.id.as_str())),
        (name::VERSION.to_owned(), value::integer(i64::try_from(version.0).unwrap_or(i64::MAX))),
        (name::CONTENT_HASH.to_owned(), value::string(schema.content.hash(document).to_string())),
        (
            name::TEXTS.to_owned(),
            value::fields(texts.map(|(name, text)| (name.as_str(), value::string(text.as_str())))),
        ),
    ]);
    let (mut declared, mut word_lists, mut other) = (Vec::new(), Vec::new(), Vec::new());
    for (field, found) in &document.payload {
        let Some(kind) = schema.payload_field(field).map(|field| field.kind) else {
            other.push((field.as_str(), value::undeclared(found)));
            continue;
        };
        let fault = |fault| PointFault::Value { id: document.id.clone(), field: field.clone(), fault };
        declared.push((field.as_str(), value::declared(found).map_err(fault)?));
        if kind == PayloadKind::Text {
            word_lists.push((field.as_str(), value::list(distinct_words(found).into_iter().map(value::string))));
        }
    }
    for (key, fields) in [(name::PAYLOAD, declared), (name::WORDS, word_lists), (name::OTHER, other)] {
        if !fields.is_empty() {
            payload.insert(key.to_owned(), value::fields(fields));
        }
    }
    let dense = document.dense.iter().map(|(name, vector)| (name.clone(), dense(vector)));
    let learned = document.sparse.iter().map(|(name, vector)| (name.clone(), sparse(vector)));
    let mut vectors: HashMap<String, Vector> = dense.chain(learned).collect();
    vectors.extend(fields.weights(document).map(|weights| (name::WORDS_VECTOR.to_owned(), sparse(&weights))));
    let vectors = Vectors { vectors_options: Some(vectors::VectorsOptions::Vectors(NamedVectors { vectors })) };
    Ok(PointStruct { id: Some(name::point_id(&document.id)), payload, vectors: Some(vectors) })
}

/// Each word once; and an empty one, which nobody looks for, if there is a value at all: that it exists is asked of its
/// words, as they have the index.
fn distinct_words(value: &PayloadValue) -> Vec<String> {
    let texts = value.scalars().iter().filter_map(|scalar| match scalar {
        Scalar::Text(text) => Some(text),
        _ => None,
    });
    let mut found: Vec<String> = texts.flat_map(|text| words(text)).map(String::from).collect();
    if !value.scalars().is_empty() {
        found.push(String::new());
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn dense(vector: &[f32]) -> Vector {
    vector_of(vector::Vector::Dense(DenseVector { data: vector.to_vec() }))
}

fn sparse(SparseVector { indices, values }: &SparseVector) -> Vector {
    vector_of(vector::Vector::Sparse(QdrantSparse { values: values.clone(), indices: indices.clone() }))
}

fn vector_of(vector: vector::Vector) -> Vector {
    Vector { vector: Some(vector), ..Vector::default() }
}

/// What of a payload every hit carries.
pub(super) fn facts() -> WithPayloadSelector {
    include([name::ID, name::VERSION, name::CONTENT_HASH].map(str::to_owned).to_vec())
}

/// What of a payload has to be read.
pub(super) fn payload_of(projection: &Projection) -> WithPayloadSelector {
    let mut keys = [name::ID, name::VERSION, name::CONTENT_HASH].map(str::to_owned).to_vec();
    match &projection.texts {
        Fields::All => keys.push(name::TEXTS.to_owned()),
        Fields::These(fields) => keys.extend(fields.iter().map(|field| format!("{}.{field}", name::TEXTS))),
    }
    if projection.payload != Fields::none() {
        keys.extend([name::PAYLOAD, name::OTHER].map(str::to_owned));
    }
    include(keys)
}

fn include(fields: Vec<String>) -> WithPayloadSelector {
    let selected = with_payload_selector::SelectorOptions::Include(PayloadIncludeSelector { fields });
    WithPayloadSelector { selector_options: Some(selected) }
}

/// Which vectors have to be read.
pub(super) fn vectors_of(projection: &Projection, schema: &Schema) -> WithVectorsSelector {
    let names = schema.dense.iter().map(|field| &field.name).chain(schema.sparse.iter().map(|field| &field.name));
    let names: Vec<String> = names.filter(|name| projection.vectors.has(name)).cloned().collect();
    let selected = match names.is_empty() {
        true => with_vectors_selector::SelectorOptions::Enable(false),
        false => with_vectors_selector::SelectorOptions::Include(VectorsSelector { names }),
    };
    WithVectorsSelector { selector_options: Some(selected) }
}

/// A point that a query found. Of an Euclidean leg the cluster says the distance, and we its negative.
pub(super) fn hit(point: ScoredPoint, metric: Option<Metric>) -> Result<ClusterHit, PointFault> {
    let (version, content_hash) = facts_of(&point.payload)?;
    let id = Arc::from(id_of(&point.payload)?);
    let score = if metric == Some(Metric::Euclidean) { -point.score } else { point.score };
    Ok(ClusterHit { id, version, content_hash, score })
}

/// A point that was read.
pub(super) fn document(
    mut payload: HashMap<String, Value>,
    vectors: Option<VectorsOutput>,
    schema: &Schema,
) -> Result<ReadDocument, PointFault> {
    let (version, content_hash) = facts_of(&payload)?;
    let id = id_of(&payload)?.to_owned();
    let texts = structure(payload.remove(name::TEXTS)).into_iter().filter_map(|(field, value)| match value.kind {
        Some(Kind::StringValue(text)) => Some((field, text)),
        _ => None,
    });
    let texts = texts.collect();
    let mut values = Payload::new();
    for (field, found) in structure(payload.remove(name::PAYLOAD)) {
        let kind = schema.payload_field(&field).map(|field| field.kind);
        values.insert(field, value::read(&found, kind).ok_or(PointFault::Lost("payload"))?);
    }
    for (field, found) in structure(payload.remove(name::OTHER)) {
        values.insert(field, value::read(&found, None).ok_or(PointFault::Lost("other payload"))?);
    }
    let stored = StoredDocument { doc: DocId::default(), version, content_hash, id, texts, payload: values };
    let mut read = ReadDocument { stored, dense: Vec::new(), sparse: Vec::new() };
    if let Some(vectors_output::VectorsOptions::Vectors(named)) = vectors.and_then(|vectors| vectors.vectors_options) {
        for (name, vector) in named.vectors {
            add_vector(&mut read, name, vector);
        }
    }
    read.dense.sort_by(|a, b| a.0.cmp(&b.0));
    read.sparse.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(read)
}

fn add_vector(read: &mut ReadDocument, name: String, vector: VectorOutput) {
    match vector.into_vector() {
        vector_output::Vector::Dense(DenseVector { data }) => read.dense.push((name, data)),
        vector_output::Vector::Sparse(QdrantSparse { values, indices }) => {
            // In any order there, ascending here.
            let mut entries: Vec<(u32, f32)> = indices.into_iter().zip(values).collect();
            entries.sort_by_key(|(index, _)| *index);
            let (indices, values) = entries.into_iter().unzip();
            read.sparse.push((name, SparseVector { indices, values }));
        }
        vector_output::Vector::MultiDense(_) => {}
    }
}

fn structure(value: Option<Value>) -> HashMap<String, Value> {
    match value.and_then(|value| value.kind) {
        Some(Kind::StructValue(fields)) => fields.fields,
        _ => HashMap::new(),
    }
}

/// The id of the document that a point is.
pub(super) fn id_of(payload: &HashMap<String, Value>) -> Result<&str, PointFault> {
    match payload.get(name::ID).and_then(|value| value.kind.as_ref()) {
        Some(Kind::StringValue(id)) => Ok(id),
        _ => Err(PointFault::Lost("id")),
    }
}

fn facts_of(payload: &HashMap<String, Value>) -> Result<(Lsn, ContentHash), PointFault> {
    let version = match payload.get(name::VERSION).and_then(|value| value.kind.as_ref()) {
        Some(Kind::IntegerValue(version)) => u64::try_from(*version).ok(),
        _ => None,
    };
    let hash = match payload.get(name::CONTENT_HASH).and_then(|value| value.kind.as_ref()) {
        Some(Kind::StringValue(hash)) => hash_of(hash),
        _ => None,
    };
    Ok((Lsn(version.ok_or(PointFault::Lost("version"))?), hash.ok_or(PointFault::Lost("content hash"))?))
}

fn hash_of(hex: &str) -> Option<ContentHash> {
    let mut bytes = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (nth, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * nth..2 * nth + 2], 16).ok()?;
    }
    Some(ContentHash(bytes))
}
