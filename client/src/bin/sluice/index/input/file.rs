//! One file: lines of JSON, or records of a table; compressed, or as it is.

use std::{
    ffi::OsStr,
    fs,
    io::{self, BufRead, BufReader, IsTerminal, Read},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, bail};
use flate2::bufread::MultiGzDecoder;
use sluice_client::proto::retrieval::v1::Document;

use super::super::document::{BadDocument, Reading};
use crate::{args::index::Format, documents::INPUT_BYTES_MAX, lines::Lines, output::note};

/// How a gzip file begins.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// A file that is being read.
pub(super) struct File {
    name: Arc<str>,
    records: Records,
    /// Bytes of the file that were read, before decompression.
    position: Count,
}

/// What comes next in a file, and its line.
pub(super) enum Next {
    Document(Document, u64),
    Bad(BadDocument, u64),
    End,
}

enum Records {
    Lines(Lines<Box<dyn BufRead + Send>>),
    Table(Box<Table>),
}

struct Table {
    header: csv::StringRecord,
    reader: csv::Reader<Bounded>,
    record: csv::ByteRecord,
}

impl File {
    /// Opens it, or standard input where it is `-`.
    pub(super) fn open(path: &Path, format: Option<Format>) -> anyhow::Result<Self> {
        let (name, source): (_, Box<dyn Read + Send>) = if path.as_os_str() == "-" {
            if io::stdin().is_terminal() {
                note("reading documents from the terminal, one a line; Ctrl-D ends them");
            }
            ("standard input".to_owned(), Box::new(io::stdin()))
        } else {
            (path.display().to_string(), Box::new(fs::File::open(path)?))
        };
        let position = Count::default();
        let mut plain = BufReader::new(Counted { source, count: position.clone() });
        let zipped = plain.fill_buf()?.starts_with(&GZIP_MAGIC);
        let reader: Box<dyn BufRead + Send> =
            if zipped { Box::new(BufReader::new(MultiGzDecoder::new(plain))) } else { Box::new(plain) };
        let records = match format.unwrap_or_else(|| format_of(path)) {
            Format::Jsonl => Records::Lines(Lines::new(reader)),
            Format::Csv => Records::Table(Box::new(Table::open(reader)?)),
        };
        Ok(Self { name: name.into(), records, position })
    }

    pub(super) fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    /// Bytes of the file that were read, before decompression.
    pub(super) fn position(&self) -> u64 {
        self.position.get()
    }

    /// Where reading has come.
    pub(super) fn place(&self) -> String {
        let line = match &self.records {
            Records::Lines(lines) => lines.number() as u64,
            Records::Table(table) => table.reader.position().line(),
        };
        format!("{}: line {line}", self.name)
    }

    pub(super) fn next(&mut self, reading: &Reading) -> anyhow::Result<Next> {
        let (parsed, line) = match &mut self.records {
            Records::Lines(lines) => {
                let Some(line) = lines.next()? else { return Ok(Next::End) };
                (reading.json(&line), lines.number() as u64)
            }
            Records::Table(table) => match table.next(reading)? {
                Some(next) => next,
                None => return Ok(Next::End),
            },
        };
        Ok(match parsed {
            Ok(document) => Next::Document(document, line),
            Err(reason) => Next::Bad(reason, line),
        })
    }
}

impl Table {
    fn open(reader: Box<dyn BufRead + Send>) -> anyhow::Result<Self> {
        let mut reader = csv::Reader::from_reader(Bounded { reader, left: INPUT_BYTES_MAX });
        let header = reader.headers().context("the header")?.clone();
        if !header.iter().any(|name| name == "id") {
            bail!("the header has no column `id`");
        }
        let twice =
            header.iter().enumerate().find(|(nth, name)| header.iter().skip(nth + 1).any(|other| other == *name));
        if let Some((_, name)) = twice {
            bail!("the header has `{name}` twice");
        }
        Ok(Self { header, reader, record: csv::ByteRecord::new() })
    }

    fn next(&mut self, reading: &Reading) -> anyhow::Result<Option<(Result<Document, BadDocument>, u64)>> {
        self.reader.get_mut().left = INPUT_BYTES_MAX;
        let read = self.reader.read_byte_record(&mut self.record);
        let line = self.record.position().map_or(0, csv::Position::line);
        match read {
            Ok(false) => Ok(None),
            Ok(true) => {
                let record = csv::StringRecord::from_byte_record(self.record.clone());
                let record = record.map_err(|_| BadDocument::NotText);
                Ok(Some((record.and_then(|record| reading.record(&self.header, &record)), line)))
            }
            Err(error) => match error.kind() {
                csv::ErrorKind::UnequalLengths { expected_len, len, pos } => {
                    let (expected, found) = (*expected_len, *len);
                    let line = pos.as_ref().map_or(line, csv::Position::line);
                    Ok(Some((Err(BadDocument::Cells { found, expected }), line)))
                }
                _ => Err(error.into()),
            },
        }
    }
}

fn format_of(path: &Path) -> Format {
    let is =
        |extension: Option<&OsStr>, wanted: &str| extension.is_some_and(|found| found.eq_ignore_ascii_case(wanted));
    let stem = if is(path.extension(), "gz") { path.file_stem().map(Path::new) } else { Some(path) };
    if stem.is_some_and(|stem| is(stem.extension(), "csv")) { Format::Csv } else { Format::Jsonl }
}

/// A count that is read elsewhere.
#[derive(Clone, Default)]
struct Count(Arc<AtomicU64>);

impl Count {
    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts what is read.
struct Counted {
    source: Box<dyn Read + Send>,
    count: Count,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.count.0.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Reads no more than a record may have: a quote that is never closed would take the rest of the file into memory.
struct Bounded {
    reader: Box<dyn BufRead + Send>,
    left: u64,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let reason = format!("a record longer than {} MiB; is a quote not closed?", INPUT_BYTES_MAX >> 20);
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        let read = self.reader.read(buffer)?;
        self.left = self.left.saturating_sub(read as u64);
        Ok(read)
    }
}
