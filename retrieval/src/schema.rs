//! What the documents of a collection look like: fixed when it is created.

mod check;

use serde::{Deserialize, Serialize};

pub(crate) use self::check::check_id;
pub use self::check::{DocumentFault, SchemaFault, VectorFault};
use crate::{document::Document, identity::ContentHash, payload::PayloadKind};

/// What the documents of a collection look like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schema {
    /// Texts that are searched by words. At least one if there are no vectors; at most [`Schema::FIELDS_MAX`].
    pub texts: Vec<TextField>,
    /// How the text that is given to an encoder, and hashed, is made from them.
    pub content: Content,
    /// Named dense vectors.
    #[serde(default)]
    pub dense: Vec<DenseField>,
    /// Named sparse vectors.
    #[serde(default)]
    pub sparse: Vec<SparseField>,
    /// Payload fields that can be filtered and counted. What a document carries besides them is kept and returned.
    #[serde(default)]
    pub payload: Vec<PayloadField>,
}

/// A text that is searched by words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextField {
    /// Its name.
    pub name: String,
    /// What its score is multiplied by: above 0, at most [`Schema::BOOST_MAX`].
    #[serde(default = "boost_default")]
    pub boost: f32,
    /// Which words are the same, and which are too common to count.
    #[serde(default)]
    pub language: Language,
}

/// How texts are joined to the one that an encoder is given and whose SHA-256 is the document's content hash.
///
/// The texts of `fields`, in this order, without the empty ones, with `separator` between. Nothing is trimmed or
/// normalised. A document whose texts are all empty has an empty content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// Names of text fields.
    pub fields: Vec<String>,
    /// What stands between two of them.
    #[serde(default = "separator_default")]
    pub separator: String,
}

/// A named dense vector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenseField {
    /// Its name.
    pub name: String,
    /// Components: 1 to [`Schema::DIM_MAX`].
    pub dim: u32,
    /// How near two of them are.
    #[serde(default)]
    pub metric: Metric,
}

/// How near two dense vectors are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Cosine of their angle. A vector of zeros has none, and is refused.
    #[default]
    Cosine,
    /// Inner product.
    Dot,
    /// Euclidean distance; the score is its negative, so that larger is nearer.
    Euclidean,
}

/// A named sparse vector, scored by the inner product.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SparseField {
    /// Its name.
    pub name: String,
    /// Whether a query's values are multiplied by the inverse document frequency of their dimension.
    #[serde(default)]
    pub idf: bool,
}

/// A payload field that can be filtered and counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PayloadField {
    /// Its name.
    pub name: String,
    /// What it holds, alone or in lists.
    pub kind: PayloadKind,
}

/// The language of a text field: stems and stop words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// Words as they stand, in lower case.
    None,
    /// Arabic.
    Arabic,
    /// Danish.
    Danish,
    /// Dutch.
    Dutch,
    /// English.
    #[default]
    English,
    /// Finnish.
    Finnish,
    /// French.
    French,
    /// German.
    German,
    /// Greek.
    Greek,
    /// Hungarian.
    Hungarian,
    /// Italian.
    Italian,
    /// Norwegian.
    Norwegian,
    /// Portuguese.
    Portuguese,
    /// Romanian.
    Romanian,
    /// Russian.
    Russian,
    /// Spanish.
    Spanish,
    /// Swedish.
    Swedish,
    /// Tamil.
    Tamil,
    /// Turkish.
    Turkish,
}

fn boost_default() -> f32 {
    1.0
}

fn separator_default() -> String {
    Content::SEPARATOR.to_owned()
}

impl Content {
    /// Between title and text, unless the schema says otherwise: the title reads as a sentence of its own.
    pub const SEPARATOR: &str = ". ";

    /// The text that an encoder is given.
    #[must_use]
    pub fn join(&self, document: &Document) -> String {
        let texts = self.fields.iter().filter_map(|field| document.texts.get(field));
        texts.filter(|text| !text.is_empty()).map(String::as_str).collect::<Vec<_>>().join(&self.separator)
    }

    /// The hash of that text.
    #[must_use]
    pub fn hash(&self, document: &Document) -> ContentHash {
        ContentHash::of(&self.join(document))
    }
}

impl Schema {
    /// Fields of each sort: texts, dense vectors, sparse vectors, payload fields. Each costs an index.
    pub const FIELDS_MAX: usize = 64;
    /// Components of a dense vector.
    pub const DIM_MAX: u32 = 8_192;
    /// Dimensions of a sparse vector that are not 0.
    pub const SPARSE_NNZ_MAX: usize = 16_384;
    /// What a field's score may be multiplied by.
    pub const BOOST_MAX: f32 = 100.0;
    /// Bytes of a document's id.
    pub const ID_BYTES_MAX: usize = 480;
    /// Bytes of all texts of a document.
    pub const TEXT_BYTES_MAX: usize = 8 << 20;
    /// Bytes of a document's payload: names and values.
    pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;
    /// Values in a list.
    pub const LIST_VALUES_MAX: usize = 4_096;
    /// Bytes of a keyword of a declared field.
    pub const KEYWORD_BYTES_MAX: usize = 384;
    /// Bytes of [`Content::separator`].
    pub const SEPARATOR_BYTES_MAX: usize = 64;

    /// Title and text in a language, and nothing else: a start to add vectors and payload fields to.
    #[must_use]
    pub fn title_and_text(language: Language) -> Self {
        let field = |name: &str| TextField { name: name.to_owned(), boost: boost_default(), language };
        let content = Content { fields: vec!["title".to_owned(), "text".to_owned()], separator: separator_default() };
        let texts = vec![field("title"), field("text")];
        Self { texts, content, dense: Vec::new(), sparse: Vec::new(), payload: Vec::new() }
    }

    /// The text field of a name.
    #[must_use]
    pub fn text_field(&self, name: &str) -> Option<&TextField> {
        self.texts.iter().find(|field| field.name == name)
    }

    /// The dense vector of a name.
    #[must_use]
    pub fn dense_field(&self, name: &str) -> Option<&DenseField> {
        self.dense.iter().find(|field| field.name == name)
    }

    /// The sparse vector of a name.
    #[must_use]
    pub fn sparse_field(&self, name: &str) -> Option<&SparseField> {
        self.sparse.iter().find(|field| field.name == name)
    }

    /// The payload field of a name.
    #[must_use]
    pub fn payload_field(&self, name: &str) -> Option<&PayloadField> {
        self.payload.iter().find(|field| field.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_joins_what_is_there() {
        let schema = Schema::title_and_text(Language::English);
        let cases: [(&[(&str, &str)], &str); 5] = [
            (&[("title", "A title"), ("text", "A text")], "A title. A text"),
            (&[("text", "A text")], "A text"),
            (&[("title", ""), ("text", "A text")], "A text"),
            (&[("title", "A title")], "A title"),
            (&[], ""),
        ];
        for (texts, expected) in cases {
            let texts = texts.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
            let document = Document { texts, ..Document::default() };
            assert_eq!(schema.content.join(&document), expected);
            assert_eq!(schema.content.hash(&document), ContentHash::of(expected));
        }
    }
}
