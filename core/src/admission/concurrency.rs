//! What admission learns from how requests end.
//!
//! The queue is measured in seconds of predicted device time, so a limit on how long a predicted wait is let in is a
//! limit on the work inside (Little's law). Two figures per class:
//!
//! * the **stretch**: by what factor requests take longer than predicted, at the 90th percentile. It moves a little up
//!   with each that took longer than the stretched prediction and a ninth as much down with each that did not, so that
//!   it settles where one in ten does. Waits are multiplied by it; work itself is not, so that what the queue does not
//!   delay is not refused. Requests that come later and overtake, tokenizing, a slow disk:
//!   what the forecast does not know shows here.
//! * the **longest wait** let in: each request that was late although it was predicted in time takes a part away, at
//!   most once per such wait; each that was in time after a wait near the limit gives a little back.
//!
//! The reasons are in ADR 0015.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Outcome;
use crate::{Time, cost::duration, scheduler::Prediction};

/// Bounds of what adapts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConcurrencyConfig {
    /// No predicted wait longer than this is ever let in.
    pub wait_max: Duration,
    /// One shorter than this always is, its deadline permitting.
    pub wait_min: Duration,
}

impl Default for ConcurrencyConfig {
    fn default() -> Self {
        Self { wait_max: Duration::from_secs(30), wait_min: Duration::from_millis(100) }
    }
}

/// See the [module](self).
#[derive(Clone, Copy, Debug)]
pub struct Concurrency {
    config: ConcurrencyConfig,
    stretch: f64,
    wait_max: Duration,
    cut_at: Time,
}

impl Concurrency {
    /// The part of requests that may take longer than the stretched prediction.
    const EXCEEDED: f64 = 0.1;
    /// By which the stretch grows with one that did.
    const STEP: f64 = 0.05;
    const STRETCH_MAX: f64 = 8.0;
    /// What is left of the longest wait after a request that was late.
    const CUT: f64 = 0.85;
    /// By which it grows with one that was in time.
    const GROWTH: f64 = 1.01;

    /// Predictions are believed, and the longest wait is let in.
    #[must_use]
    pub fn new(config: ConcurrencyConfig) -> Self {
        Self { config, stretch: 1.0, wait_max: config.wait_max, cut_at: Time::ZERO }
    }

    /// By what factor requests take longer than predicted.
    #[must_use]
    pub fn stretch(&self) -> f64 {
        self.stretch
    }

    /// The longest stretched wait that is let in now.
    #[must_use]
    pub fn wait_max(&self) -> Duration {
        self.wait_max
    }

    /// A predicted wait that is let in whatever has been learnt.
    pub(super) fn wait_min(&self) -> Duration {
        self.config.wait_min
    }

    pub(super) fn stretched(&self, wait: Duration) -> Duration {
        duration(wait.as_secs_f64() * self.stretch)
    }

    pub(super) fn observe(&mut self, now: Time, took: Duration, prediction: &Prediction, outcome: Outcome) {
        let wait = prediction.wait();
        if outcome == Outcome::Gone || wait.is_zero() {
            return;
        }
        let exceeded = outcome == Outcome::Late || took > self.stretched(prediction.completion);
        let log_step = if exceeded { Self::STEP } else { -Self::STEP * Self::EXCEEDED / (1.0 - Self::EXCEEDED) };
        self.stretch = (self.stretch * log_step.exp()).clamp(1.0, Self::STRETCH_MAX);
        if outcome == Outcome::Late {
            if now.since(self.cut_at) > self.stretched(wait) {
                self.wait_max = self.wait_max.mul_f64(Self::CUT).max(self.config.wait_min);
                self.cut_at = now;
            }
        } else if self.stretched(wait) * 2 > self.wait_max {
            self.wait_max = self.wait_max.mul_f64(Self::GROWTH).min(self.config.wait_max);
        }
    }
}
