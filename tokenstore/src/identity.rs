//! What a document is filed under.

use std::{fmt, sync::Arc};

use sha2::{Digest, Sha256};

/// The name of a set of documents: 1 to 128 bytes of `[A-Za-z0-9._-]`, not beginning with a dot. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace(Arc<str>);

impl Namespace {
    /// Bytes of a name: it is stored in a field of this size.
    pub const BYTES_MAX: usize = 128;

    /// Checks a name.
    ///
    /// # Errors
    /// [`NamespaceError`] if it is no namespace's.
    pub fn new(name: &str) -> Result<Self, NamespaceError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if name.is_empty() || name.len() > Self::BYTES_MAX {
            Err(NamespaceError::Length { bytes: name.len() })
        } else if let Some(at) = name.bytes().position(|byte| !allowed(byte)) {
            Err(NamespaceError::Letter { at })
        } else if name.starts_with('.') {
            Err(NamespaceError::Letter { at: 0 })
        } else {
            Ok(Self(name.into()))
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a name is no namespace's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NamespaceError {
    /// Empty, or too long.
    #[error("a namespace has 1 to {} bytes, not {bytes}", Namespace::BYTES_MAX)]
    Length {
        /// Bytes found.
        bytes: usize,
    },
    /// A letter that may not stand there.
    #[error("a namespace has letters, digits, `.`, `_` and `-`, and does not begin with a dot: see byte {at}")]
    Letter {
        /// Where, in bytes.
        at: usize,
    },
}

/// SHA-256 over a model's files: vectors of different models never meet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelDigest(pub [u8; 32]);

/// SHA-256 of the exact UTF-8 text that vectors were made from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentHash(pub [u8; 32]);

impl ContentHash {
    /// The hash of a text.
    #[must_use]
    pub fn of_text(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }
}

/// Both are read and written as 64 hexadecimal digits.
macro_rules! hexadecimal {
    ($type:ident) => {
        impl $type {
            /// Reads 64 hexadecimal digits, of either case.
            #[must_use]
            pub fn from_hex(digits: &str) -> Option<Self> {
                let digits: &[u8; 64] = digits.as_bytes().try_into().ok()?;
                let mut bytes = [0; 32];
                for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
                    let digit = |letter: u8| char::from(letter).to_digit(16);
                    *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
                }
                Some(Self(bytes))
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }
    };
}

hexadecimal!(ModelDigest);
hexadecimal!(ContentHash);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_plain_names() {
        let long = "x".repeat(129);
        let cases: [(&str, Result<(), NamespaceError>); 9] = [
            ("a", Ok(())),
            ("tenant-7_docs.v2", Ok(())),
            (&long[1..], Ok(())),
            ("", Err(NamespaceError::Length { bytes: 0 })),
            (&long, Err(NamespaceError::Length { bytes: 129 })),
            (".hidden", Err(NamespaceError::Letter { at: 0 })),
            ("..", Err(NamespaceError::Letter { at: 0 })),
            ("a/b", Err(NamespaceError::Letter { at: 1 })),
            ("aé", Err(NamespaceError::Letter { at: 1 })),
        ];
        for (name, expected) in cases {
            assert_eq!(Namespace::new(name).map(|found| assert_eq!(found.as_str(), name)), expected, "{name:?}");
        }
    }

    #[test]
    fn hashes_are_hexadecimal() {
        let hash = ContentHash::of_text("abc");
        let digits = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash.to_string(), digits);
        assert_eq!(ContentHash::from_hex(digits), Some(hash));
        assert_eq!(ContentHash::from_hex(&digits.to_uppercase()), Some(hash));
        for wrong in [&digits[1..], &format!("{digits}0"), &digits.replace('b', "g"), ""] {
            assert_eq!(ContentHash::from_hex(wrong), None, "{wrong}");
        }
    }
}
