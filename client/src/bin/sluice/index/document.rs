//! Lines and records → documents of a collection.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Map, Value};
use sluice_client::{
    DataType, Matrix,
    proto::retrieval::v1::{
        Document, PayloadList, PayloadType, PayloadValue, Schema, SparseVector, Vector, payload_value::Kind, vector,
        vector_field,
    },
};

/// Payload of documents whose token vectors are stored: which model made them, and in which namespace they are, as
/// NAME@DIGEST/NAMESPACE.
pub(super) const TOKENS_KEY: &str = "_tokens";
/// Begins the name of the payload that says which model made a vector, as NAME@DIGEST; the vector's name follows.
const VECTOR_KEY: &str = "_vector_";

/// Payload that says which model made the vector of this name.
pub(super) fn vector_key(vector: &str) -> String {
    format!("{VECTOR_KEY}{vector}")
}

/// The vector that such payload is about.
pub(super) fn keyed_vector(key: &str) -> Option<&str> {
    key.strip_prefix(VECTOR_KEY)
}

/// Whether payload of this name is this command's own.
pub(super) fn is_reserved(key: &str) -> bool {
    key == TOKENS_KEY || keyed_vector(key).is_some()
}

/// Why a line or a record is no document of the collection.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadDocument {
    #[error("no JSON object: {0}")]
    Json(#[from] serde_json::Error),
    #[error("not UTF-8")]
    NotText,
    #[error("{found} cells, where the header has {expected}")]
    Cells { found: u64, expected: u64 },
    #[error("no `id`")]
    NoId,
    #[error("`{field}` must be {expected}")]
    Type { field: String, expected: &'static str },
    #[error("`{field}` is there twice")]
    Twice { field: String },
    #[error("`{field}`: names that begin so are kept for what says which model made a vector")]
    Reserved { field: String },
    #[error("`vectors.{name}`: {reason}")]
    Vector { name: String, reason: String },
}

/// Reads documents of one schema.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    texts: Vec<String>,
    /// Whether a vector is sparse.
    vectors: HashMap<String, bool>,
    payload: HashMap<String, PayloadType>,
    /// Nothing but ids is looked at.
    ids_only: bool,
}

impl Reading {
    pub(super) fn new(schema: &Schema, ids_only: bool) -> Self {
        let sparse = |kind: &Option<_>| matches!(kind, Some(vector_field::Kind::Sparse(_)));
        Self {
            texts: schema.texts.iter().map(|field| field.name.clone()).collect(),
            vectors: schema.vectors.iter().map(|field| (field.name.clone(), sparse(&field.kind))).collect(),
            payload: schema.payload.iter().map(|field| (field.name.clone(), field.r#type())).collect(),
            ids_only,
        }
    }

    /// A line of JSON.
    pub(super) fn json(&self, line: &[u8]) -> Result<Document, BadDocument> {
        let mut fields: Map<String, Value> = serde_json::from_slice(line)?;
        let id = fields.remove("id").or_else(|| fields.remove("_id"));
        let mut document = Document { id: id_of(id)?, ..Document::default() };
        if self.ids_only {
            return Ok(document);
        }
        for (name, value) in fields {
            match (name.as_str(), value) {
                ("vectors", Value::Object(vectors)) => document.vectors = self.vectors(vectors)?,
                ("payload", Value::Object(payload)) => {
                    for (name, value) in payload {
                        self.add_payload(&mut document, name, value)?;
                    }
                }
                ("vectors", Value::Null) => {}
                ("vectors", _) => return Err(BadDocument::Type { field: name, expected: "an object" }),
                (_, value) if self.texts.contains(&name) => match value {
                    Value::String(text) if text.is_empty() => {}
                    Value::String(text) => drop(document.texts.insert(name, text)),
                    Value::Null => {}
                    _ => return Err(BadDocument::Type { field: name, expected: "a string" }),
                },
                (_, value) => self.add_payload(&mut document, name, value)?,
            }
        }
        Ok(document)
    }

    /// A record of a table with this header.
    pub(super) fn record(
        &self,
        header: &csv::StringRecord,
        record: &csv::StringRecord,
    ) -> Result<Document, BadDocument> {
        let mut document = Document::default();
        for (name, cell) in header.iter().zip(record) {
            if name == "id" {
                cell.clone_into(&mut document.id);
            }
            if name == "id" || self.ids_only || cell.is_empty() {
                continue;
            }
            if self.texts.iter().any(|text| text == name) {
                document.texts.insert(name.to_owned(), cell.to_owned());
            } else {
                let value = self.cell(name, cell)?;
                self.add_payload(&mut document, name.to_owned(), value)?;
            }
        }
        if document.id.is_empty() { Err(BadDocument::NoId) } else { Ok(document) }
    }

    /// A cell as the value that its column's type reads.
    fn cell(&self, name: &str, cell: &str) -> Result<Value, BadDocument> {
        let typed = |expected| BadDocument::Type { field: name.to_owned(), expected };
        Ok(match self.payload.get(name) {
            Some(PayloadType::Integer) => cell.parse::<i64>().map_err(|_| typed("an integer"))?.into(),
            Some(PayloadType::Float) => match cell.parse::<f64>() {
                Ok(number) if number.is_finite() => number.into(),
                _ => return Err(typed("a finite number")),
            },
            Some(PayloadType::Boolean) => cell.parse::<bool>().map_err(|_| typed("true or false"))?.into(),
            _ => cell.into(),
        })
    }

    fn add_payload(&self, document: &mut Document, name: String, value: Value) -> Result<(), BadDocument> {
        if is_reserved(&name) {
            return Err(BadDocument::Reserved { field: name });
        }
        let declared = self.payload.get(&name).copied();
        let kind = match value {
            Value::Null => return Ok(()),
            Value::Array(values) => list(&name, values, declared)?,
            value => scalar(&name, value, declared)?,
        };
        if document.payload.contains_key(&name) {
            return Err(BadDocument::Twice { field: name });
        }
        document.payload.insert(name, PayloadValue { kind: Some(kind) });
        Ok(())
    }

    fn vectors(&self, vectors: Map<String, Value>) -> Result<HashMap<String, Vector>, BadDocument> {
        let vector = |(name, value): (String, Value)| {
            let parsed = match self.vectors.get(&name) {
                None => Err("is no vector of the collection".to_owned()),
                Some(true) => sparse(value),
                Some(false) => dense(value),
            };
            match parsed {
                Ok(kind) => Ok((name, Vector { kind: Some(kind) })),
                Err(reason) => Err(BadDocument::Vector { name, reason }),
            }
        };
        vectors.into_iter().filter(|(_, value)| !value.is_null()).map(vector).collect()
    }
}

fn id_of(id: Option<Value>) -> Result<String, BadDocument> {
    match id {
        Some(Value::String(id)) if !id.is_empty() => Ok(id),
        Some(Value::Number(id)) => Ok(id.to_string()),
        None | Some(Value::Null | Value::String(_)) => Err(BadDocument::NoId),
        Some(_) => Err(BadDocument::Type { field: "id".to_owned(), expected: "a string or a number" }),
    }
}

fn list(name: &str, values: Vec<Value>, declared: Option<PayloadType>) -> Result<Kind, BadDocument> {
    let nested = values.iter().any(|value| value.is_array() || value.is_object() || value.is_null());
    let uneven = values.windows(2).any(|pair| std::mem::discriminant(&pair[0]) != std::mem::discriminant(&pair[1]));
    if declared.is_none() && (nested || uneven) {
        return Ok(Kind::StringValue(Value::Array(values).to_string()));
    }
    // Numbers of an undeclared list are integers together, or floats together.
    let fraction = values.iter().any(|value| value.is_number() && value.as_i64().is_none());
    let kind = declared.or(fraction.then_some(PayloadType::Float));
    let values = values.into_iter().map(|value| Ok(PayloadValue { kind: Some(scalar(name, value, kind)?) }));
    Ok(Kind::ListValue(PayloadList { values: values.collect::<Result<_, BadDocument>>()? }))
}

/// A value of the declared type; of the one that it looks like, where none is declared.
fn scalar(name: &str, value: Value, declared: Option<PayloadType>) -> Result<Kind, BadDocument> {
    let expected = match declared {
        None => return Ok(undeclared(value)),
        Some(PayloadType::Integer) => match value.as_i64() {
            Some(number) => return Ok(Kind::IntegerValue(number)),
            None => "an integer of 64 bits",
        },
        Some(PayloadType::Float) => match value.as_f64() {
            // -0 is kept as 0, and would seem to have changed.
            Some(number) => return Ok(Kind::FloatValue(number + 0.0)),
            None => "a finite number",
        },
        Some(PayloadType::Boolean) => match value.as_bool() {
            Some(truth) => return Ok(Kind::BooleanValue(truth)),
            None => "true or false",
        },
        Some(PayloadType::Datetime) => match value.as_str().and_then(moment) {
            Some(moment) => return Ok(moment),
            None => "a date or time as RFC 3339 writes it, such as 2026-01-31T12:00:00Z",
        },
        Some(PayloadType::Keyword | PayloadType::Text | PayloadType::Unspecified) => match value {
            Value::String(text) => return Ok(Kind::StringValue(text)),
            Value::Number(number) => return Ok(Kind::StringValue(number.to_string())),
            Value::Bool(truth) => return Ok(Kind::StringValue(truth.to_string())),
            _ => "a string",
        },
    };
    Err(BadDocument::Type { field: name.to_owned(), expected })
}

fn undeclared(value: Value) -> Kind {
    match value {
        Value::String(text) => Kind::StringValue(text),
        Value::Bool(truth) => Kind::BooleanValue(truth),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => Kind::IntegerValue(integer),
            (None, Some(float)) => Kind::FloatValue(float + 0.0),
            (None, None) => Kind::StringValue(number.to_string()),
        },
        other => Kind::StringValue(other.to_string()),
    }
}

/// To the microsecond, as it is kept.
fn moment(text: &str) -> Option<Kind> {
    let mut moment: prost_types::Timestamp = text.parse().ok()?;
    moment.nanos -= moment.nanos % 1000;
    Some(Kind::DatetimeValue(moment))
}

fn dense(value: Value) -> Result<vector::Kind, String> {
    let row: Vec<f32> = serde_json::from_value(value).map_err(|_| "expected an array of numbers".to_owned())?;
    let matrix = Matrix::from_rows([row]).map_err(|error| error.to_string())?;
    Ok(vector::Kind::Dense(matrix.to_embedding(DataType::F32).map_err(|error| error.to_string())?))
}

fn sparse(value: Value) -> Result<vector::Kind, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Described {
        indices: Vec<u32>,
        values: Vec<f32>,
    }

    let Described { indices, values } =
        serde_json::from_value(value).map_err(|_| "expected {\"indices\", \"values\"}".to_owned())?;
    Ok(vector::Kind::Sparse(SparseVector { indices, values }))
}

#[cfg(test)]
mod tests;
