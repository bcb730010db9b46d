//! Batches: checked whole, then written whole.

use std::collections::BTreeSet;

use heed::RwTxn;

use super::{LogEntry, State, StorageError, Truth, bitmaps::Pending, reader::vector_key, record};
use crate::{
    document::Document,
    filter::{Filter, FilterFault},
    identity::{DocId, Lsn},
    schema::{DocumentFault, Schema, check_id},
};

/// What to do, in this order, all of it or nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    operations: Vec<Operation>,
    bytes: usize,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// Store a document, in place of what its id had.
    Upsert(Document),
    /// Delete the documents of these ids; ids that are not there are nothing.
    Delete(Vec<String>),
    /// Delete the documents that this is true of, those that the batch has stored before included.
    DeleteWhere(Filter),
}

/// What a batch did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its number. A search that waits for it sees all of the batch.
    pub lsn: Lsn,
    /// Documents stored.
    pub upserted: u64,
    /// Those among them whose id had a document before.
    pub replaced: u64,
    /// Documents deleted.
    pub deleted: u64,
}

/// Why a batch is refused. Nothing of it is written.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("operation {position}: {fault}")]
pub struct BatchFault {
    /// Which operation, from 0.
    pub position: usize,
    /// Why.
    pub fault: OperationFault,
}

/// Why an operation is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum OperationFault {
    /// A document cannot be stored, or an id cannot be one.
    #[error(transparent)]
    Document(#[from] DocumentFault),
    /// A filter cannot be asked.
    #[error(transparent)]
    Filter(#[from] FilterFault),
    /// The batch is too large with it.
    #[error("a batch has at most {max} documents and ids", max = Batch::DOCUMENTS_MAX)]
    TooMany,
    /// The batch is too large with it.
    #[error("a batch has at most {max} bytes", max = Batch::BYTES_MAX)]
    TooLarge,
}

impl Batch {
    /// Documents to store and ids to delete in one batch: a batch is one transaction, whose pages stand in memory.
    pub const DOCUMENTS_MAX: usize = 10_000;
    /// Bytes of texts, payloads and vectors in one batch.
    pub const BYTES_MAX: usize = 256 << 20;

    /// Checks operations against a schema, all of them before any is written.
    ///
    /// # Errors
    /// The first [`BatchFault`].
    pub fn check(schema: &Schema, operations: Vec<Operation>) -> Result<Self, BatchFault> {
        let (mut documents, mut bytes) = (0, 0);
        for (position, operation) in operations.iter().enumerate() {
            let at = |fault| BatchFault { position, fault };
            operation.check(schema).map_err(at)?;
            let (more, heavier) = operation.size();
            documents += more;
            bytes += heavier;
            if documents > Self::DOCUMENTS_MAX {
                return Err(at(OperationFault::TooMany));
            }
            if bytes > Self::BYTES_MAX {
                return Err(at(OperationFault::TooLarge));
            }
        }
        Ok(Self { operations, bytes })
    }

    /// Bytes of texts, payloads and vectors, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Operation {
    fn check(&self, schema: &Schema) -> Result<(), OperationFault> {
        match self {
            Self::Upsert(document) => Ok(schema.check_document(document)?),
            Self::Delete(ids) => Ok(ids.iter().try_for_each(|id| check_id(id))?),
            Self::DeleteWhere(filter) => Ok(filter.check(schema)?),
        }
    }

    /// Documents and ids, and bytes.
    fn size(&self) -> (usize, usize) {
        match self {
            Self::Upsert(document) => (1, document.bytes()),
            Self::Delete(ids) => (ids.len(), ids.iter().map(String::len).sum()),
            Self::DeleteWhere(_) => (1, 0),
        }
    }
}

impl Truth {
    /// Writes batches, in order, in one transaction with one fsync: all of them or none. What returns is durable.
    ///
    /// The log up to and with `forget` is cut. Waits for another writer.
    ///
    /// # Errors
    /// [`StorageError`]; nothing was written, and the same call may be tried again.
    pub fn write(&self, batches: &[&Batch], forget: Lsn) -> Result<Vec<Written>, StorageError> {
        let mut txn = self.environment.write()?;
        let state = self.state(&txn)?;
        let mut write = Write { truth: self, state, pending: Pending::default() };
        let written: Result<Vec<_>, _> = batches.iter().map(|batch| write.batch(&mut txn, batch)).collect();
        let written = written?;
        write.pending.flush(self, &mut txn)?;
        self.truncate_log(&mut txn, forget)?;
        let row = record::encode(&write.state)?;
        self.tables.state.put(&mut txn, b"state", &row).map_err(|error| self.fault(error))?;
        self.environment.commit(txn)?;
        Ok(written)
    }
}

/// One transaction's work.
struct Write<'t> {
    truth: &'t Truth,
    state: State,
    pending: Pending,
}

/// What a batch did so far.
#[derive(Default)]
struct Effect {
    began: BTreeSet<DocId>,
    ended: Vec<DocId>,
    upserted: u64,
    replaced: u64,
    deleted: u64,
}

impl Write<'_> {
    fn batch(&mut self, txn: &mut RwTxn<'_>, batch: &Batch) -> Result<Written, StorageError> {
        let lsn = self.state.lsn.next();
        let mut effect = Effect::default();
        for operation in &batch.operations {
            match operation {
                Operation::Upsert(document) => self.upsert(txn, lsn, document, &mut effect)?,
                Operation::Delete(ids) => {
                    for id in ids {
                        if let Some(doc) = self.truth.find(txn, id)? {
                            self.end(txn, doc, &mut effect)?;
                            effect.deleted += 1;
                        }
                    }
                }
                Operation::DeleteWhere(filter) => {
                    // The filter sees what the batch has done so far.
                    self.pending.flush(self.truth, txn)?;
                    for doc in self.truth.select(txn, filter)? {
                        self.end(txn, DocId(doc), &mut effect)?;
                        effect.deleted += 1;
                    }
                }
            }
        }
        let Effect { began, ended, upserted, replaced, deleted } = effect;
        let entry = record::encode(&LogEntry { began: began.into_iter().collect(), ended })?;
        self.put(txn, self.truth.tables.log, &LogEntry::key(lsn), &entry)?;
        self.state.lsn = lsn;
        Ok(Written { lsn, upserted, replaced, deleted })
    }

    fn upsert(
        &mut self,
        txn: &mut RwTxn<'_>,
        version: Lsn,
        document: &Document,
        effect: &mut Effect,
    ) -> Result<(), StorageError> {
        if let Some(old) = self.truth.find(txn, &document.id)? {
            self.end(txn, old, effect)?;
            effect.replaced += 1;
        }
        let doc = DocId(self.state.next);
        self.state.next = doc.0.checked_add(1).ok_or(StorageError::Numbers)?;
        self.state.documents += 1;
        effect.upserted += 1;
        effect.began.insert(doc);

        let tables = self.truth.tables;
        let schema = &self.truth.schema;
        let bytes = record::document(document, version, schema.content.hash(document))?;
        self.put(txn, tables.ids, document.id.as_bytes(), &doc.0.to_be_bytes())?;
        self.put(txn, tables.documents, &doc.0.to_be_bytes(), &bytes)?;
        for (place, field) in schema.dense.iter().enumerate() {
            if let Some(vector) = document.dense.get(&field.name) {
                self.put(txn, tables.vectors, &vector_key(place, doc), &record::dense(vector))?;
            }
        }
        for (place, field) in schema.sparse.iter().enumerate() {
            if let Some(vector) = document.sparse.get(&field.name) {
                let key = vector_key(schema.dense.len() + place, doc);
                self.put(txn, tables.vectors, &key, &record::sparse(vector))?;
            }
        }
        self.pending.add(schema, doc, &document.payload);
        self.pending.flush_if_large(self.truth, txn)
    }

    /// A document is not there any more; an index that is behind still reads it.
    fn end(&mut self, txn: &mut RwTxn<'_>, doc: DocId, effect: &mut Effect) -> Result<(), StorageError> {
        let (truth, schema) = (self.truth, &self.truth.schema);
        let row = truth.row(txn, doc)?.ok_or(StorageError::Corrupt { expected: "the document of an id" })?;
        let head = record::head(row)?;
        self.pending.remove(schema, doc, &head.payload);
        self.pending.flush_if_large(truth, txn)?;
        truth.tables.ids.delete(txn, head.id.as_bytes()).map_err(|error| truth.fault(error))?;
        self.state.documents -= 1;
        // What began in this very batch was never seen by anyone. The rest is kept until the log forgets it.
        if effect.began.remove(&doc) {
            return truth.erase(txn, doc);
        }
        effect.ended.push(doc);
        Ok(())
    }

    fn put(&self, txn: &mut RwTxn<'_>, table: super::Table, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        table.put(txn, key, value).map_err(|error| self.truth.fault(error))
    }
}
