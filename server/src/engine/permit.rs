//! Permits: room that a request holds, given back by drop.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use sluice_core::admission::{Admission, Rejected, Work};

use super::Clock;
use crate::metrics::AdmittedGauges;

/// Hands out permits. Cheap to clone.
#[derive(Clone)]
pub struct Permits {
    admission: Arc<Mutex<Admission>>,
    gauges: Arc<AdmittedGauges>,
    clock: Clock,
}

impl Permits {
    /// Room for `limits`.
    #[must_use]
    pub fn new(limits: Work, clock: Clock) -> Self {
        Self { admission: Arc::new(Mutex::new(Admission::new(limits))), gauges: Arc::new(AdmittedGauges::new()), clock }
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
        let mut admission = self.admission.lock().unwrap_or_else(PoisonError::into_inner);
        let result = f(&mut admission);
        // Still under the lock: a gauge set later could bring an older state back.
        self.gauges.set(admission.held());
        result
    }
}

/// Room held by one request until this is dropped.
pub struct Permit {
    work: Work,
    permits: Permits,
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Permit").field(&self.work).finish()
    }
}

impl Permit {
    /// The same permit with room for `more`; dropped, and its room given back, if there is none.
    ///
    /// # Errors
    /// [`Rejected`] if there is no room.
    pub fn grown(mut self, more: Work) -> Result<Self, Rejected> {
        let now = self.permits.clock.now();
        self.permits.with(|admission| admission.try_admit(now, more))?;
        self.work.documents += more.documents;
        self.work.tokens += more.tokens;
        self.work.bytes += more.bytes;
        Ok(self)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let now = self.permits.clock.now();
        let work = self.work;
        self.permits.with(|admission| admission.release(now, work));
    }
}
