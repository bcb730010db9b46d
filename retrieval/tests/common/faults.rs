//! Legs that fail and hang.

use std::{
    collections::HashMap,
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

use sluice_retrieval::{
    search::Interference,
    vector_index::{IndexError, Stop},
};

/// What becomes of a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It fails at once.
    Fails,
    /// It panics.
    Panics,
    /// It hangs until it is told to stop.
    Stalls,
    /// It hangs whatever it is told, until [`Faults::release`].
    Hangs,
    /// It waits for [`Faults::release`], then goes on.
    Waits,
}

/// The fate of each leg by name; others are let be.
#[derive(Debug, Default)]
pub struct Faults {
    fates: HashMap<&'static str, Fate>,
    released: Mutex<bool>,
    changed: Condvar,
}

impl Faults {
    pub fn of(fates: &[(&'static str, Fate)]) -> Arc<Self> {
        Arc::new(Self { fates: fates.iter().copied().collect(), ..Self::default() })
    }

    pub fn release(&self) {
        *self.released.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    fn wait(&self) {
        let released = self.released.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_while(released, |released| !*released).unwrap_or_else(PoisonError::into_inner));
    }
}

impl Interference for Faults {
    fn before(&self, leg: &str, stop: &dyn Stop) -> Result<(), IndexError> {
        match self.fates.get(leg) {
            None => Ok(()),
            Some(Fate::Fails) => Err(IndexError::Unusable("on purpose".to_owned())),
            Some(Fate::Panics) => unreachable!("on purpose"),
            Some(Fate::Stalls) => {
                while !stop.stop() {
                    // Not at the cost of the legs that are to answer.
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(IndexError::Stopped)
            }
            Some(Fate::Hangs | Fate::Waits) => {
                self.wait();
                Ok(())
            }
        }
    }
}
