//! How many tokens a text will have, before it is tokenized.

use std::collections::BTreeMap;

use crate::{Lane, cost::BatchShape};

/// Tokens per byte by lane, learnt from what was tokenized.
#[derive(Clone, Debug, Default)]
pub struct TokenEstimates {
    /// Bounded by models × operations.
    by_lane: BTreeMap<Lane, f64>,
}

impl TokenEstimates {
    /// Of a lane that nothing is known of: English text in a word-piece vocabulary.
    pub const TOKENS_PER_BYTE: f64 = 0.22;
    /// Weight of the latest request.
    const GAIN: f64 = 0.02;

    /// The work of so many sequences of so many bytes together, as if they were of one length.
    #[must_use]
    pub fn estimate(&self, lane: Lane, sequences: u64, bytes: u64) -> BatchShape {
        if sequences == 0 {
            return BatchShape::default();
        }
        let per_byte = self.by_lane.get(&lane).copied().unwrap_or(Self::TOKENS_PER_BYTE);
        let tokens = (bytes as f64 * per_byte).max(sequences as f64);
        let tokens_squared = (tokens * tokens / sequences as f64) as u64;
        BatchShape { sequences, tokens: tokens as u64, tokens_squared }
    }

    /// Learns from a request that was tokenized.
    pub fn learn(&mut self, lane: Lane, bytes: u64, tokens: u64) {
        if bytes == 0 || tokens == 0 {
            return;
        }
        let seen = tokens as f64 / bytes as f64;
        self.by_lane.entry(lane).and_modify(|known| *known += Self::GAIN * (seen - *known)).or_insert(seen);
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
        estimates.learn(lane, 1_000, 500);
        assert_eq!(
            estimates.estimate(lane, 2, 1_000),
            BatchShape { sequences: 2, tokens: 500, tokens_squared: 125_000 }
        );
        for _ in 0..400 {
            estimates.learn(lane, 1_000, 100);
        }
        assert_eq!(estimates.estimate(lane, 1, 1_000).tokens, 100, "it forgets");
        assert_eq!(estimates.estimate(lane, 9, 1).tokens, 9, "a sequence has a token");
    }
}
