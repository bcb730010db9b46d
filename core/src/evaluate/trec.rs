//! Judgments and rankings, and the text files in which TREC keeps them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashSet},
    fmt::Write,
};

use super::Judged;

/// Judgments: per query, grades of documents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Qrels {
    grades: BTreeMap<String, BTreeMap<String, i32>>,
}

/// Rankings: per query, documents from best to worst, none twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    rankings: BTreeMap<String, Vec<String>>,
}

/// A file that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {fault}")]
pub struct ParseError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub fault: LineFault,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineFault {
    /// Too few or too many.
    #[error("{found} columns instead of {expected}")]
    Columns {
        /// In this line.
        found: usize,
        /// In every line.
        expected: usize,
    },
    /// The grade is not an integer of 32 bits.
    #[error("grade {0:?} is not an integer")]
    Grade(String),
    /// The score is not a number.
    #[error("score {0:?} is not a number")]
    Score(String),
    /// An earlier line has the same query and document.
    #[error("document {document:?} is there a second time for query {query:?}")]
    DuplicateDocument {
        /// Of this line.
        query: String,
        /// Of this line.
        document: String,
    },
}

/// A ranking that cannot be part of a run; nothing was inserted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InsertError {
    /// Files separate columns by white space, so an id cannot be empty or contain any.
    #[error("id {0:?} is empty or contains white space")]
    Id(String),
    /// The query has a ranking already.
    #[error("query {0:?} is ranked a second time")]
    DuplicateQuery(String),
    /// A document has two ranks.
    #[error("document {document:?} is there a second time for query {query:?}")]
    DuplicateDocument {
        /// Whose ranking.
        query: String,
        /// What is ranked twice.
        document: String,
    },
}

impl Qrels {
    /// Reads lines of `query iteration document grade`, separated by any white space. Blank lines and the
    /// iteration mean nothing.
    ///
    /// # Errors
    /// [`ParseError`] at the first line that has other columns, no integer as grade, or a query and
    /// document that were there before.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut grades = BTreeMap::<String, BTreeMap<String, i32>>::new();
        for (line, columns) in rows(text) {
            let fail = |fault| ParseError { line, fault };
            let [query, _iteration, document, grade] = exactly(&columns).map_err(fail)?;
            let grade = grade.parse().map_err(|_| fail(LineFault::Grade(grade.to_owned())))?;
            let earlier = grades.entry(query.to_owned()).or_default().insert(document.to_owned(), grade);
            if earlier.is_some() {
                return Err(fail(duplicate(query, document)));
            }
        }
        Ok(Self { grades })
    }

    /// Queries with a judgment, in ascending order of their ids.
    pub fn queries(&self) -> impl Iterator<Item = &str> {
        self.grades.keys().map(String::as_str)
    }

    /// The grade of a document for a query; `None` if nobody judged it.
    #[must_use]
    pub fn grade(&self, query: &str, document: &str) -> Option<i32> {
        self.grades.get(query)?.get(document).copied()
    }

    /// A ranking of a query's documents in grades.
    pub(super) fn judged(&self, query: &str, ranking: &[String]) -> Judged {
        let Some(grades) = self.grades.get(query) else { return Judged::default() };
        let gain = |grade: i32| u32::try_from(grade).unwrap_or(0);
        let mut ideal: Vec<u32> = grades.values().copied().map(gain).filter(|&grade| grade > 0).collect();
        ideal.sort_unstable_by_key(|&grade| Reverse(grade));
        let ranked = ranking.iter().map(|document| grades.get(document).copied().map_or(0, gain)).collect();
        Judged { ranked, ideal }
    }
}

impl Run {
    /// No ranking yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the ranking of a query, best document first.
    ///
    /// # Errors
    /// [`InsertError`] where a run file could not hold it: nothing is inserted then.
    pub fn insert(&mut self, query: &str, ranking: Vec<String>) -> Result<(), InsertError> {
        let unfit = |id: &str| id.is_empty() || id.contains(|c: char| c.is_ascii_whitespace());
        if let Some(id) = [query].into_iter().chain(ranking.iter().map(String::as_str)).find(|id| unfit(id)) {
            return Err(InsertError::Id(id.to_owned()));
        }
        if self.rankings.contains_key(query) {
            return Err(InsertError::DuplicateQuery(query.to_owned()));
        }
        let mut seen = HashSet::with_capacity(ranking.len());
        if let Some(document) = ranking.iter().find(|document| !seen.insert(document.as_str())) {
            return Err(InsertError::DuplicateDocument { query: query.to_owned(), document: document.clone() });
        }
        self.rankings.insert(query.to_owned(), ranking);
        Ok(())
    }

    /// The documents of a query, best first; `None` if the run lacks the query.
    #[must_use]
    pub fn ranking(&self, query: &str) -> Option<&[String]> {
        self.rankings.get(query).map(Vec::as_slice)
    }

    /// Lines of `query Q0 document rank score tag`, queries in ascending order of their ids.
    ///
    /// The scores of a query's n documents are n, n − 1, …, 1: whoever sorts by score finds this order
    /// again, whatever they do about ties. Readers that keep scores in 32 bits, as trec_eval does, tell them
    /// apart up to n = 2²⁴. White space in `tag` becomes `_`; an empty one becomes `run`.
    #[must_use]
    pub fn to_trec(&self, tag: &str) -> String {
        let words: Vec<&str> = tag.split_ascii_whitespace().collect();
        let tag = if words.is_empty() { "run".to_owned() } else { words.join("_") };
        let mut text = String::new();
        for (query, ranking) in &self.rankings {
            for (index, document) in ranking.iter().enumerate() {
                let (rank, score) = (index + 1, ranking.len() - index);
                writeln!(text, "{query} Q0 {document} {rank} {score} {tag}").expect("a string takes any text");
            }
        }
        text
    }

    /// Reads lines of `query iteration document rank score tag`, separated by any white space, in any order.
    /// Blank lines, iteration, rank and tag mean nothing.
    ///
    /// As in trec_eval, the order is that of the scores, rounded to 32 bits, largest first; equal ones are
    /// ordered by document id, the largest bytes first.
    ///
    /// # Errors
    /// [`ParseError`] at the first line that has other columns, no number as score (NaN is none), or a query
    /// and document that were there before.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut scores = BTreeMap::<&str, BTreeMap<&str, f32>>::new();
        for (line, columns) in rows(text) {
            let fail = |fault| ParseError { line, fault };
            let [query, _iteration, document, _rank, score, _tag] = exactly(&columns).map_err(fail)?;
            let number = score.parse().ok().filter(|number: &f32| !number.is_nan());
            let number = number.ok_or_else(|| fail(LineFault::Score(score.to_owned())))?;
            if scores.entry(query).or_default().insert(document, number).is_some() {
                return Err(fail(duplicate(query, document)));
            }
        }
        let rankings = scores.into_iter().map(|(query, scores)| (query.to_owned(), by_score(scores))).collect();
        Ok(Self { rankings })
    }
}

/// Documents in trec_eval's order.
fn by_score(scores: BTreeMap<&str, f32>) -> Vec<String> {
    // Stable, from descending ids. −0 and 0 are equal: `total_cmp` would not do.
    let mut order: Vec<(&str, f32)> = scores.into_iter().rev().collect();
    order.sort_by(|(_, a), (_, b)| b.partial_cmp(a).expect("NaN was refused"));
    order.into_iter().map(|(document, _)| document.to_owned()).collect()
}

/// Columns of every line that is not blank, and its number. ASCII white space separates, as for trec_eval:
/// an id may contain any other character.
fn rows(text: &str) -> impl Iterator<Item = (usize, Vec<&str>)> {
    let rows = text.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    (1..).zip(rows).filter(|(_, columns)| !columns.is_empty())
}

fn exactly<'text, const COLUMNS: usize>(columns: &[&'text str]) -> Result<[&'text str; COLUMNS], LineFault> {
    columns.try_into().map_err(|_| LineFault::Columns { found: columns.len(), expected: COLUMNS })
}

fn duplicate(query: &str, document: &str) -> LineFault {
    LineFault::DuplicateDocument { query: query.to_owned(), document: document.to_owned() }
}
