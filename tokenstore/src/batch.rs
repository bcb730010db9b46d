//! What one put or delete appends: a header, a directory of its records, their vectors, and a commit.
//!
//! | bytes | header | | bytes | commit |
//! |---|---|---|---|---|
//! | 0..8 | `SLUICEBT` | | 0..8 | `SLUICECM` |
//! | 8..16 | offset of the batch in its file | | 8..16 | offset of the batch |
//! | 16..24 | bytes of the batch, header to commit | | 16..24 | bytes of the batch |
//! | 24..28 | records | | 24..28 | CRC-32 of the header |
//! | 28..32 | bytes of the directory | | 28..32 | CRC-32 of the directory |
//! | 32..36 | CRC-32 of the directory | | 32..60 | 0 |
//! | 60..64 | CRC-32 of bytes 0..60 | | 60..64 | CRC-32 of bytes 0..60 |
//!
//! A record of the directory is 64 bytes and its id: kind (1 document, 2 tombstone), flags (1 truncated), bytes of the
//! id (u16), rows (u32), sequence (u64), offset of the vectors (u64), checksum (u32), 0 (u32), content hash (32). The
//! checksum covers content hash, rows, flags, id and the vectors. All numbers are little-endian.

use crate::{
    ContentHash, DocumentFault, Layout, PutDocument, TokenStore,
    document::append_vectors,
    layout::{ALIGNMENT, aligned},
};

/// Bytes of a batch's header.
pub(crate) const HEADER_BYTES: u64 = 64;
/// Bytes of a commit: one sector holds all of it or nothing.
pub(crate) const COMMIT_BYTES: u64 = 64;
/// What a commit begins with.
pub(crate) const COMMIT_MAGIC: [u8; 8] = *b"SLUICECM";
/// Bytes of a record in the directory, its id apart.
const RECORD_BYTES: usize = 64;

const HEADER_MAGIC: [u8; 8] = *b"SLUICEBT";
const DOCUMENT: u8 = 1;
const TOMBSTONE: u8 = 2;
const TRUNCATED: u8 = 1;

/// A line of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) id: &'a str,
    /// Of two records of an id the one with the higher sequence counts.
    pub(crate) sequence: u64,
    pub(crate) body: Body,
}

/// What a record says of its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// Nothing is stored.
    Tombstone,
    /// This is.
    Document(Version),
}

/// A stored document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    /// Where its vectors begin in the file.
    pub(crate) at: u64,
    pub(crate) rows: u32,
    pub(crate) truncated: bool,
    pub(crate) content_hash: ContentHash,
    pub(crate) checksum: u32,
}

impl Record<'_> {
    /// Bytes that exist in a segment because of this record.
    pub(crate) fn bytes(&self, layout: Layout) -> u64 {
        let rows = if let Body::Document(version) = self.body { version.rows } else { 0 };
        record_bytes(layout, self.id, rows)
    }
}

/// Bytes that a document's record and vectors take, or with 0 rows a tombstone.
pub(crate) fn record_bytes(layout: Layout, id: &str, rows: u32) -> u64 {
    (RECORD_BYTES + id.len()) as u64 + aligned(layout.vector_bytes(rows))
}

/// The checksum over all that a record says of a document, and its vectors.
pub(crate) fn checksum(id: &str, content_hash: ContentHash, rows: u32, truncated: bool, vectors: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&content_hash.0);
    crc.update(&rows.to_le_bytes());
    crc.update(&[u8::from(truncated)]);
    crc.update(id.as_bytes());
    crc.update(vectors);
    crc.finalize()
}

/// A batch that has no place yet.
#[derive(Debug)]
pub(crate) struct Batch {
    layout: Layout,
    drafts: Vec<Draft>,
    directory_bytes: u64,
    /// Vectors of all documents, each aligned. In a file they follow the directory.
    vectors: Vec<u8>,
}

#[derive(Debug)]
struct Draft {
    id: Box<str>,
    /// Given by the writer, unless the record is a copy.
    sequence: Option<u64>,
    /// Offsets from the beginning of the vectors.
    body: Body,
}

/// A batch as its file will hold it.
#[derive(Debug)]
pub(crate) struct PlacedBatch<'a> {
    /// Header and directory, padded: goes to the batch's offset.
    pub(crate) head: Vec<u8>,
    /// Goes behind the head.
    pub(crate) vectors: &'a [u8],
    /// Goes behind the vectors, when those are durable.
    pub(crate) commit: [u8; COMMIT_BYTES as usize],
    pub(crate) records: Vec<Record<'a>>,
}

impl Batch {
    pub(crate) fn new(layout: Layout) -> Self {
        Self { layout, drafts: Vec::new(), directory_bytes: 0, vectors: Vec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.drafts.is_empty()
    }

    pub(crate) fn records(&self) -> usize {
        self.drafts.len()
    }

    /// Bytes it takes in a file.
    pub(crate) fn bytes(&self) -> u64 {
        self.vectors_at() + self.vectors.len() as u64 + COMMIT_BYTES
    }

    /// Bytes that a batch of one document would take.
    pub(crate) fn bytes_of_one(layout: Layout, id: &str, rows: u32) -> u64 {
        HEADER_BYTES + aligned((RECORD_BYTES + id.len()) as u64) + aligned(layout.vector_bytes(rows)) + COMMIT_BYTES
    }

    /// Adds a document. After an error the batch is in no particular state.
    pub(crate) fn put(&mut self, document: &PutDocument<'_>) -> Result<(), DocumentFault> {
        let PutDocument { id, content_hash, truncated, vectors } = *document;
        if id.is_empty() || id.len() > TokenStore::ID_BYTES_MAX {
            return Err(DocumentFault::Id { bytes: id.len() });
        }
        let begin = self.vectors.len();
        let rows = append_vectors(self.layout, vectors, &mut self.vectors)?;
        let checksum = checksum(id, content_hash, rows, truncated, &self.vectors[begin..]);
        let version = Version { at: begin as u64, rows, truncated, content_hash, checksum };
        self.push(id, None, Body::Document(version));
        Ok(())
    }

    /// Adds a document as another segment holds it.
    pub(crate) fn copy(&mut self, record: &Record<'_>, version: Version, vectors: &[u8]) {
        let at = self.vectors.len() as u64;
        self.vectors.extend_from_slice(vectors);
        self.push(record.id, Some(record.sequence), Body::Document(Version { at, ..version }));
    }

    /// Adds a tombstone, with a sequence of its own if it is a copy.
    pub(crate) fn bury(&mut self, id: &str, sequence: Option<u64>) {
        self.push(id, sequence, Body::Tombstone);
    }

    fn push(&mut self, id: &str, sequence: Option<u64>, body: Body) {
        self.vectors.resize(aligned(self.vectors.len() as u64) as usize, 0);
        self.directory_bytes += (RECORD_BYTES + id.len()) as u64;
        self.drafts.push(Draft { id: id.into(), sequence, body });
    }

    fn vectors_at(&self) -> u64 {
        HEADER_BYTES + aligned(self.directory_bytes)
    }

    /// The batch at an offset of its file; records without a sequence get `next_sequence` and the ones after it.
    pub(crate) fn place(&self, at: u64, next_sequence: u64) -> PlacedBatch<'_> {
        let shift = at + self.vectors_at();
        let records: Vec<Record<'_>> = (next_sequence..)
            .zip(&self.drafts)
            .map(|(sequence, draft)| {
                let body = match draft.body {
                    Body::Tombstone => Body::Tombstone,
                    Body::Document(version) => Body::Document(Version { at: version.at + shift, ..version }),
                };
                Record { id: &draft.id, sequence: draft.sequence.unwrap_or(sequence), body }
            })
            .collect();
        let mut head = vec![0; HEADER_BYTES as usize];
        records.iter().for_each(|record| encode_record(record, &mut head));
        let header = BatchHeader {
            at,
            bytes: self.bytes(),
            records: records.len() as u32,
            directory_bytes: self.directory_bytes as u32,
            directory_crc: crc32fast::hash(&head[HEADER_BYTES as usize..]),
        };
        head[..HEADER_BYTES as usize].copy_from_slice(&header.encode());
        head.resize(self.vectors_at() as usize, 0);
        PlacedBatch { head, vectors: &self.vectors, commit: header.commit(), records }
    }
}

/// A batch's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub(crate) at: u64,
    /// From header to commit, both counted; a multiple of 64.
    pub(crate) bytes: u64,
    pub(crate) records: u32,
    pub(crate) directory_bytes: u32,
    directory_crc: u32,
}

impl BatchHeader {
    fn encode(&self) -> [u8; HEADER_BYTES as usize] {
        let mut bytes = [0; HEADER_BYTES as usize];
        bytes[..8].copy_from_slice(&HEADER_MAGIC);
        bytes[8..16].copy_from_slice(&self.at.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.records.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.directory_bytes.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.directory_crc.to_le_bytes());
        sign(&mut bytes);
        bytes
    }

    /// The commit that makes this batch count.
    pub(crate) fn commit(&self) -> [u8; COMMIT_BYTES as usize] {
        let mut bytes = [0; COMMIT_BYTES as usize];
        bytes[..8].copy_from_slice(&COMMIT_MAGIC);
        bytes[8..16].copy_from_slice(&self.at.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[24..28].copy_from_slice(&crc32fast::hash(&self.encode()).to_le_bytes());
        bytes[28..32].copy_from_slice(&self.directory_crc.to_le_bytes());
        sign(&mut bytes);
        bytes
    }

    /// Reads the header of a batch at `at` that ends at `end` or earlier; `None` if it is none.
    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES as usize], at: u64, end: u64) -> Option<Self> {
        let header = Self {
            at: u64_at(bytes, 8),
            bytes: u64_at(bytes, 16),
            records: u32_at(bytes, 24),
            directory_bytes: u32_at(bytes, 28),
            directory_crc: u32_at(bytes, 32),
        };
        let fits = header.at == at
            && header.bytes.is_multiple_of(ALIGNMENT)
            && at.checked_add(header.bytes).is_some_and(|batch_end| batch_end <= end)
            && HEADER_BYTES + aligned(header.directory_bytes.into()) + COMMIT_BYTES <= header.bytes;
        (fits && header.encode() == *bytes).then_some(header)
    }

    /// Whether `directory` is this batch's, to the bit.
    pub(crate) fn has_directory(&self, directory: &[u8]) -> bool {
        crc32fast::hash(directory) == self.directory_crc
    }

    /// Reads the directory, calling `visit` for each record; `false` if one is not as a writer makes it.
    pub(crate) fn read_directory(
        &self,
        layout: Layout,
        mut directory: &[u8],
        visit: &mut impl FnMut(&Record<'_>),
    ) -> bool {
        let first = self.at + HEADER_BYTES + aligned(self.directory_bytes.into());
        let vectors = first..self.at + self.bytes - COMMIT_BYTES;
        for _ in 0..self.records {
            let Some((record, rest)) = decode_record(directory) else { return false };
            if let Body::Document(version) = &record.body {
                let end = version.at.checked_add(layout.vector_bytes(version.rows));
                let inside = version.at >= vectors.start && end.is_some_and(|end| end <= vectors.end);
                if !inside || version.rows == 0 || !version.at.is_multiple_of(ALIGNMENT) {
                    return false;
                }
            }
            visit(&record);
            directory = rest;
        }
        directory.is_empty()
    }
}

/// Whether 64 bytes of a file are a commit of a batch that ends with them.
pub(crate) fn is_commit(bytes: &[u8], end: u64) -> bool {
    bytes.starts_with(&COMMIT_MAGIC)
        && u64_at(bytes, 8).checked_add(u64_at(bytes, 16)) == Some(end)
        && u32_at(bytes, 60) == crc32fast::hash(&bytes[..60])
}

fn encode_record(record: &Record<'_>, out: &mut Vec<u8>) {
    let (kind, flags, version) = match record.body {
        Body::Document(version) => (DOCUMENT, if version.truncated { TRUNCATED } else { 0 }, version),
        Body::Tombstone => {
            let nothing = Version { at: 0, rows: 0, truncated: false, content_hash: ContentHash([0; 32]), checksum: 0 };
            (TOMBSTONE, 0, nothing)
        }
    };
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&(record.id.len() as u16).to_le_bytes());
    out.extend_from_slice(&version.rows.to_le_bytes());
    out.extend_from_slice(&record.sequence.to_le_bytes());
    out.extend_from_slice(&version.at.to_le_bytes());
    out.extend_from_slice(&version.checksum.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&version.content_hash.0);
    out.extend_from_slice(record.id.as_bytes());
}

fn decode_record(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let (fixed, rest) = bytes.split_at_checked(RECORD_BYTES)?;
    let id_bytes = usize::from(u16::from_le_bytes([fixed[2], fixed[3]]));
    let (id, rest) = rest.split_at_checked(id_bytes)?;
    let id = std::str::from_utf8(id).ok().filter(|id| (1..=TokenStore::ID_BYTES_MAX).contains(&id.len()))?;
    let mut content_hash = ContentHash([0; 32]);
    content_hash.0.copy_from_slice(&fixed[32..]);
    let version = Version {
        rows: u32_at(fixed, 4),
        at: u64_at(fixed, 16),
        checksum: u32_at(fixed, 24),
        truncated: fixed[1] == TRUNCATED,
        content_hash,
    };
    let body = match (fixed[0], fixed[1]) {
        (DOCUMENT, 0 | TRUNCATED) => Body::Document(version),
        (TOMBSTONE, 0) => Body::Tombstone,
        _ => return None,
    };
    Some((Record { id, sequence: u64_at(fixed, 8), body }, rest))
}

/// Writes the checksum of all that stands before it into the last four bytes.
pub(crate) fn sign(bytes: &mut [u8]) {
    let (content, crc) = bytes.split_at_mut(bytes.len() - 4);
    crc.copy_from_slice(&crc32fast::hash(content).to_le_bytes());
}

/// Whether the last four bytes are the checksum of the others.
pub(crate) fn is_signed(bytes: &[u8]) -> bool {
    bytes.len() > 4 && u32_at(bytes, bytes.len() - 4) == crc32fast::hash(&bytes[..bytes.len() - 4])
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of 4 bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of 8 bytes"))
}
