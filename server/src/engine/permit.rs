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
        self.permits.with(|admission| admission.try_admit(now, more))?;
        self.work.documents += more.documents;
        self.work.tokens += more.tokens;
        self.work.bytes += more.bytes;
        metrics::entered(more);
        Ok(self)
    }
}

impl Permit {
    /// A part of it as a permit of its own; as much of the part as there is.
    #[must_use]
    pub fn split(&mut self, part: Work) -> Self {
        let part = Work {
            documents: part.documents.min(self.work.documents),
            tokens: part.tokens.min(self.work.tokens),
            bytes: part.bytes.min(self.work.bytes),
        };
        self.work.documents -= part.documents;
        self.work.tokens -= part.tokens;
        self.work.bytes -= part.bytes;
        Self { work: part, permits: self.permits.clone() }
    }

    /// Takes over the room of another.
    pub fn merge(&mut self, mut other: Self) {
        let Work { documents, tokens, bytes } = std::mem::take(&mut other.work);
        self.work.documents += documents;
        self.work.tokens += tokens;
        self.work.bytes += bytes;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let now = self.permits.clock.now();
        let work = self.work;
        self.permits.with(|admission| admission.release(now, work));
        metrics::left(work);
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

    #[test]
    fn what_is_split_and_merged_is_given_back_once() {
        let work = |documents, tokens, bytes| Work { documents, tokens, bytes };
        let permits = Permits::new(work(10, 10, 10), Clock::start());
        let mut permit = permits.try_admit(work(5, 6, 7)).unwrap();
        let mut part = permit.split(work(2, 3, 100));
        assert_eq!((permit.work, part.work), (work(3, 3, 0), work(2, 3, 7)));
        let whole = part.split(work(1, 0, 0));
        part.merge(permit);
        assert_eq!((part.work, permits.held()), (work(4, 6, 7), work(5, 6, 7)));
        drop(part);
        assert_eq!(permits.held(), work(1, 0, 0));
        drop(whole);
        assert_eq!(permits.held(), Work::default());
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
        let permits = Permits::new(Work { documents: 10, tokens: 10, bytes: 10 }, Clock::start());
        let admit = |documents| permits.try_admit(Work { documents, ..Work::default() }).unwrap();
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
