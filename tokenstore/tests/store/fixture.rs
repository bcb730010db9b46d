//! Documents, and stores to put them into.

use std::path::Path;

use half::f16;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use sluice_kernels::tokens::{Storage, Tokens, to_binary, to_f16, to_int8};
use sluice_tokenstore::{ContentHash, Layout, ModelDigest, Namespace, Options, PutDocument, Stored, TokenStore};
use tempfile::TempDir;

/// What every way of storing is tested with.
pub const STORAGES: [Storage; 3] = [Storage::F16, Storage::Int8, Storage::Binary];
pub const MODEL: ModelDigest = ModelDigest([0xa5; 32]);
pub const OTHER_MODEL: ModelDigest = ModelDigest([0x5a; 32]);

/// A folder in memory where there is one: a sync costs nothing there, and a killed process's writes stay as well.
pub fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

pub fn namespace() -> Namespace {
    Namespace::new("docs").unwrap()
}

pub fn layout(storage: Storage, dim: usize) -> Layout {
    Layout::new(storage, dim).unwrap()
}

/// Segments so small that a few puts fill one.
pub fn small() -> Options {
    Options { segment_bytes_max: 16 << 10, ..Options::default() }
}

/// A document that its id and version make.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    pub id: String,
    pub content_hash: ContentHash,
    pub truncated: bool,
    pub dim: usize,
    pub vectors: Vec<f32>,
}

impl Document {
    pub fn new(id: &str, version: u64, rows: usize, dim: usize) -> Self {
        let content_hash = Self::hash(id, version);
        let mut rng = SmallRng::seed_from_u64(u64::from_le_bytes(content_hash.0[..8].try_into().unwrap()));
        let vectors = (0..rows * dim).map(|_| rng.random_range(-1.0..1.0)).collect();
        Self { id: id.to_owned(), content_hash, truncated: version % 2 == 1, dim, vectors }
    }

    pub fn hash(id: &str, version: u64) -> ContentHash {
        ContentHash::of_text(&format!("{id} {version}"))
    }

    pub fn put(&self) -> PutDocument<'_> {
        let Self { id, content_hash, truncated, vectors, .. } = self;
        PutDocument { id, content_hash: *content_hash, truncated: *truncated, vectors: Tokens::F32(vectors) }
    }

    /// Fails unless `stored` is this document, to the bit.
    pub fn assert_stored(&self, storage: Storage, stored: &Stored) {
        let Self { id, content_hash, truncated, dim, vectors } = self;
        let found = (stored.content_hash(), stored.truncated(), stored.dim(), stored.rows(), stored.storage());
        assert_eq!(found, (*content_hash, *truncated, *dim, vectors.len() / dim, storage), "{id}");
        match (storage, stored.tokens()) {
            (Storage::F16, Tokens::F16(found)) => assert_eq!(bits(found), bits(&to_f16(vectors)), "{id}"),
            (Storage::Int8, Tokens::Int8 { codes, scales }) => {
                let expected = to_int8(vectors, *dim).unwrap();
                assert_eq!((codes, scales), (&*expected.0, &*expected.1), "{id}");
            }
            (Storage::Binary, Tokens::Binary(bits)) => assert_eq!(bits, to_binary(vectors, *dim).unwrap(), "{id}"),
            (_, found) => panic!("{id}: {:?} in a collection of {storage:?}", found.storage()),
        }
    }

    pub fn is(&self, stored: &Stored) -> bool {
        self.content_hash == stored.content_hash()
    }
}

fn bits(x: &[f16]) -> Vec<u16> {
    x.iter().map(|x| x.to_bits()).collect()
}

pub fn put(store: &TokenStore, storage: Storage, documents: &[Document]) {
    let puts: Vec<_> = documents.iter().map(Document::put).collect();
    store.put(&namespace(), MODEL, layout(storage, documents[0].dim), &puts).unwrap();
}

/// Fails unless exactly these documents are stored.
pub fn assert_stored<'a>(store: &TokenStore, storage: Storage, documents: impl IntoIterator<Item = &'a Document>) {
    let documents: Vec<_> = documents.into_iter().collect();
    let ids: Vec<_> = documents.iter().map(|document| &document.id).collect();
    for (document, stored) in documents.iter().zip(store.lookup(&namespace(), MODEL, &ids)) {
        let stored = stored.unwrap_or_else(|| panic!("{} is missing", document.id));
        document.assert_stored(storage, &stored);
    }
    let counted: u64 = store.stats().collections.iter().map(|collection| collection.documents).sum();
    assert_eq!(counted, documents.len() as u64, "documents counted");
}

/// Files of the store's segments, by number.
pub fn segments(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder.join("segments")).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}
