//! Segments: what a file of a collection begins with, how it grows, how it is read back.
//!
//! | bytes of the header | |
//! |---|---|
//! | 0..8 | `SLUICETS` |
//! | 8..12 | format version |
//! | 12, 13 | storage (1 f16, 2 int8, 3 binary), bytes of the namespace |
//! | 16..20 | dim |
//! | 24..32 | the segment's number |
//! | 32..64 | model digest |
//! | 64..192 | namespace, padded with zeros |
//! | 252..256 | CRC-32 of bytes 0..252; what is not named is 0 |

pub(crate) mod active;
pub(crate) mod rewrite;
pub(crate) mod scan;

use std::path::Path;

use crate::{
    CorruptFile, Layout, ModelDigest, Namespace, OpenError,
    batch::{is_signed, sign, u32_at, u64_at},
    collection::CollectionKey,
};

/// Bytes of a segment's header: its first batch begins here.
pub(crate) const HEADER_BYTES: u64 = 256;
/// The format that this code writes and reads, of segments and of the manifest.
pub(crate) const FORMAT_VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"SLUICETS";
const NAMESPACE_AT: usize = 64;

/// Files grow by holes: at least to this, then doubling.
const GROWTH_BYTES_MIN: u64 = 64 << 10;
/// From here on by this much at a time, so that little is mapped, and searched at open, that holds nothing.
const GROWTH_BYTES_MAX: u64 = 64 << 20;

/// What a segment is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) id: u64,
    pub(crate) key: CollectionKey,
    pub(crate) layout: Layout,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES as usize] {
        let mut bytes = [0; HEADER_BYTES as usize];
        let namespace = self.key.namespace.as_str().as_bytes();
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[12] = self.layout.storage_code();
        bytes[13] = namespace.len() as u8;
        bytes[16..20].copy_from_slice(&(self.layout.dim() as u32).to_le_bytes());
        bytes[24..32].copy_from_slice(&self.id.to_le_bytes());
        bytes[32..64].copy_from_slice(&self.key.model.0);
        bytes[NAMESPACE_AT..NAMESPACE_AT + namespace.len()].copy_from_slice(namespace);
        sign(&mut bytes);
        bytes
    }

    /// Reads the header of the file that should be segment `id`.
    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES as usize], id: u64, file: &Path) -> Result<Self, OpenError> {
        let corrupt =
            |offset, expected| Err(OpenError::CorruptSegment(CorruptFile::new(file, offset as u64, expected)));
        let found = u32_at(bytes, 8);
        if bytes[..8] != MAGIC {
            return corrupt(0, "the beginning of a segment");
        } else if found != FORMAT_VERSION {
            return Err(OpenError::Version { file: file.to_owned(), found, supported: FORMAT_VERSION });
        } else if !is_signed(bytes) {
            return corrupt(bytes.len() - 4, "the checksum of the segment's header");
        } else if u64_at(bytes, 24) != id {
            return corrupt(24, "the number that the file's name says");
        }
        let namespace = bytes[NAMESPACE_AT..].get(..usize::from(bytes[13]));
        let namespace = namespace.and_then(|name| Namespace::new(std::str::from_utf8(name).ok()?).ok());
        let Some(namespace) = namespace else { return corrupt(NAMESPACE_AT, "a namespace") };
        let Some(layout) = Layout::from_codes(bytes[12], u32_at(bytes, 16)) else {
            return corrupt(12, "a storage and a dim");
        };
        let mut model = ModelDigest([0; 32]);
        model.0.copy_from_slice(&bytes[32..64]);
        Ok(Self { id, key: CollectionKey { namespace, model }, layout })
    }
}

/// How long a file should be that holds `bytes`, and never gets longer than `max`.
pub(crate) fn capacity(bytes: u64, max: u64) -> u64 {
    let step = bytes.next_power_of_two().clamp(GROWTH_BYTES_MIN, GROWTH_BYTES_MAX);
    bytes.next_multiple_of(step).min(max.max(bytes))
}

#[cfg(test)]
mod tests {
    use sluice_kernels::tokens::Storage;

    use super::*;

    #[test]
    fn headers_are_read_back_and_no_bit_of_them_is_idle() {
        let key = CollectionKey { namespace: Namespace::new("docs").unwrap(), model: ModelDigest([7; 32]) };
        let header = SegmentHeader { id: 3, key, layout: Layout::new(Storage::Int8, 384).unwrap() };
        let bytes = header.encode();
        let file = Path::new("3.seg");
        assert_eq!(SegmentHeader::decode(&bytes, 3, file).unwrap(), header);
        assert!(SegmentHeader::decode(&bytes, 4, file).is_err());
        for bit in 0..8 * bytes.len() {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&flipped, 3, file).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn files_grow_in_steps() {
        let mib = 1 << 20;
        let cases = [
            (1, 1 << 30, 64 << 10),
            (65 << 10, 1 << 30, 128 << 10),
            (33 * mib, 1 << 30, 64 * mib),
            (64 * mib + 1, 1 << 30, 128 * mib),
            (129 * mib, 1 << 30, 192 * mib),
            (100 << 10, 110 << 10, 110 << 10),
            (120 << 10, 110 << 10, 120 << 10),
        ];
        for (bytes, max, expected) in cases {
            assert_eq!(capacity(bytes, max), expected, "{bytes} of at most {max}");
        }
    }
}
