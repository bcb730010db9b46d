//! From sequences to numbers: queue, batches, device thread, answers.
//!
//! Two thread hops: the `driver` task decides and stages, the `executor` thread of a device computes, and each
//! request's `sink` takes its results. Several devices are several executors under the one driver: any of them can
//! compute any batch. The bounded queues, by name:
//!
//! | queue | bound | protects |
//! |---|---|---|
//! | admission | documents, tokens, bytes inside | memory |
//! | submissions | [`SUBMISSIONS_MAX`] requests handed over | the driver's inbox |
//! | scheduler | `queued_units_max` units | the time of a decision |
//! | executor | the batches in flight of its device, and as many that a lost device has left | late binding |
//! | sink | the request's own number of slots | memory, against a slow reader |
//! | updates | one message of a RerankStream call | its room, against a reader that stopped |
//! | changes | 64 changes of the token store; further ones wait in their requests' tasks | the memory of what waits for the disk |
//! | put turns | 2 puts whose vectors are in memory | memory: a put may have `put_vectors_max` vectors |

use std::{
    num::NonZero,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sluice_core::{
    Lane, ModelIndex, Operation, RequestId,
    backend::{Backend, BackendLimits},
    batch::{Role, Sequence},
    cost::{BatchShape, CostModel},
    scheduler::{BatchBudget, Policy, SchedulerConfig},
};
use tokio::sync::{mpsc, watch};

mod clock;
mod driver;
mod executor;
mod executors;
pub mod permit;
mod request;
pub mod sink;
pub mod tokenizer_pool;

pub use clock::Clock;
use driver::{Cancellations, Driver, DriverParts};
use executors::Executors;
use permit::{Permit, Permits};
use request::Request;
pub use sink::{Progress, SlotValue};

/// Requests handed over and not yet looked at by the driver. Admission bounds what can pile up here
/// already; this bound is what a burst may do within one turn of the driver.
pub const SUBMISSIONS_MAX: usize = 1024;

/// How the engine queues.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Tokens of one batch; `None` takes each backend's own limit.
    pub batch_tokens_max: Option<u32>,
    /// Units that wait.
    pub queued_units_max: usize,
    /// See [`SchedulerConfig::look_ahead_requests_max`].
    pub look_ahead_requests_max: usize,
    /// In which order.
    pub policy: Policy,
    /// What is known of the lanes' costs already.
    pub cost: CostModel,
}

/// What computes on one device, by lane.
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

    fn all_mut(&mut self) -> impl Iterator<Item = &mut dyn Backend> {
        self.models.iter_mut().chain([&mut self.vectors]).map(|backend| &mut **backend as &mut dyn Backend)
    }

    /// Whether two lanes have the same backend.
    fn are_one(a: Lane, b: Lane) -> bool {
        let compares = |lane: Lane| matches!(lane.operation, Operation::MaxSim | Operation::Align);
        if compares(a) || compares(b) { compares(a) == compares(b) } else { a.model == b.model }
    }

    /// Batches in flight on its device. A backend that takes fewer gets no more; one that compares vectors overlaps
    /// nothing, and would only have its batches chosen earlier.
    fn in_flight_batches_max(&self) -> u32 {
        let models = self.models.iter().map(|model| model.limits().in_flight_batches_max).max();
        models.unwrap_or_else(|| self.vectors.limits().in_flight_batches_max)
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
    /// Whose terms it is computed on; released when the last of the work is gone.
    pub permit: Permit,
}

impl Submission {
    /// The work of such a submission, by lane.
    #[must_use]
    pub fn work<'a>(lane: Lane, sequences: impl IntoIterator<Item = &'a Sequence>) -> Vec<(Lane, BatchShape)> {
        let mut work: Vec<(Lane, BatchShape)> = Vec::new();
        for sequence in sequences {
            let (lane, shape) = (lane_of(lane, sequence), BatchShape::of(sequence.cost()));
            match work.iter_mut().find(|(known, _)| *known == lane) {
                Some((_, sum)) => *sum += shape,
                None => work.push((lane, shape)),
            }
        }
        work
    }
}

/// Whom a sequence of a submission can share a batch with.
fn lane_of(submitted: Lane, sequence: &Sequence) -> Lane {
    let Lane { model, operation } = submitted;
    let operation = match (&sequence.role, operation) {
        (Role::Compared(_), Operation::Align) => Operation::Align,
        (Role::Compared(_), _) => Operation::MaxSim,
        (Role::Plain | Role::Query(_) | Role::Document(_), operation) => operation,
    };
    Lane { model, operation }
}

/// Why a request has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// Its deadline passed while it waited.
    #[error("deadline passed in the queue")]
    Expired,
    /// What is left of it cannot be computed before its deadline.
    #[error("deadline cannot be met")]
    Unreachable,
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

/// Hands sequences to the devices and gives results back. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    submissions: mpsc::Sender<Arc<Request>>,
    cancellations: Arc<Cancellations>,
    clock: Clock,
    next_id: Arc<AtomicU64>,
    devices_up: watch::Receiver<usize>,
    costs: watch::Receiver<Arc<CostModel>>,
}

impl Engine {
    /// Starts the driver task and an executor thread for each of the `devices`, which have the same models in the same
    /// order. They end when the last [`Engine`] is dropped and the last batch is done.
    ///
    /// # Errors
    /// If there is no device, there are more than 65,535, or a thread cannot be started.
    pub fn start(
        devices: Vec<Backends>,
        config: EngineConfig,
        permits: Permits,
        clock: Clock,
    ) -> std::io::Result<Self> {
        let no_number = || std::io::Error::other(format!("{} devices", devices.len()));
        let count = u16::try_from(devices.len()).ok().and_then(NonZero::new).ok_or_else(no_number)?;
        let scheduler = config.scheduler(&devices, count);
        let budgets = config.budgets(&devices);
        let costs = watch::Sender::new(Arc::new(config.cost.clone()));
        let known_costs = costs.subscribe();
        let (submissions, inbox) = mpsc::channel(SUBMISSIONS_MAX);
        let cancellations = Arc::new(Cancellations::default());
        let (devices_up_sender, devices_up) = watch::channel(devices.len());
        let in_flight_max = scheduler.in_flight_batches_max as usize;
        let executors = Executors::start(devices, in_flight_max, &clock, devices_up_sender)?;
        let parts = DriverParts { permits, costs, executors, inbox, cancellations: Arc::clone(&cancellations) };
        let driver = Driver::new((scheduler, config.cost), &budgets, clock.clone(), parts);
        tokio::spawn(driver.run());
        Ok(Self { submissions, cancellations, clock, next_id: Arc::default(), devices_up, costs: known_costs })
    }

    /// The engine's clock.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// How many devices work; changes when one is lost and when it is rebuilt.
    #[must_use]
    pub fn devices_up(&self) -> watch::Receiver<usize> {
        self.devices_up.clone()
    }

    /// What has been learnt of the lanes' costs, every now and then.
    #[must_use]
    pub fn costs(&self) -> watch::Receiver<Arc<CostModel>> {
        self.costs.clone()
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
    /// What a batch of each lane may hold on any of the devices.
    fn budgets(&self, devices: &[Backends]) -> Vec<(Lane, BatchBudget)> {
        use Operation::{Align, CrossEncode, EncodeDense, EncodeTokens, LateInteraction, MaxSim};

        let budget = |of: &dyn Fn(&Backends) -> BackendLimits| {
            let least = |limit: fn(&BackendLimits) -> u32| least_of(devices.iter().map(|device| limit(&of(device))));
            let tokens = self.tokens(least(|limits| limits.batch_tokens_max)).max(1);
            BatchBudget { tokens, sequences: least(|limits| limits.batch_sequences_max) }
        };
        let models = devices.first().map_or(0, |device| device.models.len());
        let compared = budget(&|device| device.vectors.limits());
        let lanes = (0_u16..).map(ModelIndex).take(models).flat_map(|model| {
            let of_model = budget(&|device| device.models[model.0 as usize].limits());
            let own = [EncodeTokens, EncodeDense, LateInteraction, CrossEncode].map(|operation| (operation, of_model));
            let compared = [MaxSim, Align].map(|operation| (operation, compared));
            own.into_iter().chain(compared).map(move |(operation, budget)| (Lane { model, operation }, budget))
        });
        lanes.collect()
    }

    /// Bounds of the one scheduler that all backends of all devices share: the smallest of each, but as many batches in
    /// flight as some model's backend takes.
    fn scheduler(&self, devices: &[Backends], count: NonZero<u16>) -> SchedulerConfig {
        let least = |limit: fn(&BackendLimits) -> u32| {
            least_of(devices.iter().flat_map(Backends::all).map(|backend| limit(&backend.limits()))).max(1)
        };
        SchedulerConfig {
            batch_tokens_max: self.tokens(least(|limits| limits.batch_tokens_max)),
            batch_sequences_max: least(|limits| limits.batch_sequences_max),
            devices: count,
            in_flight_batches_max: least_of(devices.iter().map(Backends::in_flight_batches_max)).max(1),
            queued_units_max: self.queued_units_max,
            look_ahead_requests_max: self.look_ahead_requests_max,
            policy: self.policy.clone(),
        }
    }

    /// Tokens of a batch that a backend would take so many of.
    fn tokens(&self, limit: u32) -> u32 {
        self.batch_tokens_max.map_or(limit, |max| max.min(limit))
    }
}

fn least_of(limits: impl Iterator<Item = u32>) -> u32 {
    limits.min().unwrap_or(1)
}

#[cfg(test)]
mod tests;
