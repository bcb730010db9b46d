//! What a schema and a document must be before anything of them is written.

use std::collections::HashSet;

use super::{DenseField, Metric, Schema};
use crate::{
    document::{Document, SparseVector},
    identity::{NameError, check_name},
    payload::{PayloadKind, PayloadValue, Scalar},
};

/// Why a schema is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SchemaFault {
    /// A field has no good name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Two fields of a sort, or a dense and a sparse vector, have one name.
    #[error("{name} is declared twice")]
    Twice {
        /// Their name.
        name: String,
    },
    /// More fields of a sort than a collection may have.
    #[error("{sort} has {found} fields, at most {max} are possible")]
    TooMany {
        /// `texts`, `dense`, `sparse` or `payload`.
        sort: &'static str,
        /// How many.
        found: usize,
        /// The bound.
        max: usize,
    },
    /// There is nothing to search by.
    #[error("a schema needs a text field or a vector")]
    Empty,
    /// A boost is not a number in its bounds.
    #[error("boost of {field} is {boost}, not above 0 and at most {max}", max = Schema::BOOST_MAX)]
    Boost {
        /// Which text field.
        field: String,
        /// Its boost.
        boost: f32,
    },
    /// A dense vector has no components or too many.
    #[error("dim of {field} is {dim}, not 1 to {max}", max = Schema::DIM_MAX)]
    Dim {
        /// Which vector.
        field: String,
        /// Its dim.
        dim: u32,
    },
    /// The content names a text field that is not declared, or one twice.
    #[error("content names {field}, which is no text field or is there already")]
    Content {
        /// The name.
        field: String,
    },
    /// The separator is too long.
    #[error("a separator has at most {max} bytes, not {bytes}", max = Schema::SEPARATOR_BYTES_MAX)]
    Separator {
        /// Its bytes.
        bytes: usize,
    },
}

/// Why a document cannot be stored under a schema.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DocumentFault {
    /// Its id is empty or too long.
    #[error("an id has 1 to {max} bytes, not {bytes}", max = Schema::ID_BYTES_MAX)]
    Id {
        /// Bytes of the id.
        bytes: usize,
    },
    /// It has a text or vector that the schema does not declare.
    #[error("{field} is no {sort} of the schema")]
    Undeclared {
        /// `text`, `dense vector` or `sparse vector`.
        sort: &'static str,
        /// Its name.
        field: String,
    },
    /// Its texts or payload are too long.
    #[error("{what} has {bytes} bytes, at most {max} are possible")]
    TooLarge {
        /// `text`, `payload`, or the name of a keyword field.
        what: String,
        /// Its bytes.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// A payload field has no good name.
    #[error("payload: {0}")]
    Name(#[from] NameError),
    /// A payload value is of another kind than the schema says, or than others of its list.
    #[error("{field} is of kind {expected}, not {found}")]
    Kind {
        /// Which field.
        field: String,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// A list is too long.
    #[error("{field} has {found} values, at most {max} are possible", max = Schema::LIST_VALUES_MAX)]
    List {
        /// Which field.
        field: String,
        /// How many values.
        found: usize,
    },
    /// A float is NaN or infinite.
    #[error("{field} is not a finite number")]
    NotFinite {
        /// Which field.
        field: String,
    },
    /// A vector cannot be stored.
    #[error("{field}: {fault}")]
    Vector {
        /// Which vector.
        field: String,
        /// Why.
        fault: VectorFault,
    },
}

/// Why a vector cannot be stored or searched with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VectorFault {
    /// It has another number of components than the schema says.
    #[error("it has {found} components, not {expected}")]
    Dim {
        /// What the schema says.
        expected: u32,
        /// What there are.
        found: usize,
    },
    /// A component is NaN or infinite.
    #[error("component {position} is not a finite number")]
    NotFinite {
        /// Which, from 0.
        position: usize,
    },
    /// It has no direction, and the metric is [`Metric::Cosine`].
    #[error("it is zero, and has no cosine")]
    Zero,
    /// Indices and values are not as many.
    #[error("it has {indices} indices and {values} values")]
    Lengths {
        /// Indices.
        indices: usize,
        /// Values.
        values: usize,
    },
    /// Indices do not ascend.
    #[error("index {position} does not ascend")]
    Order {
        /// Which, from 0.
        position: usize,
    },
    /// It has too many dimensions that are not 0.
    #[error("it has {found} values, at most {max} are possible", max = Schema::SPARSE_NNZ_MAX)]
    TooMany {
        /// How many.
        found: usize,
    },
    /// A value is 0, and says nothing.
    #[error("value {position} is 0")]
    ZeroValue {
        /// Which, from 0.
        position: usize,
    },
}

impl Schema {
    /// Whether a collection can be created with it.
    ///
    /// # Errors
    /// The first [`SchemaFault`].
    pub fn check(&self) -> Result<(), SchemaFault> {
        let names = |sort, names: Vec<&String>| check_names(sort, &names);
        names("texts", self.texts.iter().map(|field| &field.name).collect())?;
        names("payload", self.payload.iter().map(|field| &field.name).collect())?;
        names("dense", self.dense.iter().map(|field| &field.name).collect())?;
        names("sparse", self.sparse.iter().map(|field| &field.name).collect())?;
        // A search names a vector, and no more than that.
        if let Some(twice) = self.dense.iter().find(|field| self.sparse_field(&field.name).is_some()) {
            return Err(SchemaFault::Twice { name: twice.name.clone() });
        }
        if self.texts.is_empty() && self.dense.is_empty() && self.sparse.is_empty() {
            return Err(SchemaFault::Empty);
        }
        for field in &self.texts {
            if !(field.boost > 0.0 && field.boost <= Self::BOOST_MAX) {
                return Err(SchemaFault::Boost { field: field.name.clone(), boost: field.boost });
            }
        }
        for field in &self.dense {
            if !(1..=Self::DIM_MAX).contains(&field.dim) {
                return Err(SchemaFault::Dim { field: field.name.clone(), dim: field.dim });
            }
        }
        self.check_content()
    }

    fn check_content(&self) -> Result<(), SchemaFault> {
        let mut seen = HashSet::new();
        for field in &self.content.fields {
            if self.text_field(field).is_none() || !seen.insert(field) {
                return Err(SchemaFault::Content { field: field.chars().take(64).collect() });
            }
        }
        match self.content.separator.len() {
            bytes if bytes > Self::SEPARATOR_BYTES_MAX => Err(SchemaFault::Separator { bytes }),
            _ => Ok(()),
        }
    }

    /// Whether a document can be stored.
    ///
    /// # Errors
    /// The first [`DocumentFault`].
    pub fn check_document(&self, document: &Document) -> Result<(), DocumentFault> {
        check_id(&document.id)?;
        self.check_texts(document)?;
        self.check_payload(document)?;
        for (name, vector) in &document.dense {
            let field = self.dense_field(name).ok_or_else(|| undeclared("dense vector", name))?;
            field.check(vector).map_err(|fault| DocumentFault::Vector { field: name.clone(), fault })?;
        }
        for (name, vector) in &document.sparse {
            self.sparse_field(name).ok_or_else(|| undeclared("sparse vector", name))?;
            vector.check().map_err(|fault| DocumentFault::Vector { field: name.clone(), fault })?;
        }
        Ok(())
    }

    fn check_texts(&self, document: &Document) -> Result<(), DocumentFault> {
        let mut bytes = 0;
        for (name, text) in &document.texts {
            self.text_field(name).ok_or_else(|| undeclared("text", name))?;
            bytes += text.len();
        }
        within("text", bytes, Self::TEXT_BYTES_MAX)
    }

    fn check_payload(&self, document: &Document) -> Result<(), DocumentFault> {
        let mut bytes = 0;
        for (name, value) in &document.payload {
            check_name(name)?;
            bytes += name.len() + value.scalars().iter().map(Scalar::bytes).sum::<usize>();
            let declared = self.payload_field(name).map(|field| field.kind);
            check_value(name, declared, value)?;
        }
        within("payload", bytes, Self::PAYLOAD_BYTES_MAX)
    }
}

impl DenseField {
    /// Whether a vector can be stored in this field, or searched with.
    ///
    /// # Errors
    /// [`VectorFault`].
    pub fn check(&self, vector: &[f32]) -> Result<(), VectorFault> {
        if vector.len() != self.dim as usize {
            return Err(VectorFault::Dim { expected: self.dim, found: vector.len() });
        }
        if let Some(position) = vector.iter().position(|component| !component.is_finite()) {
            return Err(VectorFault::NotFinite { position });
        }
        // The norm as an index computes it: what underflows to 0 there has no direction there either.
        let squares: f32 = vector.iter().map(|component| component * component).sum();
        if self.metric == Metric::Cosine && squares == 0.0 {
            return Err(VectorFault::Zero);
        }
        Ok(())
    }
}

impl SparseVector {
    /// Whether it can be stored, or searched with.
    ///
    /// # Errors
    /// [`VectorFault`].
    pub fn check(&self) -> Result<(), VectorFault> {
        let (indices, values) = (self.indices.len(), self.values.len());
        if indices != values {
            return Err(VectorFault::Lengths { indices, values });
        }
        if indices > Schema::SPARSE_NNZ_MAX {
            return Err(VectorFault::TooMany { found: indices });
        }
        if let Some(before) = self.indices.windows(2).position(|pair| pair[0] >= pair[1]) {
            return Err(VectorFault::Order { position: before + 1 });
        }
        if let Some(position) = self.values.iter().position(|value| !value.is_finite()) {
            return Err(VectorFault::NotFinite { position });
        }
        match self.values.iter().position(|value| *value == 0.0) {
            Some(position) => Err(VectorFault::ZeroValue { position }),
            None => Ok(()),
        }
    }
}

/// Whether an id can name a document.
///
/// # Errors
/// [`DocumentFault::Id`].
pub(crate) fn check_id(id: &str) -> Result<(), DocumentFault> {
    match id.len() {
        1..=Schema::ID_BYTES_MAX => Ok(()),
        bytes => Err(DocumentFault::Id { bytes }),
    }
}

fn check_names(sort: &'static str, names: &[&String]) -> Result<(), SchemaFault> {
    if names.len() > Schema::FIELDS_MAX {
        return Err(SchemaFault::TooMany { sort, found: names.len(), max: Schema::FIELDS_MAX });
    }
    let mut seen = HashSet::new();
    for name in names {
        check_name(name)?;
        if !seen.insert(name.as_str()) {
            return Err(SchemaFault::Twice { name: (*name).clone() });
        }
    }
    Ok(())
}

/// A list is of one kind, which is the schema's where it declares the field.
fn check_value(name: &str, declared: Option<PayloadKind>, value: &PayloadValue) -> Result<(), DocumentFault> {
    let scalars = value.scalars();
    if scalars.len() > Schema::LIST_VALUES_MAX {
        return Err(DocumentFault::List { field: name.to_owned(), found: scalars.len() });
    }
    let Some(expected) = declared.or_else(|| scalars.first().map(Scalar::kind)) else { return Ok(()) };
    for scalar in scalars {
        if scalar.kind() != expected {
            let (expected, found) = (expected.name(), scalar.kind().name());
            return Err(DocumentFault::Kind { field: name.to_owned(), expected, found });
        }
        match scalar {
            Scalar::Float(number) if !number.is_finite() => {
                return Err(DocumentFault::NotFinite { field: name.to_owned() });
            }
            Scalar::Keyword(text) if declared.is_some() => within(name, text.len(), Schema::KEYWORD_BYTES_MAX)?,
            _ => {}
        }
    }
    Ok(())
}

fn within(what: &str, bytes: usize, max: usize) -> Result<(), DocumentFault> {
    if bytes <= max { Ok(()) } else { Err(DocumentFault::TooLarge { what: what.to_owned(), bytes, max }) }
}

fn undeclared(sort: &'static str, name: &str) -> DocumentFault {
    DocumentFault::Undeclared { sort, field: name.chars().take(64).collect() }
}

#[cfg(test)]
mod tests;
