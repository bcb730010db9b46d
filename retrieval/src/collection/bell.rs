//! What the threads that follow the log sleep on.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Rings when there may be something to do, and once more when it is over.
#[derive(Debug, Default)]
pub(super) struct Bell {
    state: Mutex<State>,
    rung: Condvar,
}

#[derive(Debug, Default)]
struct State {
    rings: u64,
    over: bool,
}

/// How often it had rung when somebody began to look for work: what rings meanwhile is not missed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard(u64);

impl Bell {
    pub(super) fn ring(&self) {
        self.lock().rings += 1;
        self.rung.notify_all();
    }

    /// Everybody is to go.
    pub(super) fn end(&self) {
        self.lock().over = true;
        self.rung.notify_all();
    }

    pub(super) fn heard(&self) -> Heard {
        Heard(self.lock().rings)
    }

    pub(super) fn is_over(&self) -> bool {
        self.lock().over
    }

    /// Sleeps until it rings after `heard`.
    pub(super) fn wait(&self, heard: Heard) {
        let quiet = |state: &mut State| state.rings == heard.0 && !state.over;
        drop(self.rung.wait_while(self.lock(), quiet).unwrap_or_else(PoisonError::into_inner));
    }

    /// Sleeps for some time, or until it is over; rings do not wake.
    pub(super) fn pause(&self, time: Duration) {
        let waited = self.rung.wait_timeout_while(self.lock(), time, |state| !state.over);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
