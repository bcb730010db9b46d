//! Records of a table, each with the line that it begins in.

use std::{
    collections::VecDeque,
    io::{self, BufRead, Read},
};

use anyhow::{Context, bail};
use sluice_client::proto::retrieval::v1::Document;

use super::super::document::{BadDocument, Reading};
use crate::documents::INPUT_BYTES_MAX;

/// Comma-separated values with a header.
pub(super) struct Table {
    header: csv::StringRecord,
    reader: csv::Reader<Bounded>,
    record: csv::ByteRecord,
}

impl Table {
    /// Reads the header.
    pub(super) fn open(reader: Box<dyn BufRead + Send>) -> anyhow::Result<Self> {
        let mut reader = csv::Reader::from_reader(Bounded { reader, left: INPUT_BYTES_MAX, begins: Begins::default() });
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

    /// The next record; `None` after the last.
    pub(super) fn next(&mut self, reading: &Reading) -> anyhow::Result<Option<Result<Document, BadDocument>>> {
        let from = self.reader.position().byte();
        let source = self.reader.get_mut();
        source.left = INPUT_BYTES_MAX;
        source.begins.forget_before(from);
        match self.reader.read_byte_record(&mut self.record) {
            Ok(false) => Ok(None),
            Ok(true) => {
                let record = csv::StringRecord::from_byte_record(self.record.clone());
                let record = record.map_err(|_| BadDocument::NotText);
                Ok(Some(record.and_then(|record| reading.record(&self.header, &record))))
            }
            Err(error) => match error.kind() {
                csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                    let (expected, found) = (*expected_len, *len);
                    Ok(Some(Err(BadDocument::Cells { found, expected })))
                }
                _ => Err(error.into()),
            },
        }
    }

    /// The line in which the last record that was read, or failed to be, begins.
    pub(super) fn line(&self) -> u64 {
        self.reader.get_ref().begins.first()
    }
}

/// Reads no more than a record may have: a quote that is never closed would take the rest of the file into memory.
struct Bounded {
    reader: Box<dyn BufRead + Send>,
    left: u64,
    begins: Begins,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let reason = format!("a record longer than {} MiB; is a quote not closed?", INPUT_BYTES_MAX >> 20);
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        // Whoever asks for more has parsed all before: a record that has begun goes on.
        self.begins.keep_first();
        let read = self.reader.read(buffer)?;
        self.begins.see(buffer.get(..read).unwrap_or_default());
        self.left = self.left.saturating_sub(read as u64);
        Ok(read)
    }
}

/// Where lines that are not empty begin, of what is read ahead.
///
/// The parser's own count is where it began to look: blank lines before a record, and the second half of the line's end
/// before it, come after that. A record begins where the first such line does.
struct Begins {
    /// Byte and line of each, ascending: of the record that is being read, and of at most one buffer after that.
    found: VecDeque<(u64, u64)>,
    bytes: u64,
    /// The line that the next byte stands in, from 1.
    line: u64,
    /// Nothing of this line was seen yet.
    empty: bool,
    after_return: bool,
}

impl Default for Begins {
    fn default() -> Self {
        Self { found: VecDeque::new(), bytes: 0, line: 1, empty: true, after_return: false }
    }
}

impl Begins {
    fn see(&mut self, bytes: &[u8]) {
        for (byte, at) in bytes.iter().zip(self.bytes..) {
            match byte {
                // The second half of a line's end.
                b'\n' if self.after_return => {}
                b'\n' | b'\r' => {
                    self.line += 1;
                    self.empty = true;
                }
                _ if self.empty => {
                    self.found.push_back((at, self.line));
                    self.empty = false;
                }
                _ => {}
            }
            self.after_return = *byte == b'\r';
        }
        self.bytes += bytes.len() as u64;
    }

    fn forget_before(&mut self, byte: u64) {
        while self.found.front().is_some_and(|(at, _)| *at < byte) {
            self.found.pop_front();
        }
    }

    fn keep_first(&mut self) {
        self.found.truncate(1);
    }

    /// The line of the first that is known; where none is, the one that reading has come to.
    fn first(&self) -> u64 {
        self.found.front().map_or(self.line, |(_, line)| *line)
    }
}

#[cfg(test)]
mod tests {
    use sluice_client::proto::retrieval::v1::{Schema, TextField};

    use super::*;

    /// Gives what it has in pieces of this many bytes.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let size = buffer.len().min(self.1);
            self.0.read(buffer.get_mut(..size).unwrap_or_default())
        }
    }

    /// Line and id of each record of a table with the columns `id` and `text`; what is wrong with it in an id's place.
    fn records(text: &'static str, piece: usize) -> Vec<(u64, String)> {
        let field = TextField { name: "text".into(), ..TextField::default() };
        let reading = Reading::new(&Schema { texts: vec![field], ..Schema::default() }, false);
        let pieces = io::BufReader::with_capacity(piece, Pieces(text.as_bytes(), piece));
        let mut table = Table::open(Box::new(pieces)).unwrap();
        let mut found = Vec::new();
        while let Some(record) = table.next(&reading).unwrap() {
            let id = record.map_or_else(|fault| fault.to_string(), |document| document.id);
            found.push((table.line(), id));
        }
        assert!(table.reader.get_ref().begins.found.len() <= 1, "what is past is forgotten");
        found
    }

    #[test]
    fn records_are_named_by_the_line_that_they_begin_in() {
        let cells = "3 cells, where the header has 2";
        let cases: [(&str, &[(u64, &str)]); 9] = [
            ("id,text\na,x\nb,x,y\nc,x\n", &[(2, "a"), (3, cells), (4, "c")]),
            ("id,text\r\na,x\r\nb,x,y\r\nc,x\r\n", &[(2, "a"), (3, cells), (4, "c")]),
            ("id,text\ra,x\rb,x,y\rc,x", &[(2, "a"), (3, cells), (4, "c")]),
            ("id,text\n\n\na,x\n\nb,x,y\n\n", &[(4, "a"), (6, cells)]),
            ("\r\n\r\nid,text\r\n\r\na,x\r\n\r\n\r\nb,x,y\r\n", &[(5, "a"), (8, cells)]),
            ("id,text\na,\"1\n\n2\"\nb,\"1\n2\",y\nc,x", &[(2, "a"), (5, cells), (7, "c")]),
            ("id,text\r\na,\"1\r\n\r\n2\"\r\nb,\"1\n2\",y\r\n\r\nc,x\r\n", &[(2, "a"), (5, cells), (8, "c")]),
            ("id,text\r\n\"a\r\n\",x\r\n,x\r\n", &[(2, "a\r\n"), (4, "no `id`")]),
            ("id,text\r\n\r\n", &[]),
        ];
        for (text, expected) in cases {
            for piece in [1, 2, 3, 7, 1000] {
                let expected: Vec<_> = expected.iter().map(|(line, id)| (*line, (*id).to_owned())).collect();
                assert_eq!(records(text, piece), expected, "{text:?} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn a_long_record_is_no_more_than_its_beginning() {
        let mut begins = Begins::default();
        for _ in 0..1000 {
            begins.keep_first();
            begins.see(b"a\nb\nc\n");
        }
        assert!((begins.found.len(), begins.first()) == (4, 1), "{:?}", begins.found);
    }
}
