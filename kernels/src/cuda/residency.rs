//! Which documents lie in a device's memory, and where: bookkeeping alone, without a device.
//!
//! One region of `capacity` bytes holds documents of any size. A new one goes into the first gap that is large enough;
//! while there is none, the documents that were used longest ago make room. What the current batch uses stays. Gaps
//! beside each other are one gap.
//!
//! Cost: logarithmic in documents, but for the search of a gap, which is linear in gaps.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
};

/// Where a document begins is a multiple of this, in bytes: whole lines of a cache, whole sectors of memory.
pub const ALIGNMENT: usize = 256;

/// Documents in a region of memory, by key.
#[derive(Debug)]
pub struct Residency {
    capacity: usize,
    entries: HashMap<u64, Entry>,
    /// Keys by when they were used last.
    by_use: BTreeMap<u64, u64>,
    /// Free bytes: where a gap begins, and where it ends.
    gaps: BTreeMap<usize, usize>,
    clock: u64,
    /// What has been used since is in use.
    batch_began: u64,
    counters: Counters,
}

/// What happened so far, and how much is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Lookups that found their document.
    pub hits: u64,
    /// Lookups that did not.
    pub misses: u64,
    /// Documents that made room.
    pub evictions: u64,
    /// Documents that found no room.
    pub refusals: u64,
    /// Documents that are there.
    pub documents: usize,
    /// Bytes that they take, rounded up to [`ALIGNMENT`].
    pub bytes: usize,
}

#[derive(Debug)]
struct Entry {
    place: Range<usize>,
    rows: u32,
    used: u64,
}

/// A document that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resident {
    /// Where it begins, in bytes.
    pub offset: usize,
    /// Its rows.
    pub rows: u32,
}

impl Residency {
    /// An empty region.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity / ALIGNMENT * ALIGNMENT;
        let gaps = (capacity > 0).then_some((0, capacity)).into_iter().collect();
        Self {
            capacity,
            entries: HashMap::new(),
            by_use: BTreeMap::new(),
            gaps,
            clock: 0,
            batch_began: 0,
            counters: Counters::default(),
        }
    }

    /// From here on, nothing that is looked up or inserted makes room, until the next batch begins.
    pub fn begin_batch(&mut self) {
        self.clock += 1;
        self.batch_began = self.clock;
    }

    /// Finds a document, which counts as using it.
    pub fn find(&mut self, key: u64) -> Option<Resident> {
        let Some(entry) = self.entries.get_mut(&key) else {
            self.counters.misses += 1;
            return None;
        };
        self.counters.hits += 1;
        self.clock += 1;
        self.by_use.remove(&entry.used);
        entry.used = self.clock;
        self.by_use.insert(self.clock, key);
        Some(Resident { offset: entry.place.start, rows: entry.rows })
    }

    /// Where a document is; no use of it, and not counted.
    #[must_use]
    pub fn place(&self, key: u64) -> Option<Resident> {
        self.entries.get(&key).map(|entry| Resident { offset: entry.place.start, rows: entry.rows })
    }

    /// Whether a document is there; no use of it, and not counted.
    #[must_use]
    pub fn contains(&self, key: u64) -> bool {
        self.entries.contains_key(&key)
    }

    /// Makes room for a document and counts it as used. One of that key that was there is gone. `None` if there is no
    /// room beside what the batch uses.
    pub fn insert(&mut self, key: u64, rows: u32, bytes: usize) -> Option<Resident> {
        self.remove(key);
        let size = bytes.max(1).next_multiple_of(ALIGNMENT);
        let Some(offset) = self.make_room(size) else {
            self.counters.refusals += 1;
            return None;
        };
        self.clock += 1;
        self.entries.insert(key, Entry { place: offset..offset + size, rows, used: self.clock });
        self.by_use.insert(self.clock, key);
        self.counters.documents += 1;
        self.counters.bytes += size;
        Some(Resident { offset, rows })
    }

    /// Forgets a document; whether it was there.
    pub fn remove(&mut self, key: u64) -> bool {
        let Some(entry) = self.entries.remove(&key) else { return false };
        self.by_use.remove(&entry.used);
        self.counters.documents -= 1;
        self.counters.bytes -= entry.place.len();
        self.free(entry.place);
        true
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Bytes of the region.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    fn make_room(&mut self, size: usize) -> Option<usize> {
        if size > self.capacity {
            return None;
        }
        loop {
            if let Some((&begin, &end)) = self.gaps.iter().find(|(begin, end)| **end - **begin >= size) {
                self.gaps.remove(&begin);
                if begin + size < end {
                    self.gaps.insert(begin + size, end);
                }
                return Some(begin);
            }
            let (&used, &oldest) = self.by_use.first_key_value()?;
            if used > self.batch_began {
                return None;
            }
            self.remove(oldest);
            self.counters.evictions += 1;
        }
    }

    fn free(&mut self, place: Range<usize>) {
        let (mut begin, mut end) = (place.start, place.end);
        if let Some((&before, &before_end)) = self.gaps.range(..begin).next_back()
            && before_end == begin
        {
            begin = before;
        }
        if let Some(after_end) = self.gaps.remove(&end) {
            end = after_end;
        }
        self.gaps.insert(begin, end);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_longest_unused_makes_room() {
        let mut residency = Residency::new(4 * ALIGNMENT);
        for key in 0..4 {
            assert_eq!(residency.insert(key, 1, 10), Some(Resident { offset: key as usize * ALIGNMENT, rows: 1 }));
        }
        residency.begin_batch();
        assert_eq!(residency.find(0).map(|found| found.offset), Some(0));
        assert_eq!(residency.find(9), None);
        assert_eq!(residency.insert(4, 2, ALIGNMENT), Some(Resident { offset: ALIGNMENT, rows: 2 }));
        assert!(residency.contains(0) && !residency.contains(1) && residency.contains(2));
        let expected = Counters { hits: 1, misses: 1, evictions: 1, refusals: 0, documents: 4, bytes: 4 * ALIGNMENT };
        assert_eq!(residency.counters(), expected);
    }

    #[test]
    fn what_a_batch_uses_stays() {
        let mut residency = Residency::new(3 * ALIGNMENT);
        residency.begin_batch();
        assert!((0..3).all(|key| residency.insert(key, 1, 1).is_some()));
        assert_eq!(residency.insert(3, 1, 1), None, "everything is in use");
        residency.begin_batch();
        residency.find(1);
        assert_eq!(residency.insert(3, 1, 2 * ALIGNMENT), None, "0 and 2 are not neighbours");
        assert!(residency.contains(1) && residency.counters().refusals == 2);
        assert_eq!(residency.insert(4, 1, 4 * ALIGNMENT), None, "larger than everything");
        residency.begin_batch();
        assert_eq!(residency.insert(3, 1, 3 * ALIGNMENT), Some(Resident { offset: 0, rows: 1 }));
        assert_eq!(residency.counters().documents, 1);
        assert_eq!(Residency::new(100).insert(1, 1, 0), None);
    }

    #[derive(Clone, Debug)]
    enum Operation {
        Begin,
        Find(u64),
        Insert(u64, usize),
        Remove(u64),
    }

    fn operation() -> impl Strategy<Value = Operation> {
        prop_oneof![
            1 => Just(Operation::Begin),
            4 => (0..20_u64).prop_map(Operation::Find),
            4 => (0..20_u64, 0..1500_usize).prop_map(|(key, bytes)| Operation::Insert(key, bytes)),
            1 => (0..20_u64).prop_map(Operation::Remove),
        ]
    }

    proptest! {
        #[test]
        fn documents_never_overlap_and_nothing_is_lost(operations in prop::collection::vec(operation(), 0..200)) {
            let mut residency = Residency::new(10 * ALIGNMENT);
            let mut used_in_batch: Vec<u64> = Vec::new();
            for operation in operations {
                match operation {
                    Operation::Begin => {
                        residency.begin_batch();
                        used_in_batch.clear();
                    }
                    Operation::Find(key) => {
                        prop_assert_eq!(residency.contains(key), residency.find(key).is_some());
                        used_in_batch.extend(residency.contains(key).then_some(key));
                    }
                    Operation::Insert(key, bytes) => {
                        used_in_batch.retain(|&used| used != key);
                        used_in_batch.extend(residency.insert(key, 1, bytes).map(|_| key));
                    }
                    Operation::Remove(key) => {
                        residency.remove(key);
                        used_in_batch.retain(|&used| used != key);
                    }
                }
                prop_assert!(used_in_batch.iter().all(|&key| residency.contains(key)), "{used_in_batch:?}");
                let mut places: Vec<(usize, usize)> =
                    residency.entries.values().map(|entry| (entry.place.start, entry.place.end)).collect();
                let bytes: usize = places.iter().map(|(begin, end)| end - begin).sum();
                prop_assert_eq!((places.len(), bytes), (residency.counters.documents, residency.counters.bytes));
                prop_assert_eq!(residency.by_use.len(), places.len());
                let gaps: Vec<_> = residency.gaps.iter().map(|(&begin, &end)| (begin, end)).collect();
                prop_assert!(gaps.windows(2).all(|pair| pair[0].1 < pair[1].0), "gaps beside each other: {gaps:?}");
                places.extend(gaps);
                places.sort_unstable();
                // Documents and gaps tile the region.
                let end = places.iter().try_fold(0, |at, &(begin, end)| (begin == at && end > begin).then_some(end));
                prop_assert_eq!(end, Some(residency.capacity()));
            }
        }
    }
}
