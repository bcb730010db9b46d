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

use flate2::bufread::MultiGzDecoder;
use sluice_client::proto::retrieval::v1::Document;

use super::{
    super::document::{BadDocument, Reading},
    table::Table,
};
use crate::{args::index::Format, lines::Lines, output::note};

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
            Records::Table(table) => table.line(),
        };
        format!("{}: line {line}", self.name)
    }

    pub(super) fn next(&mut self, reading: &Reading) -> anyhow::Result<Next> {
        let (parsed, line) = match &mut self.records {
            Records::Lines(lines) => {
                let Some(line) = lines.next()? else { return Ok(Next::End) };
                (reading.json(&line), lines.number() as u64)
            }
            Records::Table(table) => {
                let Some(parsed) = table.next(reading)? else { return Ok(Next::End) };
                (parsed, table.line())
            }
        };
        Ok(match parsed {
            Ok(document) => Next::Document(document, line),
            Err(reason) => Next::Bad(reason, line),
        })
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
