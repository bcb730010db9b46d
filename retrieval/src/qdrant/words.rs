//! Search by words on a cluster: BM25 as a dot product.
//!
//! ```text
//! score = Σ over the query's terms t:  w(t) · idf(t) · tf · (k₁ + 1) / (tf + k₁ · (1 − b + b · length / average))
//!                                      └ query ┘└ cluster ┘└ document, made when it is written ───────────────────┘
//! ```
//!
//! A document's sparse vector has a dimension for each term of each of its fields, weighted with k₁ = 1.2 and b = 0.75 as
//! in our own index; the cluster multiplies the query's values by ln(1 + (N − n + 0.5) / (n + 0.5)), which is the same
//! idf. Terms and fields are those of [`lexical`](crate::lexical): the same analysers, the fields of one language taken
//! together where a search names none, a boost above the others' added.
//!
//! What is not the same:
//! - The average length is a constant of the collection, from the configuration: a cluster tells nobody what it is, and
//!   weights are made once. Of a text as long as the constant says, the score is exactly BM25's.
//! - N and n are of each of the cluster's shards for itself.
//! - A dimension is a hash of 32 bits. Of a million terms, each shares its dimension with another with a probability of
//!   0.0002; it is then scored as if it were both.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::{
    document::{Document, SparseVector},
    lexical::{
        LexicalQuery as Words, analysis,
        layout::{Fields, LexicalField},
    },
    schema::Schema,
    search::{Lacking, LexicalQuery},
};

/// How fast more of a term counts for less.
const K1: f32 = 1.2;
/// How much a text's length counts.
const B: f32 = 0.75;

/// The fields of a collection that have words.
#[derive(Debug)]
pub(super) struct WordFields {
    fields: Fields,
    average_words: f32,
}

impl WordFields {
    pub(super) fn new(schema: &Schema, average_words: f32) -> Self {
        Self { fields: Fields::new(schema), average_words }
    }

    /// Whether there are any.
    pub(super) fn is_empty(&self) -> bool {
        self.fields.texts.is_empty()
    }

    /// A document's words, weighted; `None` if it has none.
    pub(super) fn weights(&self, document: &Document) -> Option<SparseVector> {
        let mut weights = BTreeMap::<u32, f32>::new();
        let own = self.fields.texts.iter().map(|field| (field, vec![field.name.as_str()]));
        let groups = self.fields.groups.iter().map(|group| {
            let members = self.fields.texts.iter().filter(|field| field.language == group.language);
            (group, members.map(|field| field.name.as_str()).collect())
        });
        for (field, texts) in own.chain(groups) {
            let (mut frequencies, mut length) = (BTreeMap::<String, u32>::new(), 0_u32);
            for text in texts.iter().filter_map(|text| document.texts.get(*text)) {
                for word in analysis::words(field.language, text, usize::MAX) {
                    *frequencies.entry(word.text).or_default() += 1;
                    length += 1;
                }
            }
            let norm = K1 * (1.0 - B + B * length as f32 / self.average_words);
            for (term, frequency) in frequencies {
                let frequency = frequency as f32;
                let weight = frequency * (K1 + 1.0) / (frequency + norm);
                *weights.entry(self.dimension(field, &term)).or_default() += weight;
            }
        }
        vector(weights)
    }

    /// What is asked for; `None` if the text has no words.
    pub(super) fn query(&self, query: &LexicalQuery) -> Option<SparseVector> {
        let mut weights = BTreeMap::<u32, f32>::new();
        for (field, boost) in self.asked(query) {
            for word in analysis::words(field.language, &query.text, Words::WORDS_MAX) {
                *weights.entry(self.dimension(field, &word.text)).or_default() += boost;
            }
        }
        vector(weights)
    }

    fn asked(&self, query: &LexicalQuery) -> Vec<(&LexicalField, f32)> {
        if query.fields.is_empty() {
            return self.fields.everything();
        }
        let find = |name: &str| self.fields.texts.iter().find(|field| field.name == name);
        let named = query.fields.iter().filter_map(|named| Some((find(&named.field)?, named.boost)));
        named.map(|(field, boost)| (field, boost.unwrap_or(field.boost))).collect()
    }

    /// Of a term in a field: a field's own name in the index cannot be that of a group.
    fn dimension(&self, field: &LexicalField, term: &str) -> u32 {
        let mut hash = Sha256::new();
        hash.update(self.fields.layout.get_field_name(field.field));
        hash.update([0]);
        hash.update(term);
        let digest: [u8; 32] = hash.finalize().into();
        u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]])
    }
}

/// Whether a leg asks only for what a dot product can say.
pub(super) fn check(field: &str, query: &LexicalQuery) -> Result<(), Lacking> {
    let asked = [
        (query.require_all, "require_all", "search for all of a text's words"),
        (query.fuzzy_edits > 0, "fuzzy_edits", "search for misspelt words"),
        (query.prefix, "prefix", "search for beginnings of words"),
        (query.phrase_slop.is_some(), "phrase", "search for phrases"),
        (query.proximity.is_some(), "proximity", "bonus for words that are near each other"),
    ];
    match asked.into_iter().find(|(asked, ..)| *asked) {
        Some((_, option, what)) => Err(Lacking::new(format!("{field}.lexical.{option}"), what)),
        None => Ok(()),
    }
}

fn vector(weights: BTreeMap<u32, f32>) -> Option<SparseVector> {
    let (indices, values): (Vec<_>, Vec<_>) = weights.into_iter().unzip();
    (!indices.is_empty()).then_some(SparseVector { indices, values })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Language;

    fn document(title: &str, text: &str) -> Document {
        let texts = [("title", title), ("text", text)].map(|(name, text)| (name.to_owned(), text.to_owned()));
        Document { texts: texts.into(), ..Document::default() }
    }

    fn dot(a: &SparseVector, b: &SparseVector) -> f32 {
        let value = |index| b.indices.binary_search(index).ok().map(|at| b.values[at]);
        a.indices.iter().zip(&a.values).filter_map(|(index, weight)| Some(weight * value(index)?)).sum()
    }

    #[test]
    fn the_product_is_bm25_without_idf() {
        let fields = WordFields::new(&Schema::title_and_text(Language::English), 4.0);
        let ask = |text: &str, fields_named: &[&str]| LexicalQuery {
            text: text.to_owned(),
            fields: fields_named
                .iter()
                .map(|field| crate::search::FieldBoost { field: (*field).to_owned(), boost: Some(2.0) })
                .collect(),
            ..LexicalQuery::default()
        };
        let document = document("Black sand", "Sand beaches, black sands");
        let bm25 = |frequency: f32, length: f32| frequency * 2.2 / (frequency + 1.2 * (0.25 + 0.75 * length / 4.0));
        let weights = fields.weights(&document).unwrap();
        let cases: [(&str, &[&str], f32); 5] = [
            ("black", &[], bm25(2.0, 6.0)),
            ("sand sand", &[], 2.0 * bm25(3.0, 6.0)),
            ("the beach of black sand", &[], bm25(1.0, 6.0) + bm25(2.0, 6.0) + bm25(3.0, 6.0)),
            ("sand", &["title"], 2.0 * bm25(1.0, 2.0)),
            ("rock", &[], 0.0),
        ];
        for (text, named, expected) in cases {
            let found = dot(&fields.query(&ask(text, named)).unwrap(), &weights);
            assert!((found - expected).abs() < 1e-5, "{text}: {found}, not {expected}");
        }
        assert_eq!(fields.query(&ask("of the", &[])), None, "stop words");
        assert_eq!(fields.weights(&Document::default()), None);
    }

    #[test]
    fn what_a_product_cannot_say_is_named() {
        let plain = LexicalQuery { text: "x".into(), ..LexicalQuery::default() };
        let cases = [
            (plain.clone(), None),
            (LexicalQuery { require_all: true, ..plain.clone() }, Some("legs[1].lexical.require_all")),
            (LexicalQuery { fuzzy_edits: 1, ..plain.clone() }, Some("legs[1].lexical.fuzzy_edits")),
            (LexicalQuery { prefix: true, ..plain.clone() }, Some("legs[1].lexical.prefix")),
            (LexicalQuery { phrase_slop: Some(0), ..plain.clone() }, Some("legs[1].lexical.phrase")),
            (LexicalQuery { proximity: Some((1, 1.0)), ..plain }, Some("legs[1].lexical.proximity")),
        ];
        for (query, expected) in cases {
            let found = check("legs[1]", &query).err().map(|lacking| lacking.field);
            assert_eq!(found.as_deref(), expected);
        }
    }
}
