//! What is true of a collection: its documents, who matches which value, and the log, in one LMDB environment.
//!
//! Everything a batch changes is changed in one transaction, whose commit is an fsync and is the acknowledgement. A
//! [`Reader`] sees the collection as it was between two batches, and waits for no one; LMDB keeps its pages for as long.
//! The indexes are no part of this: they follow the log, and can be built again from here.
//!
//! # Tables
//!
//! | table | key | value |
//! |---|---|---|
//! | `state` | `state`, `schema`, `format` | counters; the schema as JSON; format version |
//! | `ids` | external id | [`DocId`](crate::DocId), 4 bytes |
//! | `documents` | `DocId`, 4 bytes, big-endian | version, hash, id and payload; then texts |
//! | `vectors` | number of the vector's field, 2 bytes, and `DocId` | components, little-endian |
//! | `payload` | see `key` | documents of that value among 65,536 numbers, as a Roaring bitmap |
//! | `log` | [`Lsn`], 8 bytes, big-endian | documents that began and that ended |
//!
//! A log entry names documents and does not repeat them: who follows the log reads them here. A document that ended is
//! here until the log forgets the entry that says so, so that an index which is behind has it for the searches that began
//! before its end. Which documents there are is said by their bitmap and by `ids` alone.
//!
//! # Cost
//!
//! A document costs its own size, twice 20 bytes of keys, and for every payload value one to nine bitmap entries of 2
//! bytes in the best case (many documents with one value) and some 40 bytes in the worst (all values distinct). A batch
//! rewrites every page that it touches, and each bitmap that it touches is at most 8 KiB.

mod bitmaps;
mod environment;
mod error;
mod facet;
pub(crate) mod key;
mod log;
mod names;
mod reader;
mod record;
mod select;
mod write;

use std::{fs, path::Path, sync::Arc};

use heed::types::Bytes;
use serde::{Deserialize, Serialize};

use self::{environment::Environment, error::corrupt, reader::Registry};
pub use self::{
    environment::MAP_BYTES_DEFAULT,
    error::{DiskError, StorageError},
    facet::{Facet, FacetError, FacetValue},
    log::LogEntry,
    reader::{Reader, TruthStats},
    write::{Batch, BatchFault, Operation, OperationFault, Written},
};
pub(crate) use self::{
    error::disk,
    names::{NameTable, NameTables},
};
use crate::{identity::Lsn, schema::Schema};

/// The version of what is written here. Another one is refused.
const FORMAT: u32 = 1;

/// One collection's documents, payload indexes and log.
#[derive(Debug)]
pub struct Truth {
    environment: Environment,
    tables: Tables,
    schema: Arc<Schema>,
    readers: Arc<Registry>,
}

/// Counters that every batch moves on.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct State {
    /// The last batch.
    lsn: Lsn,
    /// Number of the next document.
    next: u32,
    /// Documents there are.
    documents: u64,
}

impl Truth {
    /// Creates the truth of a new collection in a folder that is not there yet, or is empty.
    ///
    /// # Errors
    /// [`StorageError`]; also if there is a truth already.
    pub fn create(folder: &Path, schema: &Schema, map_bytes: u64) -> Result<Arc<Self>, StorageError> {
        fs::create_dir_all(folder).map_err(disk("create", folder))?;
        let environment = Environment::open(folder, map_bytes)?;
        let tables = Tables::open(&environment)?;
        let mut txn = environment.write()?;
        if tables.state.get(&txn, b"format").map_err(|error| environment.fault(error))?.is_some() {
            return Err(corrupt("a folder without a collection"));
        }
        let json = serde_json::to_vec(schema).map_err(|_| corrupt("a schema that can be written as JSON"))?;
        let rows: [(&[u8], Vec<u8>); 3] = [
            (b"schema", json),
            (b"state", record::encode(&State::default())?),
            (b"format", FORMAT.to_be_bytes().to_vec()),
        ];
        for (name, value) in rows {
            tables.state.put(&mut txn, name, &value).map_err(|error| environment.fault(error))?;
        }
        environment.commit(txn)?;
        // The folder's own entry, and that of the file in it, must outlive a crash as well.
        sync_folder(folder)?;
        folder.parent().map_or(Ok(()), sync_folder)?;
        Ok(Arc::new(Self { environment, tables, schema: Arc::new(schema.clone()), readers: Arc::default() }))
    }

    /// Opens what is in a folder.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn open(folder: &Path, map_bytes: u64) -> Result<Arc<Self>, StorageError> {
        if !folder.join("data.mdb").is_file() {
            return Err(StorageError::Missing { folder: folder.to_owned() });
        }
        let environment = Environment::open(folder, map_bytes)?;
        let tables = Tables::open(&environment)?;
        let schema = {
            let txn = environment.read()?;
            let row = |name: &[u8]| tables.state.get(&txn, name).map_err(|error| environment.fault(error));
            let format = row(b"format")?.and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
            match format {
                Some(FORMAT) => {}
                Some(found) => return Err(StorageError::Format { found, supported: FORMAT }),
                None => return Err(corrupt("a format version")),
            }
            let json = row(b"schema")?.ok_or_else(|| corrupt("a schema"))?;
            Arc::new(serde_json::from_slice(json).map_err(|_| corrupt("a schema as JSON"))?)
        };
        Ok(Arc::new(Self { environment, tables, schema, readers: Arc::default() }))
    }

    /// What its documents look like.
    #[must_use]
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// The collection as it is now, for as long as the reader is kept.
    ///
    /// # Errors
    /// [`StorageError::Readers`] beyond 512 at a time, and others.
    pub fn read(self: &Arc<Self>) -> Result<Reader, StorageError> {
        Reader::open(self)
    }

    /// The last batch that was committed.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn lsn(&self) -> Result<Lsn, StorageError> {
        let txn = self.environment.read()?;
        Ok(self.state(&txn)?.lsn)
    }

    /// The oldest moment that somebody still reads; `None` if nobody does.
    #[must_use]
    pub(crate) fn oldest_reader(&self) -> Option<Lsn> {
        self.readers.oldest()
    }

    /// Calls `ring` whenever the oldest reader may have gone.
    pub(crate) fn on_reader_gone(&self, ring: impl Fn() + Send + Sync + 'static) {
        self.readers.on_gone(Box::new(ring));
    }

    /// Copies the collection as it is now into a file, while it is read and written. Free pages are left out.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn copy_to(&self, file: &Path) -> Result<(), StorageError> {
        self.environment.copy_to(file)
    }

    fn fault(&self, error: heed::Error) -> StorageError {
        self.environment.fault(error)
    }

    fn state(&self, txn: &heed::RoTxn<'_>) -> Result<State, StorageError> {
        let row = self.tables.state.get(txn, b"state").map_err(|error| self.fault(error))?;
        record::decode(row.ok_or_else(|| corrupt("counters"))?, "counters")
    }
}

/// The tables, as the documentation above lists them.
#[derive(Clone, Copy, Debug)]
struct Tables {
    state: Table,
    ids: Table,
    documents: Table,
    vectors: Table,
    payload: Table,
    log: Table,
}

impl Tables {
    fn open(environment: &Environment) -> Result<Self, StorageError> {
        let names = ["state", "ids", "documents", "vectors", "payload", "log"];
        let [state, ids, documents, vectors, payload, log] = environment.tables(names)?;
        Ok(Self { state, ids, documents, vectors, payload, log })
    }
}

/// Bytes to bytes: what they mean is said by [`key`] and [`record`].
type Table = heed::Database<'static, Bytes, Bytes>;

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), StorageError> {
    let opened = fs::File::open(folder).map_err(disk("open", folder))?;
    Ok(opened.sync_all().map_err(disk("sync", folder))?)
}

#[cfg(test)]
mod tests;
