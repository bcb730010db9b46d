//! When a batch must be done, however many calls it takes.

use std::time::Duration;

use anyhow::ensure;
use tokio::time::Instant;

/// The end of what several calls share.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    total: Duration,
    at: Instant,
}

impl End {
    /// In so long from now.
    pub(super) fn after(total: Duration) -> Self {
        Self { total, at: Instant::now() + total }
    }

    /// The time that is left; none once it is there.
    pub(super) fn left(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// The time that another call has.
    ///
    /// # Errors
    /// Once it is there.
    pub(super) fn time_for_a_call(self) -> anyhow::Result<Duration> {
        let left = self.left();
        ensure!(!left.is_zero(), "not done within {:?}", self.total);
        Ok(left)
    }
}
