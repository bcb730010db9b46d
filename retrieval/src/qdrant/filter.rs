//! Our filters in a cluster's words, with the same meaning ([`crate::filter`]).
//!
//! | ours | Qdrant's |
//! |---|---|
//! | and, or, not | a filter with `must`, `should`, `must_not` |
//! | match of a keyword, an integer, a boolean | `match` on `payload.FIELD` |
//! | match of a float, a datetime | `range`, `datetime_range` from the value to the value |
//! | match of any | `match` any of keywords or integers; others `should` |
//! | range | `range`, `datetime_range` |
//! | words | `match` on `words.FIELD` for each word: the words are ours, so both engines split texts alike |
//! | exists | not `is_empty`, which an empty list is too, as with us; of a text's words, which have the index |
//! | ids | `has_id` |
//!
//! What is true or false of every document is worked out here, so that nothing hangs on what a cluster makes of an empty
//! filter. A range of a cluster's has bounds of 64-bit floats: an integer that none of them is, beyond 2⁵³, is refused.

use std::ops::Bound;

use qdrant_client::qdrant::{
    Condition, DatetimeRange, FieldCondition, Filter as QdrantFilter, HasIdCondition, IsEmptyCondition, Match, Range,
    RepeatedIntegers, RepeatedStrings, condition::ConditionOneOf, r#match::MatchValue,
};

use super::{
    name,
    value::{self, OutOfYears},
};
use crate::{
    filter::Filter,
    payload::{Datetime, PayloadKind, Scalar, words},
    schema::Schema,
    search::Lacking,
};

/// A filter in a cluster's words; `None` for one that is true of every document.
pub(super) fn translate(filter: &Filter, schema: &Schema) -> Result<Option<QdrantFilter>, Lacking> {
    Ok(match truth(filter, schema)? {
        Truth::Always => None,
        Truth::Never => Some(must([Condition::from(has_id([name::no_point()]))])),
        Truth::When(ConditionOneOf::Filter(filter)) => Some(filter),
        Truth::When(condition) => Some(must([Condition::from(condition)])),
    })
}

/// What a part of a filter is.
#[expect(clippy::large_enum_variant, reason = "lives for one step of a translation")]
enum Truth {
    Always,
    Never,
    When(ConditionOneOf),
}

fn truth(filter: &Filter, schema: &Schema) -> Result<Truth, Lacking> {
    let whole = |condition| Truth::When(condition);
    Ok(match filter {
        Filter::And(filters) => {
            let mut conditions = Vec::new();
            for filter in filters {
                match truth(filter, schema)? {
                    Truth::Always => {}
                    Truth::Never => return Ok(Truth::Never),
                    Truth::When(condition) => conditions.push(Condition::from(condition)),
                }
            }
            if conditions.is_empty() { Truth::Always } else { whole(ConditionOneOf::Filter(must(conditions))) }
        }
        Filter::Or(filters) => {
            let mut conditions = Vec::new();
            for filter in filters {
                match truth(filter, schema)? {
                    Truth::Always => return Ok(Truth::Always),
                    Truth::Never => {}
                    Truth::When(condition) => conditions.push(condition),
                }
            }
            any(conditions)
        }
        Filter::Not(filter) => match truth(filter, schema)? {
            Truth::Always => Truth::Never,
            Truth::Never => Truth::Always,
            Truth::When(condition) => not(condition),
        },
        Filter::Match { field, value } => whole(equal(field, value)?),
        Filter::MatchAny { field, values } => match_any(field, values)?,
        Filter::Range { field, lower, upper } => range(field, lower, upper)?,
        Filter::Words { field, text } => {
            let key = name::words_key(field);
            let has = |word: &str| Condition::from(matches(&key, MatchValue::Keyword(word.to_owned())));
            whole(ConditionOneOf::Filter(must(words(text).map(|word| has(&word)))))
        }
        Filter::Exists { field } => {
            let of_words = schema.payload_field(field).is_some_and(|field| field.kind == PayloadKind::Text);
            exists(if of_words { name::words_key(field) } else { name::payload_key(field) })
        }
        Filter::Ids(ids) if ids.is_empty() => Truth::Never,
        Filter::Ids(ids) => whole(has_id(ids.iter().map(|id| name::point_id(id)))),
    })
}

fn match_any(field: &str, values: &[Scalar]) -> Result<Truth, Lacking> {
    let key = name::payload_key(field);
    let keywords = values.iter().map(|value| match value {
        Scalar::Keyword(text) => Some(text.clone()),
        _ => None,
    });
    let integers = values.iter().map(|value| match value {
        Scalar::Integer(number) => Some(*number),
        _ => None,
    });
    Ok(if values.is_empty() {
        Truth::Never
    } else if let Some(strings) = keywords.collect() {
        Truth::When(matches(&key, MatchValue::Keywords(RepeatedStrings { strings })))
    } else if let Some(integers) = integers.collect() {
        Truth::When(matches(&key, MatchValue::Integers(RepeatedIntegers { integers })))
    } else {
        any(values.iter().map(|value| equal(field, value)).collect::<Result<_, _>>()?)
    })
}

fn equal(field: &str, value: &Scalar) -> Result<ConditionOneOf, Lacking> {
    let key = name::payload_key(field);
    let value = match value {
        Scalar::Keyword(text) | Scalar::Text(text) => MatchValue::Keyword(text.clone()),
        Scalar::Integer(number) => MatchValue::Integer(*number),
        Scalar::Boolean(truth) => MatchValue::Boolean(*truth),
        Scalar::Float(number) => {
            return Ok(in_range(key, Range { gte: Some(*number), lte: Some(*number), ..Range::default() }));
        }
        Scalar::Datetime(moment) => {
            let moment = Some(bound_moment(field, *moment)?);
            return Ok(in_datetimes(key, DatetimeRange { gte: moment, lte: moment, ..DatetimeRange::default() }));
        }
    };
    Ok(matches(&key, value))
}

fn range(field: &str, lower: &Bound<Scalar>, upper: &Bound<Scalar>) -> Result<Truth, Lacking> {
    let key = name::payload_key(field);
    let condition = match (scalar(lower), scalar(upper)) {
        // Every value of an ordered kind is within no bounds.
        (None, None) => return Ok(exists(key)),
        (Some(Scalar::Datetime(_)), _) | (None, Some(Scalar::Datetime(_))) => {
            let (gte, gt) = sides(lower, |value| moment(field, value))?;
            let (lte, lt) = sides(upper, |value| moment(field, value))?;
            in_datetimes(key, DatetimeRange { lt, gt, gte, lte })
        }
        _ => {
            let (gte, gt) = sides(lower, |value| number(field, value))?;
            let (lte, lt) = sides(upper, |value| number(field, value))?;
            in_range(key, Range { lt, gt, gte, lte })
        }
    };
    Ok(Truth::When(condition))
}

fn scalar(bound: &Bound<Scalar>) -> Option<&Scalar> {
    match bound {
        Bound::Included(value) | Bound::Excluded(value) => Some(value),
        Bound::Unbounded => None,
    }
}

/// A bound with its value, and one without.
fn sides<T>(
    bound: &Bound<Scalar>,
    of: impl Fn(&Scalar) -> Result<T, Lacking>,
) -> Result<(Option<T>, Option<T>), Lacking> {
    Ok(match bound {
        Bound::Unbounded => (None, None),
        Bound::Included(value) => (Some(of(value)?), None),
        Bound::Excluded(value) => (None, Some(of(value)?)),
    })
}

fn number(field: &str, value: &Scalar) -> Result<f64, Lacking> {
    match value {
        Scalar::Float(number) => Ok(*number),
        Scalar::Integer(number) if (*number as f64) as i128 == i128::from(*number) => Ok(*number as f64),
        _ => Err(Lacking::new("filter", format!("bound that is no 64-bit float: of {field}, {value:?}"))),
    }
}

fn moment(field: &str, value: &Scalar) -> Result<prost_types::Timestamp, Lacking> {
    match value {
        Scalar::Datetime(moment) => bound_moment(field, *moment),
        _ => Err(Lacking::new("filter", format!("comparison of {field} with {value:?}"))),
    }
}

fn bound_moment(field: &str, moment: Datetime) -> Result<prost_types::Timestamp, Lacking> {
    value::timestamp(moment)
        .map_err(|fault: OutOfYears| Lacking::new("filter", format!("such value of {field}: {fault}")))
}

fn any(mut conditions: Vec<ConditionOneOf>) -> Truth {
    match conditions.len() {
        0 => Truth::Never,
        1 => conditions.pop().map_or(Truth::Never, Truth::When),
        _ => {
            let should = conditions.into_iter().map(Condition::from).collect();
            Truth::When(ConditionOneOf::Filter(QdrantFilter { should, ..QdrantFilter::default() }))
        }
    }
}

fn exists(key: String) -> Truth {
    not(ConditionOneOf::IsEmpty(IsEmptyCondition { key }))
}

fn not(condition: ConditionOneOf) -> Truth {
    let must_not = vec![Condition::from(condition)];
    Truth::When(ConditionOneOf::Filter(QdrantFilter { must_not, ..QdrantFilter::default() }))
}

fn must(conditions: impl IntoIterator<Item = Condition>) -> QdrantFilter {
    QdrantFilter { must: conditions.into_iter().collect(), ..QdrantFilter::default() }
}

fn has_id(ids: impl IntoIterator<Item = qdrant_client::qdrant::PointId>) -> ConditionOneOf {
    ConditionOneOf::HasId(HasIdCondition { has_id: ids.into_iter().collect() })
}

fn matches(key: &str, value: MatchValue) -> ConditionOneOf {
    let r#match = Some(Match { match_value: Some(value) });
    ConditionOneOf::Field(FieldCondition { key: key.to_owned(), r#match, ..FieldCondition::default() })
}

fn in_range(key: String, range: Range) -> ConditionOneOf {
    ConditionOneOf::Field(FieldCondition { key, range: Some(range), ..FieldCondition::default() })
}

fn in_datetimes(key: String, range: DatetimeRange) -> ConditionOneOf {
    ConditionOneOf::Field(FieldCondition { key, datetime_range: Some(range), ..FieldCondition::default() })
}
