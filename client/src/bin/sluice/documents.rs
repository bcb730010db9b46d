//! Documents from a file or standard input: one a line, plain or JSON.

use std::{
    fs::File,
    io::{self, IsTerminal, Read},
    path::Path,
};

use anyhow::Context;
use serde::Deserialize;

use crate::output::note;

/// Largest input, in bytes. It is far above what a server takes in one request, and protects our memory.
pub(crate) const INPUT_BYTES_MAX: u64 = 256 << 20;

/// Documents, in the order of their lines.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Documents {
    /// As given, or the line number.
    pub ids: Vec<String>,
    /// Their texts; a stored document may come without.
    pub texts: Vec<Option<String>>,
    /// Lines, from 1, that begin like JSON but were taken as plain text.
    pub doubtful: Vec<usize>,
}

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// A document, plain or JSON.
    Texts,
    /// JSON of the id of a stored document, and perhaps its text.
    Stored,
}

/// An id that is a string or a number in JSON.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Id {
    Text(String),
    Number(serde_json::Number),
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum DocumentsError {
    #[error("larger than {} MiB", INPUT_BYTES_MAX >> 20)]
    TooLarge,
    #[error("line {line} is not UTF-8")]
    NotText { line: usize },
    #[error("line {line}: expected {{\"id\"}} or {{\"id\", \"text\"}} of a stored document: {reason}")]
    NotStored { line: usize, reason: String },
    #[error("no documents")]
    Empty,
}

impl Documents {
    /// Reads `file`, or standard input where there is none or it is `-`.
    pub(crate) fn read(file: Option<&Path>, form: Form) -> anyhow::Result<Self> {
        let mut bytes = Vec::new();
        let name = match file.filter(|file| file.as_os_str() != "-") {
            Some(file) => {
                let name = file.display().to_string();
                let input = File::open(file).with_context(|| name.clone())?;
                input.take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes).with_context(|| name.clone())?;
                name
            }
            None => {
                if io::stdin().is_terminal() {
                    note("reading documents from the terminal, one a line; Ctrl-D ends them");
                }
                io::stdin().lock().take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes).context("standard input")?;
                "standard input".to_owned()
            }
        };
        let documents = Self::parse(&bytes, form).with_context(|| name.clone())?;
        if let Some(line) = documents.doubtful.first() {
            let others = documents.doubtful.len() - 1;
            let others = if others > 0 { format!(" and {others} more") } else { String::new() };
            note(&format!(
                "{name}: line {line}{others} begins with `{{` but is no {{\"text\": …}}: taken as plain text"
            ));
        }
        Ok(documents)
    }

    /// Stored documents of these ids.
    pub(crate) fn stored(ids: Vec<String>) -> Self {
        let texts = vec![None; ids.len()];
        Self { ids, texts, doubtful: Vec::new() }
    }

    /// The text of the document at `index`, if there is such a document and it came with one.
    pub(crate) fn text(&self, index: usize) -> Option<&str> {
        self.texts.get(index)?.as_deref()
    }

    fn parse(bytes: &[u8], form: Form) -> Result<Self, DocumentsError> {
        if bytes.len() as u64 > INPUT_BYTES_MAX {
            return Err(DocumentsError::TooLarge);
        }
        let text = str::from_utf8(bytes).map_err(|error| {
            let before = &bytes[..error.valid_up_to()];
            DocumentsError::NotText { line: 1 + before.iter().filter(|byte| **byte == b'\n').count() }
        })?;
        let mut documents = Self::default();
        for (number, line) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
            if line.trim().is_empty() {
                continue;
            }
            match form {
                Form::Texts => documents.push(number, line),
                Form::Stored => documents.push_stored(number, line)?,
            }
        }
        if documents.ids.is_empty() { Err(DocumentsError::Empty) } else { Ok(documents) }
    }

    fn push(&mut self, number: usize, line: &str) {
        let json = line.starts_with('{').then(|| serde_json::from_str::<JsonDocument>(line));
        let (id, text) = match json {
            Some(Ok(JsonDocument { id, text })) => (id, text),
            Some(Err(_)) => {
                self.doubtful.push(number);
                (None, line.to_owned())
            }
            None => (None, line.to_owned()),
        };
        self.ids.push(id.map_or_else(|| number.to_string(), Id::into_string));
        self.texts.push(Some(text));
    }

    fn push_stored(&mut self, number: usize, line: &str) -> Result<(), DocumentsError> {
        let StoredDocument { id, text } = serde_json::from_str(line)
            .map_err(|error| DocumentsError::NotStored { line: number, reason: error.to_string() })?;
        self.ids.push(id.into_string());
        self.texts.push(text);
        Ok(())
    }
}

impl Id {
    pub(crate) fn into_string(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Number(number) => number.to_string(),
        }
    }
}

#[derive(Deserialize)]
struct JsonDocument {
    id: Option<Id>,
    text: String,
}

#[derive(Deserialize)]
struct StoredDocument {
    id: Id,
    text: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [usize]);
        let cases: [Case; 11] = [
            ("a\nb\n", &[("1", "a"), ("2", "b")], &[]),
            ("a\r\nb", &[("1", "a"), ("2", "b")], &[]),
            ("a\n\n  \nb", &[("1", "a"), ("4", "b")], &[]),
            ("  kept as it is ", &[("1", "  kept as it is ")], &[]),
            ("\u{feff}a", &[("1", "a")], &[]),
            (r#"{"id":"x","text":"a"}"#, &[("x", "a")], &[]),
            (r#"{"id":7,"text":"a","title":"ignored"}"#, &[("7", "a")], &[]),
            ("{\"text\":\"\"}\n{\"id\":null,\"text\":\"b\"}", &[("1", ""), ("2", "b")], &[]),
            (
                "{\"id\":\"x\",\"text\":\"a\"}\nplain\n{not json}",
                &[("x", "a"), ("2", "plain"), ("3", "{not json}")],
                &[3],
            ),
            ("{\"id\":\"x\"}\n{\"text\":1}", &[("1", "{\"id\":\"x\"}"), ("2", "{\"text\":1}")], &[1, 2]),
            (r#" {"text":"a"}"#, &[("1", r#" {"text":"a"}"#)], &[]),
        ];
        for (input, expected, doubtful) in cases {
            let documents = Documents::parse(input.as_bytes(), Form::Texts).unwrap();
            let found: Vec<_> =
                documents.ids.iter().zip(&documents.texts).map(|(i, t)| (i.as_str(), t.as_deref().unwrap())).collect();
            assert_eq!((found.as_slice(), documents.doubtful.as_slice()), (expected, doubtful), "{input:?}");
        }
    }

    #[test]
    fn refusals() {
        let cases: [(&[u8], DocumentsError); 4] = [
            (b"", DocumentsError::Empty),
            (b"\n \n", DocumentsError::Empty),
            (b"\xff", DocumentsError::NotText { line: 1 }),
            (b"a\nb\nc\xc3(", DocumentsError::NotText { line: 3 }),
        ];
        for (input, expected) in cases {
            assert_eq!(Documents::parse(input, Form::Texts), Err(expected), "{input:?}");
        }
    }

    #[test]
    fn stored() {
        let input = "{\"id\":\"a\"}\n\n{\"id\":7,\"text\":\"seven\",\"title\":\"t\"}\n{\"id\":\"b\",\"text\":null}\n";
        let documents = Documents::parse(input.as_bytes(), Form::Stored).unwrap();
        assert_eq!(documents.ids, ["a", "7", "b"]);
        assert_eq!(documents.texts, [None, Some("seven".to_owned()), None]);
        for (line, reason) in [("plain", "expected value"), ("{\"text\":\"x\"}", "missing field `id`")] {
            let error = Documents::parse(format!("{{\"id\":1}}\n{line}\n").as_bytes(), Form::Stored).unwrap_err();
            let error = error.to_string();
            assert!(error.starts_with("line 2: expected {\"id\"} or") && error.contains(reason), "{error}");
        }
        assert_eq!(Documents::parse(b"\n", Form::Stored), Err(DocumentsError::Empty));
    }
}
