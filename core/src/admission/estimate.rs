//! How many tokens a text will have, before it is tokenized.

use std::collections::BTreeMap;

use crate::{Lane, cost::BatchShape};

/// Tokens per byte by lane, learnt from what was tokenized.
#[derive(Clone, Debug, Default)]
pub struct TokenEstimates {
    /// Bounded by models × operations.
    by_lane: BTreeMap<Lane, Seen>,
}

/// Sums over the texts of a lane, forgotten little by little: so that a byte counts alike in a short text and a long one.
#[derive(Clone, Copy, Debug)]
struct Seen {
    bytes: f64,
    tokens: f64,
}

impl Seen {
    /// As if so many bytes had been seen before the first: a first text of three words says little.
    const PRIOR_BYTES: f64 = 1024.0;
    const NOTHING: Self =
        Self { bytes: Self::PRIOR_BYTES, tokens: Self::PRIOR_BYTES * TokenEstimates::TOKENS_PER_BYTE };

    fn tokens_per_byte(self) -> f64 {
        self.tokens / self.bytes
    }
}

impl TokenEstimates {
    /// Of a lane that nothing is known of: English text in a word-piece vocabulary.
    pub const TOKENS_PER_BYTE: f64 = 0.22;
    /// What is left of the weight of a request with every later one.
    const FORGETTING: f64 = 0.98;

    /// The work of so many sequences of so many bytes together, as if they were of one length.
    #[must_use]
    pub fn estimate(&self, lane: Lane, sequences: u64, bytes: u64) -> BatchShape {
        if sequences == 0 {
            return BatchShape::default();
        }
        let per_byte = self.by_lane.get(&lane).map_or(Self::TOKENS_PER_BYTE, |seen| seen.tokens_per_byte());
        let tokens = (bytes as f64 * per_byte).max(sequences as f64);
        let tokens_squared = (tokens * tokens / sequences as f64) as u64;
        BatchShape { sequences, tokens: tokens as u64, tokens_squared }
    }

    /// Learns from a request that was tokenized.
    pub fn learn(&mut self, lane: Lane, bytes: u64, tokens: u64) {
        if bytes == 0 || tokens == 0 {
            return;
        }
        let seen = self.by_lane.entry(lane).or_insert(Seen::NOTHING);
        seen.bytes = seen.bytes * Self::FORGETTING + bytes as f64;
        seen.tokens = seen.tokens * Self::FORGETTING + tokens as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ModelIndex, Operation};

    #[test]
    fn an_estimate_follows_what_was_tokenized() {
        let lane = Lane { model: ModelIndex(0), operation: Operation::CrossEncode };
        let mut estimates = TokenEstimates::default();
        assert_eq!(estimates.estimate(lane, 0, 100), BatchShape::default());
        assert_eq!(estimates.estimate(lane, 2, 1_000).tokens, 220, "nothing is known yet");
        for _ in 0..600 {
            estimates.learn(lane, 1_000, 500);
        }
        let shape = estimates.estimate(lane, 2, 1_000);
        assert_eq!((shape.sequences, shape.tokens.abs_diff(500)), (2, shape.tokens.abs_diff(500).min(1)), "{shape:?}");
        assert!((124_000..=125_000).contains(&shape.tokens_squared), "of two of one length: {shape:?}");
        for _ in 0..600 {
            estimates.learn(lane, 1_000, 100);
        }
        assert!(estimates.estimate(lane, 1, 1_000).tokens.abs_diff(100) <= 1, "it forgets");
        // Special tokens are most of a text of one word.
        for _ in 0..3 {
            estimates.learn(lane, 2, 3);
        }
        assert!(estimates.estimate(lane, 1, 1_000).tokens < 103, "little texts say little");
        assert_eq!(estimates.estimate(lane, 9, 1).tokens, 9, "a sequence has a token");
    }
}
