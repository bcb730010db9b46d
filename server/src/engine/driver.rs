//! The driver: waits for what happens, lets the scheduler decide, stages batches.
//!
//! [`Driver::select`] only waits and returns a closed [`Event`]; [`Driver::apply`] is synchronous and
//! holds all the logic.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sluice_core::{
    DeviceIndex, Lane, Priority, RequestId, Time, Unit, UnitId,
    batch::{PackedBatch, Role},
    cost::CostModel,
    scheduler::{BatchBudget, BatchId, Decision, EnqueueError, Expired, Plan, Scheduler, SchedulerConfig},
};
use tokio::sync::{Notify, mpsc, watch};

use super::{
    Clock, EngineError,
    executor::{BatchDone, BatchJob, Report},
    executors::Executors,
    permit::{Permits, Terms},
    request::Request,
};
use crate::metrics::{self, QueueMetrics};

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

/// How often what is learnt of costs is told.
const COSTS_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Driver {
    scheduler: Scheduler,
    clock: Clock,
    permits: Permits,
    costs: watch::Sender<Arc<CostModel>>,
    costs_told: Time,
    /// What each batch in flight was expected to take.
    predicted: HashMap<BatchId, (Lane, Duration)>,
    executors: Executors,
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
    Reported(Report),
    DeadlinePassed,
    /// Nobody can submit any more.
    Closed,
    /// Nobody can submit any more and nothing is under way.
    Finished,
}

/// What a driver is connected to.
pub(super) struct DriverParts {
    pub(super) permits: Permits,
    pub(super) costs: watch::Sender<Arc<CostModel>>,
    pub(super) executors: Executors,
    pub(super) inbox: mpsc::Receiver<Arc<Request>>,
    pub(super) cancellations: Arc<Cancellations>,
}

impl Driver {
    pub(super) fn new(
        (scheduler, cost): (SchedulerConfig, CostModel),
        budgets: &[(Lane, BatchBudget)],
        clock: Clock,
        parts: DriverParts,
    ) -> Self {
        let mut scheduler = Scheduler::with_cost(scheduler, cost);
        for (lane, budget) in budgets {
            scheduler.set_budget(*lane, *budget);
        }
        let DriverParts { permits, costs, executors, inbox, cancellations } = parts;
        permits.publish(scheduler.forecast(clock.now()));
        Self {
            scheduler,
            clock,
            permits,
            costs,
            costs_told: Time::ZERO,
            predicted: HashMap::new(),
            executors,
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
            Some(report) = self.executors.reports.recv() => Event::Reported(report),
            () = self.cancellations.changed.notified() => Event::Cancelled,
            submitted = self.inbox.recv(), if !self.inbox.is_closed() || idle => match submitted {
                Some(request) => Event::Submitted(request),
                None if idle => Event::Finished,
                None => Event::Closed,
            },
            () = sleep_until(wake), if wake.is_some() => Event::DeadlinePassed,
        }
    }

    fn apply(&mut self, event: Event, now: Time) {
        match event {
            Event::Submitted(request) => self.enqueue(request, now),
            Event::Reported(report) => self.hear(report, now),
            Event::Cancelled | Event::DeadlinePassed | Event::Closed | Event::Finished => {}
        }
        // Whatever happened: who has left by now is in no batch that is put together now.
        self.cancel();
        self.expire(now);
        self.dispatch(now);
        let forecast = self.scheduler.forecast(now);
        for class in Priority::ALL {
            self.metrics.backlog[class.index()].set(forecast.class_backlog(class).as_secs_f64());
        }
        self.permits.publish(forecast);
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
            let lane = request.lane_of(sequence);
            let Terms { class, tenant, deadline, worth } = request.terms();
            let unit = Unit {
                id: UnitId { request: request.id, index },
                lane,
                class,
                tenant,
                worth,
                // A comparison is done document by document: one that costs more than a batch is a batch of its own.
                tokens: match sequence.role {
                    Role::Compared(_) => sequence.cost().min(self.scheduler.budget(lane).tokens),
                    Role::Plain | Role::Query(_) | Role::Document(_) => sequence.cost(),
                },
                deadline,
                leads: matches!(sequence.role, Role::Query(_)),
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
        request.queued();
        self.waiting.insert(request.id, Waiting { units: request.sequences.len(), request });
    }

    fn hear(&mut self, report: Report, now: Time) {
        match report {
            Report::Done(done) => {
                self.complete(&done, now);
                let failed = self.executors.took_back(done.device);
                self.stop(failed);
            }
            Report::Lost(device, batches) => {
                self.scheduler.set_up(device, false);
                let waiting = self.executors.lost(device, batches.len());
                // All to one device: what was bound to the lost one stays together there.
                let to = self.scheduler.first_free(now);
                for job in batches.into_iter().chain(waiting) {
                    self.relocate(job, to, now);
                }
            }
            Report::Returned(device, job) => {
                let failed = self.executors.took_back(device);
                self.stop(failed);
                let bound = |request: &Arc<Request>| {
                    let to = self.scheduler.bound_to(request.id);
                    to.filter(|to| *to != device && self.scheduler.is_up(*to))
                };
                let to = job.members.iter().find_map(bound).or_else(|| self.scheduler.first_free(now));
                self.relocate(job, to, now);
            }
            Report::Rebuilt(device) => self.scheduler.set_up(device, true),
        }
    }

    /// Gives a batch of a lost device to another one.
    fn relocate(&mut self, job: BatchJob, to: Option<DeviceIndex>, now: Time) {
        let Some(device) = to else {
            self.abandon(job, EngineError::DeviceLost);
            return;
        };
        self.scheduler.reassign(now, job.batch, device);
        self.metrics.moved.increment(1);
        let failed = self.executors.give(device, job);
        self.stop(failed);
    }

    /// Learns from a batch that went through in one piece; of another the time says nothing.
    fn complete(&mut self, done: &BatchDone, now: Time) {
        let predicted = self.predicted.remove(&done.batch);
        if !done.whole {
            self.scheduler.abandon(done.batch);
            return;
        }
        self.scheduler.complete(now, done.batch, done.measured);
        if let Some((lane, predicted)) = predicted {
            let accuracy = self.scheduler.cost().accuracy(lane);
            metrics::predicted(lane, predicted, accuracy.map(|accuracy| accuracy.median_relative_error));
        }
        if now.since(self.costs_told) >= COSTS_INTERVAL {
            self.costs_told = now;
            self.costs.send_replace(Arc::new(self.scheduler.cost().clone()));
        }
    }

    fn cancel(&mut self) {
        for id in self.cancellations.take() {
            self.metrics.cancelled.increment(self.scheduler.cancel(id) as u64);
            self.waiting.remove(&id);
        }
    }

    fn expire(&mut self, now: Time) {
        for Expired { request: id, units, unreachable } in self.scheduler.take_expired(now) {
            self.metrics.expired.increment(units as u64);
            if let Some(waiting) = self.waiting.remove(&id) {
                let late = if unreachable { EngineError::Unreachable } else { EngineError::Expired };
                fail(waiting.request, late);
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
            let sequence = &waiting.request.sequences[unit.index as usize];
            packed.push(*unit, sequence);
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
        let budget = self.scheduler.budget(plan.lane).tokens;
        self.metrics.batch_fill.record(f64::from(plan.tokens) / f64::from(budget));
        self.predicted.insert(plan.batch, (plan.lane, plan.predicted));
        let job = BatchJob { batch: plan.batch, packed: Arc::new(packed), members, last_try: false, moved: false };
        let failed = self.executors.give(plan.device, job);
        self.stop(failed);
    }

    /// An executor is gone, which only happens when its thread could not be kept alive.
    fn stop(&mut self, batches: Vec<BatchJob>) {
        for job in batches {
            tracing::error!("an executor thread has ended");
            self.abandon(job, EngineError::Stopped);
        }
    }

    /// Ends the requests of a batch that nobody will compute.
    fn abandon(&mut self, job: BatchJob, error: EngineError) {
        self.scheduler.abandon(job.batch);
        self.predicted.remove(&job.batch);
        for request in job.members {
            fail(request, error);
        }
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
