//! Fused lists that have further pages.
//!
//! A list is cut into pages as they are asked for. It is kept for that, so that pages fit together whatever is written
//! between them, and are cheap. The memory is bounded by the number of lists, and the one longest unused goes first; who
//! comes too late is served from a new list if nothing has been written since, and refused otherwise.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use sluice_core::fusion::{Cursor, FINGERPRINT_BYTES, FusedHit};

use super::{Found, FusionReport, LegReport, SearchJob};
use crate::identity::Lsn;

/// A fused list, and how it came about.
#[derive(Debug)]
pub(super) struct KeptList {
    pub(super) lsn: Lsn,
    pub(super) hits: Vec<FusedHit<Found>>,
    pub(super) legs: Vec<LegReport>,
    pub(super) fusion: FusionReport,
}

impl KeptList {
    /// The page that begins behind `from` hits.
    pub(super) fn page(&self, job: &SearchJob, from: usize) -> &[FusedHit<Found>] {
        let from = from.min(self.hits.len());
        &self.hits[from..from.saturating_add(job.limit).min(self.hits.len())]
    }

    /// Where the page behind goes on; `None` if there is none.
    pub(super) fn cursor_behind(&self, job: &SearchJob, from: usize) -> Option<Cursor> {
        let rank = from.saturating_add(job.limit);
        if rank >= self.hits.len() {
            return None;
        }
        let last = &self.hits[rank - 1];
        Some(Cursor {
            fingerprint: job.fingerprint,
            lsn: self.lsn.0,
            rank: u32::try_from(rank).ok()?,
            score: last.score,
            id: last.id.id.to_string(),
        })
    }
}

/// Which list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeptKey {
    fingerprint: [u8; FINGERPRINT_BYTES],
    lsn: Lsn,
}

impl KeptKey {
    pub(super) fn of(job: &SearchJob, lsn: Lsn) -> Self {
        Self { fingerprint: job.fingerprint, lsn }
    }
}

/// Lists that may be gone on with. Clones are the same.
#[derive(Clone, Debug)]
pub struct KeptLists {
    /// The one longest unused first.
    lists: Arc<Mutex<VecDeque<(KeptKey, Arc<KeptList>)>>>,
    max: usize,
}

impl KeptLists {
    /// Keeps at most `max` lists.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { lists: Arc::default(), max }
    }

    pub(super) fn get(&self, key: KeptKey) -> Option<Arc<KeptList>> {
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        let position = lists.iter().position(|(kept, _)| *kept == key)?;
        let used = lists.remove(position)?;
        let list = Arc::clone(&used.1);
        lists.push_back(used);
        Some(list)
    }

    pub(super) fn keep(&self, key: KeptKey, list: &Arc<KeptList>) {
        if self.max == 0 {
            return;
        }
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        if lists.iter().any(|(kept, _)| *kept == key) {
            return;
        }
        if lists.len() >= self.max {
            lists.pop_front();
        }
        lists.push_back((key, Arc::clone(list)));
    }
}

#[cfg(test)]
mod tests {
    use sluice_core::fusion::Method;

    use super::*;

    fn key(lsn: u64) -> KeptKey {
        KeptKey { fingerprint: [7; FINGERPRINT_BYTES], lsn: Lsn(lsn) }
    }

    fn list(lsn: u64) -> Arc<KeptList> {
        let fusion = FusionReport { method: Method::default(), features: None };
        Arc::new(KeptList { lsn: Lsn(lsn), hits: Vec::new(), legs: Vec::new(), fusion })
    }

    #[test]
    fn the_one_longest_unused_goes_first() {
        let kept = KeptLists::new(2);
        kept.keep(key(1), &list(1));
        kept.keep(key(2), &list(2));
        assert!(kept.get(key(1)).is_some());
        kept.keep(key(3), &list(3));
        let there = [1, 2, 3].map(|lsn| kept.get(key(lsn)).map(|list| list.lsn.0));
        assert_eq!(there, [Some(1), None, Some(3)]);
        let none = KeptLists::new(0);
        none.keep(key(1), &list(1));
        assert!(none.get(key(1)).is_none());
    }
}
