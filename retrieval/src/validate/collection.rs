//! Collections, their schemas, their names and their copies.

use sluice_proto::retrieval::v1 as wire;
use sluice_service::status::Refusal;

use super::{Faults, at};
use crate::{
    identity::check_name,
    payload::PayloadKind,
    schema::{Content, DenseField, Language, Metric, PayloadField, Schema, SparseField, TextField},
};

/// Languages by their names on the wire.
pub(crate) const LANGUAGES: [(&str, Language); 19] = [
    ("none", Language::None),
    ("arabic", Language::Arabic),
    ("danish", Language::Danish),
    ("dutch", Language::Dutch),
    ("english", Language::English),
    ("finnish", Language::Finnish),
    ("french", Language::French),
    ("german", Language::German),
    ("greek", Language::Greek),
    ("hungarian", Language::Hungarian),
    ("italian", Language::Italian),
    ("norwegian", Language::Norwegian),
    ("portuguese", Language::Portuguese),
    ("romanian", Language::Romanian),
    ("russian", Language::Russian),
    ("spanish", Language::Spanish),
    ("swedish", Language::Swedish),
    ("tamil", Language::Tamil),
    ("turkish", Language::Turkish),
];

/// The name and schema of a collection to create.
///
/// # Errors
/// [`Refusal::InvalidArgument`] with every fault.
pub fn create_collection(request: wire::CreateCollectionRequest) -> Result<(String, Schema), Refusal> {
    let mut faults = Faults::default();
    faults.new_name("name", &request.name);
    let Some(schema) = request.schema else {
        faults.add("schema", "is required");
        return Err(Refusal::InvalidArgument(faults.0));
    };
    let schema = faults.schema(schema);
    if faults.is_empty()
        && let Err(fault) = schema.check()
    {
        faults.add("schema", fault.to_string());
    }
    faults.finish()?;
    Ok((request.name, schema))
}

/// A name that something is looked up by.
///
/// # Errors
/// [`Refusal::InvalidArgument`] on `field` if nothing can have that name.
pub fn existing(field: &'static str, name: &str) -> Result<(), Refusal> {
    check_name(name).map_err(|error| Refusal::invalid(field, error.to_string()))
}

/// Checks the two names of an alias.
///
/// # Errors
/// [`Refusal::InvalidArgument`] with every fault.
pub fn alias(request: &wire::SetAliasRequest) -> Result<(), Refusal> {
    names([("alias", &request.alias), ("collection", &request.collection)])
}

/// Checks the names of a copy to make.
///
/// # Errors
/// [`Refusal::InvalidArgument`] with every fault.
pub fn snapshot(request: &wire::SnapshotRequest) -> Result<(), Refusal> {
    names([("collection", &request.collection), ("name", &request.name)])
}

/// Checks the names of a copy to read.
///
/// # Errors
/// [`Refusal::InvalidArgument`] with every fault.
pub fn restore(request: &wire::RestoreRequest) -> Result<(), Refusal> {
    names([("snapshot", &request.snapshot), ("collection", &request.collection)])
}

fn names(names: [(&str, &str); 2]) -> Result<(), Refusal> {
    let mut faults = Faults::default();
    for (field, name) in names {
        faults.new_name(field, name);
    }
    faults.finish()
}

impl Faults {
    fn schema(&mut self, schema: wire::Schema) -> Schema {
        let wire::Schema { texts, vectors, payload, content } = schema;
        let mut names = Vec::new();
        let texts: Vec<TextField> = indexed("schema.texts", texts)
            .map(|(path, field)| {
                self.field_name(&path, &field.name, &mut names);
                let boost = field.boost.unwrap_or(1.0);
                if !(boost > 0.0 && boost <= Schema::BOOST_MAX) {
                    self.add(at(&path, "boost"), format!("must be above 0 and at most {}", Schema::BOOST_MAX));
                }
                let language = self.language(at(&path, "language"), &field.language);
                TextField { name: field.name, boost, language }
            })
            .collect();
        let (dense, sparse) = self.vector_fields(vectors);
        let mut names = Vec::new();
        let payload = indexed("schema.payload", payload)
            .map(|(path, field)| {
                self.field_name(&path, &field.name, &mut names);
                PayloadField { kind: self.payload_kind(at(&path, "type"), field.r#type), name: field.name }
            })
            .collect();
        let content = self.content(content.unwrap_or_default(), &texts);
        Schema { texts, content, dense, sparse, payload }
    }

    fn vector_fields(&mut self, vectors: Vec<wire::VectorField>) -> (Vec<DenseField>, Vec<SparseField>) {
        let (mut dense, mut sparse, mut names) = (Vec::new(), Vec::new(), Vec::new());
        for (path, wire::VectorField { name, kind }) in indexed("schema.vectors", vectors) {
            self.field_name(&path, &name, &mut names);
            match kind {
                Some(wire::vector_field::Kind::Dense(wire::DenseField { dim, metric })) => {
                    if !(1..=Schema::DIM_MAX).contains(&dim) {
                        self.add(at(&path, "dense.dim"), format!("must be 1 to {}, got {dim}", Schema::DIM_MAX));
                    }
                    let metric = match wire::Metric::try_from(metric) {
                        Ok(wire::Metric::Unspecified | wire::Metric::Cosine) => Metric::Cosine,
                        Ok(wire::Metric::Dot) => Metric::Dot,
                        Ok(wire::Metric::Euclidean) => Metric::Euclidean,
                        Err(_) => self.unknown_value(at(&path, "dense.metric"), metric, Metric::Cosine),
                    };
                    dense.push(DenseField { name, dim, metric });
                }
                Some(wire::vector_field::Kind::Sparse(wire::SparseField { idf })) => {
                    sparse.push(SparseField { name, idf });
                }
                None => self.add(path, "must be dense or sparse"),
            }
        }
        (dense, sparse)
    }

    fn content(&mut self, content: wire::Content, texts: &[TextField]) -> Content {
        for (index, field) in content.fields.iter().enumerate() {
            let path = format!("schema.content.fields[{index}]");
            if !texts.iter().any(|text| text.name == *field) {
                self.add(path, format!("{field:?} is no text field of this schema"));
            } else if content.fields[..index].contains(field) {
                self.add(path, "is there twice");
            }
        }
        let separator = content.separator.unwrap_or_else(|| Content::SEPARATOR.to_owned());
        if separator.len() > Schema::SEPARATOR_BYTES_MAX {
            self.add("schema.content.separator", format!("must be at most {} bytes", Schema::SEPARATOR_BYTES_MAX));
        }
        let all = || texts.iter().map(|text| text.name.clone()).collect();
        Content { fields: if content.fields.is_empty() { all() } else { content.fields }, separator }
    }

    /// Good, and not among those before.
    fn field_name(&mut self, path: &str, name: &str, before: &mut Vec<String>) {
        let path = at(path, "name");
        self.new_name(&path, name);
        if before.iter().any(|other| other == name) {
            self.add(path, "is declared twice");
        }
        before.push(name.to_owned());
    }

    fn language(&mut self, path: String, name: &str) -> Language {
        if name.is_empty() {
            return Language::default();
        }
        let known = LANGUAGES.into_iter().find(|(known, _)| *known == name);
        known.map(|(_, language)| language).unwrap_or_else(|| {
            self.add(path, format!("{name:?} is no language that is known here"));
            Language::default()
        })
    }

    fn payload_kind(&mut self, path: String, value: i32) -> PayloadKind {
        use wire::PayloadType;

        match PayloadType::try_from(value) {
            Ok(PayloadType::Keyword) => PayloadKind::Keyword,
            Ok(PayloadType::Integer) => PayloadKind::Integer,
            Ok(PayloadType::Float) => PayloadKind::Float,
            Ok(PayloadType::Boolean) => PayloadKind::Boolean,
            Ok(PayloadType::Datetime) => PayloadKind::Datetime,
            Ok(PayloadType::Text) => PayloadKind::Text,
            Ok(PayloadType::Unspecified) => {
                self.add(path, "is required");
                PayloadKind::Keyword
            }
            Err(_) => self.unknown_value(path, value, PayloadKind::Keyword),
        }
    }
}

fn indexed<T>(path: &str, fields: Vec<T>) -> impl Iterator<Item = (String, T)> {
    fields.into_iter().enumerate().map(move |(index, field)| (format!("{path}[{index}]"), field))
}
