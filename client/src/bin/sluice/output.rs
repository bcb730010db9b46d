//! What goes to standard output and standard error, and how the command ends.

use std::io::{self, ErrorKind, Write};

use comfy_table::Table;
use serde::Serialize;
use sluice_client::{ClientError, table};

/// Longest line on standard error, in characters: a server's message may be longer than a screen.
const NOTE_WIDTH_MAX: usize = 2000;

/// Why the command ends early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line asks for what cannot be: exit code 2.
    Usage(String),
    /// It did not work: exit code 1.
    Failed(anyhow::Error),
    /// Whoever read standard output has gone: nothing is left to do, and nothing has failed.
    NobodyReads,
}

/// Prints a line of text or a table.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written =
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.write_all(b"\n")).and_then(|()| stdout.flush());
    written.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::NobodyReads,
        _ => Failure::Failed(anyhow::Error::new(error).context("writing to standard output")),
    })
}

/// Prints one JSON object on one line. Numbers that JSON cannot hold become null.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    print(&serde_json::to_string(value).map_err(anyhow::Error::new)?)
}

/// Says something to the person who runs the command, on one line of standard error.
pub(crate) fn note(text: &str) {
    let line = table::one_line(text, NOTE_WIDTH_MAX);
    // Where standard error is gone, there is nobody to tell.
    let _ = writeln!(io::stderr(), "sluice: {line}");
}

/// Columns of the terminal, or of a table that does not go to one.
pub(crate) fn width() -> usize {
    // A terminal that does not know says 0.
    Table::new().width().filter(|width| *width > 0).map_or(table::WIDTH_DEFAULT, usize::from)
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Address { .. } | ClientError::Options(_) => Self::Usage(error.to_string()),
            _ => Self::Failed(error.into()),
        }
    }
}
