//! Sizes that batches are computed as.
//!
//! How many tokens and sequences there truly are lies on the device; what is computed for rows that are not there, nobody
//! reads. So a library's algorithm is asked for few numbers of rows ([`padded_rows`]), and what a device does for a small
//! batch is recorded once and serves every batch of its bucket. A row's bits are the same with a recording and without.

use sluice_kernels::{
    cuda::{encoder::Capacity, linear::padded_rows},
    pool::Pooling,
};

use super::Asked;

/// A larger batch computes for longer than it takes to ask for it, operation by operation.
const RECORDED_TOKENS_MAX: usize = 2048;

/// Tokens and sequences, each a padded number of rows unless a batch can have fewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bucket {
    pub(super) capacity: Capacity,
}

impl Bucket {
    /// The smallest that a batch fits in. `batch` is no larger than `most`.
    pub(super) fn of(batch: Capacity, most: Capacity) -> Self {
        let tokens = padded(batch.tokens, most.tokens);
        // 64, 256, 1,024: launches are sized by it, and little else.
        let sequences = 1 << (2 * batch.sequences.next_power_of_two().trailing_zeros().div_ceil(2));
        let sequences = padded(sequences, most.sequences).min(tokens);
        Self { capacity: Capacity { tokens, sequences } }
    }

    /// What its recording is called, if it is recorded: one for each slot, since they lie elsewhere.
    pub(super) fn key(self, slot: usize, asked: Asked) -> Option<u64> {
        let asked = match asked {
            Asked::Tokens => 0,
            Asked::Dense(Pooling::Mean) => 1,
            Asked::Dense(Pooling::First) => 2,
            Asked::Logits => 3,
        };
        let Capacity { tokens, sequences } = self.capacity;
        let key = ((tokens as u64) << 32) | ((sequences as u64) << 8) | (asked << 1) | slot as u64;
        (tokens <= RECORDED_TOKENS_MAX).then_some(key)
    }
}

fn padded(rows: usize, most: usize) -> usize {
    let number = |rows| u32::try_from(rows).unwrap_or(u32::MAX);
    padded_rows(number(rows), number(most)) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_bucket_has_room_and_no_more_than_there_is() {
        let most = Capacity { tokens: 5000, sequences: 100 };
        let check = |tokens, sequences, expected: (usize, usize)| {
            let found = Bucket::of(Capacity { tokens, sequences }, most);
            assert_eq!((found.capacity.tokens, found.capacity.sequences), expected, "{tokens}, {sequences}");
        };
        check(1, 1, (64, 64));
        check(64, 3, (64, 64));
        check(65, 4, (128, 64));
        check(640, 64, (640, 64));
        check(641, 65, (768, 100));
        check(1025, 17, (1280, 64));
        check(2049, 24, (2304, 64));
        check(5000, 100, (5000, 100));
        let few = Bucket::of(Capacity { tokens: 2, sequences: 2 }, Capacity { tokens: 30, sequences: 30 });
        assert_eq!(few.capacity, Capacity { tokens: 30, sequences: 30 });
    }

    #[test]
    fn keys_are_few_and_each_has_one_meaning() {
        let most = Capacity { tokens: 32_768, sequences: 1024 };
        let (mut keys, mut meanings) = (HashSet::new(), HashSet::new());
        for tokens in 1..=RECORDED_TOKENS_MAX {
            for sequences in 1..=tokens.min(most.sequences) {
                let bucket = Bucket::of(Capacity { tokens, sequences }, most);
                assert!(bucket.capacity.tokens >= tokens && bucket.capacity.sequences >= sequences);
                for slot in [0, 1] {
                    for asked in
                        [Asked::Tokens, Asked::Dense(Pooling::Mean), Asked::Dense(Pooling::First), Asked::Logits]
                    {
                        keys.insert(bucket.key(slot, asked).expect("small ones are recorded"));
                        meanings.insert(format!("{bucket:?}, {slot}, {asked:?}"));
                    }
                }
            }
        }
        assert_eq!(keys.len(), meanings.len());
        // Tokens, sequences up to those, what is asked, slots.
        assert!(keys.len() <= 16 * 3 * 4 * 2, "{}", keys.len());
        let large = Bucket::of(Capacity { tokens: 2049, sequences: 1 }, most);
        assert_eq!(large.key(0, Asked::Tokens), None);
    }
}
