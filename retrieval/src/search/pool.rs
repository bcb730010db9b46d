//! Threads for what blocks: bounded in number, with a bounded queue before them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{sync::Semaphore, time::Instant};

use super::{SearchError, SourceError};

/// Runs blocking work. Clones are the same pool.
///
/// A thread that is not done in time goes on: its caller is answered, and its place stays taken until it ends. So legs
/// that hang use up places, but never more than there are, and whoever then finds none is told so at once or at the end of
/// its time.
#[derive(Clone)]
pub struct Pool(Arc<Shared>);

struct Shared {
    threads: usize,
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    waiting_max: usize,
}

/// Why work was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolError {
    /// There was no place.
    Overloaded,
    /// It took too long.
    TimedOut,
    /// It panicked.
    Panicked,
}

impl Pool {
    /// A pool of `threads` places, before which at most `waiting_max` wait.
    #[must_use]
    pub fn new(threads: usize, waiting_max: usize) -> Self {
        let places = Arc::new(Semaphore::new(threads));
        Self(Arc::new(Shared { threads, places, waiting: AtomicUsize::new(0), waiting_max }))
    }

    /// Another pool, with as many places, before which as many wait.
    #[must_use]
    pub fn another(&self) -> Self {
        Self::new(self.0.threads, self.0.waiting_max)
    }

    /// Does `work` on a thread of its own, until a point in time.
    ///
    /// # Errors
    /// [`PoolError`].
    pub async fn run<T: Send + 'static>(
        &self,
        until: Instant,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        let places = &self.0.places;
        let place = match Arc::clone(places).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                let _waits = Waits::among(&self.0).ok_or(PoolError::Overloaded)?;
                let place = tokio::time::timeout_at(until, Arc::clone(places).acquire_owned()).await;
                place.map_err(|_| PoolError::Overloaded)?.map_err(|_| PoolError::Overloaded)?
            }
        };
        let running = tokio::task::spawn_blocking(move || {
            let _place = place;
            work()
        });
        match tokio::time::timeout_at(until, running).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(_)) => Err(PoolError::Panicked),
            Err(_) => Err(PoolError::TimedOut),
        }
    }
}

/// One that waits for a place.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn among(shared: &'a Shared) -> Option<Self> {
        let before = shared.waiting.fetch_add(1, Ordering::Relaxed);
        let waits = Self(&shared.waiting);
        (before < shared.waiting_max).then_some(waits)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl From<PoolError> for SearchError {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Overloaded => Self::Overloaded,
            PoolError::TimedOut => Self::Expired,
            PoolError::Panicked => Self::Source(SourceError::of("reading the collection")("a thread panicked")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(100)
    }

    #[tokio::test]
    async fn work_is_done_or_says_why_not() {
        let pool = Pool::new(1, 1);
        assert_eq!(pool.run(soon(), || 7).await, Ok(7));
        let panics = || -> u32 { unreachable!("on purpose") };
        // Printing a backtrace takes a while.
        let patient = Instant::now() + Duration::from_secs(30);
        assert_eq!(pool.run(patient, panics).await, Err(PoolError::Panicked));

        let (release, held) = mpsc::sync_channel::<()>(0);
        let hangs = move || held.recv().is_ok();
        assert_eq!(pool.run(soon(), hangs).await, Err(PoolError::TimedOut), "its caller is answered");
        let (waits, refused) = tokio::join!(pool.run(soon(), || 8), pool.run(soon(), || 9));
        assert_eq!(waits, Err(PoolError::Overloaded), "the place is still taken");
        assert_eq!(refused, Err(PoolError::Overloaded), "only one may wait");
        release.send(()).expect("it still hangs");
        let later = Instant::now() + Duration::from_secs(30);
        assert_eq!(pool.run(later, || 10).await, Ok(10), "the place came free");
    }
}
