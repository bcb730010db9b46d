//! Reads a segment's batches back, and says where they end.
//!
//! A growing segment may end in a batch that was never committed: it is torn, and does not count. Torn and corrupt are
//! told apart by what only a committed batch has. A writer that died left no valid commit at or behind the torn batch,
//! and of its commit at most a part, with zeros for the rest. Everything else that is not a batch is damage to what was
//! acknowledged, and is an error.

use crate::{
    CorruptFile, DiskError,
    batch::{self, BatchHeader, Record, is_commit},
    disk::StoreFile,
    segment::SegmentHeader,
};

/// How far a segment reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// To this length, every byte of it acknowledged.
    Sealed(u64),
    /// To its last commit.
    Growing,
}

/// What a scan found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scanned {
    /// Where the last committed batch ends.
    pub(crate) committed: u64,
    /// Whether anything but zeros follows.
    pub(crate) torn: bool,
}

/// Why a segment could not be read to its end.
#[derive(Debug)]
pub(crate) enum ScanError {
    Disk(DiskError),
    Corrupt(CorruptFile),
}

impl From<DiskError> for ScanError {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}

/// Bytes read at a time in search of commits.
const SEARCH_BYTES: u64 = 256 << 10;

/// What stands at an offset.
enum Found {
    Batch(BatchHeader, Vec<u8>),
    NoBatch(&'static str),
    Damage(&'static str),
}

/// Calls `visit` for every record of every committed batch from `from` on.
///
/// # Errors
/// [`ScanError`]. Some records may have been visited.
pub(crate) fn scan(
    file: &StoreFile,
    header: &SegmentHeader,
    from: u64,
    extent: Extent,
    mut visit: impl FnMut(&Record<'_>),
) -> Result<Scanned, ScanError> {
    let corrupt = |offset, expected| ScanError::Corrupt(CorruptFile::new(&file.path, offset, expected));
    let length = file.length()?;
    let end = match extent {
        Extent::Growing => length,
        Extent::Sealed(end) if end <= length => end,
        Extent::Sealed(_) => return Err(corrupt(length, "the length at which it was sealed")),
    };
    let mut at = from;
    loop {
        if extent == Extent::Sealed(at) {
            return Ok(Scanned { committed: at, torn: false });
        }
        match batch_at(file, at, end)? {
            Found::Batch(batch, directory) => {
                if !batch.read_directory(header.layout, &directory, &mut visit) {
                    return Err(corrupt(at, "records within their batch"));
                }
                at += batch.bytes;
            }
            Found::Damage(expected) => return Err(corrupt(at, expected)),
            Found::NoBatch(expected) if extent != Extent::Growing => return Err(corrupt(at, expected)),
            Found::NoBatch(expected) => {
                let rest = search(file, at, end)?;
                if rest.commits {
                    return Err(corrupt(at, expected));
                }
                return Ok(Scanned { committed: at, torn: rest.written });
            }
        }
    }
}

fn batch_at(file: &StoreFile, at: u64, end: u64) -> Result<Found, ScanError> {
    let mut bytes = [0; batch::HEADER_BYTES as usize];
    file.read_zero_filled(&mut bytes, at)?;
    let Some(header) = BatchHeader::decode(&bytes, at, end) else {
        return Ok(Found::NoBatch("the header of a batch"));
    };
    // No larger than the rest of the file: `decode` checked it.
    let mut directory = vec![0; header.directory_bytes as usize];
    file.read_zero_filled(&mut directory, at + batch::HEADER_BYTES)?;
    if !header.has_directory(&directory) {
        return Ok(Found::NoBatch("the directory of a batch"));
    }
    let expected = header.commit();
    let mut commit = [0; batch::COMMIT_BYTES as usize];
    file.read_zero_filled(&mut commit, at + header.bytes - batch::COMMIT_BYTES)?;
    Ok(if commit == expected {
        Found::Batch(header, directory)
    } else if is_torn(&commit, &expected) {
        Found::NoBatch("the commit of a batch")
    } else {
        Found::Damage("the commit of a batch")
    })
}

/// Whether a commit was written, or taken back with zeros, in part.
fn is_torn(found: &[u8], expected: &[u8]) -> bool {
    let not_zero = |byte: &u8| *byte != 0;
    let begin = found.iter().position(not_zero).unwrap_or(found.len());
    let end = found.iter().rposition(not_zero).map_or(0, |last| last + 1);
    found[..end] == expected[..end] || found[begin..] == expected[begin..]
}

struct Rest {
    /// Whether a valid commit stands in it.
    commits: bool,
    /// Whether anything but zeros does.
    written: bool,
}

/// Looks at all bytes from `from` to `end`. Batches are aligned, so commits are too.
fn search(file: &StoreFile, from: u64, end: u64) -> Result<Rest, ScanError> {
    let mut rest = Rest { commits: false, written: false };
    let mut buffer = vec![0; SEARCH_BYTES.min(end.saturating_sub(from)) as usize];
    let mut at = from;
    while at < end {
        let read = SEARCH_BYTES.min(end - at) as usize;
        file.read_zero_filled(&mut buffer[..read], at)?;
        if buffer[..read].iter().any(|&byte| byte != 0) {
            rest.written = true;
            let mut blocks = (at..).step_by(batch::COMMIT_BYTES as usize).zip(buffer[..read].as_chunks::<64>().0);
            rest.commits |= blocks.any(|(at, block)| is_commit(block, at + batch::COMMIT_BYTES));
        }
        at += read as u64;
    }
    Ok(rest)
}
