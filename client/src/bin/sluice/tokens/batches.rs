//! Documents to store, a batch at a time.

use std::{io::BufRead, mem};

use anyhow::Context;
use serde::Deserialize;

use crate::{
    documents::Id,
    lines::{Input, LineError, Lines},
};

/// Bytes of text that are sent at once. Larger batches gain nothing, and make more to send again.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// Documents that are sent together.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Where each stands in the input, from 1.
    pub lines: Vec<usize>,
    pub ids: Vec<String>,
    pub texts: Vec<String>,
    /// Length of their lines.
    pub bytes: u64,
}

/// The batches of an input. It ends at the first fault, after the documents before it.
pub(crate) struct Batches<R> {
    name: String,
    lines: Lines<R>,
    documents_max: usize,
    /// Began the next batch, or is why there is none.
    held: Option<anyhow::Result<LineDocument>>,
    ended: bool,
}

#[derive(Debug)]
struct LineDocument {
    line: usize,
    id: String,
    text: String,
    bytes: u64,
}

#[derive(Debug, thiserror::Error)]
enum DocumentError {
    #[error(transparent)]
    Line(#[from] LineError),
    #[error("expected {{\"id\", \"text\"}}")]
    Json(#[from] serde_json::Error),
}

impl Batches<Box<dyn BufRead + Send>> {
    /// Batches of at most `documents_max` documents.
    pub(crate) fn of(input: Input, documents_max: usize) -> Self {
        Self::new(input.name, input.reader, documents_max)
    }
}

impl<R: BufRead> Batches<R> {
    fn new(name: String, reader: R, documents_max: usize) -> Self {
        Self { name, lines: Lines::new(reader), documents_max, held: None, ended: false }
    }

    fn read(&mut self) -> Option<anyhow::Result<LineDocument>> {
        if self.ended {
            return None;
        }
        let document = self.parse().transpose();
        self.ended = !matches!(document, Some(Ok(_)));
        Some(document?.with_context(|| format!("{}: line {}", self.name, self.lines.number())))
    }

    fn parse(&mut self) -> Result<Option<LineDocument>, DocumentError> {
        let Some(line) = self.lines.next()? else { return Ok(None) };
        let Document { id, text } = serde_json::from_slice(&line)?;
        let (line, bytes) = (self.lines.number(), line.len() as u64);
        Ok(Some(LineDocument { line, id: id.into_string(), text, bytes }))
    }
}

impl<R: BufRead> Iterator for Batches<R> {
    type Item = anyhow::Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut batch = Batch::default();
        let mut text_bytes = 0;
        loop {
            match self.held.take().or_else(|| self.read()) {
                None if batch.ids.is_empty() => return None,
                None => return Some(Ok(batch)),
                Some(Err(fault)) if batch.ids.is_empty() => return Some(Err(fault)),
                Some(Ok(document)) if batch.ids.is_empty() || text_bytes + document.text.len() <= BATCH_BYTES_MAX => {
                    text_bytes += document.text.len();
                    batch.push(document);
                }
                held => {
                    self.held = held;
                    return Some(Ok(batch));
                }
            }
            if batch.ids.len() >= self.documents_max {
                return Some(Ok(batch));
            }
        }
    }
}

impl Batch {
    fn push(&mut self, document: LineDocument) {
        self.lines.push(document.line);
        self.ids.push(document.id);
        self.texts.push(document.text);
        self.bytes += document.bytes;
    }

    /// Two halves, in order, of a batch of two documents or more. The bytes of their lines count for the second.
    pub(crate) fn halves(mut self) -> (Self, Self) {
        let middle = self.ids.len() / 2;
        let second = Self {
            lines: self.lines.split_off(middle),
            ids: self.ids.split_off(middle),
            texts: self.texts.split_off(middle),
            bytes: mem::take(&mut self.bytes),
        };
        (self, second)
    }
}

#[derive(Deserialize)]
struct Document {
    id: Id,
    text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, documents_max: usize) -> Vec<Result<Vec<(usize, String)>, String>> {
        let batches = Batches::new("file".into(), text.as_bytes(), documents_max);
        let short = |batch: Batch| batch.lines.into_iter().zip(batch.ids).collect();
        batches.map(|batch| batch.map(short).map_err(|fault| format!("{fault:#}"))).collect()
    }

    fn ids(batch: &[(usize, &str)]) -> Result<Vec<(usize, String)>, String> {
        Ok(batch.iter().map(|(line, id)| (*line, (*id).to_owned())).collect())
    }

    #[test]
    fn batches_are_bounded_in_documents_and_bytes() {
        let line = |id: usize, bytes: usize| format!("{{\"id\":{id},\"text\":\"{}\"}}\n", "x".repeat(bytes));
        let small: String = (1..=5).map(|id| line(id, 1)).collect();
        let expected = [ids(&[(1, "1"), (2, "2")]), ids(&[(3, "3"), (4, "4")]), ids(&[(5, "5")])];
        assert_eq!(read(&small, 2), expected);
        let half = BATCH_BYTES_MAX / 2;
        let large = [line(1, half), line(2, half), line(3, 1), line(4, 3 * half), line(5, 1)].concat();
        let expected = [ids(&[(1, "1"), (2, "2")]), ids(&[(3, "3")]), ids(&[(4, "4")]), ids(&[(5, "5")])];
        assert_eq!(read(&large, 64), expected);
        assert_eq!(read("\n \n", 64), []);
    }

    #[test]
    fn faults_name_their_line_and_come_after_what_is_before_them() {
        let good = r#"{"id":"a","text":"x","title":"ignored"}"#;
        for (bad, reason) in [
            ("plain", "expected value"),
            (r#"{"text":"x"}"#, "missing field `id`"),
            (r#"{"id":"a"}"#, "missing field `text`"),
            (r#"{"id":null,"text":"x"}"#, "expected {\"id\", \"text\"}: "),
            ("{\"id\":\"a\",\"text\":1}", "invalid type: integer `1`"),
        ] {
            let found = read(&format!("{good}\n\n{bad}\n{good}\n"), 64);
            assert_eq!((found.len(), &found[0]), (2, &ids(&[(1, "a")])), "{bad}: {found:?}");
            let fault = found[1].as_ref().unwrap_err();
            assert!(fault.starts_with("file: line 3: expected {") && fault.contains(reason), "{bad}: {fault}");
        }
    }

    #[test]
    fn halves_keep_the_order() {
        let text = "{\"id\":1,\"text\":\"a\"}\n{\"id\":2,\"text\":\"b\"}\n{\"id\":3,\"text\":\"c\"}\n";
        let batch = Batches::new(String::new(), text.as_bytes(), 9).next().unwrap().unwrap();
        let bytes = batch.bytes;
        let (first, second) = batch.halves();
        assert_eq!((first.ids, first.texts, first.lines), (vec!["1".into()], vec!["a".into()], vec![1]));
        assert_eq!((second.ids.len(), second.lines, first.bytes + second.bytes), (2, vec![2, 3], bytes));
    }
}
