//! The engine's clock: the one place that turns the runtime's time into [`Time`].

use std::time::Duration;

use sluice_core::Time;
use tokio::time::Instant;

/// Time since the engine started, on tokio's clock, which tests can pause. Monotonic: steps of the
/// wall clock do not touch it.
#[derive(Clone, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock whose origin is now.
    #[must_use]
    pub fn start() -> Self {
        // Deadlines may lie before the start of a clock made later than the call: leave some room.
        let now = Instant::now();
        Self { origin: now.checked_sub(Duration::from_secs(3600)).unwrap_or(now) }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Time {
        self.time(Instant::now())
    }

    /// A point of the runtime as a point of the engine.
    #[must_use]
    pub fn time(&self, instant: Instant) -> Time {
        Time::from_origin(instant.saturating_duration_since(self.origin))
    }

    /// And back; `None` for one too far away to sleep until.
    #[must_use]
    pub fn instant(&self, time: Time) -> Option<Instant> {
        self.origin.checked_add(time.since_origin())
    }
}
