//! What a search by words asks for, and what tantivy is asked for it.

use std::collections::BTreeMap;

use tantivy::{
    Term,
    query::{BooleanQuery, BoostQuery, EmptyQuery, Occur, PhraseQuery, Query, TermQuery},
    schema::IndexRecordOption,
};

use super::{
    analysis::{self, Word},
    expand::{self, Dictionary},
    layout::{Fields, LexicalField},
};
use crate::vector_index::IndexError;

/// A search by words.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LexicalQuery {
    /// The words. Of a long text the first [`WORDS_MAX`](Self::WORDS_MAX) count.
    pub text: String,
    /// Text fields to search, each of its own, and what their scores are multiplied by; none for all, with the schema's
    /// boosts, those of one language taken together as one text.
    pub fields: Vec<(String, f32)>,
    /// How many of the words must be there.
    pub operator: Operator,
    /// Word sequences of which each must be there, in one field. Their BM25 counts too.
    pub phrases: Vec<Phrase>,
    /// Words that are neighbours in the query count more where they are near each other.
    pub proximity: Option<Proximity>,
    /// Words may be misspelt.
    pub fuzzy: Option<Fuzzy>,
    /// The last word is still being typed: what begins like it counts too.
    pub prefix: bool,
}

/// How many of the words must be there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Operator {
    /// At least one. Fast: what cannot win is skipped.
    #[default]
    Any,
    /// All, each in some field.
    All,
}

/// A sequence of words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Phrase {
    /// The words. Stop words keep their place and match anything.
    pub text: String,
    /// Words that may stand between, in all; a transposition takes 2.
    pub slop: u32,
}

/// A bonus for neighbours that stay near each other: of the best [`Proximity::WINDOW`] documents (or k, if that is
/// more), each gets `boost` times the BM25 of each two words that follow each other in the query, taken as a phrase with
/// that slop. The idea of sequential dependence (Metzler and Croft, SIGIR 2005).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Proximity {
    /// Words that may stand between the two.
    pub slop: u32,
    /// What the pair's score is multiplied by.
    pub boost: f32,
}

impl Proximity {
    /// Documents that are looked at for pairs.
    pub const WINDOW: usize = 1_000;
}

/// How words may be misspelt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fuzzy {
    /// Insertions, deletions, substitutions and transpositions: 1 or 2.
    pub edits: u8,
    /// Letters that a word must have to be taken for misspelt.
    pub letters_min: usize,
}

impl Default for Fuzzy {
    fn default() -> Self {
        Self { edits: 1, letters_min: 4 }
    }
}

impl LexicalQuery {
    /// Words of a query that count. Each is some posting lists to read.
    pub const WORDS_MAX: usize = 1_024;
    /// Words of a query that may be misspelt: the first ones. Each is a walk through the dictionary of every field.
    pub const MISSPELT_MAX: usize = 32;
    /// Phrases of a query.
    pub const PHRASES_MAX: usize = 64;
    /// What a word counts that is only like the one asked for.
    pub const LIKENESS: f32 = 0.5;

    /// Any of these words, in all fields.
    #[must_use]
    pub fn any(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }
}

/// What tantivy is asked.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) query: Box<dyn Query>,
    /// The same as a sum of terms, where it is one: what tantivy skips blocks of.
    pub(crate) terms: Option<Vec<Box<dyn Query>>>,
    /// Postings of all its terms.
    pub(crate) postings: u64,
    /// What gives a bonus.
    pub(crate) pairs: Vec<Box<dyn Query>>,
}

/// Terms that one word of the query stands for, with their weights. A term comes up again where a word does.
type Alternatives = BTreeMap<Term, f32>;

impl Asked {
    pub(crate) fn new(query: &LexicalQuery, fields: &Fields, dictionary: &Dictionary<'_>) -> Result<Self, IndexError> {
        let own = chosen(query, fields)?;
        let asked = if query.fields.is_empty() { fields.everything() } else { own.clone() };
        let words = words(query, &asked, dictionary)?;
        let mut postings = 0;
        for term in words.values().flat_map(BTreeMap::keys) {
            dictionary.go_on()?;
            postings +=
                dictionary.searcher.doc_freq(term).map_err(IndexError::storage("counting a term's documents"))?;
        }
        let phrases = query.phrases.iter().take(LexicalQuery::PHRASES_MAX);
        let phrases: Vec<_> = phrases.filter_map(|phrase| in_any_field(phrase, &own)).collect();
        let pairs = query.proximity.map(|proximity| pairs(query, proximity, &own)).unwrap_or_default();
        let terms = (phrases.is_empty() && query.operator == Operator::Any).then(|| sum(&words));
        let query = match &terms {
            Some(terms) => Box::new(BooleanQuery::union(terms.iter().map(|term| term.box_clone()).collect())),
            None => clauses(query.operator, &words, phrases),
        };
        Ok(Self { query, terms, postings, pairs })
    }
}

/// The text fields, each of its own.
fn chosen<'a>(query: &LexicalQuery, fields: &'a Fields) -> Result<Vec<(&'a LexicalField, f32)>, IndexError> {
    if query.fields.is_empty() {
        return Ok(fields.texts.iter().map(|field| (field, field.boost)).collect());
    }
    let find = |(name, boost): &(String, f32)| {
        let field = fields.texts.iter().find(|field| field.name == *name);
        field
            .map(|field| (field, *boost))
            .ok_or_else(|| IndexError::TextField { field: name.chars().take(64).collect() })
    };
    query.fields.iter().map(find).collect()
}

/// By position in the query: fields of different languages have different words there, or none.
fn words(
    query: &LexicalQuery,
    fields: &[(&LexicalField, f32)],
    dictionary: &Dictionary<'_>,
) -> Result<BTreeMap<usize, Alternatives>, IndexError> {
    let mut words = BTreeMap::<usize, Alternatives>::new();
    for &(field, boost) in fields {
        let found = analysis::words(field.language, &query.text, LexicalQuery::WORDS_MAX);
        let last = found.len().saturating_sub(1);
        for (n, word) in found.iter().enumerate() {
            dictionary.go_on()?;
            let alternatives = words.entry(word.position).or_default();
            alternatives.insert(Term::from_field_text(field.field, &word.text), boost);
            let mut alike = Vec::new();
            if n < LexicalQuery::MISSPELT_MAX {
                alike.extend(misspelt(query, field, word, dictionary)?);
            }
            if n == last {
                alike.extend(begun(query, field, word, dictionary)?);
            }
            for term in alike {
                alternatives.entry(term).or_insert(boost * LexicalQuery::LIKENESS);
            }
        }
    }
    Ok(words)
}

/// What a word may be meant for that is spelt otherwise.
fn misspelt(
    query: &LexicalQuery,
    field: &LexicalField,
    word: &Word,
    dictionary: &Dictionary<'_>,
) -> Result<Vec<Term>, IndexError> {
    match query.fuzzy {
        Some(fuzzy) if word.text.chars().count() >= fuzzy.letters_min => {
            expand::within(dictionary, field.field, &word.text, fuzzy.edits.min(2))
        }
        _ => Ok(Vec::new()),
    }
}

/// What the last word of a query may be the beginning of.
fn begun(
    query: &LexicalQuery,
    field: &LexicalField,
    word: &Word,
    dictionary: &Dictionary<'_>,
) -> Result<Vec<Term>, IndexError> {
    let mut terms = Vec::new();
    if query.prefix
        && let Some(typed) = analysis::unfinished(&query.text)
    {
        // What is typed so far may be stemmed otherwise than the word it will be: both beginnings are tried.
        let mut beginnings = vec![word.text.as_str(), typed.as_str()];
        beginnings.dedup();
        for beginning in beginnings {
            terms.extend(expand::beginning(dictionary, field.field, beginning)?);
        }
        terms.push(Term::from_field_text(field.field, &typed));
    }
    Ok(terms)
}

/// One clause per term, however often it is asked for: a pure union of terms.
fn sum(words: &BTreeMap<usize, Alternatives>) -> Vec<Box<dyn Query>> {
    summed(words).into_iter().map(|(term, weight)| weighted(term, weight)).collect()
}

fn summed(words: &BTreeMap<usize, Alternatives>) -> Alternatives {
    let mut weights = Alternatives::new();
    for (term, weight) in words.values().flatten() {
        *weights.entry(term.clone()).or_default() += weight;
    }
    weights
}

/// The terms that a query asks for, and what each is multiplied with in all.
pub(crate) fn weights(
    query: &LexicalQuery,
    fields: &Fields,
    dictionary: &Dictionary<'_>,
) -> Result<Vec<(Term, f32)>, IndexError> {
    let asked = if query.fields.is_empty() { fields.everything() } else { chosen(query, fields)? };
    Ok(summed(&words(query, &asked, dictionary)?).into_iter().collect())
}

fn clauses(operator: Operator, words: &BTreeMap<usize, Alternatives>, phrases: Vec<Box<dyn Query>>) -> Box<dyn Query> {
    let mut clauses: Vec<(Occur, Box<dyn Query>)> = phrases.into_iter().map(|phrase| (Occur::Must, phrase)).collect();
    match operator {
        Operator::Any => clauses.extend(sum(words).into_iter().map(|term| (Occur::Should, term))),
        Operator::All => {
            for alternatives in words.values() {
                let mut terms: Vec<_> =
                    alternatives.iter().map(|(term, weight)| weighted(term.clone(), *weight)).collect();
                let any: Box<dyn Query> = match terms.pop() {
                    Some(only) if terms.is_empty() => only,
                    Some(last) => {
                        terms.push(last);
                        Box::new(BooleanQuery::union(terms))
                    }
                    None => continue,
                };
                clauses.push((Occur::Must, any));
            }
        }
    }
    if clauses.is_empty() { Box::new(EmptyQuery) } else { Box::new(BooleanQuery::new(clauses)) }
}

fn weighted(term: Term, weight: f32) -> Box<dyn Query> {
    let query = Box::new(TermQuery::new(term, IndexRecordOption::WithFreqs));
    if (weight - 1.0).abs() < f32::EPSILON { query } else { Box::new(BoostQuery::new(query, weight)) }
}

/// The phrase in one of the fields; `None` if it has no words.
fn in_any_field(phrase: &Phrase, fields: &[(&LexicalField, f32)]) -> Option<Box<dyn Query>> {
    let in_field = |&(field, boost): &(&LexicalField, f32)| {
        let words = analysis::words(field.language, &phrase.text, LexicalQuery::WORDS_MAX);
        sequence(field, &words, phrase.slop, boost)
    };
    let found: Vec<_> = fields.iter().filter_map(in_field).collect();
    (!found.is_empty()).then(|| Box::new(BooleanQuery::union(found)) as Box<dyn Query>)
}

fn sequence(field: &LexicalField, words: &[Word], slop: u32, boost: f32) -> Option<Box<dyn Query>> {
    let first = words.first()?.position;
    let term = |word: &Word| Term::from_field_text(field.field, &word.text);
    if let [only] = words {
        return Some(weighted(term(only), boost));
    }
    let terms = words.iter().map(|word| (word.position - first, term(word))).collect();
    let phrase = Box::new(PhraseQuery::new_with_offset_and_slop(terms, slop));
    Some(Box::new(BoostQuery::new(phrase, boost)))
}

fn pairs(query: &LexicalQuery, proximity: Proximity, fields: &[(&LexicalField, f32)]) -> Vec<Box<dyn Query>> {
    let mut pairs = Vec::new();
    for &(field, boost) in fields {
        let words = analysis::words(field.language, &query.text, LexicalQuery::WORDS_MAX);
        let neighbours = words.windows(2).filter(|pair| pair[0].text != pair[1].text);
        pairs.extend(neighbours.filter_map(|pair| sequence(field, pair, proximity.slop, boost * proximity.boost)));
    }
    pairs
}
