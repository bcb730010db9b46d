//! Versions of documents on a cluster, which has no log that all writers share.
//!
//! A version is a moment in microseconds since 1970, read from the shard's clock, and moved on where the clock does not:
//! each is greater than every one that this process gave before. So a document that is written after another write was
//! acknowledged has the higher version, also where another shard wrote it, as far as the shards' clocks agree.
//!
//! A write that this shard does not wait for any more may come to the cluster late. So it replaces no newer document, as
//! [`replaceable`] tells the cluster. The price: a document stays, and the write of another shard is acknowledged all the
//! same, where that shard's clock is behind by more than the time between the two.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use qdrant_client::qdrant::{Condition, Filter, Range};

use super::name;
use crate::identity::Lsn;

/// Reads the time since 1970-01-01T00:00:00Z.
pub type WallClock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// How late a write may come: documents that are newer by more have their version from a clock that was wrong, and must
/// not stay until the others have come to it.
const LATE_MAX: Duration = Duration::from_secs(60);

/// Which documents one of this version replaces: older ones, and those that are newer by more than [`LATE_MAX`].
pub(super) fn replaceable(version: Lsn) -> Filter {
    // Microseconds of this century are below 2⁵³: a float has them exactly.
    let (at, beyond) = (version.0 as f64, version.0.saturating_add(LATE_MAX.as_micros() as u64) as f64);
    let ranges = [Range { lt: Some(at), ..Range::default() }, Range { gt: Some(beyond), ..Range::default() }];
    Filter { should: ranges.map(|range| Condition::range(name::VERSION, range)).into(), ..Filter::default() }
}

/// Gives versions.
pub(super) struct Versions {
    clock: WallClock,
    last: AtomicU64,
}

impl Versions {
    pub(super) fn new(clock: WallClock) -> Self {
        Self { clock, last: AtomicU64::new(0) }
    }

    /// A new one, above all before.
    pub(super) fn next(&self) -> Lsn {
        let now = self.clock_micros();
        let mut given = 0;
        let step = |last: u64| {
            given = now.max(last + 1);
            Some(given)
        };
        // It always says what the next is, so this cannot fail.
        let _ = self.last.fetch_update(Ordering::SeqCst, Ordering::SeqCst, step);
        Lsn(given)
    }

    /// This moment: not below any version that was given.
    pub(super) fn now(&self) -> Lsn {
        Lsn(self.clock_micros().max(self.last.load(Ordering::SeqCst)))
    }

    fn clock_micros(&self) -> u64 {
        u64::try_from((self.clock)().as_micros()).unwrap_or(u64::MAX / 2)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn versions_grow_whatever_the_clock_does() {
        // The clock's microseconds at each reading, and what comes of it: n for `next`, w for `now`.
        let steps =
            [(5, 'w', 5), (10, 'n', 10), (10, 'n', 11), (3, 'n', 12), (4, 'w', 12), (20, 'w', 20), (20, 'n', 20)];
        let time = Arc::new(Mutex::new(0));
        let clock: WallClock = Arc::new({
            let time = Arc::clone(&time);
            move || Duration::from_micros(*time.lock().unwrap())
        });
        let versions = Versions::new(clock);
        for (nth, (micros, what, expected)) in steps.into_iter().enumerate() {
            *time.lock().unwrap() = micros;
            let given = if what == 'n' { versions.next() } else { versions.now() };
            assert_eq!(given, Lsn(expected), "step {nth}");
        }
    }
}
