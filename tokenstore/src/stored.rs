//! A document as a lookup finds it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use sluice_kernels::tokens::{Storage, Tokens};

use crate::{
    ContentHash, Layout,
    batch::{Version, checksum},
    map::Map,
};

/// A stored document. It stays readable whatever happens to the store: deleted, replaced or compacted away, its segment
/// stays mapped as long as this lives.
#[derive(Clone)]
pub struct Stored {
    map: Arc<Map>,
    layout: Layout,
    version: Version,
    key: u64,
}

impl Stored {
    pub(crate) fn new(map: Arc<Map>, layout: Layout, version: Version, key: u64) -> Self {
        Self { map, layout, version, key }
    }

    /// The token vectors, `[rows, dim]`, where they lie in the mapped file: 64-aligned, the scales of int8 too.
    #[must_use]
    pub fn tokens(&self) -> Tokens<'_> {
        let Version { at, rows, .. } = self.version;
        let bytes = self.layout.component_bytes(rows);
        match (self.layout.storage(), self.layout.scales_at(rows)) {
            (Storage::F16, _) => Tokens::F16(self.map.halves(at, bytes / 2)),
            (Storage::Int8, Some(scales_at)) => {
                Tokens::Int8 { codes: self.map.bytes(at, bytes), scales: self.map.floats(at + scales_at, rows.into()) }
            }
            _ => Tokens::Binary(self.map.bytes(at, bytes)),
        }
    }

    /// Number of token vectors, at least 1.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.version.rows as usize
    }

    /// Components of a vector.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.layout.dim()
    }

    /// How a component is stored.
    #[must_use]
    pub fn storage(&self) -> Storage {
        self.layout.storage()
    }

    /// SHA-256 of the text that the vectors were made from. Vectors whose hash is not that of the document's text of
    /// today are stale.
    #[must_use]
    pub fn content_hash(&self) -> ContentHash {
        self.version.content_hash
    }

    /// Whether the text was longer than what was encoded of it.
    #[must_use]
    pub fn truncated(&self) -> bool {
        self.version.truncated
    }

    /// Names these vectors for as long as the process lives: every other version of any document of any store has
    /// another key, and compaction keeps it.
    #[must_use]
    pub fn key(&self) -> u64 {
        self.key
    }

    /// Reads all of it and compares its checksum.
    pub(crate) fn is_intact(&self, id: &str) -> bool {
        let Version { rows, truncated, content_hash, .. } = self.version;
        checksum(id, content_hash, rows, truncated, self.bytes()) == self.version.checksum
    }

    /// Its vectors as the file has them, scales included.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.map.bytes(self.version.at, self.layout.vector_bytes(self.version.rows))
    }
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stored")
            .field("layout", &self.layout)
            .field("rows", &self.version.rows)
            .field("content_hash", &self.version.content_hash)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// A key that no stored version of this process has had.
pub(crate) fn next_key() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
