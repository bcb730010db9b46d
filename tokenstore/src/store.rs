//! The store: a folder of segments, and the index over them.

mod compact;
mod load;
mod put;
mod reader;
mod report;
mod writer;

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

pub use self::compact::{Compact, Compacted};
pub use self::report::{CollectionStats, CorruptRecord, Stats, VerifyReport};
use self::{reader::Reader, report::CorruptLog, writer::Writer};
use crate::{
    Layout, ModelDigest, Namespace, OpenError, Stored,
    collection::{Collection, CollectionKey},
    disk::Disk,
    manifest::Folder,
};

/// Bounds of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes of a segment: a batch fits one. Also bounds what compaction needs while it runs, on disk and in memory. 4
    /// KiB to
    /// 128 GiB.
    pub segment_bytes_max: u64,
    /// Collections: each has a growing segment of its own, mapped. 1 to 65,536.
    pub collections_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes_max: 1 << 30, collections_max: 4_096 }
    }
}

/// Token embeddings by document, in a folder. Shared between threads by reference.
#[derive(Debug)]
pub struct TokenStore {
    folder: Folder,
    disk: Disk,
    options: Options,
    collections: RwLock<Collections>,
    access: Access,
    corrupt: CorruptLog,
    /// Held while compacting.
    compaction: Mutex<()>,
}

pub(crate) type Collections = HashMap<CollectionKey, Arc<Collection>>;

/// What the store was opened for.
#[derive(Debug)]
enum Access {
    Write(Box<Mutex<Writer>>),
    Read(Mutex<Reader>),
}

/// What a put did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Put {
    /// Documents stored.
    pub documents: usize,
    /// Those among them whose id was stored before, in the batch or ahead of it.
    pub replaced: usize,
    /// Bytes that the collection's files grew by.
    pub bytes: u64,
}

impl TokenStore {
    /// Bytes of a document's id.
    pub const ID_BYTES_MAX: usize = 512;

    /// Opens the store in a folder to read and write, creating it where there is none. What was acknowledged is there;
    /// a batch that was being written when its process died is cut off.
    ///
    /// Reads every segment's headers and directories: about 80 bytes a document and its id.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(folder: impl AsRef<Path>, options: Options) -> Result<Self, OpenError> {
        Self::open_on(Disk::default(), folder.as_ref(), options)
    }

    pub(crate) fn open_on(disk: Disk, folder: &Path, options: Options) -> Result<Self, OpenError> {
        options.check()?;
        let folder = Folder(folder.to_owned());
        let (writer, collections) = Writer::open(&disk, &folder, options)?;
        let access = Access::Write(Box::new(Mutex::new(writer)));
        Ok(Self::new(folder, disk, options, collections, access))
    }

    /// Opens the store in a folder to be read, while another process may write to it. It sees what was committed at
    /// that time, and after [`refresh`](Self::refresh) what is committed then.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_read_only(folder: impl AsRef<Path>) -> Result<Self, OpenError> {
        let folder = Folder(folder.as_ref().to_owned());
        let (reader, collections) = Reader::open(&folder)?;
        let access = Access::Read(Mutex::new(reader));
        Ok(Self::new(folder, Disk::default(), Options::default(), collections, access))
    }

    fn new(folder: Folder, disk: Disk, options: Options, collections: Collections, access: Access) -> Self {
        let corrupt = CorruptLog::default();
        Self {
            folder,
            disk,
            options,
            collections: RwLock::new(collections),
            access,
            corrupt,
            compaction: Mutex::new(()),
        }
    }

    /// The documents of these ids, in their order; `None` for one that is not stored, or whose vectors are damaged.
    ///
    /// Costs a probe of a hash table for each. The first time in a process that a document is looked up, its vectors
    /// are read as well, to compare them with their checksum.
    #[must_use]
    pub fn lookup(&self, namespace: &Namespace, model: ModelDigest, ids: &[impl AsRef<str>]) -> Vec<Option<Stored>> {
        let key = CollectionKey { namespace: namespace.clone(), model };
        let Some(collection) = self.collection(&key) else { return vec![None; ids.len()] };
        let mut damaged = Vec::new();
        // What is generic stays this small, so that the rest is compiled here, once.
        let ids: Vec<&str> = ids.iter().map(AsRef::as_ref).collect();
        let answers = collection.lookup(&ids, &mut damaged);
        self.corrupt.extend(&self.folder, &key, damaged);
        answers
    }

    /// The document of an id. See [`lookup`](Self::lookup).
    #[must_use]
    pub fn get(&self, namespace: &Namespace, model: ModelDigest, id: &str) -> Option<Stored> {
        self.lookup(namespace, model, &[id]).pop().flatten()
    }

    /// How a namespace keeps the vectors of a model; `None` until the first put.
    #[must_use]
    pub fn layout(&self, namespace: &Namespace, model: ModelDigest) -> Option<Layout> {
        self.collection(&CollectionKey { namespace: namespace.clone(), model }).map(|collection| collection.layout)
    }

    /// Takes note of what was committed since a read-only store was opened or refreshed; does nothing to one that
    /// writes. Keys of documents that are still the same are kept. Where segments have come or gone, the whole index is
    /// read anew, and for that time exists twice.
    ///
    /// # Errors
    /// [`OpenError`]; the store then shows what it showed before, or a part of what is new.
    pub fn refresh(&self) -> Result<(), OpenError> {
        let Access::Read(reader) = &self.access else { return Ok(()) };
        let mut reader = lock(reader);
        let before = self.collections();
        if let Some(after) = reader.refresh(&self.folder, &before)? {
            *self.collections.write().unwrap_or_else(PoisonError::into_inner) = after;
        }
        Ok(())
    }

    pub(crate) fn collection(&self, key: &CollectionKey) -> Option<Arc<Collection>> {
        self.collections.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// The collections of this moment.
    fn collections(&self) -> Collections {
        self.collections.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The writer, once whoever has it is done; `None` if the store is read-only.
    fn writer(&self) -> Option<MutexGuard<'_, Writer>> {
        match &self.access {
            Access::Write(writer) => Some(lock(writer)),
            Access::Read(_) => None,
        }
    }
}

impl Options {
    fn check(&self) -> Result<(), OpenError> {
        let bounds = [
            ("segment_bytes_max", self.segment_bytes_max, 4 << 10, 128 << 30),
            ("collections_max", self.collections_max as u64, 1, 65_536),
        ];
        for (option, found, min, max) in bounds {
            if !(min..=max).contains(&found) {
                return Err(OpenError::Option { option, found, min, max });
            }
        }
        Ok(())
    }
}

/// A lock whose holder panicked is taken all the same: what it guards is changed last, in one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
