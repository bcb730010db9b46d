//! The log: which documents each batch began and ended, for the indexes to follow.

use std::ops::Bound;

use serde::{Deserialize, Serialize};

use super::{Reader, StorageError, Truth, error::corrupt, record};
use crate::identity::{DocId, Lsn};

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
    /// Forgets the log up to and with `lsn`, at most `entries_max` of it. Cuts nothing that is not there.
    pub(super) fn truncate_log(
        &self,
        txn: &mut heed::RwTxn<'_>,
        lsn: Lsn,
        entries_max: u64,
    ) -> Result<(), StorageError> {
        let log = self.tables.log;
        let Some((key, _)) = log.first(txn).map_err(|error| self.fault(error))? else { return Ok(()) };
        let first = u64::from_be_bytes(key.try_into().map_err(|_| corrupt("a log sequence number"))?);
        if first > lsn.0 {
            return Ok(());
        }
        let last = Lsn(lsn.0.min(first.saturating_add(entries_max)));
        let (first, last) = (LogEntry::key(Lsn(first)), LogEntry::key(last));
        let range = (Bound::Included(first.as_slice()), Bound::Included(last.as_slice()));
        let cut = log.delete_range(txn, &range);
        cut.map(drop).map_err(|error| self.fault(error))
    }
}
