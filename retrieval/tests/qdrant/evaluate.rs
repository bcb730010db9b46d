//! Qdrant's filters, one point at a time, over the messages themselves: written from its documentation and not from our
//! translation, so that the two can be held against each other.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap},
};

use qdrant_client::qdrant::{
    Condition, DatetimeRange, FieldCondition, FieldType, Filter, PointStruct, Range, Value, condition::ConditionOneOf,
    r#match::MatchValue, value::Kind,
};
use tonic::Status;

use super::cluster::{named, uuid};

/// Whether a filter is true of a point.
pub fn matches(filter: &Filter, point: &PointStruct, indexed: &BTreeMap<String, i32>) -> Result<bool, Status> {
    if filter.min_should.is_some() {
        return Err(Status::unimplemented("min_should"));
    }
    let holds = |conditions: &[Condition]| -> Result<Vec<bool>, Status> {
        conditions.iter().map(|condition| condition_matches(condition, point, indexed)).collect()
    };
    let (must, should, must_not) = (holds(&filter.must)?, holds(&filter.should)?, holds(&filter.must_not)?);
    let any = should.is_empty() || should.contains(&true);
    Ok(must.iter().all(|holds| *holds) && any && !must_not.contains(&true))
}

fn condition_matches(
    condition: &Condition,
    point: &PointStruct,
    indexed: &BTreeMap<String, i32>,
) -> Result<bool, Status> {
    match condition.condition_one_of.as_ref() {
        Some(ConditionOneOf::Filter(filter)) => matches(filter, point, indexed),
        Some(ConditionOneOf::Field(field)) => field_matches(field, point, indexed),
        Some(ConditionOneOf::HasId(ids)) => {
            let ids = ids.has_id.iter().map(|id| uuid(Some(id))).collect::<Result<Vec<_>, _>>()?;
            Ok(point.id.is_some() && ids.contains(&uuid(point.id.as_ref())?))
        }
        Some(ConditionOneOf::IsEmpty(empty)) => {
            index(&empty.key, indexed)?;
            Ok(values(&point.payload, &empty.key).is_empty())
        }
        Some(ConditionOneOf::HasVector(has)) => {
            Ok(point.vectors.is_some() && named(point)?.any(|(name, _)| *name == has.has_vector))
        }
        other => Err(Status::unimplemented(format!("{other:?}"))),
    }
}

fn index(key: &str, indexed: &BTreeMap<String, i32>) -> Result<FieldType, Status> {
    let missing = || Status::invalid_argument(format!("Index required but not found for {key}"));
    let kind = indexed.get(key).ok_or_else(missing)?;
    FieldType::try_from(*kind).map_err(|_| missing())
}

fn field_matches(field: &FieldCondition, point: &PointStruct, indexed: &BTreeMap<String, i32>) -> Result<bool, Status> {
    let kind = index(&field.key, indexed)?;
    let values = values(&point.payload, &field.key);
    let expects = |kinds: &[FieldType]| match kinds.contains(&kind) {
        true => Ok(()),
        false => Err(Status::invalid_argument(format!("{} has an index of kind {kind:?}", field.key))),
    };
    if let Some(wanted) = field.r#match.as_ref().and_then(|wanted| wanted.match_value.as_ref()) {
        expects(match wanted {
            MatchValue::Keyword(_) | MatchValue::Keywords(_) => &[FieldType::Keyword],
            MatchValue::Integer(_) | MatchValue::Integers(_) => &[FieldType::Integer],
            MatchValue::Boolean(_) => &[FieldType::Bool],
            other => return Err(Status::unimplemented(format!("{other:?}"))),
        })?;
        return Ok(values.iter().any(|value| equals(value, wanted)));
    }
    if let Some(range) = &field.range {
        expects(&[FieldType::Integer, FieldType::Float])?;
        return Ok(values.iter().any(|value| in_range(value, range)));
    }
    if let Some(range) = &field.datetime_range {
        expects(&[FieldType::Datetime])?;
        return Ok(values.iter().any(|value| in_datetimes(value, range)));
    }
    Err(Status::unimplemented(format!("{field:?}")))
}

fn equals(value: &Kind, wanted: &MatchValue) -> bool {
    match (value, wanted) {
        (Kind::StringValue(text), MatchValue::Keyword(wanted)) => text == wanted,
        (Kind::StringValue(text), MatchValue::Keywords(any)) => any.strings.contains(text),
        (Kind::IntegerValue(number), MatchValue::Integer(wanted)) => number == wanted,
        (Kind::IntegerValue(number), MatchValue::Integers(any)) => any.integers.contains(number),
        (Kind::BoolValue(truth), MatchValue::Boolean(wanted)) => truth == wanted,
        _ => false,
    }
}

fn in_range(value: &Kind, range: &Range) -> bool {
    let number = match value {
        Kind::IntegerValue(number) => *number as f64,
        Kind::DoubleValue(number) => *number,
        _ => return false,
    };
    let (Range { lt, gt, gte, lte }, order) = (range, |bound: &f64| number.partial_cmp(bound));
    lt.is_none_or(|bound| order(&bound) == Some(Ordering::Less))
        && gt.is_none_or(|bound| order(&bound) == Some(Ordering::Greater))
        && lte.is_none_or(|bound| number <= bound)
        && gte.is_none_or(|bound| number >= bound)
}

fn in_datetimes(value: &Kind, range: &DatetimeRange) -> bool {
    let Kind::StringValue(text) = value else { return false };
    let Ok(moment) = text.parse::<prost_types::Timestamp>() else { return false };
    let nanos = |moment: &prost_types::Timestamp| i128::from(moment.seconds) * 1_000_000_000 + i128::from(moment.nanos);
    let DatetimeRange { lt, gt, gte, lte } = range;
    lt.as_ref().is_none_or(|bound| nanos(&moment) < nanos(bound))
        && gt.as_ref().is_none_or(|bound| nanos(&moment) > nanos(bound))
        && lte.as_ref().is_none_or(|bound| nanos(&moment) <= nanos(bound))
        && gte.as_ref().is_none_or(|bound| nanos(&moment) >= nanos(bound))
}

/// Values at a path, those of a list each for itself.
pub fn values(payload: &HashMap<String, Value>, path: &str) -> Vec<Kind> {
    let (key, rest) = path.split_once('.').map_or((path, None), |(key, rest)| (key, Some(rest)));
    match (payload.get(key).and_then(|value| value.kind.as_ref()), rest) {
        (Some(Kind::StructValue(inner)), Some(rest)) => values(&inner.fields, rest),
        (Some(Kind::ListValue(list)), None) => list.values.iter().filter_map(|value| value.kind.clone()).collect(),
        (Some(Kind::NullValue(_)) | None, _) | (_, Some(_)) => Vec::new(),
        (Some(value), None) => vec![value.clone()],
    }
}
