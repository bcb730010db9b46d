//! What the store says of itself.

use std::{
    collections::VecDeque,
    io,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    CorruptFile, DiskError, Layout, ModelDigest, Namespace, TokenStore,
    collection::{Collection, CollectionKey, Damage},
    disk::StoreFile,
    manifest::Folder,
    segment::{
        HEADER_BYTES, SegmentHeader,
        scan::{Extent, ScanError, scan},
    },
    store::lock,
};

/// What is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// By namespace, then model.
    pub collections: Vec<CollectionStats>,
    /// Documents found damaged since the store was opened.
    pub corrupt_records: u64,
}

/// What a collection stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectionStats {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its model.
    pub model: ModelDigest,
    /// How it stores vectors.
    pub layout: Layout,
    /// Documents that lookups find.
    pub documents: u64,
    /// Their token vectors.
    pub rows: u64,
    /// Bytes of their records and vectors.
    pub live_bytes: u64,
    /// Bytes of records and vectors that compaction would free: replaced, deleted, damaged, and tombstones.
    pub dead_bytes: u64,
    /// Bytes of all that was committed: live, dead, headers and padding.
    pub file_bytes: u64,
    /// Files.
    pub segments: u64,
}

/// A document whose vectors are not what was put. It is missing until it is put again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorruptRecord {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its model.
    pub model: ModelDigest,
    /// Its id.
    pub id: String,
    /// The segment that it lies in.
    pub file: PathBuf,
}

/// What [`TokenStore::verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Documents read.
    pub documents: u64,
    /// Documents found damaged that were not known to be.
    pub corrupt_records: Vec<CorruptRecord>,
    /// Segments whose structure was damaged since they were opened. What is in memory of them is right; they would not
    /// open again.
    pub corrupt_files: Vec<CorruptFile>,
}

impl TokenStore {
    /// Counts. Costs a look at each segment.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut collections: Vec<_> = self.collections().values().map(|collection| stats_of(collection)).collect();
        collections.sort_unstable_by(|a, b| (&a.namespace, a.model).cmp(&(&b.namespace, b.model)));
        Stats { collections, corrupt_records: self.corrupt.count.load(Ordering::Relaxed) }
    }

    /// Documents found damaged since this was last asked, at most the last 1,024 of them: to be logged.
    #[must_use]
    pub fn take_corrupt_records(&self) -> Vec<CorruptRecord> {
        lock(&self.corrupt.recent).drain(..).collect()
    }

    /// Reads everything that lookups find and compares it with its checksums, and every segment's structure. Takes
    /// about
    /// 150 bytes of memory for each document of the largest collection.
    ///
    /// # Errors
    /// [`DiskError`] if a file cannot be read.
    pub fn verify(&self) -> Result<VerifyReport, DiskError> {
        let mut report = VerifyReport::default();
        for (key, collection) in self.collections() {
            let mut damaged = Vec::new();
            report.documents += collection.verify(&mut damaged);
            report.corrupt_records.extend(self.corrupt.extend(&self.folder, &key, damaged));
            let segments: Vec<_> = collection.index().segments().cloned().collect();
            for segment in segments {
                let header = SegmentHeader { id: segment.id, key: key.clone(), layout: collection.layout };
                let corrupt = match self.check_structure(&header, segment.map.readable()) {
                    Err(error) if error.source.kind() == io::ErrorKind::NotFound => {
                        // Unless it was compacted away.
                        let missing = collection.index().slot(segment.id).is_some();
                        missing.then(|| CorruptFile::new(&error.path, 0, "a file"))
                    }
                    found => found?,
                };
                report.corrupt_files.extend(corrupt);
            }
        }
        Ok(report)
    }

    fn check_structure(&self, header: &SegmentHeader, committed: u64) -> Result<Option<CorruptFile>, DiskError> {
        let file = StoreFile::open(self.folder.segment(header.id), false)?;
        let mut bytes = [0; HEADER_BYTES as usize];
        file.read_zero_filled(&mut bytes, 0)?;
        if bytes != header.encode() {
            return Ok(Some(CorruptFile::new(&file.path, 0, "the header it had when it was opened")));
        }
        match scan(&file, header, HEADER_BYTES, Extent::Sealed(committed), |_| ()) {
            Ok(_) => Ok(None),
            Err(ScanError::Corrupt(corrupt)) => Ok(Some(corrupt)),
            Err(ScanError::Disk(error)) => Err(error),
        }
    }
}

fn stats_of(collection: &Collection) -> CollectionStats {
    let index = collection.index();
    let CollectionKey { namespace, model } = collection.key.clone();
    CollectionStats {
        namespace,
        model,
        layout: collection.layout,
        documents: index.live_documents,
        rows: index.live_rows,
        live_bytes: index.segments().map(|segment| segment.live_bytes).sum(),
        dead_bytes: index.segments().map(|segment| segment.dead_bytes).sum(),
        file_bytes: index.segments().map(|segment| segment.map.readable()).sum(),
        segments: index.segments().count() as u64,
    }
}

/// Documents found damaged.
#[derive(Debug, Default)]
pub(crate) struct CorruptLog {
    count: AtomicU64,
    recent: Mutex<VecDeque<CorruptRecord>>,
}

impl CorruptLog {
    /// Records kept until somebody takes them: enough to see where the damage is.
    const RECENT_MAX: usize = 1_024;

    /// Takes note of damage, and names it in full.
    pub(crate) fn extend(&self, folder: &Folder, key: &CollectionKey, damaged: Vec<Damage>) -> Vec<CorruptRecord> {
        if damaged.is_empty() {
            return Vec::new();
        }
        let record = |Damage { id, segment }| {
            let CollectionKey { namespace, model } = key.clone();
            CorruptRecord { namespace, model, id, file: folder.segment(segment) }
        };
        let records: Vec<CorruptRecord> = damaged.into_iter().map(record).collect();
        self.count.fetch_add(records.len() as u64, Ordering::Relaxed);
        let mut recent = lock(&self.recent);
        recent.extend(records.iter().cloned());
        let excess = recent.len().saturating_sub(Self::RECENT_MAX);
        recent.drain(..excess);
        records
    }
}
