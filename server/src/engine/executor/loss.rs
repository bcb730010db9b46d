//! What an executor does when its device is lost.

use std::{sync::Arc, thread, time::Duration};

use crossbeam_channel::RecvTimeoutError;
use sluice_core::{Lane, UnitId, batch::PackedBatch, scheduler::BatchId};

use super::{BatchDone, BatchJob, EngineError, Executor, Order, Report, Request, fail_all, guarded};

/// Pause between attempts to get a lost device back.
const REBUILD_INTERVAL: Duration = Duration::from_millis(200);
/// Attempts while no shutdown is asked for would be endless; after that many the next batch decides. Where other
/// devices take the batches none would come, so there it goes on until the driver is gone.
const REBUILD_ATTEMPTS_MAX: u32 = 25;

/// What is left of a batch on a lost device.
struct Left {
    batch: BatchId,
    lane: Lane,
    units: Vec<(UnitId, Arc<Request>)>,
    moved: bool,
}

impl Executor {
    /// The device was lost under a batch.
    pub(super) fn lose(&mut self, job: BatchJob) {
        if self.parts.has_peers {
            self.hand_over(job);
            self.rebuild_beside_peers();
        } else {
            fail_all(job.members, EngineError::DeviceLost);
            self.rebuild();
        }
    }

    /// Tries to get a lost device back; what is queued waits meanwhile, up to its deadlines.
    fn rebuild(&mut self) {
        self.set_up(false);
        for attempt in 1..=REBUILD_ATTEMPTS_MAX {
            if self.try_rebuild(attempt) {
                return;
            }
            thread::sleep(REBUILD_INTERVAL);
        }
    }

    /// The same where other devices take what is queued. Returns once the device is there and everything has been
    /// given back that the driver had sent without knowing of the loss, or the driver is gone.
    fn rebuild_beside_peers(&mut self) {
        let mut known = false;
        for attempt in 1.. {
            let rebuilt = self.up || self.try_rebuild(attempt);
            if rebuilt && known {
                break;
            }
            let order = match rebuilt {
                true => self.parts.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                false => self.parts.inbox.recv_timeout(REBUILD_INTERVAL),
            };
            match order {
                Ok(Order::Compute(job)) => self.report(Report::Returned(self.parts.device, job)),
                Ok(Order::LossKnown) => known = true,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        self.report(Report::Rebuilt(self.parts.device));
    }

    fn try_rebuild(&mut self, attempt: u32) -> bool {
        let device = self.parts.device.0;
        for backend in self.backends.all_mut() {
            // One that panics has let go of what it could.
            let _ = guarded(backend, |backend| {
                backend.release();
                Ok(())
            });
        }
        let rebuilt = self.backends.all_mut().try_for_each(|backend| guarded(backend, |backend| backend.rebuild()));
        match rebuilt {
            Ok(()) => {
                tracing::warn!(attempt, device, "device rebuilt");
                self.set_up(true);
                // What the next batch takes does not count the rebuilding.
                self.free_since = self.parts.clock.now();
                true
            }
            Err(error) => {
                tracing::error!(attempt, device, %error, "device still lost");
                false
            }
        }
    }

    fn set_up(&mut self, up: bool) {
        if std::mem::replace(&mut self.up, up) != up {
            self.parts.devices_up.send_modify(|devices| *devices = if up { *devices + 1 } else { *devices - 1 });
        }
    }

    /// Gives what is under way to other devices, in order of dispatch: documents after their query. What had been given
    /// away before fails.
    fn hand_over(&mut self, lost: BatchJob) {
        self.set_up(false);
        let mut parts = vec![lost];
        for (job, ticket) in std::mem::take(&mut self.submitted) {
            // Another model's batch may have been spared.
            match self.guarded(job.packed.lane(), |backend| backend.collect(ticket)) {
                Ok(output) => {
                    let spent = self.spent();
                    self.settle(job, Ok(output), spent);
                }
                Err(_) => parts.push(job),
            }
        }
        parts.extend(self.retries.drain(..).chain(self.held.take()));
        let (failed, moved): (Vec<Left>, Vec<Left>) = together(parts).into_iter().partition(|left| left.moved);
        for left in failed.iter().chain(&moved) {
            self.open.remove(&left.batch);
        }
        // First of all, so that nobody who hears of a failure can ask for more in ignorance.
        self.report(Report::Lost(self.parts.device, moved.into_iter().map(Left::job).collect()));
        for Left { batch, units, .. } in failed {
            fail_all(units.into_iter().map(|(_, request)| request).collect(), EngineError::DeviceLost);
            let device = self.parts.device;
            self.report(Report::Done(BatchDone { device, batch, measured: Duration::ZERO, whole: false }));
        }
    }
}

/// The parts of each batch that was tried again in parts; the batches in order of dispatch.
fn together(mut parts: Vec<BatchJob>) -> Vec<Left> {
    parts.sort_by_key(|part| part.batch);
    let mut batches: Vec<Left> = Vec::new();
    for BatchJob { batch, packed, members, moved, .. } in parts {
        let units = packed.units().iter().copied().zip(members);
        match batches.last_mut() {
            Some(left) if left.batch == batch => left.units.extend(units),
            _ => batches.push(Left { batch, lane: packed.lane(), units: units.collect(), moved }),
        }
    }
    batches
}

impl Left {
    /// A batch of it for another device.
    fn job(self) -> BatchJob {
        let Self { batch, lane, units, .. } = self;
        let tokens = units.iter().map(|(unit, request)| request.sequences[unit.index as usize].input_ids.len());
        let mut packed = PackedBatch::with_capacity(lane, units.len(), tokens.sum());
        for (unit, request) in &units {
            packed.push(*unit, &request.sequences[unit.index as usize]);
        }
        let members = units.into_iter().map(|(_, request)| request).collect();
        BatchJob { batch, packed: Arc::new(packed), members, last_try: false, moved: true }
    }
}
