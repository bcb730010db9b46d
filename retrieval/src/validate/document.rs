//! Documents, and requests that name them.

use std::collections::{BTreeMap, HashMap};

use prost_types::Timestamp;
use sluice_proto::retrieval::v1 as wire;
use sluice_service::status::Refusal;

use super::{Faults, at};
use crate::{
    config::Limits,
    document::Document,
    filter::Filter,
    payload::{Datetime, Payload, PayloadKind, PayloadValue, Scalar},
    schema::Schema,
    search::{Fields, Projection},
};

/// The documents of a batch.
///
/// # Errors
/// [`Refusal::InvalidArgument`] with every fault.
pub fn batch(documents: Vec<wire::Document>, schema: &Schema, limits: &Limits) -> Result<Vec<Document>, Refusal> {
    let mut faults = Faults::default();
    faults.count("documents", documents.len(), limits.documents_per_batch_max);
    if faults.is_empty() {
        let parsed: Vec<_> = documents
            .into_iter()
            .enumerate()
            .map(|(index, document)| faults.document(&format!("documents[{index}]"), document, schema))
            .collect();
        faults.finish()?;
        return Ok(parsed);
    }
    faults.finish().map(|()| Vec::new())
}

/// Checks the ids of a request that names documents.
///
/// # Errors
/// [`Refusal::InvalidArgument`] with every fault.
pub fn ids(ids: &[String], max: usize) -> Result<(), Refusal> {
    let mut faults = Faults::default();
    faults.count("ids", ids.len(), max);
    for (index, id) in ids.iter().enumerate() {
        faults.id(|| format!("ids[{index}]"), id);
    }
    faults.finish()
}

/// What a delete request deletes.
///
/// # Errors
/// [`Refusal::InvalidArgument`] with every fault.
pub fn deletion(request: wire::DeleteRequest, schema: &Schema, limits: &Limits) -> Result<Deletion, Refusal> {
    let wire::DeleteRequest { ids: named, filter, .. } = request;
    let Some(filter) = filter else {
        ids(&named, limits.documents_per_batch_max)?;
        return Ok(Deletion::Ids(named));
    };
    let mut faults = Faults::default();
    if !named.is_empty() {
        faults.add("filter", "must not be set together with ids");
    }
    let filter = faults.filter("filter", filter, schema);
    faults.finish()?;
    filter.map(Deletion::Where).ok_or(Refusal::Internal)
}

/// Documents to delete.
#[derive(Clone, Debug, PartialEq)]
pub enum Deletion {
    /// Those of these ids.
    Ids(Vec<String>),
    /// Those that this is true of.
    Where(Filter),
}

/// What is to be sent of documents; everything but vectors where nothing is said.
///
/// # Errors
/// [`Refusal::InvalidArgument`] with every fault.
pub fn projection(projection: Option<wire::Projection>, schema: &Schema) -> Result<Projection, Refusal> {
    let mut faults = Faults::default();
    let parsed = match projection {
        Some(projection) => faults.projection(projection, schema),
        None => Projection { texts: Fields::All, payload: Fields::All, vectors: Fields::none() },
    };
    faults.finish()?;
    Ok(parsed)
}

impl Faults {
    pub(super) fn id(&mut self, field: impl FnOnce() -> String, id: &str) {
        if !(1..=Schema::ID_BYTES_MAX).contains(&id.len()) {
            self.add(field(), format!("must be 1 to {} bytes", Schema::ID_BYTES_MAX));
        }
    }

    fn document(&mut self, path: &str, document: wire::Document, schema: &Schema) -> Document {
        let before = self.0.len();
        let wire::Document { id, texts, payload, vectors } = document;
        self.id(|| at(path, "id"), &id);
        let texts = self.texts(&at(path, "texts"), texts, schema);
        let payload = self.payload(&at(path, "payload"), payload, schema);
        let mut parsed = Document { id, texts, payload, ..Document::default() };
        self.vectors(&at(path, "vectors"), vectors, schema, &mut parsed);
        if self.0.len() == before
            && let Err(fault) = schema.check_document(&parsed)
        {
            self.add(path, fault.to_string());
        }
        parsed
    }

    fn texts(&mut self, path: &str, texts: HashMap<String, String>, schema: &Schema) -> BTreeMap<String, String> {
        let texts: BTreeMap<_, _> = texts.into_iter().collect();
        for name in texts.keys().filter(|name| schema.text_field(name).is_none()) {
            self.add(at(path, name), "is no text field of the schema");
        }
        let bytes: usize = texts.values().map(String::len).sum();
        if bytes > Schema::TEXT_BYTES_MAX {
            self.add(path, format!("have {bytes} bytes together, at most {} are possible", Schema::TEXT_BYTES_MAX));
        }
        texts
    }

    fn payload(&mut self, path: &str, payload: HashMap<String, wire::PayloadValue>, schema: &Schema) -> Payload {
        // In order, so that the first faults are the same every time.
        let payload: BTreeMap<_, _> = payload.into_iter().collect();
        let mut parsed = Payload::new();
        for (name, value) in payload {
            let path = at(path, &name);
            self.new_name(&path, &name);
            let declared = schema.payload_field(&name).map(|field| field.kind);
            if let Some(value) = self.payload_value(&path, value, declared) {
                parsed.insert(name, value);
            }
        }
        parsed
    }

    fn payload_value(
        &mut self,
        path: &str,
        value: wire::PayloadValue,
        declared: Option<PayloadKind>,
    ) -> Option<PayloadValue> {
        let Some(wire::payload_value::Kind::ListValue(list)) = value.kind else {
            return self.scalar(path, value, declared).map(PayloadValue::One);
        };
        if list.values.len() > Schema::LIST_VALUES_MAX {
            let (found, max) = (list.values.len(), Schema::LIST_VALUES_MAX);
            self.add(path, format!("has {found} values, at most {max} are possible"));
            return None;
        }
        let mut scalars: Vec<Scalar> = Vec::with_capacity(list.values.len());
        for (index, value) in list.values.into_iter().enumerate() {
            let path = format!("{path}[{index}]");
            let scalar = self.scalar(&path, value, declared)?;
            if let Some(first) = scalars.first().filter(|first| first.kind() != scalar.kind()) {
                self.add(path, format!("is a {}, the list began with a {}", scalar.kind().name(), first.kind().name()));
                return None;
            }
            scalars.push(scalar);
        }
        Some(PayloadValue::Many(scalars))
    }

    /// A value of the declared kind; of the kind that it looks like, where none is declared.
    pub(super) fn scalar(
        &mut self,
        path: &str,
        value: wire::PayloadValue,
        declared: Option<PayloadKind>,
    ) -> Option<Scalar> {
        use wire::payload_value::Kind;

        let scalar = match value.kind {
            Some(Kind::StringValue(text)) if declared == Some(PayloadKind::Text) => Scalar::Text(text),
            Some(Kind::StringValue(text)) => Scalar::Keyword(text),
            Some(Kind::IntegerValue(number)) if declared == Some(PayloadKind::Float) => {
                let float = number as f64;
                if float as i64 != number || number == i64::MAX {
                    self.add(path, format!("{number} is no float; send it as one that is near"));
                    return None;
                }
                Scalar::Float(float)
            }
            Some(Kind::IntegerValue(number)) => Scalar::Integer(number),
            Some(Kind::FloatValue(number)) if !number.is_finite() => {
                self.add(path, "is not a finite number");
                return None;
            }
            Some(Kind::FloatValue(number)) => Scalar::Float(number),
            Some(Kind::BooleanValue(truth)) => Scalar::Boolean(truth),
            Some(Kind::DatetimeValue(moment)) => Scalar::Datetime(self.datetime(path, moment)?),
            Some(Kind::ListValue(_)) => {
                self.add(path, "must not be a list");
                return None;
            }
            None => {
                self.add(path, "must have a value");
                return None;
            }
        };
        if let Some(kind) = declared.filter(|kind| *kind != scalar.kind()) {
            self.add(path, format!("must be a {}, got a {}", kind.name(), scalar.kind().name()));
            return None;
        }
        match &scalar {
            Scalar::Keyword(text) if declared.is_some() && text.len() > Schema::KEYWORD_BYTES_MAX => {
                self.add(path, format!("must be at most {} bytes", Schema::KEYWORD_BYTES_MAX));
                None
            }
            _ => Some(scalar),
        }
    }

    fn datetime(&mut self, path: &str, moment: Timestamp) -> Option<Datetime> {
        let Timestamp { seconds, nanos } = moment;
        let micros = seconds.checked_mul(1_000_000).and_then(|micros| micros.checked_add(i64::from(nanos) / 1_000));
        match micros {
            Some(micros) if (0..1_000_000_000).contains(&nanos) => Some(Datetime(micros)),
            _ => {
                self.add(path, "is no moment: nanos are 0 to 999,999,999, and microseconds must fit 64 bits");
                None
            }
        }
    }

    fn vectors(
        &mut self,
        path: &str,
        vectors: HashMap<String, wire::Vector>,
        schema: &Schema,
        document: &mut Document,
    ) {
        let vectors: BTreeMap<_, _> = vectors.into_iter().collect();
        for (name, vector) in vectors {
            let path = at(path, &name);
            match (vector.kind, schema.dense_field(&name), schema.sparse_field(&name)) {
                (Some(wire::vector::Kind::Dense(embedding)), Some(field), _) => {
                    if let Some(vector) = self.dense(&at(&path, "dense"), &embedding, field) {
                        document.dense.insert(name, vector);
                    }
                }
                (Some(wire::vector::Kind::Sparse(vector)), _, Some(_)) => {
                    if let Some(vector) = self.sparse(&at(&path, "sparse"), vector) {
                        document.sparse.insert(name, vector);
                    }
                }
                (None, ..) => self.add(path, "must be dense or sparse"),
                (Some(_), None, None) => self.add(path, "is no vector of the schema"),
                (Some(_), Some(_), _) => self.add(path, "is a dense vector in the schema"),
                (Some(_), None, Some(_)) => self.add(path, "is a sparse vector in the schema"),
            }
        }
    }

    pub(super) fn projection(&mut self, projection: wire::Projection, schema: &Schema) -> Projection {
        let wire::Projection { texts, payload, vectors } = projection;
        let is_vector = |name: &str| schema.dense_field(name).is_some() || schema.sparse_field(name).is_some();
        Projection {
            texts: self.fields("projection.texts", texts, |name| schema.text_field(name).is_some()),
            // What the schema does not declare is kept too.
            payload: self.fields("projection.payload", payload, |_| true),
            vectors: self.fields("projection.vectors", vectors, is_vector),
        }
    }

    fn fields(&mut self, path: &str, names: Vec<String>, known: impl Fn(&str) -> bool) -> Fields {
        if names.iter().any(|name| name == "*") {
            return Fields::All;
        }
        for (index, name) in names.iter().enumerate().filter(|(_, name)| !known(name)) {
            self.add(format!("{path}[{index}]"), format!("{name:?} is not in the schema"));
        }
        Fields::These(names.into_iter().collect())
    }
}
