//! Queries with their candidates, read one line at a time: a collection need not fit into memory.

use std::{
    collections::HashSet,
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use anyhow::Context;
use serde::Deserialize;

use crate::{
    documents::Id,
    lines::{LineError, Lines},
};

/// One query and the documents to put in order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CandidateSet {
    pub qid: String,
    pub query: String,
    /// The documents' ids, in the given order.
    pub ids: Vec<String>,
    /// Their texts.
    pub texts: Vec<String>,
    /// Length of its line.
    pub bytes: u64,
}

/// The lines of a candidates' file. It ends at the first fault.
#[derive(Debug)]
pub(crate) struct Candidates<R = BufReader<File>> {
    name: String,
    lines: Lines<R>,
    bytes: u64,
    seen: HashSet<String>,
    failed: bool,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum CandidatesError {
    #[error(transparent)]
    Line(#[from] LineError),
    #[error("expected {{\"qid\", \"query\", \"documents\": [{{\"id\", \"text\"}}]}}")]
    Json(#[from] serde_json::Error),
    #[error("query {0} is there a second time")]
    DuplicateQuery(String),
    #[error("document {document} is there a second time for query {query}")]
    DuplicateDocument { query: String, document: String },
}

impl Candidates {
    /// Opens a file; nothing is read yet.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let name = path.display().to_string();
        let file = File::open(path).with_context(|| name.clone())?;
        let bytes = file.metadata().map_or(0, |metadata| metadata.len());
        Ok(Self::new(name, BufReader::new(file), bytes))
    }

    /// Length of the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl<R: BufRead> Candidates<R> {
    fn new(name: String, reader: R, bytes: u64) -> Self {
        Self { name, lines: Lines::new(reader), bytes, seen: HashSet::new(), failed: false }
    }

    /// The next line that is not blank.
    fn read(&mut self) -> Result<Option<CandidateSet>, CandidatesError> {
        match self.lines.next()? {
            Some(line) => self.parse(&line).map(Some),
            None => Ok(None),
        }
    }

    fn parse(&mut self, line: &[u8]) -> Result<CandidateSet, CandidatesError> {
        let line_bytes = line.len() as u64;
        let Line { qid, query, documents } = serde_json::from_slice(line)?;
        let qid = qid.into_string();
        if !self.seen.insert(qid.clone()) {
            return Err(CandidatesError::DuplicateQuery(qid));
        }
        let (ids, texts): (Vec<_>, Vec<_>) = documents.into_iter().map(|d| (d.id.into_string(), d.text)).unzip();
        let mut seen = HashSet::with_capacity(ids.len());
        if let Some(twice) = ids.iter().find(|id| !seen.insert(id.as_str())) {
            return Err(CandidatesError::DuplicateDocument { query: qid, document: twice.clone() });
        }
        Ok(CandidateSet { qid, query, ids, texts, bytes: line_bytes })
    }
}

impl<R: BufRead> Iterator for Candidates<R> {
    type Item = anyhow::Result<CandidateSet>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let set = self.read().with_context(|| format!("{}: line {}", self.name, self.lines.number()));
        self.failed = set.is_err();
        set.transpose()
    }
}

#[derive(Deserialize)]
struct Line {
    qid: Id,
    query: String,
    documents: Vec<LineDocument>,
}

#[derive(Deserialize)]
struct LineDocument {
    id: Id,
    text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Result<(String, Vec<String>), String>> {
        let sets = Candidates::new("file".into(), text.as_bytes(), 0);
        sets.map(|set| set.map(|set| (set.qid, set.ids)).map_err(|error| format!("{error:#}"))).collect()
    }

    #[test]
    fn sets() {
        let text = concat!(
            r#"{"qid":"q1","query":"a","documents":[{"id":"d2","text":"x"},{"id":1,"text":"y","title":"t"}]}"#,
            "\n\n",
            r#"{"qid":2,"query":"b","documents":[]}"#,
        );
        let expected = [("q1", vec!["d2", "1"]), ("2", vec![])];
        let expected = expected.map(|(qid, ids)| Ok((qid.to_owned(), ids.into_iter().map(str::to_owned).collect())));
        assert_eq!(read(text), expected);
    }

    #[test]
    fn faults_name_their_line_and_end_the_file() {
        let good = r#"{"qid":"q","query":"a","documents":[{"id":"d","text":"x"}]}"#;
        let cases = [
            (format!("{good}\n{good}\n{good}"), "file: line 2: query q is there a second time"),
            (
                format!(
                    "{good}\n\n{}",
                    r#"{"qid":"r","query":"a","documents":[{"id":"d","text":"x"},{"id":"d","text":"y"}]}"#
                ),
                "file: line 3: document d is there a second time for query r",
            ),
            (format!("{good}\n{{\n{good}"), "file: line 2: expected {\"qid\", \"query\", \"documents\""),
            (format!("{good}\n{}", r#"{"qid":"r","documents":[]}"#), "missing field `query`"),
        ];
        for (text, expected) in cases {
            let sets = read(&text);
            assert_eq!(sets.len(), 2, "{sets:?}");
            let fault = sets[1].as_ref().unwrap_err();
            assert!(fault.contains(expected), "{fault}");
        }
    }
}
