//! Scores that were computed, bounded by bytes.
//!
//! The table is quick_cache's: CLOCK-Pro with ghosts, so that one pass over a large collection does not drive out what
//! is asked for again and again; a lookup takes a shard's read lock and writes one counter.

use metrics::Counter;
use quick_cache::{Lifecycle, OptionsBuilder, Weighter, sync::Cache};

use super::key::{BuildKeyHasher, Key};

/// Bytes that a score takes at most, all told: 40 in the slab (key 16, score 4, links 8, state), 20 for the ghosts that
/// remember what was driven out (half as many as there are scores), and up to 20 of the hash table, whose size is a
/// power of two. A test compares the sum with what the table says of itself.
pub(super) const ENTRY_BYTES: u64 = 80;

/// Tables with a lock each.
const SHARDS: u64 = 16;

pub(super) struct Scores(Cache<Key, f32, EntryBytes, BuildKeyHasher, Evictions>);

impl Scores {
    /// Room for as many scores as take `bytes_max` bytes. The room is reserved now; memory is touched as it fills.
    pub(super) fn new(bytes_max: u64, evictions: Counter) -> Self {
        let entries = bytes_max / ENTRY_BYTES / SHARDS * SHARDS;
        let options = OptionsBuilder::new()
            .shards(SHARDS as usize)
            .estimated_items_capacity(usize::try_from(entries).unwrap_or(usize::MAX))
            .weight_capacity(entries * ENTRY_BYTES)
            .build()
            .expect("both capacities are set");
        let cache = Cache::with_options(options, EntryBytes, BuildKeyHasher::default(), Evictions(evictions));
        cache.reserve(usize::try_from(entries).unwrap_or(usize::MAX));
        Self(cache)
    }

    pub(super) fn get(&self, key: &Key) -> Option<f32> {
        self.0.get(key)
    }

    /// Keeps a score, unless it is none.
    pub(super) fn insert(&self, key: Key, score: f32) {
        if !score.is_nan() {
            self.0.insert(key, score);
        }
    }

    /// What the scores take, at most.
    pub(super) fn bytes(&self) -> u64 {
        self.0.weight()
    }
}

/// All entries weigh the same.
#[derive(Clone, Copy)]
struct EntryBytes;

impl Weighter<Key, f32> for EntryBytes {
    fn weight(&self, _: &Key, _: &f32) -> u64 {
        ENTRY_BYTES
    }
}

/// Counts what is driven out.
#[derive(Clone)]
struct Evictions(Counter);

impl Lifecycle<Key, f32> for Evictions {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _: Key, _: f32) {
        self.0.increment(1);
    }
}

#[cfg(test)]
mod tests {
    use sluice_core::{
        Operation,
        batch::{Role, Sequence},
    };
    use sluice_tokenstore::ModelDigest;

    use super::*;
    use crate::cached::key::{Keys, Profile};

    fn keys(range: std::ops::Range<u32>) -> Vec<Key> {
        let keys = Keys::new(&Profile::new(ModelDigest([0; 32]), "test"), Operation::CrossEncode, &[]);
        range.map(|id| keys.key(&Sequence::single(vec![id], Role::Plain))).collect()
    }

    #[test]
    fn bytes_stay_within_their_bound_whatever_is_kept() {
        for bytes_max in [64 << 10, 100_000, 1 << 20] {
            let scores = Scores::new(bytes_max, Counter::noop());
            let entries = bytes_max / ENTRY_BYTES;
            let keys = keys(0..5 * entries as u32);
            for (index, key) in keys.iter().enumerate() {
                scores.insert(*key, index as f32);
                // Some are asked for again, so that both of the table's lists fill.
                let _ = scores.get(&keys[index / 3]);
                if index % 1000 == 0 {
                    let used = scores.0.memory_used();
                    assert!(used.total() as u64 <= bytes_max, "{used:?} of {bytes_max} after {index}");
                }
            }
            let used = scores.0.memory_used();
            assert!(used.total() as u64 <= bytes_max, "{used:?} of {bytes_max}");
            assert!(scores.bytes() <= bytes_max);
            assert!(scores.bytes() >= bytes_max * 9 / 10, "{} of {bytes_max} are used", scores.bytes());
        }
    }

    #[test]
    fn what_is_asked_for_survives_a_scan() {
        let scores = Scores::new(1 << 20, Counter::noop());
        let entries = (1 << 20) / ENTRY_BYTES as u32;
        let hot = keys(0..entries / 10);
        for _ in 0..3 {
            for key in &hot {
                if scores.get(key).is_none() {
                    scores.insert(*key, 1.0);
                }
            }
        }
        for key in keys(entries..5 * entries) {
            scores.insert(key, 2.0);
        }
        let left = hot.iter().filter(|key| scores.get(key) == Some(1.0)).count();
        assert!(left * 10 >= hot.len() * 9, "{left} of {} are left", hot.len());
    }

    #[test]
    fn nothing_is_kept_of_no_number() {
        let scores = Scores::new(1 << 20, Counter::noop());
        let keys = keys(0..4);
        for (key, score) in keys.iter().zip([f32::NAN, f32::NEG_INFINITY, -0.0, 1.5e-42]) {
            scores.insert(*key, score);
            let expected = Some(score.to_bits()).filter(|_| !score.is_nan());
            assert_eq!(scores.get(key).map(f32::to_bits), expected);
        }
    }
}
