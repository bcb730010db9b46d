//! Which documents a search may find.
//!
//! # Meaning
//!
//! A filter is true or false of a document, never unknown:
//!
//! | condition on a field | true of a document when |
//! |---|---|
//! | [`Match`](Filter::Match) | at least one of the field's values equals the value |
//! | [`MatchAny`](Filter::MatchAny) | at least one of the field's values equals at least one of the values |
//! | [`Range`](Filter::Range) | at least one of the field's values is within both bounds |
//! | [`Words`](Filter::Words) | every word asked for is a word of one of the field's values, not necessarily of the same |
//! | [`Exists`](Filter::Exists) | the field has at least one value |
//!
//! A field with a single value is a list of one; a missing field and an empty list have no values, and no condition is
//! true of them. [`Not`](Filter::Not) is the plain complement: `not (price < 10)` is true of a document without a price.
//! `And` of nothing is true, `Or` of nothing is false. 0 and -0 are equal. Kinds are never mixed: a condition must be of
//! the kind that the schema says, or it is refused before the search ([`Filter::check`]).
//!
//! [`Filter::matches`] is this table as code over one document. The indexes answer the same with bitmaps, and a property
//! test holds one against the other.

use std::{cmp::Ordering, ops::Bound};

use crate::{
    document::StoredDocument,
    payload::{Payload, PayloadKind, Scalar, words},
    schema::Schema,
};

/// A condition on documents. See the [module](self) for what it means.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// All of these are true.
    And(Vec<Filter>),
    /// At least one of these is true.
    Or(Vec<Filter>),
    /// This is false.
    Not(Box<Filter>),
    /// A value of the field equals this one. Not for text fields.
    Match {
        /// Payload field.
        field: String,
        /// What is looked for.
        value: Scalar,
    },
    /// A value of the field equals one of these. Not for text fields.
    MatchAny {
        /// Payload field.
        field: String,
        /// What is looked for.
        values: Vec<Scalar>,
    },
    /// A value of the field is within these bounds. For integers, floats and datetimes.
    Range {
        /// Payload field.
        field: String,
        /// From where.
        lower: Bound<Scalar>,
        /// To where.
        upper: Bound<Scalar>,
    },
    /// Every word of this text is a word of the field. For text fields.
    Words {
        /// Payload field.
        field: String,
        /// Its words are looked for: see [`words`].
        text: String,
    },
    /// The field has a value.
    Exists {
        /// Payload field.
        field: String,
    },
    /// The document's id is one of these.
    Ids(Vec<String>),
}

/// Why a filter cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterFault {
    /// A field that the schema does not declare cannot be filtered on.
    #[error("{field} is no payload field of the schema")]
    Undeclared {
        /// Its name.
        field: String,
    },
    /// A value is of another kind than the field.
    #[error("{field} is of kind {expected}, not {found}")]
    Kind {
        /// Which field.
        field: String,
        /// What it is.
        expected: &'static str,
        /// What was asked for.
        found: &'static str,
    },
    /// The field's kind has no such condition.
    #[error("{field} is of kind {kind}, which has no condition \"{condition}\"")]
    Condition {
        /// Which field.
        field: String,
        /// Its kind.
        kind: &'static str,
        /// The condition.
        condition: &'static str,
    },
    /// A float is NaN or infinite. (A side without bound is left open.)
    #[error("{field} is compared with what is not a finite number")]
    NotFinite {
        /// Which field.
        field: String,
    },
    /// A text to look for has no words.
    #[error("{field} is searched for a text without words")]
    NoWords {
        /// Which field.
        field: String,
    },
    /// Conditions within conditions within conditions.
    #[error("a filter is at most {max} deep", max = Filter::DEPTH_MAX)]
    Depth,
    /// More conditions and values than a search may have.
    #[error("a filter has at most {max} conditions and values", max = Filter::SIZE_MAX)]
    Size,
}

impl Filter {
    /// How deep conditions may stand within each other.
    pub const DEPTH_MAX: usize = 16;
    /// Conditions, and values and words in them, of one filter.
    pub const SIZE_MAX: usize = 16_384;

    /// Whether it can be asked of documents of this schema.
    ///
    /// # Errors
    /// The first [`FilterFault`].
    pub fn check(&self, schema: &Schema) -> Result<(), FilterFault> {
        let mut size = 0;
        self.check_at(schema, 1, &mut size)
    }

    fn check_at(&self, schema: &Schema, depth: usize, size: &mut usize) -> Result<(), FilterFault> {
        if depth > Self::DEPTH_MAX {
            return Err(FilterFault::Depth);
        }
        *size += self.size();
        if *size > Self::SIZE_MAX {
            return Err(FilterFault::Size);
        }
        match self {
            Self::And(filters) | Self::Or(filters) => {
                filters.iter().try_for_each(|filter| filter.check_at(schema, depth + 1, size))
            }
            Self::Not(filter) => filter.check_at(schema, depth + 1, size),
            Self::Match { field, value } => check_equal(schema, field, std::slice::from_ref(value)),
            Self::MatchAny { field, values } => check_equal(schema, field, values),
            Self::Range { field, lower, upper } => check_range(schema, field, [lower, upper]),
            Self::Words { field, text } => check_words(schema, field, text),
            Self::Exists { field } => kind_of(schema, field).map(|_| ()),
            Self::Ids(_) => Ok(()),
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::MatchAny { values, .. } => values.len().max(1),
            Self::Ids(ids) => ids.len().max(1),
            Self::Words { text, .. } => words(text).take(Self::SIZE_MAX + 1).count().max(1),
            _ => 1,
        }
    }

    /// Whether it is true of a document: the meaning, one document at a time.
    #[must_use]
    pub fn matches(&self, document: &StoredDocument) -> bool {
        let values = |field: &String| scalars(&document.payload, field);
        match self {
            Self::And(filters) => filters.iter().all(|filter| filter.matches(document)),
            Self::Or(filters) => filters.iter().any(|filter| filter.matches(document)),
            Self::Not(filter) => !filter.matches(document),
            Self::Match { field, value } => values(field).iter().any(|found| found == value),
            Self::MatchAny { field, values: wanted } => values(field).iter().any(|found| wanted.contains(found)),
            Self::Range { field, lower, upper } => {
                values(field).iter().any(|found| above(found, lower) && below(found, upper))
            }
            Self::Words { field, text } => words(text).all(|wanted| {
                let mut texts = values(field).iter().filter_map(|found| match found {
                    Scalar::Text(text) => Some(text),
                    _ => None,
                });
                texts.any(|text| words(text).any(|word| word == wanted))
            }),
            Self::Exists { field } => !values(field).is_empty(),
            Self::Ids(ids) => ids.contains(&document.id),
        }
    }
}

fn scalars<'p>(payload: &'p Payload, field: &str) -> &'p [Scalar] {
    payload.get(field).map_or(&[], |value| value.scalars())
}

fn above(value: &Scalar, lower: &Bound<Scalar>) -> bool {
    match lower {
        Bound::Unbounded => true,
        Bound::Included(bound) => matches!(value.compare(bound), Some(Ordering::Greater | Ordering::Equal)),
        Bound::Excluded(bound) => value.compare(bound) == Some(Ordering::Greater),
    }
}

fn below(value: &Scalar, upper: &Bound<Scalar>) -> bool {
    match upper {
        Bound::Unbounded => true,
        Bound::Included(bound) => matches!(value.compare(bound), Some(Ordering::Less | Ordering::Equal)),
        Bound::Excluded(bound) => value.compare(bound) == Some(Ordering::Less),
    }
}

fn kind_of(schema: &Schema, field: &str) -> Result<PayloadKind, FilterFault> {
    let declared = schema.payload_field(field);
    declared.map(|field| field.kind).ok_or_else(|| FilterFault::Undeclared { field: field.chars().take(64).collect() })
}

fn check_equal(schema: &Schema, field: &str, values: &[Scalar]) -> Result<(), FilterFault> {
    let kind = kind_of(schema, field)?;
    if kind == PayloadKind::Text {
        return Err(condition(field, kind, "match"));
    }
    values.iter().try_for_each(|value| check_kind(field, kind, value))
}

fn check_range(schema: &Schema, field: &str, bounds: [&Bound<Scalar>; 2]) -> Result<(), FilterFault> {
    let kind = kind_of(schema, field)?;
    if !kind.is_ordered() {
        return Err(condition(field, kind, "range"));
    }
    bounds.into_iter().try_for_each(|bound| match bound {
        Bound::Unbounded => Ok(()),
        Bound::Included(value) | Bound::Excluded(value) => check_kind(field, kind, value),
    })
}

fn check_words(schema: &Schema, field: &str, text: &str) -> Result<(), FilterFault> {
    let kind = kind_of(schema, field)?;
    if kind != PayloadKind::Text {
        return Err(condition(field, kind, "words"));
    }
    match words(text).next() {
        Some(_) => Ok(()),
        None => Err(FilterFault::NoWords { field: field.to_owned() }),
    }
}

fn check_kind(field: &str, kind: PayloadKind, value: &Scalar) -> Result<(), FilterFault> {
    match value {
        value if value.kind() != kind => {
            Err(FilterFault::Kind { field: field.to_owned(), expected: kind.name(), found: value.kind().name() })
        }
        Scalar::Float(number) if !number.is_finite() => Err(FilterFault::NotFinite { field: field.to_owned() }),
        _ => Ok(()),
    }
}

fn condition(field: &str, kind: PayloadKind, condition: &'static str) -> FilterFault {
    FilterFault::Condition { field: field.to_owned(), kind: kind.name(), condition }
}

#[cfg(test)]
mod tests;
