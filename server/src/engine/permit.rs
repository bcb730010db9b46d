//! Permits: room that a request holds, given back by drop.

use std::sync::{Arc, Mutex, PoisonError};

use sluice_core::admission::{Admission, Rejected, Work};

use super::Clock;
use crate::metrics;

/// Hands out permits. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Permits {
    admission: Arc<Mutex<Admission>>,
    clock: Clock,
}

impl Permits {
    /// Room for `limits`.
    #[must_use]
    pub fn new(limits: Work, clock: Clock) -> Self {
        Self { admission: Arc::new(Mutex::new(Admission::new(limits))), clock }
    }

    /// Admits `work` at once or not at all.
    ///
    /// # Errors
    /// [`Rejected`] if there is no room.
    pub fn try_admit(&self, work: Work) -> Result<Permit, Rejected> {
        let permit = Permit { work: Work::default(), permits: self.clone() };
        permit.grown(work)
    }

    /// What is inside now.
    #[must_use]
    pub fn held(&self) -> Work {
        self.with(|admission| admission.held())
    }

    fn with<T>(&self, f: impl FnOnce(&mut Admission) -> T) -> T {
        // Nothing panics while the lock is held; were it poisoned, the counts would still be right.
        f(&mut self.admission.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Room held by one request until this is dropped.
#[derive(Debug)]
pub struct Permit {
    work: Work,
    permits: Permits,
}

impl Permit {
    /// The same permit with room for `more`; dropped, and its room given back, if there is none.
    ///
    /// # Errors
    /// [`Rejected`] if there is no room.
    pub fn grown(mut self, more: Work) -> Result<Self, Rejected> {
        let now = self.permits.clock.now();
        let held = self.permits.with(|admission| {
            admission.try_admit(now, more)?;
            Ok(admission.held())
        })?;
        self.work.documents += more.documents;
        self.work.tokens += more.tokens;
        self.work.bytes += more.bytes;
        metrics::held(held);
        Ok(self)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let now = self.permits.clock.now();
        let work = self.work;
        let held = self.permits.with(|admission| {
            admission.release(now, work);
            admission.held()
        });
        metrics::held(held);
    }
}
