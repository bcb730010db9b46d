//! The list of segments that count, and the numbers that are never used twice.
//!
//! | bytes | |
//! |---|---|
//! | 0..8 | `SLUICEMF` |
//! | 8..12 | format version |
//! | 12..16 | number of segments |
//! | 16..24 | generation: how many lists came before |
//! | 24..32 | the next segment's number |
//! | 32..40 | the next record's sequence, or a smaller one that is still greater than any that was compacted away |
//! | 16 each | a segment's number, and the length it was sealed at or 0 if it grows |
//! | 4 | CRC-32 of all before |
//!
//! It is replaced as a whole: written beside, synced, renamed, the folder synced.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    CorruptFile, DiskError, OpenError,
    batch::{is_signed, sign, u32_at, u64_at},
    disk::Disk,
    segment::{FORMAT_VERSION, HEADER_BYTES},
};

const MAGIC: [u8; 8] = *b"SLUICEMF";
const FIXED_BYTES: usize = 40;
const SEGMENT_BYTES: usize = 16;
const CRC_BYTES: usize = 4;

/// Where the store's files lie.
#[derive(Clone, Debug)]
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn lock(&self) -> PathBuf {
        self.0.join("LOCK")
    }

    pub(crate) fn manifest(&self) -> PathBuf {
        self.0.join("MANIFEST")
    }

    pub(crate) fn next_manifest(&self) -> PathBuf {
        self.0.join("MANIFEST.next")
    }

    pub(crate) fn segments(&self) -> PathBuf {
        self.0.join("segments")
    }

    pub(crate) fn segment(&self, id: u64) -> PathBuf {
        self.segments().join(format!("{id:016}.seg"))
    }
}

/// A list of segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) generation: u64,
    pub(crate) next_segment: u64,
    pub(crate) next_sequence: u64,
    pub(crate) segments: Vec<Listed>,
}

/// A segment that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) id: u64,
    /// The length it was sealed at; `None` while it grows.
    pub(crate) sealed: Option<u64>,
}

impl Manifest {
    /// That of a store without segments.
    pub(crate) fn empty() -> Self {
        Self { generation: 0, next_segment: 1, next_sequence: 1, segments: Vec::new() }
    }

    /// Lists a segment as sealed.
    pub(crate) fn seal(&mut self, id: u64, length: u64) {
        for listed in self.segments.iter_mut().filter(|listed| listed.id == id) {
            listed.sealed = Some(length);
        }
    }

    /// A number for a new segment.
    pub(crate) fn number(&mut self) -> u64 {
        self.next_segment += 1;
        self.next_segment - 1
    }

    /// Reads it; `None` if there is none.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, OpenError> {
        match fs::read(path) {
            Ok(bytes) => Self::decode(&bytes, path).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DiskError { action: "read", path: path.to_owned(), source }.into()),
        }
    }

    /// Puts it in the place of the one before. After an error either may be found by who opens the store.
    pub(crate) fn replace(&self, disk: &Disk, folder: &Folder) -> Result<(), DiskError> {
        let next = folder.next_manifest();
        disk.remove(&next)?;
        let file = disk.create(&next)?;
        disk.write(&file, &self.encode(), 0)?;
        disk.sync(&file)?;
        disk.rename(&next, &folder.manifest())?;
        disk.sync_folder(&folder.0)
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FIXED_BYTES + SEGMENT_BYTES * self.segments.len() + CRC_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&(self.segments.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&self.generation.to_le_bytes());
        bytes.extend_from_slice(&self.next_segment.to_le_bytes());
        bytes.extend_from_slice(&self.next_sequence.to_le_bytes());
        for listed in &self.segments {
            bytes.extend_from_slice(&listed.id.to_le_bytes());
            bytes.extend_from_slice(&listed.sealed.unwrap_or(0).to_le_bytes());
        }
        bytes.extend_from_slice(&[0; CRC_BYTES]);
        sign(&mut bytes);
        bytes
    }

    fn decode(bytes: &[u8], path: &Path) -> Result<Self, OpenError> {
        let corrupt =
            |offset: usize, expected| Err(OpenError::CorruptManifest(CorruptFile::new(path, offset as u64, expected)));
        if bytes.len() < FIXED_BYTES + CRC_BYTES || bytes[..8] != MAGIC {
            return corrupt(0, "the beginning of a manifest");
        }
        let found = u32_at(bytes, 8);
        if found != FORMAT_VERSION {
            return Err(OpenError::Version { file: path.to_owned(), found, supported: FORMAT_VERSION });
        }
        let (segments, rest) = bytes[FIXED_BYTES..bytes.len() - CRC_BYTES].as_chunks::<SEGMENT_BYTES>();
        if !is_signed(bytes) {
            return corrupt(bytes.len() - CRC_BYTES, "the checksum of the manifest");
        } else if segments.len() != u32_at(bytes, 12) as usize || !rest.is_empty() {
            return corrupt(12, "as many segments as there are");
        }
        let mut manifest = Self {
            generation: u64_at(bytes, 16),
            next_segment: u64_at(bytes, 24),
            next_sequence: u64_at(bytes, 32),
            segments: Vec::with_capacity(segments.len()),
        };
        let mut ids = HashSet::with_capacity(segments.len());
        for (index, segment) in segments.iter().enumerate() {
            let (id, sealed) = (u64_at(segment, 0), u64_at(segment, 8));
            let possible = id < manifest.next_segment && (sealed == 0 || sealed >= HEADER_BYTES);
            if !possible || !ids.insert(id) {
                return corrupt(FIXED_BYTES + SEGMENT_BYTES * index, "a segment");
            }
            manifest.segments.push(Listed { id, sealed: (sealed != 0).then_some(sealed) });
        }
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_back_and_no_bit_of_it_is_idle() {
        let segments = vec![Listed { id: 3, sealed: Some(4096) }, Listed { id: 5, sealed: None }];
        let manifest = Manifest { generation: 9, next_segment: 6, next_sequence: 77, segments };
        let bytes = manifest.encode();
        let path = Path::new("MANIFEST");
        assert_eq!(Manifest::decode(&bytes, path).unwrap(), manifest);
        for bit in 0..8 * bytes.len() {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::decode(&flipped, path).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..length], path).is_err(), "{length} bytes");
        }
        assert!(Manifest::decode(&[bytes, vec![0]].concat(), path).is_err());
    }

    #[test]
    fn lists_that_cannot_be_are_refused() {
        let listed = |id, sealed| Listed { id, sealed };
        for segments in [vec![listed(9, None)], vec![listed(1, Some(8))], vec![listed(1, None), listed(1, Some(512))]] {
            let manifest = Manifest { segments, next_segment: 2, ..Manifest::empty() };
            assert!(Manifest::decode(&manifest.encode(), Path::new("MANIFEST")).is_err(), "{manifest:?}");
        }
    }
}
