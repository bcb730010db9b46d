//! Versions of documents on a cluster, which has no log that all writers share.
//!
//! A version is a moment in microseconds since 1970, read from the shard's clock, and moved on where the clock does not:
//! each is greater than every one that this process gave before. So a document that is written after another write was
//! acknowledged has the higher version, also where another shard wrote it, as far as the shards' clocks agree.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::identity::Lsn;

/// Reads the time since 1970-01-01T00:00:00Z.
pub type WallClock = Arc<dyn Fn() -> Duration + Send + Sync>;

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
