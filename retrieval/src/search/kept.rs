//! Fused lists that have further pages.
//!
//! A list is cut into pages as they are asked for. It is kept for that, so that pages fit together whatever is written
//! between them, and are cheap. The memory is bounded by the number of lists and of their hits, and the one longest unused
//! goes first; who comes too late is served from a new list if nothing has been written since, and refused otherwise.
//!
//! The same search may make different lists at the same moment: a leg is late, or an index comes on. Each is kept, and a
//! cursor names its own.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
};

use sluice_core::fusion::{Cursor, CursorError, FINGERPRINT_BYTES, FusedHit};

use super::{Found, FusionReport, LegReport, SearchJob};
use crate::identity::Lsn;

/// A fused list, and how it came about.
#[derive(Debug)]
pub(super) struct KeptList {
    pub(super) lsn: Lsn,
    /// Of its documents and scores: tells it from others of the same search and moment.
    number: u64,
    pub(super) hits: Vec<FusedHit<Found>>,
    pub(super) legs: Vec<LegReport>,
    pub(super) fusion: FusionReport,
}

impl KeptList {
    pub(super) fn new(lsn: Lsn, hits: Vec<FusedHit<Found>>, legs: Vec<LegReport>, fusion: FusionReport) -> Self {
        let mut number = DefaultHasher::new();
        for hit in &hits {
            (&hit.id.id, hit.score.to_bits()).hash(&mut number);
        }
        Self { lsn, number: number.finish(), hits, legs, fusion }
    }

    /// How many hits the page stands behind that the job asks for.
    ///
    /// # Errors
    /// If its cursor was cut from another list.
    pub(super) fn begin(&self, job: &SearchJob) -> Result<usize, CursorError> {
        let Some(cursor) = &job.after else { return Ok(0) };
        let there = self.hits.get((cursor.rank as usize).saturating_sub(1));
        cursor.resume(there.map(|hit| (hit.score, &*hit.id.id)))
    }

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
            list: self.number,
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
    number: u64,
}

impl KeptKey {
    pub(super) fn of(job: &SearchJob, list: &KeptList) -> Self {
        Self { fingerprint: job.fingerprint, lsn: list.lsn, number: list.number }
    }

    /// The one that a cursor was cut from.
    pub(super) fn behind(cursor: &Cursor) -> Self {
        Self { fingerprint: cursor.fingerprint, lsn: Lsn(cursor.lsn), number: cursor.list }
    }
}

/// Lists that may be gone on with. Clones are the same.
#[derive(Clone, Debug)]
pub struct KeptLists {
    /// The one longest unused first.
    lists: Arc<Mutex<VecDeque<(KeptKey, Arc<KeptList>)>>>,
    lists_max: usize,
    hits_max: usize,
}

impl KeptLists {
    /// Keeps at most `lists_max` lists, of `hits_max` hits in all.
    #[must_use]
    pub fn new(lists_max: usize, hits_max: usize) -> Self {
        Self { lists: Arc::default(), lists_max, hits_max }
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
        if self.lists_max == 0 || list.hits.len() > self.hits_max {
            return;
        }
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        // The same again counts as used.
        lists.retain(|(kept, _)| *kept != key);
        lists.push_back((key, Arc::clone(list)));
        let mut hits: usize = lists.iter().map(|(_, list)| list.hits.len()).sum();
        while lists.len() > self.lists_max || hits > self.hits_max {
            let Some((_, gone)) = lists.pop_front() else { return };
            hits -= gone.hits.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use sluice_core::fusion::Method;

    use super::*;

    /// A list of so many hits, all with this score.
    fn list(lsn: u64, hits: usize, score: f64) -> (KeptKey, Arc<KeptList>) {
        let found = |nth: usize| Found { id: format!("d{nth}").into(), document: crate::identity::DocId(0) };
        let hits = (0..hits).map(|nth| FusedHit { id: found(nth), score, legs: Vec::new() });
        let fusion = FusionReport { method: Method::default(), features: None };
        let list = KeptList::new(Lsn(lsn), hits.collect(), Vec::new(), fusion);
        (KeptKey { fingerprint: [7; FINGERPRINT_BYTES], lsn: Lsn(lsn), number: list.number }, Arc::new(list))
    }

    /// Which of these are there, once they were all kept, and each of `used` used before the last came.
    fn kept(kept: &KeptLists, lists: &[(KeptKey, Arc<KeptList>)], used: &[usize]) -> Vec<bool> {
        for (nth, (key, list)) in lists.iter().enumerate() {
            if nth + 1 == lists.len() {
                assert!(used.iter().all(|nth| kept.get(lists[*nth].0).is_some()));
            }
            kept.keep(*key, list);
        }
        lists.iter().map(|(key, list)| kept.get(*key).is_some_and(|kept| Arc::ptr_eq(&kept, list))).collect()
    }

    #[test]
    fn the_one_longest_unused_goes_first() {
        let lists = [1, 2, 3].map(|lsn| list(lsn, 1, 1.0));
        assert_eq!(kept(&KeptLists::new(2, 100), &lists, &[0]), [true, false, true]);
        assert_eq!(kept(&KeptLists::new(0, 100), &lists[..1], &[]), [false]);
    }

    #[test]
    fn hits_are_bounded_as_well() {
        let lists = [(1, 40), (2, 40), (3, 30)].map(|(lsn, hits)| list(lsn, hits, 1.0));
        assert_eq!(kept(&KeptLists::new(9, 100), &lists, &[]), [false, true, true]);
        assert_eq!(kept(&KeptLists::new(9, 39), &lists, &[]), [false, false, true], "longer than all may be");
    }

    #[test]
    fn lists_of_one_moment_are_told_apart() {
        let lists = [list(1, 3, 1.0), list(1, 3, 2.0), list(1, 4, 1.0)];
        assert_eq!(kept(&KeptLists::new(9, 100), &lists, &[]), [true, true, true]);
    }
}
