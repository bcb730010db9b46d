//! What a document carries besides its text: values to filter, count and return.

use std::{borrow::Cow, cmp::Ordering, collections::BTreeMap};

use serde::{Deserialize, Serialize};

/// Different values of a field that are counted, all of them, to say how many there are: what a facet may hold in memory.
pub const FACET_VALUES_MAX: usize = 16_384;

/// Values by field name. A field that is not there has no values.
pub type Payload = BTreeMap<String, PayloadValue>;

/// One value or a list. Filters and facets see a single value as a list of one, and an empty list as a missing field;
/// what is returned to the caller is as it came.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum PayloadValue {
    /// A single value.
    One(Scalar),
    /// A list of values of one kind. May be empty.
    Many(Vec<Scalar>),
}

impl PayloadValue {
    /// The values, of one or of many.
    #[must_use]
    pub fn scalars(&self) -> &[Scalar] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Many(values) => values,
        }
    }
}

impl From<Scalar> for PayloadValue {
    fn from(value: Scalar) -> Self {
        Self::One(value)
    }
}

/// A value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Scalar {
    /// Compared byte by byte, whole.
    Keyword(String),
    /// A number without fraction.
    Integer(i64),
    /// A finite number. -0 and 0 are equal.
    Float(f64),
    /// True or false.
    Boolean(bool),
    /// A moment.
    Datetime(Datetime),
    /// A text that is matched by its [`words`].
    Text(String),
}

/// A moment: microseconds since 1970-01-01T00:00:00Z, negative before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Datetime(pub i64);

/// What a payload field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PayloadKind {
    /// [`Scalar::Keyword`].
    Keyword,
    /// [`Scalar::Integer`].
    Integer,
    /// [`Scalar::Float`].
    Float,
    /// [`Scalar::Boolean`].
    Boolean,
    /// [`Scalar::Datetime`].
    Datetime,
    /// [`Scalar::Text`].
    Text,
}

impl PayloadKind {
    /// Its name in configuration and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Keyword => "keyword",
            Self::Integer => "integer",
            Self::Float => "float",
            Self::Boolean => "boolean",
            Self::Datetime => "datetime",
            Self::Text => "text",
        }
    }

    /// Whether values have an order that a range can be asked of.
    #[must_use]
    pub fn is_ordered(self) -> bool {
        matches!(self, Self::Integer | Self::Float | Self::Datetime)
    }
}

impl Scalar {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> PayloadKind {
        match self {
            Self::Keyword(_) => PayloadKind::Keyword,
            Self::Integer(_) => PayloadKind::Integer,
            Self::Float(_) => PayloadKind::Float,
            Self::Boolean(_) => PayloadKind::Boolean,
            Self::Datetime(_) => PayloadKind::Datetime,
            Self::Text(_) => PayloadKind::Text,
        }
    }

    /// The order of two values of one ordered kind; `None` for all others and for NaN.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Integer(a), Self::Integer(b)) => Some(a.cmp(b)),
            (Self::Float(a), Self::Float(b)) => a.partial_cmp(b),
            (Self::Datetime(a), Self::Datetime(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }

    /// Bytes of its text; a number counts eight.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Keyword(text) | Self::Text(text) => text.len(),
            _ => 8,
        }
    }
}

/// Bytes of a word that are compared; what a longer one has beyond them is not.
pub const WORD_BYTES_MAX: usize = 128;

/// The words of a text value: runs of letters and digits (Unicode `Alphabetic` and `Numeric`), in lower case, each cut
/// to [`WORD_BYTES_MAX`]. Without stemming: a filter is exact where a search is generous.
pub fn words(text: &str) -> impl Iterator<Item = Cow<'_, str>> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(|word| {
        let mut word = if word.chars().any(|c| !c.is_ascii_lowercase() && !c.is_ascii_digit()) {
            Cow::Owned(word.to_lowercase())
        } else {
            Cow::Borrowed(word)
        };
        if word.len() > WORD_BYTES_MAX {
            let end = word.floor_char_boundary(WORD_BYTES_MAX);
            word = Cow::Owned(word[..end].to_owned());
        }
        word
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_runs_of_letters_and_digits() {
        let long = "é".repeat(WORD_BYTES_MAX);
        let cut = "é".repeat(WORD_BYTES_MAX / 2);
        let cases: [(&str, &[&str]); 6] = [
            ("", &[]),
            (" -- ", &[]),
            ("black-sand Beach", &["black", "sand", "beach"]),
            ("ÄRGER über 2x", &["ärger", "über", "2x"]),
            ("don't", &["don", "t"]),
            (&long, &[&cut]),
        ];
        for (text, expected) in cases {
            assert_eq!(words(text).collect::<Vec<_>>(), expected, "{text:?}");
        }
    }

    #[test]
    fn only_like_is_compared_with_like() {
        let cases = [
            (Scalar::Integer(1), Scalar::Integer(2), Some(Ordering::Less)),
            (Scalar::Float(-0.0), Scalar::Float(0.0), Some(Ordering::Equal)),
            (Scalar::Datetime(Datetime(5)), Scalar::Datetime(Datetime(-5)), Some(Ordering::Greater)),
            (Scalar::Integer(1), Scalar::Float(1.0), None),
            (Scalar::Keyword("a".into()), Scalar::Keyword("b".into()), None),
        ];
        for (a, b, expected) in cases {
            assert_eq!(a.compare(&b), expected, "{a:?} {b:?}");
        }
    }
}
