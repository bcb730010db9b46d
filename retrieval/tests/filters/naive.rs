//! What a filter means, said a second time, over the documents that the test holds.

use std::ops::Bound;

use sluice_retrieval::{
    document::Document,
    filter::Filter,
    payload::{Datetime, PayloadValue, Scalar},
};

pub(crate) fn matches(filter: &Filter, document: &Document) -> bool {
    let values = |field: &str| match document.payload.get(field) {
        None => Vec::new(),
        Some(PayloadValue::One(value)) => vec![value.clone()],
        Some(PayloadValue::Many(values)) => values.clone(),
    };
    match filter {
        Filter::And(parts) => !parts.iter().any(|part| !matches(part, document)),
        Filter::Or(parts) => parts.iter().any(|part| matches(part, document)),
        Filter::Not(part) => !matches(part, document),
        Filter::Match { field, value } => values(field).iter().any(|found| equal(found, value)),
        Filter::MatchAny { field, values: wanted } => {
            values(field).iter().any(|found| wanted.iter().any(|value| equal(found, value)))
        }
        Filter::Range { field, lower, upper } => values(field).iter().any(|found| {
            let from = match lower {
                Bound::Unbounded => true,
                Bound::Included(bound) => number(found) >= number(bound),
                Bound::Excluded(bound) => number(found) > number(bound),
            };
            let to = match upper {
                Bound::Unbounded => true,
                Bound::Included(bound) => number(found) <= number(bound),
                Bound::Excluded(bound) => number(found) < number(bound),
            };
            from && to
        }),
        Filter::Words { field, text } => {
            let there: Vec<String> = values(field).iter().flat_map(|value| words(string(value))).collect();
            words(text).iter().all(|word| there.contains(word))
        }
        Filter::Exists { field } => !values(field).is_empty(),
        Filter::Ids(ids) => ids.contains(&document.id),
    }
}

fn equal(a: &Scalar, b: &Scalar) -> bool {
    match (a, b) {
        (Scalar::Keyword(a), Scalar::Keyword(b)) => a == b,
        (Scalar::Boolean(a), Scalar::Boolean(b)) => a == b,
        (Scalar::Keyword(_) | Scalar::Boolean(_) | Scalar::Text(_), _) => false,
        (a, b) => number(a) == number(b),
    }
}

/// Values of the test are small enough to be told apart as f64.
fn number(value: &Scalar) -> f64 {
    match value {
        Scalar::Integer(value) | Scalar::Datetime(Datetime(value)) => *value as f64,
        Scalar::Float(value) => *value,
        other => unreachable!("{other:?} is no number"),
    }
}

fn string(value: &Scalar) -> &str {
    match value {
        Scalar::Text(text) => text,
        other => unreachable!("{other:?} is no text"),
    }
}

/// The test's texts are letters and blanks.
pub(crate) fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_lowercase).collect()
}
