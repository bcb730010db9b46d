//! Lines, read one at a time: what is read need not fit into memory.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal, Read},
    path::Path,
};

use anyhow::Context;

use crate::{documents::INPUT_BYTES_MAX, output::note};

/// Where lines come from.
pub(crate) struct Input {
    /// The file, or `standard input`.
    pub name: String,
    /// Its length, where it has one.
    pub bytes: Option<u64>,
    pub reader: Box<dyn BufRead + Send>,
}

impl Input {
    /// Opens `file`, or standard input where there is none or it is `-`; nothing is read yet.
    pub(crate) fn open(file: Option<&Path>) -> anyhow::Result<Self> {
        let Some(file) = file.filter(|file| file.as_os_str() != "-") else {
            if io::stdin().is_terminal() {
                note("reading documents from the terminal, one a line; Ctrl-D ends them");
            }
            let reader = Box::new(BufReader::new(io::stdin()));
            return Ok(Self { name: "standard input".to_owned(), bytes: None, reader });
        };
        let name = file.display().to_string();
        let file = File::open(file).with_context(|| name.clone())?;
        // A pipe has a length of 0.
        let bytes = file.metadata().ok().map(|metadata| metadata.len()).filter(|bytes| *bytes > 0);
        Ok(Self { name, bytes, reader: Box::new(BufReader::new(file)) })
    }
}

/// Lines that are not blank.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    reader: R,
    number: usize,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum LineError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("longer than {} MiB", INPUT_BYTES_MAX >> 20)]
    TooLong,
}

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, number: 0 }
    }

    /// The number of the last line that was read, or failed to be, from 1.
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// The next line that is not blank, its end included; `None` after the last.
    pub(crate) fn next(&mut self) -> Result<Option<Vec<u8>>, LineError> {
        let mut line = Vec::new();
        loop {
            line.clear();
            self.number += 1;
            let read = self.reader.by_ref().take(INPUT_BYTES_MAX + 1).read_until(b'\n', &mut line)?;
            if read == 0 {
                return Ok(None);
            }
            if read as u64 > INPUT_BYTES_MAX {
                return Err(LineError::TooLong);
            }
            if self.number == 1 && line.starts_with("\u{feff}".as_bytes()) {
                line.drain(..3);
            }
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_lines_are_counted_and_skipped() {
        let mut lines = Lines::new("\u{feff}a\n\n \r\nb\r\n\nc".as_bytes());
        let mut found = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            found.push((lines.number(), String::from_utf8(line).unwrap()));
        }
        let expected = [(1, "a\n"), (4, "b\r\n"), (6, "c")];
        assert_eq!(found, expected.map(|(number, line)| (number, line.to_owned())));
    }
}
