//! Payload values, as a cluster keeps them.
//!
//! | ours | declared | not declared |
//! |---|---|---|
//! | keyword | string | string |
//! | integer, float, boolean | the same | the same |
//! | datetime | string, RFC 3339 in UTC, to the microsecond | `{"datetime": microseconds}` |
//! | text | string | `{"text": string}` |
//! | list | list | list |
//!
//! The schema says what a declared string is; what is not declared says it itself.

use qdrant_client::qdrant::{ListValue, Struct, Value, value::Kind};

use crate::payload::{Datetime, PayloadKind, PayloadValue, Scalar};

const MICROS: i64 = 1_000_000;
/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59.999999Z: what RFC 3339, and so Qdrant, can write.
const DATETIMES: std::ops::RangeInclusive<i64> = -62_135_596_800 * MICROS..=253_402_300_800 * MICROS - 1;

/// A moment that cannot be written with four digits of a year.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a moment outside the years 1 to 9999")]
pub(super) struct OutOfYears;

/// A moment, as the cluster's filters are given it.
pub(super) fn timestamp(Datetime(micros): Datetime) -> Result<prost_types::Timestamp, OutOfYears> {
    if !DATETIMES.contains(&micros) {
        return Err(OutOfYears);
    }
    let (seconds, micros) = (micros.div_euclid(MICROS), micros.rem_euclid(MICROS));
    Ok(prost_types::Timestamp { seconds, nanos: i32::try_from(micros * 1_000).unwrap_or_default() })
}

pub(super) fn string(text: impl Into<String>) -> Value {
    Value { kind: Some(Kind::StringValue(text.into())) }
}

pub(super) fn integer(number: i64) -> Value {
    Value { kind: Some(Kind::IntegerValue(number)) }
}

pub(super) fn fields<K: Into<String>>(fields: impl IntoIterator<Item = (K, Value)>) -> Value {
    let fields = fields.into_iter().map(|(name, value)| (name.into(), value)).collect();
    Value { kind: Some(Kind::StructValue(Struct { fields })) }
}

pub(super) fn list(values: impl IntoIterator<Item = Value>) -> Value {
    Value { kind: Some(Kind::ListValue(ListValue { values: values.into_iter().collect() })) }
}

/// A value of a declared field.
pub(super) fn declared(value: &PayloadValue) -> Result<Value, OutOfYears> {
    each(value, |scalar| {
        Ok(match scalar {
            Scalar::Datetime(moment) => string(timestamp(*moment)?.to_string()),
            Scalar::Text(text) => string(text.as_str()),
            scalar => plain(scalar),
        })
    })
}

/// A value of a field that the schema does not declare.
pub(super) fn undeclared(value: &PayloadValue) -> Value {
    let made = each(value, |scalar| {
        Ok::<_, std::convert::Infallible>(match scalar {
            Scalar::Datetime(Datetime(micros)) => fields([("datetime", integer(*micros))]),
            Scalar::Text(text) => fields([("text", string(text.as_str()))]),
            scalar => plain(scalar),
        })
    });
    match made {
        Ok(made) => made,
    }
}

fn plain(scalar: &Scalar) -> Value {
    let kind = match scalar {
        Scalar::Keyword(text) | Scalar::Text(text) => Kind::StringValue(text.clone()),
        Scalar::Integer(number) | Scalar::Datetime(Datetime(number)) => Kind::IntegerValue(*number),
        Scalar::Float(number) => Kind::DoubleValue(*number),
        Scalar::Boolean(truth) => Kind::BoolValue(*truth),
    };
    Value { kind: Some(kind) }
}

fn each<E>(value: &PayloadValue, of: impl Fn(&Scalar) -> Result<Value, E>) -> Result<Value, E> {
    Ok(match value {
        PayloadValue::One(scalar) => of(scalar)?,
        PayloadValue::Many(scalars) => list(scalars.iter().map(of).collect::<Result<Vec<_>, _>>()?),
    })
}

/// What was kept of a declared field (`kind`) or of another; `None` for what is none of ours.
pub(super) fn read(value: &Value, kind: Option<PayloadKind>) -> Option<PayloadValue> {
    match value.kind.as_ref()? {
        Kind::ListValue(list) => {
            let scalars = list.values.iter().map(|value| scalar(value, kind));
            scalars.collect::<Option<_>>().map(PayloadValue::Many)
        }
        _ => scalar(value, kind).map(PayloadValue::One),
    }
}

fn scalar(value: &Value, kind: Option<PayloadKind>) -> Option<Scalar> {
    Some(match (value.kind.as_ref()?, kind) {
        (Kind::StringValue(text), Some(PayloadKind::Datetime)) => Scalar::Datetime(datetime(text)?),
        (Kind::StringValue(text), Some(PayloadKind::Text)) => Scalar::Text(text.clone()),
        (Kind::StringValue(text), _) => Scalar::Keyword(text.clone()),
        // A cluster keeps JSON, in which 1 and 1.0 may be one.
        (Kind::IntegerValue(number), Some(PayloadKind::Float)) => Scalar::Float(*number as f64),
        (Kind::IntegerValue(number), _) => Scalar::Integer(*number),
        (Kind::DoubleValue(number), _) => Scalar::Float(*number),
        (Kind::BoolValue(truth), _) => Scalar::Boolean(*truth),
        (Kind::StructValue(tagged), None) => match tagged.fields.iter().next()? {
            (tag, Value { kind: Some(Kind::IntegerValue(micros)) }) if tag == "datetime" => {
                Scalar::Datetime(Datetime(*micros))
            }
            (tag, Value { kind: Some(Kind::StringValue(text)) }) if tag == "text" => Scalar::Text(text.clone()),
            _ => return None,
        },
        _ => return None,
    })
}

fn datetime(text: &str) -> Option<Datetime> {
    let moment: prost_types::Timestamp = text.parse().ok()?;
    Some(Datetime(moment.seconds.checked_mul(MICROS)?.checked_add(i64::from(moment.nanos) / 1_000)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_they_went() {
        let moment = |micros| Scalar::Datetime(Datetime(micros));
        let cases = [
            Scalar::Keyword("2026-01-01T00:00:00Z".into()),
            Scalar::Text("two words".into()),
            Scalar::Integer(i64::MIN),
            Scalar::Float(-0.1),
            Scalar::Boolean(true),
            moment(0),
            moment(-1),
            moment(*DATETIMES.start()),
            moment(*DATETIMES.end()),
            moment(1_800_000_000_123_456),
        ];
        for scalar in cases {
            for value in [PayloadValue::One(scalar.clone()), PayloadValue::Many(vec![scalar.clone(), scalar.clone()])] {
                assert_eq!(read(&declared(&value).unwrap(), Some(scalar.kind())).as_ref(), Some(&value));
                assert_eq!(read(&undeclared(&value), None).as_ref(), Some(&value));
            }
        }
        let empty = PayloadValue::Many(Vec::new());
        assert_eq!(read(&declared(&empty).unwrap(), Some(PayloadKind::Float)), Some(empty));
        let text = string("2026-11-22T01:02:03.000004Z");
        let expected = Scalar::Datetime(Datetime(1_795_309_323_000_004));
        assert_eq!(declared(&PayloadValue::One(expected.clone())).unwrap(), text, "as others read it");
        let float = read(&integer(3), Some(PayloadKind::Float));
        assert_eq!(float, Some(PayloadValue::One(Scalar::Float(3.0))), "a cluster may drop the point");
    }

    #[test]
    fn moments_have_years_of_four_digits() {
        for micros in [i64::MIN, DATETIMES.start() - 1, DATETIMES.end() + 1, i64::MAX] {
            assert_eq!(declared(&PayloadValue::One(Scalar::Datetime(Datetime(micros)))), Err(OutOfYears), "{micros}");
        }
    }
}
