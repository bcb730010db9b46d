//! Files, a batch of documents at a time: what is read need not fit into memory.

mod file;
mod table;

use std::{fmt, path::PathBuf, sync::Arc};

use anyhow::Context;
use prost::Message;
use sluice_client::proto::retrieval::v1::Document;

use self::file::{File, Next};
use super::document::Reading;
use crate::args::index::{BadLine, Format};

/// Bytes that are written at once, about. Larger batches gain nothing, and take more memory.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// Where a document stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub file: Arc<str>,
    /// From 1.
    pub line: u64,
}

/// A document as it was read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Read {
    pub place: Place,
    pub document: Document,
}

/// A line that is no document, or a document that cannot be as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub place: Place,
    pub reason: String,
}

/// What is read together.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Batch {
    pub documents: Vec<Read>,
    pub faults: Vec<Fault>,
    /// Bytes of all files that were read when it was complete.
    pub position: u64,
}

/// What is read, and how.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    pub files: Vec<PathBuf>,
    pub format: Option<Format>,
    pub reading: Reading,
    pub documents_max: usize,
    /// Bytes that each document will gain before it is written.
    pub vector_bytes: usize,
    pub on_bad_line: BadLine,
}

/// The batches of files, one after the other. It ends with the last file, or with an error, after what stands before it.
pub(super) struct Batches {
    reader: Reader,
    /// Files that have been opened.
    opened: usize,
    current: Option<File>,
    /// Bytes of the files before the current one.
    before: u64,
    /// Why no more can be read, to be said after the last batch.
    failed: Option<anyhow::Error>,
    ended: bool,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: line {}", self.file, self.line)
    }
}

impl Reader {
    /// Bytes of all files, if each has a length that is known.
    pub(super) fn bytes(&self) -> Option<u64> {
        let known = |file: &PathBuf| {
            let metadata = std::fs::metadata(file).ok().filter(std::fs::Metadata::is_file)?;
            (file.as_os_str() != "-").then_some(metadata.len())
        };
        self.files.iter().map(known).sum()
    }

    pub(super) fn batches(self) -> Batches {
        Batches { reader: self, opened: 0, current: None, before: 0, failed: None, ended: false }
    }
}

impl Batches {
    /// The next document or fault of any file; `None` after the last.
    fn read(&mut self) -> anyhow::Result<Option<Result<Read, Fault>>> {
        loop {
            if self.current.is_none() {
                let Some(path) = self.reader.files.get(self.opened) else { return Ok(None) };
                let file = File::open(path, self.reader.format).with_context(|| path.display().to_string())?;
                self.opened += 1;
                self.current = Some(file);
            }
            let Some(file) = &mut self.current else { return Ok(None) };
            let (parsed, line) = match file.next(&self.reader.reading) {
                Ok(Next::Document(document, line)) => (Ok(document), line),
                Ok(Next::Bad(reason, line)) => (Err(reason), line),
                Ok(Next::End) => {
                    self.before += file.position();
                    self.current = None;
                    continue;
                }
                Err(error) => return Err(error.context(file.place())),
            };
            let place = Place { file: file.name(), line };
            return Ok(Some(match parsed {
                Ok(document) => Ok(Read { place, document }),
                Err(reason) => Err(Fault { place, reason: reason.to_string() }),
            }));
        }
    }

    /// What can be read together; empty at the end, and where nothing more can be read.
    fn batch(&mut self) -> Batch {
        let mut batch = Batch::default();
        let mut bytes = 0;
        while batch.documents.len() < self.reader.documents_max && bytes < BATCH_BYTES_MAX {
            match self.read() {
                Ok(Some(Ok(read))) => {
                    bytes += read.document.encoded_len() + self.reader.vector_bytes;
                    batch.documents.push(read);
                }
                Ok(Some(Err(fault))) => {
                    batch.faults.push(fault);
                    if self.reader.on_bad_line == BadLine::Fail {
                        self.ended = true;
                        break;
                    }
                    // Faults alone do not pile up either.
                    if batch.faults.len() >= self.reader.documents_max {
                        break;
                    }
                }
                Ok(None) => {
                    self.ended = true;
                    break;
                }
                Err(error) => {
                    self.failed = Some(error);
                    self.ended = true;
                    break;
                }
            }
        }
        batch.position = self.before + self.current.as_ref().map_or(0, File::position);
        batch
    }
}

impl Iterator for Batches {
    type Item = anyhow::Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        if !self.ended {
            let batch = self.batch();
            if !batch.documents.is_empty() || !batch.faults.is_empty() {
                return Some(Ok(batch));
            }
        }
        self.failed.take().map(Err)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use flate2::{Compression, write::GzEncoder};
    use sluice_client::proto::retrieval::v1::{Schema, TextField};
    use tempfile::TempDir;

    use super::*;

    type Seen = (Vec<(u64, String)>, Vec<(u64, String)>);

    fn read(files: Vec<PathBuf>, documents_max: usize, on_bad_line: BadLine) -> Vec<Result<Seen, String>> {
        let text = TextField { name: "text".into(), ..TextField::default() };
        let reading = Reading::new(&Schema { texts: vec![text], ..Schema::default() }, false);
        let reader = Reader { files, format: None, reading, documents_max, vector_bytes: 0, on_bad_line };
        let bytes = reader.bytes();
        let mut position = 0;
        let seen: Vec<_> = reader
            .batches()
            .map(|batch| match batch {
                Ok(batch) => {
                    assert!(batch.position >= position);
                    position = batch.position;
                    let documents = batch.documents.into_iter().map(|read| (read.place.line, read.document.id));
                    let faults = batch.faults.into_iter().map(|fault| (fault.place.line, fault.reason));
                    Ok((documents.collect(), faults.collect()))
                }
                Err(error) => Err(format!("{error:#}")),
            })
            .collect();
        if on_bad_line == BadLine::Skip && seen.iter().all(Result::is_ok) {
            assert_eq!(Some(position), bytes, "in the end, all was read");
        }
        seen
    }

    fn file(folder: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn zipped(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    fn ids(found: &[(u64, &str)]) -> Vec<(u64, String)> {
        found.iter().map(|(line, id)| (*line, (*id).to_owned())).collect()
    }

    #[test]
    fn files_follow_each_other_in_batches() {
        let folder = TempDir::new().unwrap();
        let jsonl = "\u{feff}{\"id\":\"a\",\"text\":\"x\"}\n\n{\"id\":\"b\"}\n";
        let csv = "\u{feff}id,text\nc,\"two\nlines\"\nd,x\n";
        let files = vec![
            file(&folder, "a.jsonl", jsonl.as_bytes()),
            file(&folder, "empty.jsonl", b""),
            file(&folder, "b.CSV", csv.as_bytes()),
            file(&folder, "c.csv.gz", &zipped(csv)),
            file(&folder, "d", &zipped(jsonl)),
        ];
        let expected: [&[(u64, &str)]; 3] =
            [&[(1, "a"), (3, "b"), (2, "c")], &[(4, "d"), (2, "c"), (4, "d")], &[(1, "a"), (3, "b")]];
        assert_eq!(read(files, 3, BadLine::Skip), expected.map(|found| Ok((ids(found), vec![]))));
    }

    #[test]
    fn bad_lines_are_named_and_may_end_it() {
        let folder = TempDir::new().unwrap();
        let jsonl =
            file(&folder, "a.jsonl", b"{\"id\":\"a\"}\n\nplain\n{\"id\":\"b\",\"text\":\"\xff\"}\n{\"id\":\"c\"}\n");
        let csv = file(&folder, "b.csv", b"id,text\na,x\nb\nc,\xff\nd,x\n");
        let found = read(vec![jsonl.clone(), csv.clone()], 9, BadLine::Skip);
        let [Ok((documents, faults))] = &found[..] else { panic!("{found:?}") };
        assert_eq!(*documents, ids(&[(1, "a"), (5, "c"), (2, "a"), (5, "d")]));
        let lines: Vec<u64> = faults.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [3, 4, 3, 4], "{faults:?}");
        for (path, documents_before) in [(jsonl, "a"), (csv, "a")] {
            let found = read(vec![path], 9, BadLine::Fail);
            let [Ok((documents, faults))] = &found[..] else { panic!("{found:?}") };
            assert_eq!((documents.len(), documents[0].1.as_str(), faults.len()), (1, documents_before, 1));
        }
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let folder = TempDir::new().unwrap();
        let good = file(&folder, "good.jsonl", b"{\"id\":\"a\"}\n{\"id\":\"b\"}\n{\"id\":\"c\"}\n");
        let whole = zipped(&"{\"id\":\"a\"}\n".repeat(100));
        let cases = [
            (folder.path().join("nowhere"), "nowhere", 0),
            (file(&folder, "cut.gz", &whole[..whole.len() - 5]), "cut.gz: line 101", 100),
            (file(&folder, "no-id.csv", b"name,text\na,x\n"), "no-id.csv: the header has no column `id`", 0),
            (file(&folder, "twice.csv", b"id,text,text\na,x,y\n"), "twice.csv: the header has `text` twice", 0),
        ];
        for (path, expected, documents_before) in cases {
            // What stands before it is read all the same, and it is said once.
            for documents_max in [2, 3, 1000] {
                let mut found = read(vec![good.clone(), path.clone()], documents_max, BadLine::Skip);
                let error = found.pop().unwrap().unwrap_err();
                assert!(error.contains(expected), "{error}");
                let documents: usize = found.into_iter().map(|batch| batch.unwrap().0.len()).sum();
                assert_eq!(documents, 3 + documents_before, "{expected}");
            }
        }
    }
}
