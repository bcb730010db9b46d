//! Times as a file says them: `"1.5s"`, `"300ms"`, `"2m"`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer, de::Error};

const UNITS: [(&str, u64); 6] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// A text that is no time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no time: expected a number and ns, us, ms, s, m or h, such as \"300ms\" or \"1.5s\"")]
pub struct PeriodError(String);

/// Reads a time.
///
/// # Errors
///
/// It has no unit, is negative, no number, or longer than 64 bits of nanoseconds.
pub fn parse(text: &str) -> Result<Duration, PeriodError> {
    let fault = || PeriodError(text.to_owned());
    let digits_end = text.find(|letter: char| letter.is_ascii_alphabetic()).ok_or_else(fault)?;
    let (number, unit) = text.split_at(digits_end);
    let (_, nanoseconds) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(fault)?;
    let number = number.trim_end();
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(*nanoseconds).map(Duration::from_nanos).ok_or_else(fault);
    }
    let number: f64 = number.parse().map_err(|_| fault())?;
    let total = (number * *nanoseconds as f64).round();
    if (0.0..u64::MAX as f64).contains(&total) { Ok(Duration::from_nanos(total as u64)) } else { Err(fault()) }
}

/// In the largest unit that needs no fraction.
#[must_use]
pub fn format(time: Duration) -> String {
    let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    if nanoseconds == 0 {
        return "0s".to_owned();
    }
    let whole = UNITS.iter().rev().find(|(_, size)| nanoseconds.is_multiple_of(*size));
    whole.map_or_else(String::new, |(name, size)| format!("{}{name}", nanoseconds / size))
}

pub(super) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*time))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).map_err(D::Error::custom)
}

pub(super) mod optional {
    use std::time::Duration;

    use serde::{Deserializer, Serializer};

    pub(in super::super) fn serialize<S: Serializer>(
        time: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => super::serialize(time, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        super::deserialize(deserializer).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read() {
        let cases = [
            ("300ms", Some(300_000_000)),
            ("1.5s", Some(1_500_000_000)),
            ("2m", Some(120_000_000_000)),
            ("24h", Some(86_400_000_000_000)),
            ("7ns", Some(7)),
            ("0.5us", Some(500)),
            ("3 s", Some(3_000_000_000)),
            ("0s", Some(0)),
            ("", None),
            ("5", None),
            ("s", None),
            ("-1s", None),
            ("1 fortnight", None),
            ("1.2.3s", None),
            ("infs", None),
            ("9999999999h", None),
        ];
        for (text, nanoseconds) in cases {
            assert_eq!(parse(text).ok(), nanoseconds.map(Duration::from_nanos), "{text:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for (nanoseconds, text) in
            [(0, "0s"), (1, "1ns"), (1_500_000_000, "1500ms"), (90_000_000_000, "90s"), (3_600_000_000_000, "1h")]
        {
            let time = Duration::from_nanos(nanoseconds);
            assert_eq!(format(time), text);
            assert_eq!(parse(text), Ok(time));
        }
    }
}
