//! What names a document inside the shard, a moment of a collection, and a text.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Number of one version of a document inside its collection.
///
/// An update gives the document a new number and ends the old one, so that what an index finds under a number is of
/// exactly one version. Numbers grow and are not used twice, short of a rebuild of the whole collection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DocId(pub u32);

impl fmt::Display for DocId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// Log sequence number: how many batches a collection has acknowledged. The first has number 1; 0 is an empty
/// collection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Before the first batch.
    pub const ZERO: Self = Self(0);

    /// The one after this.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// SHA-256 of the exact UTF-8 text that is given to an encoder: see [`Content`](crate::schema::Content). A token store
/// addresses the document's token vectors with the same hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ContentHash(pub [u8; 32]);

impl ContentHash {
    /// The hash of a text.
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self(Sha256::digest(text).into())
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentHash({self})")
    }
}

/// Why a name of a collection, a field or a vector is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1 to {NAME_BYTES_MAX} of the characters A-Z a-z 0-9 _ - and begins with no '-', unlike {name:?}")]
pub struct NameError {
    /// The name, cut to the length of a good one.
    pub name: String,
}

/// Bytes of a name of a collection, an alias, a field or a vector. Names are parts of metrics and of error texts.
pub const NAME_BYTES_MAX: usize = 64;

/// Whether a name may be given to a collection, an alias, a field or a vector.
///
/// # Errors
/// [`NameError`].
pub fn check_name(name: &str) -> Result<(), NameError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed) && !name.starts_with('-') {
        return Ok(());
    }
    Err(NameError { name: name.chars().take(NAME_BYTES_MAX).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        let cases = [
            ("docs", true),
            ("a_b-C9", true),
            ("", false),
            ("-flag", false),
            ("a b", false),
            ("a/b", false),
            ("é", false),
            (long.as_str(), false),
            (&long[1..], true),
        ];
        for (name, good) in cases {
            assert_eq!(check_name(name).is_ok(), good, "{name:?}");
        }
    }

    #[test]
    fn a_hash_is_of_the_bytes_of_the_text() {
        // FIPS 180-4, example "abc".
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(ContentHash::of("abc").to_string(), expected);
    }
}
