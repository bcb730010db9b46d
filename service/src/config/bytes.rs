//! Sizes in bytes as people write them: `16MiB`, `"4096"`, or a plain integer.
//!
//! For fields of any unsigned integer type: `#[serde(with = "sluice_service::config::bytes")]`.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserializer, Serializer,
    de::{Error, Visitor},
};

/// Units with their bytes: those that sizes are written in, longest first, then those only read.
const UNITS: [(&str, u64); 10] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
    ("", 1),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
];

/// What a text should have been.
const EXPECTED: &str = "a size such as \"16MiB\", \"64KiB\" or 4096 (bytes)";

/// A text that is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid size {text:?}, expected {EXPECTED}")]
pub struct ParseBytesError {
    text: String,
}

/// Reads a size: a whole number with a unit (`B KiB MiB GiB TiB kB MB GB TB`), or without one for bytes.
///
/// # Errors
///
/// If `text` is anything else, or 2⁶⁴ bytes or more.
pub fn parse(text: &str) -> Result<u64, ParseBytesError> {
    let trimmed = text.trim();
    let (number, unit) = trimmed.split_at(trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len()));
    let known = UNITS.iter().find(|(name, _)| *name == unit.trim());
    known
        .and_then(|(_, bytes)| number.parse::<u64>().ok()?.checked_mul(*bytes))
        .ok_or_else(|| ParseBytesError { text: text.into() })
}

/// Writes a size so that [`parse`] gives it back exactly.
pub fn format(size: u64) -> String {
    let fits = |(_, bytes): &&(&str, u64)| size >= *bytes && size.is_multiple_of(*bytes);
    match UNITS[..4].iter().find(fits) {
        Some((unit, bytes)) => format!("{}{unit}", size / bytes),
        None => size.to_string(),
    }
}

/// Serialises as text.
///
/// # Errors
///
/// The serialiser's own.
pub fn serialize<T, S>(size: &T, serializer: S) -> Result<S::Ok, S::Error>
where
    T: Copy + TryInto<u64>,
    S: Serializer,
{
    let size: u64 = (*size).try_into().map_err(|_| serde::ser::Error::custom("a size of 2^64 bytes or more"))?;
    serializer.serialize_str(&format(size))
}

/// Deserialises from text or an integer.
///
/// # Errors
///
/// If it is no size, or more than `T` can hold.
pub fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: TryFrom<u64>,
    D: Deserializer<'de>,
{
    deserializer.deserialize_any(BytesVisitor(PhantomData))
}

struct BytesVisitor<T>(PhantomData<T>);

impl<T: TryFrom<u64>> Visitor<'_> for BytesVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_u64<E: Error>(self, size: u64) -> Result<T, E> {
        T::try_from(size).map_err(|_| {
            let most = u64::MAX >> (64 - 8 * size_of::<T>().min(8));
            E::custom(format_args!("{size} bytes is too much, at most {most} are possible"))
        })
    }

    fn visit_i64<E: Error>(self, size: i64) -> Result<T, E> {
        let size =
            u64::try_from(size).map_err(|_| E::custom(format_args!("invalid size {size}, expected {EXPECTED}")))?;
        self.visit_u64(size)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        self.visit_u64(parse(text).map_err(E::custom)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        let check = |text: &str, size: Option<u64>| assert_eq!(parse(text).ok(), size, "{text:?}");
        check("16MiB", Some(16 << 20));
        check("4096", Some(4096));
        check(" 64 KiB ", Some(64 << 10));
        check("1GB", Some(1_000_000_000));
        check("3kB", Some(3_000));
        check("0", Some(0));
        for text in ["", "MiB", "-1", "1.5MiB", "1mib", "16MiBs", "20000000TiB"] {
            check(text, None);
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let check = |size: u64, text: &str| {
            assert_eq!(format(size), text);
            assert_eq!(parse(text), Ok(size));
        };
        check(64 << 20, "64MiB");
        check(1536, "1536");
        check(1536 << 10, "1536KiB");
        check(0, "0");
        check(u64::MAX, "18446744073709551615");
    }

    #[test]
    fn a_size_must_fit_its_field() {
        #[derive(Debug, serde::Serialize, serde::Deserialize, PartialEq)]
        struct Sizes {
            #[serde(with = "crate::config::bytes")]
            narrow: u32,
            #[serde(with = "crate::config::bytes")]
            wide: u64,
        }
        let sizes = Sizes { narrow: 16 << 10, wide: 5 << 32 };
        let text = toml::to_string(&sizes).unwrap();
        assert_eq!(text, "narrow = \"16KiB\"\nwide = \"20GiB\"\n");
        assert_eq!(toml::from_str::<Sizes>(&text).unwrap(), sizes);
        assert_eq!(toml::from_str::<Sizes>("narrow = 7\nwide = \"8\"").unwrap(), Sizes { narrow: 7, wide: 8 });
        for text in ["narrow = \"4GiB\"\nwide = 1", "narrow = -1\nwide = 1", "narrow = true\nwide = 1"] {
            toml::from_str::<Sizes>(text).expect_err(text);
        }
    }
}
