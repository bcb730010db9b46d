//! How long a batch will take.
//!
//! Per lane, time is a sum of four terms with coefficients that are never negative:
//!
//! ```text
//! seconds(batch) = batch + sequence · n + token · Σ len + token_squared · Σ len²
//! ```
//!
//! `batch` is what a batch costs whatever is in it (launches, staging), `token` the weights' products,
//! `token_squared` attention. A lane of comparisons has costs in place of lengths: its coefficients make
//! them honest. The coefficients are fitted to measured batches (`fit`), those of late counting more; before
//! the first measurement a prior stands in.
//!
//! A prediction comes with a [confidence](CostModel::confidence), and what is decided against a caller
//! (that there is no time left for a request) is decided on the prediction times that confidence. It is zero
//! before the first measurements and falls while nothing is measured: a model that has become wrong, and has
//! refused all work that would tell it so, therefore lets something through again.

use std::{
    collections::BTreeMap,
    ops::{AddAssign, SubAssign},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{Lane, Time};

mod fit;

use fit::Fit;

/// What a batch's time depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchShape {
    /// Sequences, `n`.
    pub sequences: u64,
    /// Tokens of all sequences, `Σ len`.
    pub tokens: u64,
    /// `Σ len²`: attention looks from every token of a sequence at every other.
    pub tokens_squared: u64,
}

impl BatchShape {
    /// One sequence of so many tokens.
    #[must_use]
    pub fn of(tokens: u32) -> Self {
        let tokens = u64::from(tokens);
        Self { sequences: 1, tokens, tokens_squared: tokens.saturating_mul(tokens) }
    }

    /// Sequences of these lengths.
    #[must_use]
    pub fn of_all(lengths: impl IntoIterator<Item = u32>) -> Self {
        let mut shape = Self::default();
        lengths.into_iter().for_each(|tokens| shape += Self::of(tokens));
        shape
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sequences == 0
    }
}

impl AddAssign for BatchShape {
    fn add_assign(&mut self, other: Self) {
        self.sequences = self.sequences.saturating_add(other.sequences);
        self.tokens = self.tokens.saturating_add(other.tokens);
        self.tokens_squared = self.tokens_squared.saturating_add(other.tokens_squared);
    }
}

impl SubAssign for BatchShape {
    fn sub_assign(&mut self, other: Self) {
        self.sequences = self.sequences.saturating_sub(other.sequences);
        self.tokens = self.tokens.saturating_sub(other.tokens);
        self.tokens_squared = self.tokens_squared.saturating_sub(other.tokens_squared);
    }
}

/// Seconds that each part of a batch takes; none is negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Coefficients {
    /// Of a batch, whatever is in it.
    pub batch: f64,
    /// Of a sequence.
    pub sequence: f64,
    /// Of a token.
    pub token: f64,
    /// Of a pair of tokens of one sequence.
    pub token_squared: f64,
}

impl Coefficients {
    /// What is assumed of a device that nothing is known of: an encoder of 20 million parameters on two cores.
    pub const PRIOR: Self = Self { batch: 1e-3, sequence: 5e-5, token: 5e-5, token_squared: 1e-8 };

    /// Seconds of a batch.
    #[must_use]
    pub fn seconds(&self, shape: BatchShape) -> f64 {
        self.batch + self.marginal_seconds(shape)
    }

    /// Seconds that such work adds to a batch which runs anyway.
    #[must_use]
    pub fn marginal_seconds(&self, shape: BatchShape) -> f64 {
        self.sequence * shape.sequences as f64
            + self.token * shape.tokens as f64
            + self.token_squared * shape.tokens_squared as f64
    }

    /// Whether every one is a number, finite and not negative: what a file must hold.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        [self.batch, self.sequence, self.token, self.token_squared].iter().all(|c| c.is_finite() && *c >= 0.0)
    }
}

/// How well a lane's model has predicted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Batches measured so far.
    pub observations: u64,
    /// Median of |predicted − measured| / measured over the latest batches, each predicted before it was learnt from.
    pub median_relative_error: f64,
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct CostModel {
    prior: Coefficients,
    /// Bounded by models × operations.
    lanes: BTreeMap<Lane, Fit>,
}

impl Default for CostModel {
    fn default() -> Self {
        Self::new(Coefficients::PRIOR)
    }
}

impl CostModel {
    /// Without a measurement for this long, confidence halves.
    pub const CONFIDENCE_HALF_LIFE: Duration = Duration::from_secs(15);

    /// Knows nothing but `prior`, which stands in for every lane that was not measured.
    #[must_use]
    pub fn new(prior: Coefficients) -> Self {
        Self { prior, lanes: BTreeMap::new() }
    }

    /// What is known of a lane from earlier, as a file may hold it. Measurements go on from there.
    pub fn restore(&mut self, lane: Lane, coefficients: Coefficients) {
        if coefficients.is_valid() {
            self.lanes.insert(lane, Fit::known(coefficients));
        }
    }

    /// Time that a batch of that shape will take.
    #[must_use]
    pub fn predict(&self, lane: Lane, shape: BatchShape) -> Duration {
        duration(self.coefficients(lane).seconds(shape))
    }

    /// The lane's coefficients now.
    #[must_use]
    pub fn coefficients(&self, lane: Lane) -> Coefficients {
        self.lanes.get(&lane).map_or(self.prior, Fit::coefficients)
    }

    /// What stands in for lanes that were not measured.
    #[must_use]
    pub fn prior(&self) -> Coefficients {
        self.prior
    }

    /// Learns from a batch. A measurement of no time at all is none.
    pub fn observe(&mut self, now: Time, lane: Lane, shape: BatchShape, measured: Duration) {
        if measured.is_zero() || shape.is_empty() {
            return;
        }
        let prior = self.prior;
        self.lanes.entry(lane).or_insert_with(|| Fit::unknown(prior)).observe(now, shape, measured.as_secs_f64());
    }

    /// The part of a prediction that a decision against a caller may rest on, in [0, 0.95].
    #[must_use]
    pub fn confidence(&self, now: Time, lane: Lane) -> f64 {
        self.lanes.get(&lane).map_or(0.0, |fit| {
            let age = now.since(fit.measured_at()).as_secs_f64();
            fit.steadiness() * (-age / Self::CONFIDENCE_HALF_LIFE.as_secs_f64()).exp2()
        })
    }

    /// How well a lane has been predicted; `None` before its first measurement.
    #[must_use]
    pub fn accuracy(&self, lane: Lane) -> Option<Accuracy> {
        self.lanes.get(&lane).and_then(Fit::accuracy)
    }

    /// Lanes that something is known of, in order.
    pub fn lanes(&self) -> impl Iterator<Item = Lane> + '_ {
        self.lanes.keys().copied()
    }
}

/// Seconds as a duration; what is too long for one is the longest.
pub(crate) fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests;
