//! Words of the index that are like a word of the query.

use std::collections::BTreeMap;

use tantivy::{Searcher, Term, query::FuzzyTermQuery, schema::Field};

/// Terms that one word may stand for; those in the most documents are taken. Each is a posting list to read.
pub(crate) const TERMS_MAX: usize = 64;
/// Terms of a dictionary that are looked at for one word: a bound on what `a*` may cost.
const VISITED_MAX: usize = 50_000;

/// Terms within that many edits (0 to 2; a transposition is one), the word itself not among them. The first letter must
/// agree, as it mostly does, and short words have no neighbours that mean the same.
pub(crate) fn within(searcher: &Searcher, field: Field, word: &str, edits: u8) -> tantivy::Result<Vec<Term>> {
    let automaton = FuzzyTermQuery::new(Term::from_field_text(field, word), edits, true);
    let first = word.chars().next();
    let mut found = BTreeMap::new();
    for reader in searcher.segment_readers() {
        let inverted = reader.inverted_index(field)?;
        let mut terms = inverted.terms().search(automaton.automaton()?).into_stream()?;
        let mut visited = 0;
        while visited < VISITED_MAX && terms.advance() {
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
pub(crate) fn beginning(searcher: &Searcher, field: Field, prefix: &str) -> tantivy::Result<Vec<Term>> {
    let mut found = BTreeMap::new();
    for reader in searcher.segment_readers() {
        let inverted = reader.inverted_index(field)?;
        let mut terms = inverted.terms().range().ge(prefix.as_bytes()).into_stream()?;
        let mut visited = 0;
        while visited < VISITED_MAX && terms.advance() && terms.key().starts_with(prefix.as_bytes()) {
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
