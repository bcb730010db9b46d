//! The log: which documents each batch began and ended, for the indexes to follow.

use std::ops::Bound;

use heed::RwTxn;
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};

use super::{Reader, StorageError, Truth, error::corrupt, reader::vector_key, record};
use crate::identity::{DocId, Lsn};

/// Entries that one transaction forgets: a commit stays short after a long time without one.
const CUT_ENTRIES_MAX: usize = 1_024;
/// Documents that it forgets with them, about.
const CUT_DOCUMENTS_MAX: usize = 10_000;

/// What one batch did. A document that it both began and ended is in neither list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Documents that are there since, in ascending order.
    pub began: Vec<DocId>,
    /// Documents that are not there any more.
    pub ended: Vec<DocId>,
}

impl LogEntry {
    pub(super) fn key(lsn: Lsn) -> [u8; 8] {
        lsn.0.to_be_bytes()
    }
}

impl Reader {
    /// Entries after `after`, in order, until `documents_max` documents are named (at least one entry, if there is one).
    /// `None` where the log does not reach back to `after + 1` any more.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn log_after(&self, after: Lsn, documents_max: usize) -> Result<Option<Vec<(Lsn, LogEntry)>>, StorageError> {
        let (truth, txn) = (self.truth(), self.txn());
        let first = LogEntry::key(after.next());
        let rows = truth.tables.log.range(txn, &(Bound::Included(first.as_slice()), Bound::Unbounded));
        let (mut entries, mut documents, mut expected) = (Vec::new(), 0, after.next());
        for row in rows.map_err(|error| truth.fault(error))? {
            let (key, value) = row.map_err(|error| truth.fault(error))?;
            let lsn = Lsn(u64::from_be_bytes(key.try_into().map_err(|_| corrupt("a log sequence number"))?));
            if lsn != expected {
                return if entries.is_empty() { Ok(None) } else { Err(corrupt("a log without gaps")) };
            }
            let entry: LogEntry = record::decode(value, "a log entry")?;
            documents += entry.began.len() + entry.ended.len();
            entries.push((lsn, entry));
            expected = lsn.next();
            if documents >= documents_max {
                break;
            }
        }
        Ok((!entries.is_empty() || after >= self.lsn()).then_some(entries))
    }

    /// Documents that ended after `after`. `None` where the log does not reach back to there any more.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn ended_after(&self, after: Lsn) -> Result<Option<RoaringBitmap>, StorageError> {
        let entries = self.log_after(after, usize::MAX)?;
        let ended = |(_, entry): &(Lsn, LogEntry)| entry.ended.iter().map(|doc| doc.0).collect::<Vec<_>>();
        Ok(entries.map(|entries| entries.iter().flat_map(ended).collect()))
    }

    /// The first entry that the log still has; `None` if it has none.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn log_first(&self) -> Result<Option<Lsn>, StorageError> {
        let first = self.truth().tables.log.first(self.txn()).map_err(|error| self.truth().fault(error))?;
        let lsn = |(key, _): (&[u8], _)| key.try_into().map(|key| Lsn(u64::from_be_bytes(key)));
        first.map(lsn).transpose().map_err(|_| corrupt("a log sequence number"))
    }
}

impl Truth {
    /// Forgets the log up to and with `lsn`, and the documents that ended in it; some of it, where that is much.
    pub(super) fn truncate_log(&self, txn: &mut RwTxn<'_>, lsn: Lsn) -> Result<(), StorageError> {
        let (mut entries, mut documents) = (0, 0);
        while entries < CUT_ENTRIES_MAX && documents < CUT_DOCUMENTS_MAX {
            let Some((key, value)) = self.tables.log.first(txn).map_err(|error| self.fault(error))? else { break };
            let at = key.try_into().map(u64::from_be_bytes).map_err(|_| corrupt("a log sequence number"))?;
            if at > lsn.0 {
                break;
            }
            let entry: LogEntry = record::decode(value, "a log entry")?;
            for doc in &entry.ended {
                self.erase(txn, *doc)?;
            }
            self.tables.log.delete(txn, &LogEntry::key(Lsn(at))).map_err(|error| self.fault(error))?;
            entries += 1;
            documents += entry.ended.len();
        }
        Ok(())
    }

    /// Removes what is stored under a document's number.
    pub(super) fn erase(&self, txn: &mut RwTxn<'_>, doc: DocId) -> Result<(), StorageError> {
        self.tables.documents.delete(txn, &doc.0.to_be_bytes()).map_err(|error| self.fault(error))?;
        for place in 0..self.schema.dense.len() + self.schema.sparse.len() {
            self.tables.vectors.delete(txn, &vector_key(place, doc)).map_err(|error| self.fault(error))?;
        }
        Ok(())
    }
}
