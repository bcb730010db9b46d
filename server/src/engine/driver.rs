//! The driver: waits for what happens, lets the scheduler decide, stages batches.
//!
//! [`Driver::select`] only waits and returns a closed [`Event`]; [`Driver::apply`] is synchronous and
//! holds all the logic.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use sluice_core::{Priority, TenantId, Unit, UnitId, Worth};
use sluice_core::{
    RequestId, Time,
    batch::{PackedBatch, Role},
    scheduler::{BatchId, Decision, EnqueueError, Expired, Plan, Scheduler, SchedulerConfig},
};
use tokio::sync::{Notify, mpsc};

use super::{
    Clock, EngineError,
    executor::{BatchDone, BatchJob, ExecutorHandle},
    request::Request,
};
use crate::metrics::QueueMetrics;

/// Requests whose callers have left, pushed by drop and therefore never waiting. Bounded by admission:
/// each id was admitted and is pushed once.
#[derive(Debug, Default)]
pub(super) struct Cancellations {
    ids: Mutex<Vec<RequestId>>,
    changed: Notify,
}

impl Cancellations {
    pub(super) fn push(&self, id: RequestId) {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).push(id);
        self.changed.notify_one();
    }

    fn take(&self) -> Vec<RequestId> {
        std::mem::take(&mut *self.ids.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub(super) struct Driver {
    scheduler: Scheduler,
    batch_tokens_max: u32,
    clock: Clock,
    executor: ExecutorHandle,
    inbox: mpsc::Receiver<Arc<Request>>,
    cancellations: Arc<Cancellations>,
    /// Requests with units in the scheduler.
    waiting: HashMap<RequestId, Waiting>,
    /// When the scheduler wants to be asked again, whatever happens.
    wake: Option<Time>,
    metrics: QueueMetrics,
}

struct Waiting {
    request: Arc<Request>,
    units: usize,
}

enum Event {
    Submitted(Arc<Request>),
    Cancelled,
    BatchDone(BatchDone),
    DeadlinePassed,
    /// Nobody can submit any more and nothing is under way.
    Finished,
}

impl Driver {
    pub(super) fn new(
        scheduler: SchedulerConfig,
        clock: Clock,
        executor: ExecutorHandle,
        inbox: mpsc::Receiver<Arc<Request>>,
        cancellations: Arc<Cancellations>,
    ) -> Self {
        Self {
            batch_tokens_max: scheduler.batch_tokens_max,
            scheduler: Scheduler::new(scheduler),
            clock,
            executor,
            inbox,
            cancellations,
            waiting: HashMap::new(),
            wake: None,
            metrics: QueueMetrics::new(),
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let event = self.select().await;
            if matches!(event, Event::Finished) {
                return;
            }
            let now = self.clock.now();
            self.apply(event, now);
        }
    }

    async fn select(&mut self) -> Event {
        let idle = self.scheduler.in_flight() == 0 && self.scheduler.queued_units() == 0;
        let wake = self.wake.and_then(|time| self.clock.instant(time));
        tokio::select! {
            biased;
            Some(done) = self.executor.done.recv() => Event::BatchDone(done),
            () = self.cancellations.changed.notified() => Event::Cancelled,
            submitted = self.inbox.recv(), if !self.inbox.is_closed() || idle => match submitted {
                Some(request) => Event::Submitted(request),
                None => Event::Finished,
            },
            () = sleep_until(wake), if wake.is_some() => Event::DeadlinePassed,
        }
    }

    fn apply(&mut self, event: Event, now: Time) {
        match event {
            Event::Submitted(request) => self.enqueue(request, now),
            Event::Cancelled => self.cancel(),
            Event::BatchDone(done) => {
                self.scheduler.complete(now, done.batch, done.measured);
            }
            Event::DeadlinePassed | Event::Finished => {}
        }
        self.expire(now);
        self.dispatch(now);
        self.metrics.queue_units.set(self.scheduler.queued_units() as f64);
        self.metrics.queue_tokens.set(self.scheduler.queued_tokens() as f64);
        self.metrics.batches_in_flight.set(self.scheduler.in_flight() as f64);
    }

    fn enqueue(&mut self, request: Arc<Request>, now: Time) {
        if request.is_abandoned() || request.sequences.is_empty() {
            return;
        }
        if request.sequences.iter().any(|sequence| sequence.cost() == 0) {
            tracing::error!("a tokenizer gave a sequence without tokens");
            fail(request, EngineError::Failed);
            return;
        }
        let mut enqueued = 0;
        for (index, sequence) in (0_u32..).zip(&request.sequences) {
            let unit = Unit {
                id: UnitId { request: request.id, index },
                lane: request.lane_of(sequence),
                class: Priority::default(),
                tenant: TenantId::default(),
                worth: Worth::default(),
                // A comparison is done document by document: one that costs more than a batch is a batch of its own.
                tokens: match sequence.role {
                    Role::Compared(_) => sequence.cost().min(self.batch_tokens_max),
                    Role::Plain | Role::Query(_) | Role::Document(_) => sequence.cost(),
                },
                deadline: request.deadline,
            };
            if let Err(error) = self.scheduler.enqueue(now, unit) {
                self.metrics.enqueued.increment(enqueued);
                self.metrics.cancelled.increment(self.scheduler.cancel(request.id) as u64);
                fail(request, refusal(&error));
                return;
            }
            enqueued += 1;
        }
        self.metrics.enqueued.increment(enqueued);
        self.waiting.insert(request.id, Waiting { units: request.sequences.len(), request });
    }

    fn cancel(&mut self) {
        for id in self.cancellations.take() {
            self.metrics.cancelled.increment(self.scheduler.cancel(id) as u64);
            self.waiting.remove(&id);
        }
    }

    fn expire(&mut self, now: Time) {
        for Expired { request: id, units, .. } in self.scheduler.take_expired(now) {
            self.metrics.expired.increment(units as u64);
            if let Some(waiting) = self.waiting.remove(&id) {
                fail(waiting.request, EngineError::Expired);
            }
        }
    }

    fn dispatch(&mut self, now: Time) {
        loop {
            match self.scheduler.next(now) {
                Decision::Dispatch(plan) => self.launch(plan, now),
                Decision::WaitUntil(time) => {
                    self.wake = Some(time);
                    return;
                }
                Decision::Idle => {
                    self.wake = None;
                    return;
                }
            }
        }
    }

    fn launch(&mut self, plan: Plan, now: Time) {
        let mut packed = PackedBatch::with_capacity(plan.lane, plan.units.len(), plan.tokens as usize);
        let mut members = Vec::with_capacity(plan.units.len());
        for unit in &plan.units {
            let waiting = self.waiting.get_mut(&unit.request).expect("a dispatched unit's request waits");
            packed.push(*unit, &waiting.request.sequences[unit.index as usize]);
            if waiting.request.sink.dispatched(now) {
                self.metrics.queue_seconds.record(now.since(waiting.request.submitted).as_secs_f64());
            }
            members.push(Arc::clone(&waiting.request));
            waiting.units -= 1;
            if waiting.units == 0 {
                self.waiting.remove(&unit.request);
            }
        }
        self.metrics.dispatched.increment(plan.units.len() as u64);
        self.metrics.batch_tokens.record(f64::from(plan.tokens));
        self.metrics.batch_sequences.record(plan.units.len() as f64);
        self.metrics.batch_fill.record(f64::from(plan.tokens) / f64::from(self.batch_tokens_max));
        let job = BatchJob { batch: plan.batch, packed: Arc::new(packed), members };
        if let Err(job) = self.executor.send(job) {
            self.abandon(job.batch, &job.members);
        }
    }

    /// The executor is gone, which only happens when its thread could not be kept alive.
    fn abandon(&mut self, batch: BatchId, members: &[Arc<Request>]) {
        tracing::error!("the executor thread has ended");
        for request in members {
            request.sink.fail(EngineError::Stopped);
        }
        self.scheduler.abandon(batch);
    }
}

/// Ends a request after letting go of it: its room is free as soon as its caller hears.
fn fail(request: Arc<Request>, error: EngineError) {
    let sink = Arc::clone(&request.sink);
    drop(request);
    sink.fail(error);
}

fn refusal(error: &EnqueueError) -> EngineError {
    match error {
        EnqueueError::QueueFull { .. } => EngineError::QueueFull,
        EnqueueError::ExceedsBudget { .. } => {
            tracing::error!(%error, "a unit larger than any batch came through preparation");
            EngineError::Failed
        }
    }
}

async fn sleep_until(wake: Option<tokio::time::Instant>) {
    match wake {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
