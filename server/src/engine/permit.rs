//! Permits: what a request holds of the server while it is inside, given back by drop.
//!
//! The one place where admission, the scheduler's forecast and the engine's clock meet.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sluice_core::{
    Lane, Priority, TenantId, Time, Worth,
    admission::{Admission, AdmissionConfig, Admitted, Arrival, Growth, Outcome, Refused, TokenEstimates, Work},
    cost::BatchShape,
    scheduler::Forecast,
};

use super::Clock;
use crate::metrics;

/// How a request is to be treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How urgent it is.
    pub class: Priority,
    /// On whose account.
    pub tenant: TenantId,
    /// From then on nobody wants the result.
    pub deadline: Time,
    /// Of what use a part of it is.
    pub worth: Worth,
}

/// Texts that have not been tokenized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Texts {
    /// What will compute them.
    pub lane: Lane,
    /// How many.
    pub count: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Tokens of each that are read, at most.
    pub tokens_max: u64,
}

/// Hands out permits. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Permits {
    shared: Arc<Mutex<Shared>>,
    clock: Clock,
    /// Whether what is predicted counts, or only room and quotas.
    predictive: bool,
}

#[derive(Debug)]
struct Shared {
    admission: Admission,
    forecast: Forecast,
    estimates: TokenEstimates,
}

impl Permits {
    /// Nothing inside. Without `predictive`, nobody is refused because of the queue.
    #[must_use]
    pub fn new(config: AdmissionConfig, predictive: bool, clock: Clock) -> Self {
        let (forecast, estimates) = (Forecast::default(), TokenEstimates::default());
        let shared = Shared { admission: Admission::new(config), forecast, estimates };
        Self { shared: Arc::new(Mutex::new(shared)), clock, predictive }
    }

    /// Admits a request at once or not at all. `texts` are what its work is guessed from before tokenizing.
    ///
    /// # Errors
    /// [`Refused`] says why not.
    pub fn try_admit(&self, terms: Terms, work: Work, texts: Option<Texts>) -> Result<Permit, Refused> {
        let now = self.clock.now();
        let mut shared = self.lock();
        let Shared { admission, forecast, estimates } = &mut *shared;
        let known = texts.filter(|_| self.predictive);
        let units = known.map(|texts| (texts.lane, guessed(estimates, texts)));
        let units = units.as_slice();
        let admitted = admission.try_admit(now, &guess(terms, work, units), forecast)?;
        drop(shared);
        metrics::entered(work);
        Ok(self.permit(terms, Some(admitted)))
    }

    /// A permit that holds nothing: for work of a request whose room is held by another.
    #[must_use]
    pub fn borrowed(&self, terms: Terms) -> Permit {
        self.permit(terms, None)
    }

    /// What is inside now.
    #[must_use]
    pub fn held(&self) -> Work {
        self.lock().admission.held()
    }

    /// Learns how many tokens such texts had.
    pub fn learn(&self, texts: Texts, tokens: u64) {
        self.lock().estimates.learn(texts.lane, texts.bytes, tokens);
    }

    /// What the scheduler expects from now on.
    pub(super) fn publish(&self, forecast: Forecast) {
        // Without predictions, nothing ever seems to wait.
        if self.predictive {
            self.lock().forecast = forecast;
        }
    }

    fn permit(&self, terms: Terms, admitted: Option<Admitted>) -> Permit {
        Permit {
            terms,
            holding: Arc::new(Holding { held: Mutex::new(Held { admitted, ended: None }), permits: self.clone() }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // Nothing panics while the lock is held; were it poisoned, the counts would still be right.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The work of texts: no more than is read of them.
fn guessed(estimates: &TokenEstimates, texts: Texts) -> BatchShape {
    let Texts { lane, count, bytes, tokens_max } = texts;
    let guess = estimates.estimate(lane, count, bytes);
    let tokens = guess.tokens.min(count.saturating_mul(tokens_max));
    let tokens_squared = guess.tokens_squared.min(tokens.saturating_mul(tokens_max));
    BatchShape { tokens, tokens_squared, ..guess }
}

fn guess(terms: Terms, work: Work, units: &[(Lane, BatchShape)]) -> Arrival<'_> {
    let Terms { class, tenant, deadline, worth } = terms;
    Arrival { class, tenant, deadline, worth, work, units, guess: true }
}

/// What one request holds until the last clone of this is dropped.
#[derive(Clone, Debug)]
pub struct Permit {
    terms: Terms,
    holding: Arc<Holding>,
}

#[derive(Debug)]
struct Holding {
    held: Mutex<Held>,
    permits: Permits,
}

#[derive(Debug)]
struct Held {
    /// `None` if it is borrowed.
    admitted: Option<Admitted>,
    /// How its latest work ended, and when.
    ended: Option<(Outcome, Time)>,
}

impl Permit {
    /// What was agreed for it.
    #[must_use]
    pub fn terms(&self) -> Terms {
        self.terms
    }

    /// The same room for a part of the request that has terms of its own.
    #[must_use]
    pub fn under(self, terms: Terms) -> Self {
        Self { terms, ..self }
    }

    /// The same permit grown, now that its units are known; dropped, and given back, if there is no room or no time.
    ///
    /// # Errors
    /// [`Refused`] says why not.
    pub fn grown(self, growth: Growth<'_>) -> Result<Self, Refused> {
        let units = if self.holding.permits.predictive { growth.units } else { &[] };
        let mut held = self.holding.held();
        // What ended before says nothing of what begins now.
        held.ended = None;
        if let Some(admitted) = &mut held.admitted {
            let now = self.holding.permits.clock.now();
            let mut shared = self.holding.permits.lock();
            let Shared { admission, forecast, .. } = &mut *shared;
            admission.grow(now, admitted, Growth { units, ..growth }, forecast)?;
            drop(shared);
            metrics::entered(growth.more);
        }
        drop(held);
        Ok(self)
    }

    /// The scheduler's forecast counts it from now on.
    pub(crate) fn queued(&self) {
        if let Some(admitted) = &mut self.holding.held().admitted {
            self.holding.permits.lock().admission.queued(admitted);
        }
    }

    /// Notes that its work ends now, and how; without a word, nothing is learnt from it.
    pub(super) fn note(&self, outcome: Outcome) {
        let now = self.now();
        self.holding.held().ended = Some((outcome, now));
    }

    /// The time now.
    pub(super) fn now(&self) -> Time {
        self.holding.permits.clock.now()
    }
}

impl Holding {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let (admitted, ended) = {
            let mut held = self.held();
            (held.admitted.take(), held.ended)
        };
        if let Some(admitted) = admitted {
            let work = admitted.work();
            let now = self.permits.clock.now();
            let (outcome, ended) = ended.unwrap_or((Outcome::Gone, now));
            self.permits.lock().admission.release(now, admitted, outcome, ended);
            metrics::left(work);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc::sync_channel, thread};

    use ::metrics::{
        Counter, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit, with_local_recorder,
    };

    use super::*;

    /// A recorder of one gauge, which does something before each write to it.
    #[derive(Clone)]
    struct Documents<F> {
        value: Arc<Mutex<f64>>,
        before_write: F,
    }

    impl<F: Fn()> Documents<F> {
        fn write(&self, write: impl FnOnce(f64) -> f64) {
            (self.before_write)();
            let mut value = self.value.lock().unwrap();
            *value = write(*value);
        }
    }

    impl<F: Fn()> GaugeFn for Documents<F> {
        fn increment(&self, value: f64) {
            self.write(|old| old + value);
        }

        fn decrement(&self, value: f64) {
            self.write(|old| old - value);
        }

        fn set(&self, value: f64) {
            self.write(|_| value);
        }
    }

    impl<F: Fn() + Clone + Send + Sync + 'static> Recorder for Documents<F> {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
            Counter::noop()
        }

        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            let ours = key.name() == "sluice_admitted_documents";
            if ours { Gauge::from_arc(Arc::new(self.clone())) } else { Gauge::noop() }
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    /// Two requests leave at once, and the thread of the first is held up before it can say so.
    #[test]
    fn the_gauge_ends_at_zero_whoever_writes_last() {
        let value = Arc::new(Mutex::new(0.0));
        let (reached, at_write) = sync_channel(1);
        let (resume, resumed) = sync_channel(1);
        let prompt = Documents { value: Arc::clone(&value), before_write: || () };
        let late = Documents {
            value: Arc::clone(&value),
            before_write: {
                let resumed = Arc::new(Mutex::new(resumed));
                move || {
                    reached.send(()).unwrap();
                    resumed.lock().unwrap().recv().unwrap();
                }
            },
        };
        let room = Work { documents: 10, tokens: 10, bytes: 10 };
        let permits = Permits::new(
            AdmissionConfig { room, tenant_room_percent: 100, ..AdmissionConfig::default() },
            true,
            Clock::start(),
        );
        let deadline = Time::MAX;
        let terms = Terms { class: Priority::Standard, tenant: TenantId(0), deadline, worth: Worth::Whole };
        let admit = |documents| permits.try_admit(terms, Work { documents, ..Work::default() }, None).unwrap();
        let [first, second] = with_local_recorder(&prompt, || [3, 5].map(admit));
        assert_eq!(*value.lock().unwrap(), 8.0);
        thread::scope(|scope| {
            scope.spawn(|| with_local_recorder(&late, || drop(first)));
            at_write.recv().unwrap();
            with_local_recorder(&prompt, || drop(second));
            resume.send(()).unwrap();
        });
        assert_eq!((*value.lock().unwrap(), permits.held()), (0.0, Work::default()));
    }
}
