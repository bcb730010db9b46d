//! From sequences to numbers: queue, batches, device thread, answers.
//!
//! Two thread hops: the `driver` task decides and stages, the `executor` thread computes, and each
//! request's `sink` takes its results. The bounded queues, by name:
//!
//! | queue | bound | protects |
//! |---|---|---|
//! | admission | documents, tokens, bytes inside | memory |
//! | submissions | [`SUBMISSIONS_MAX`] requests handed over | the driver's inbox |
//! | scheduler | `queued_units_max` units | the time of a decision |
//! | executor | the device's batches in flight | late binding |
//! | sink | the request's own number of slots | memory, against a slow reader |
//! | updates | one message of a RerankStream call | its room, against a reader that stopped |
//! | changes | 64 changes of the token store; further ones wait in their requests' tasks | the memory of what waits for the disk |
//! | put turns | 2 puts whose vectors are in memory | memory: a put may have `put_vectors_max` vectors |

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sluice_core::{
    Lane, Operation, RequestId, Time,
    backend::{Backend, BackendLimits},
    batch::Sequence,
    scheduler::{Policy, SchedulerConfig},
};
use tokio::sync::{mpsc, watch};

mod clock;
mod driver;
mod executor;
pub mod permit;
mod request;
pub mod sink;
pub mod tokenizer_pool;

pub use clock::Clock;
use driver::{Cancellations, Driver};
use permit::Permit;
use request::Request;
pub use sink::{Progress, SlotValue};

/// Requests handed over and not yet looked at by the driver. Admission bounds what can pile up here
/// already; this bound is what a burst may do within one turn of the driver.
pub const SUBMISSIONS_MAX: usize = 1024;

/// How the engine queues.
#[derive(Clone, Copy, Debug)]
pub struct EngineConfig {
    /// Tokens of one batch; `None` takes the smallest limit among the backends.
    pub batch_tokens_max: Option<u32>,
    /// Units that wait.
    pub queued_units_max: usize,
    /// See [`SchedulerConfig::look_ahead_requests_max`].
    pub look_ahead_requests_max: usize,
}

/// What computes, by lane.
pub struct Backends {
    /// One per model, in the models' order: whatever goes through a model.
    pub models: Vec<Box<dyn Backend>>,
    /// What compares vectors that are there already, whoever made them.
    pub vectors: Box<dyn Backend>,
}

impl Backends {
    fn all(&self) -> impl Iterator<Item = &dyn Backend> {
        self.models.iter().chain([&self.vectors]).map(|backend| &**backend)
    }

    fn of(&mut self, lane: Lane) -> &mut dyn Backend {
        match lane.operation {
            Operation::MaxSim | Operation::Align => self.vectors.as_mut(),
            Operation::EncodeTokens | Operation::EncodeDense | Operation::LateInteraction | Operation::CrossEncode => {
                self.models[lane.model.0 as usize].as_mut()
            }
        }
    }
}

/// Sequences of one request.
#[derive(Debug)]
pub struct Submission {
    /// Model and operation of the sequences that are encoded. [Compared](sluice_core::batch::Role::Compared) ones have a lane of their own:
    /// [`Operation::Align`] where that is the operation here, else [`Operation::MaxSim`].
    pub lane: Lane,
    /// A query comes before the documents that need it. Without any, the answer is complete at once.
    pub sequences: Vec<Sequence>,
    /// From then on nobody wants the result.
    pub deadline: Time,
    /// Released when the last of the work is gone.
    pub permit: Permit,
}

/// Why a request has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// Its deadline passed while it waited.
    #[error("deadline passed in the queue")]
    Expired,
    /// More units than the scheduler's bound.
    #[error("the scheduler's queue is full")]
    QueueFull,
    /// A part of it could not be computed.
    #[error("computation failed")]
    Failed,
    /// The device went away with it.
    #[error("device lost")]
    DeviceLost,
    /// The engine is stopping.
    #[error("engine stopped")]
    Stopped,
}

/// Hands sequences to a device and gives results back. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    submissions: mpsc::Sender<Arc<Request>>,
    cancellations: Arc<Cancellations>,
    clock: Clock,
    next_id: Arc<AtomicU64>,
    device_up: watch::Receiver<bool>,
}

impl Engine {
    /// Starts the driver task and the executor thread that owns `backends`. They end when the last
    /// [`Engine`] is dropped and the last batch is done.
    ///
    /// # Errors
    /// If the executor thread cannot be started.
    pub fn start(backends: Backends, config: EngineConfig, clock: Clock) -> std::io::Result<Self> {
        let scheduler = config.scheduler(&backends);
        let (submissions, inbox) = mpsc::channel(SUBMISSIONS_MAX);
        let cancellations = Arc::new(Cancellations::default());
        let (device_up_sender, device_up) = watch::channel(true);
        let executor =
            executor::start(backends, scheduler.in_flight_batches_max as usize, clock.clone(), device_up_sender)?;
        let driver = Driver::new(scheduler, clock.clone(), executor, inbox, Arc::clone(&cancellations));
        tokio::spawn(driver.run());
        Ok(Self { submissions, cancellations, clock, next_id: Arc::default(), device_up })
    }

    /// The engine's clock.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Whether the device works; changes when it is lost and when it is rebuilt.
    #[must_use]
    pub fn device_up(&self) -> watch::Receiver<bool> {
        self.device_up.clone()
    }

    /// Queues a submission. Dropping the returned handle cancels what has not been computed.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] once the driver has ended.
    pub async fn submit(&self, submission: Submission) -> Result<Answer, EngineError> {
        let id = RequestId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let request = Arc::new(Request::new(id, submission, self.clock.now()));
        let answer = Answer { request: Arc::clone(&request), cancellations: Arc::clone(&self.cancellations) };
        self.submissions.send(request).await.map_err(|_| EngineError::Stopped)?;
        Ok(answer)
    }
}

/// The results of a submission, as they come. Dropped before the end, it cancels the rest.
pub struct Answer {
    request: Arc<Request>,
    cancellations: Arc<Cancellations>,
}

impl Answer {
    /// What has been computed since the last call; waits until there is something. A reader that is
    /// slow gets more at once, and holds nothing up.
    ///
    /// # Errors
    /// The first thing that went wrong with any part of the request.
    pub async fn next(&mut self) -> Result<Progress, EngineError> {
        self.request.sink.next().await
    }

    /// Time from submission to the first batch, zero until then; and the sum over the batches so far.
    #[must_use]
    pub fn times(&self) -> (Duration, Duration) {
        let (first_dispatch, compute) = self.request.sink.times();
        (first_dispatch.map_or(Duration::ZERO, |time| time.since(self.request.submitted)), compute)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.request.sink.is_complete() {
            self.request.abandon();
            self.cancellations.push(self.request.id);
        }
    }
}

impl EngineConfig {
    /// Bounds of the one scheduler that all backends share: the smallest of each.
    #[must_use]
    pub fn scheduler(&self, backends: &Backends) -> SchedulerConfig {
        let least = |limit: fn(&BackendLimits) -> u32| {
            backends.all().map(|backend| limit(&backend.limits())).min().unwrap_or(1).max(1)
        };
        let batch_tokens_max = least(|limits| limits.batch_tokens_max);
        SchedulerConfig {
            batch_tokens_max: self.batch_tokens_max.map_or(batch_tokens_max, |max| max.min(batch_tokens_max)),
            batch_sequences_max: least(|limits| limits.batch_sequences_max),
            in_flight_batches_max: least(|limits| limits.in_flight_batches_max),
            queued_units_max: self.queued_units_max,
            look_ahead_requests_max: self.look_ahead_requests_max,
            policy: Policy::default(),
        }
    }
}

#[cfg(test)]
mod tests;
