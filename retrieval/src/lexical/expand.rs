//! Words of the index that are like a word of the query.

use std::collections::BTreeMap;

use tantivy::{Searcher, Term, query::FuzzyTermQuery, schema::Field};

use crate::vector_index::{IndexError, Stop};

/// Terms that one word may stand for; those in the most documents are taken. Each is a posting list to read.
pub(crate) const TERMS_MAX: usize = 64;
/// Terms of a dictionary that are looked at for one word: a bound on what `a*` may cost.
const VISITED_MAX: usize = 50_000;
/// Terms after which it is asked whether to go on.
const VISITED_AT_ONCE: usize = 1_024;

/// The words of an index, and whether to go on looking them up.
pub(crate) struct Dictionary<'a> {
    pub(crate) searcher: &'a Searcher,
    pub(crate) stop: &'a dyn Stop,
}

impl Dictionary<'_> {
    /// # Errors
    /// [`IndexError::Stopped`] where it is time to end.
    pub(crate) fn go_on(&self) -> Result<(), IndexError> {
        if self.stop.stop() { Err(IndexError::Stopped) } else { Ok(()) }
    }
}

/// Terms within that many edits (0 to 2; a transposition is one), the word itself not among them. The first letter must
/// agree, as it mostly does, and short words have no neighbours that mean the same.
pub(crate) fn within(
    dictionary: &Dictionary<'_>,
    field: Field,
    word: &str,
    edits: u8,
) -> Result<Vec<Term>, IndexError> {
    let failed = |cause| IndexError::storage("looking up words that are spelt alike")(cause);
    let query = FuzzyTermQuery::new(Term::from_field_text(field, word), edits, true);
    let automaton = query.automaton().map_err(failed)?;
    let first = word.chars().next();
    let mut found = BTreeMap::new();
    for reader in dictionary.searcher.segment_readers() {
        let inverted = reader.inverted_index(field).map_err(failed)?;
        let terms = inverted.terms().search(&automaton).into_stream();
        let mut terms = terms.map_err(|cause| failed(cause.into()))?;
        let mut visited = 0;
        while visited < VISITED_MAX && terms.advance() {
            if visited % VISITED_AT_ONCE == 0 {
                dictionary.go_on()?;
            }
            visited += 1;
            if let Ok(term) = std::str::from_utf8(terms.key())
                && term != word
                && term.chars().next() == first
            {
                *found.entry(term.to_owned()).or_insert(0_u64) += u64::from(terms.value().doc_freq);
            }
        }
    }
    Ok(commonest(field, found))
}

/// Terms that begin so, that one itself not among them.
pub(crate) fn beginning(dictionary: &Dictionary<'_>, field: Field, prefix: &str) -> Result<Vec<Term>, IndexError> {
    let failed = |cause| IndexError::storage("looking up words that begin alike")(cause);
    let mut found = BTreeMap::new();
    for reader in dictionary.searcher.segment_readers() {
        let inverted = reader.inverted_index(field).map_err(failed)?;
        let terms = inverted.terms().range().ge(prefix.as_bytes()).into_stream();
        let mut terms = terms.map_err(|cause| failed(cause.into()))?;
        let mut visited = 0;
        while visited < VISITED_MAX && terms.advance() && terms.key().starts_with(prefix.as_bytes()) {
            if visited % VISITED_AT_ONCE == 0 {
                dictionary.go_on()?;
            }
            visited += 1;
            if let Ok(term) = std::str::from_utf8(terms.key())
                && term != prefix
            {
                *found.entry(term.to_owned()).or_insert(0_u64) += u64::from(terms.value().doc_freq);
            }
        }
    }
    Ok(commonest(field, found))
}

fn commonest(field: Field, found: BTreeMap<String, u64>) -> Vec<Term> {
    let mut found: Vec<_> = found.into_iter().collect();
    found.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    found.truncate(TERMS_MAX);
    found.iter().map(|(term, _)| Term::from_field_text(field, term)).collect()
}
