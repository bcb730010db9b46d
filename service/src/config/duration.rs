//! Durations as people write them: `250ms`, `30s`, `1h30m`.
//!
//! For fields of type [`Duration`]: `#[serde(with = "sluice_service::config::duration")]`. Where a duration
//! can also be switched off, see [`optional`].

use std::{fmt, time::Duration};

use serde::{
    Deserializer, Serializer,
    de::{Error, Visitor},
};

/// Units, longest first, with their nanoseconds.
const UNITS: [(&str, u128); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// What a text should have been.
const EXPECTED: &str = "a duration such as \"250ms\", \"30s\" or \"1h30m\"";

/// A text that is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid duration {text:?}, expected {EXPECTED}")]
pub struct ParseDurationError {
    text: String,
}

/// Reads a duration: whole numbers, each with its unit (`d h m s ms us ns`), added up.
///
/// # Errors
///
/// If `text` is anything else, or is more than a [`Duration`] can hold.
pub fn parse(text: &str) -> Result<Duration, ParseDurationError> {
    sum_of_parts(text).ok_or_else(|| ParseDurationError { text: text.into() })
}

fn sum_of_parts(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let (unit, after) = after.split_at(after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len()));
        let (_, unit_nanos) = UNITS.iter().find(|(name, _)| *name == unit.trim())?;
        nanos = nanos.checked_add(number.parse::<u128>().ok()?.checked_mul(*unit_nanos)?)?;
        rest = after;
    }
    let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
    Some(Duration::new(seconds, (nanos % 1_000_000_000) as u32))
}

/// Writes a duration so that [`parse`] gives it back exactly.
pub fn format(duration: Duration) -> String {
    let mut rest = duration.as_nanos();
    if rest == 0 {
        return "0s".into();
    }
    let mut text = String::new();
    for (unit, nanos) in UNITS {
        if rest >= nanos {
            text.push_str(&format!("{}{unit}", rest / nanos));
            rest %= nanos;
        }
    }
    text
}

/// Serialises as text.
///
/// # Errors
///
/// Only the serialiser's own.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*duration))
}

/// Deserialises from text.
///
/// # Errors
///
/// If it is no duration.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    deserializer.deserialize_str(DurationVisitor)
}

struct DurationVisitor;

impl Visitor<'_> for DurationVisitor {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
        parse(text).map_err(E::custom)
    }
}

/// A duration, or `"off"`: for fields of type `Option<Duration>`, so that a printed configuration shows
/// them too.
pub mod optional {
    use super::{Deserializer, Duration, EXPECTED, Error, Serializer, Visitor, fmt, format, parse};

    const OFF: &str = "off";

    /// Serialises as text.
    ///
    /// # Errors
    ///
    /// Only the serialiser's own.
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => serializer.serialize_str(&format(*duration)),
            None => serializer.serialize_str(OFF),
        }
    }

    /// Deserialises from text.
    ///
    /// # Errors
    ///
    /// If it is neither a duration nor `"off"`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        deserializer.deserialize_str(OptionalVisitor)
    }

    struct OptionalVisitor;

    impl Visitor<'_> for OptionalVisitor {
        type Value = Option<Duration>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{EXPECTED}, or \"{OFF}\"")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Option<Duration>, E> {
            if text.trim() == OFF {
                return Ok(None);
            }
            parse(text).map(Some).map_err(|error| E::custom(format_args!("{error}, or \"{OFF}\"")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        let check = |text: &str, nanos: Option<u128>| {
            assert_eq!(parse(text).ok().map(|duration| duration.as_nanos()), nanos, "{text:?}");
        };
        check("250ms", Some(250_000_000));
        check("30s", Some(30_000_000_000));
        check("5m", Some(300_000_000_000));
        check("1h30m", Some(5_400_000_000_000));
        check(" 2 d 1ns ", Some(172_800_000_000_001));
        check("7us", Some(7_000));
        check("0s", Some(0));
        for text in ["", " ", "5", "s", "-5s", "1.5s", "5 parsecs", "5S", "5s6", "99999999999999999999999d"] {
            check(text, None);
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let check = |duration: Duration, text: &str| {
            assert_eq!(format(duration), text);
            assert_eq!(parse(text), Ok(duration));
        };
        check(Duration::ZERO, "0s");
        check(Duration::from_secs(90), "1m30s");
        check(Duration::new(1, 1), "1s1ns");
        check(Duration::from_millis(1_500), "1s500ms");
        for duration in [Duration::MAX, Duration::new(u64::MAX, 1), Duration::from_nanos(123_456_789_012_345)] {
            assert_eq!(parse(&format(duration)), Ok(duration), "{}", format(duration));
        }
    }
}
