//! The executor: one OS thread that owns the backends.
//!
//! It submits up to the device's batches in flight, collects in order, and gives each unit its result.
//! A batch that fails is split in two and tried again until the units that cannot be computed stand
//! alone. Each of those is tried once more, since what failed may have passed; then it fails its own
//! request, and no other.

use std::{
    collections::{HashMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, bounded};
use sluice_core::{
    Lane, Time, UnitId,
    backend::{Backend, BackendError, BatchOutput, Ticket},
    batch::PackedBatch,
    scheduler::BatchId,
};
use tokio::sync::{mpsc, watch};

use super::{Backends, Clock, EngineError, SlotValue, request::Request};
use crate::metrics;

/// Pause between attempts to get a lost device back.
const REBUILD_INTERVAL: Duration = Duration::from_millis(200);
/// Attempts while no shutdown is asked for would be endless; after that many the next batch decides.
const REBUILD_ATTEMPTS_MAX: u32 = 25;

/// A staged batch.
pub(super) struct BatchJob {
    pub(super) batch: BatchId,
    pub(super) packed: Arc<PackedBatch>,
    /// The request of each sequence.
    pub(super) members: Vec<Arc<Request>>,
    /// One sequence that has failed alone before.
    pub(super) last_try: bool,
}

/// A batch whose every unit has its result or its failure.
pub(super) struct BatchDone {
    pub(super) batch: BatchId,
    /// On the device, retries included.
    pub(super) measured: Duration,
    /// It went through at once, and not in parts.
    pub(super) whole: bool,
}

/// The driver's end.
pub(super) struct ExecutorHandle {
    jobs: Sender<BatchJob>,
    pub(super) done: mpsc::Receiver<BatchDone>,
}

impl ExecutorHandle {
    /// Hands over a batch; never waits, since the scheduler keeps to the batches in flight.
    pub(super) fn send(&self, job: BatchJob) -> Result<(), BatchJob> {
        self.jobs.try_send(job).map_err(crossbeam_channel::TrySendError::into_inner)
    }
}

pub(super) fn start(
    backends: Backends,
    in_flight_max: usize,
    clock: Clock,
    device_up: watch::Sender<bool>,
) -> std::io::Result<ExecutorHandle> {
    let (jobs, inbox) = bounded(in_flight_max);
    let (outbox, done) = mpsc::channel(in_flight_max);
    let executor = Executor {
        free_since: clock.now(),
        backends,
        in_flight_max,
        inbox,
        outbox,
        clock,
        device_up,
        submitted: VecDeque::new(),
        retries: VecDeque::new(),
        open: HashMap::new(),
    };
    thread::Builder::new().name("sluice-executor".to_owned()).spawn(move || executor.run())?;
    Ok(ExecutorHandle { jobs, done })
}

/// A batch without its last outcome.
struct Open {
    /// Parts without an outcome.
    parts: usize,
    /// Device time so far.
    spent: Duration,
    /// Nothing has failed yet.
    whole: bool,
}

struct Executor {
    backends: Backends,
    in_flight_max: usize,
    inbox: Receiver<BatchJob>,
    outbox: mpsc::Sender<BatchDone>,
    clock: Clock,
    device_up: watch::Sender<bool>,
    /// Submitted and not collected, in order.
    submitted: VecDeque<(BatchJob, Ticket)>,
    /// Halves of failed batches, before anything new.
    retries: VecDeque<BatchJob>,
    open: HashMap<BatchId, Open>,
    /// When the device last became free: a batch's time does not count the wait behind another.
    free_since: Time,
}

impl Executor {
    fn run(mut self) {
        loop {
            while self.submitted.len() < self.in_flight_max {
                let Some(job) = self.next_job() else { break };
                self.submit(job);
            }
            let Some((job, ticket)) = self.submitted.pop_front() else {
                if self.retries.is_empty() {
                    return; // The driver has gone, and nothing is left.
                }
                continue;
            };
            let result = self.guarded(job.packed.lane(), |backend| backend.collect(ticket));
            self.settle(job, result);
        }
    }

    /// A retry, else a new batch; waits for one only while nothing is submitted.
    fn next_job(&mut self) -> Option<BatchJob> {
        if let Some(job) = self.retries.pop_front() {
            return Some(job);
        }
        let job = if self.submitted.is_empty() { self.inbox.recv().ok()? } else { self.inbox.try_recv().ok()? };
        self.open.insert(job.batch, Open { parts: 1, spent: Duration::ZERO, whole: true });
        Some(job)
    }

    fn submit(&mut self, job: BatchJob) {
        if self.submitted.is_empty() {
            self.free_since = self.clock.now();
        }
        let packed = Arc::clone(&job.packed);
        match self.guarded(packed.lane(), |backend| backend.submit(packed)) {
            Ok(ticket) => self.submitted.push_back((job, ticket)),
            Err(error) => self.settle(job, Err(error)),
        }
    }

    /// A panic in a backend costs its batch, not the thread.
    fn guarded<T>(
        &mut self,
        lane: Lane,
        call: impl FnOnce(&mut dyn Backend) -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        let backend = self.backends.of(lane);
        catch_unwind(AssertUnwindSafe(|| call(backend))).unwrap_or_else(|panic| {
            let message = panic.downcast_ref::<&str>().map(ToString::to_string);
            let message = message.or_else(|| panic.downcast_ref::<String>().cloned());
            Err(BackendError::Failed(format!("panic: {}", message.unwrap_or_default())))
        })
    }

    /// Accounts for a batch that came back, with whatever came back.
    fn settle(&mut self, job: BatchJob, result: Result<BatchOutput, BackendError>) {
        let now = self.clock.now();
        let spent = now.since(self.free_since);
        self.free_since = now;
        let result = result.and_then(|output| {
            let (expected, got) = (job.packed.len(), output.len());
            if got == expected {
                Ok(output)
            } else {
                Err(BackendError::Failed(format!("{got} results for {expected}")))
            }
        });
        let (batch, mut parts) = (job.batch, 0);
        let failed = result.is_err();
        match result {
            Ok(output) => self.deliver(job, output, spent),
            Err(error) => parts = self.fail(job, &error),
        }
        let Some(open) = self.open.get_mut(&batch) else { return };
        open.parts = open.parts + parts - 1;
        open.spent += spent;
        open.whole &= !failed;
        if open.parts == 0 {
            let done = BatchDone { batch, measured: open.spent, whole: open.whole };
            self.open.remove(&batch);
            // The driver drains this before anything else; were it gone, nobody would want to know.
            let _ = self.outbox.blocking_send(done);
        }
    }

    /// A request's reader hears of its results after the batch has let go of the request: its room is then
    /// free as soon as its answer is there.
    fn deliver(&mut self, job: BatchJob, output: BatchOutput, spent: Duration) {
        let BatchJob { packed, members, .. } = job;
        let computed = self.backends.of(packed.lane()).computed_tokens(&packed);
        let padding = computed.saturating_sub(packed.total_tokens());
        metrics::computed(packed.lane().operation, packed.total_tokens(), padding, spent.as_secs_f64());
        if let Some(cache) = self.backends.of(packed.lane()).device_cache() {
            metrics::device_cache(cache);
        }
        self.count_wasted(&packed, &members, spent);
        let mut results = packed.units().iter().map(|unit| unit.index).zip(slot_values(output));
        let mut members = members.into_iter().peekable();
        while let Some(request) = members.next() {
            let mut units = 1;
            while members.next_if(|next| Arc::ptr_eq(next, &request)).is_some() {
                units += 1;
            }
            let own: Vec<_> = results.by_ref().take(units).collect();
            let sink = Arc::clone(&request.sink);
            drop(request);
            sink.computed(spent);
            sink.fill(own);
        }
    }

    /// Counts the part of a batch's time that went into results which nobody waits for any more.
    fn count_wasted(&self, packed: &PackedBatch, members: &[Arc<Request>], spent: Duration) {
        let cost = |(unit, request): (&UnitId, &Arc<Request>)| {
            let cost = u64::from(request.sequences[unit.index as usize].cost());
            (cost, if request.is_wanted() { 0 } else { cost })
        };
        let costs = packed.units().iter().zip(members).map(cost);
        let (all, wasted) = costs.fold((0, 0), |(all, wasted), (cost, waste)| (all + cost, wasted + waste));
        if wasted > 0 {
            metrics::wasted(spent.as_secs_f64() * wasted as f64 / all as f64);
        }
    }

    /// Decides what a failure costs, and returns the number of parts that are tried again.
    fn fail(&mut self, job: BatchJob, error: &BackendError) -> usize {
        let (kind, retry) = match error {
            BackendError::OutOfMemory => ("out_of_memory", true),
            BackendError::Failed(_) => ("failed", true),
            BackendError::DeviceLost(_) => ("device_lost", false),
            BackendError::LimitExceeded { .. } => ("limit_exceeded", false),
        };
        metrics::batch_fault(kind);
        tracing::warn!(%error, kind, sequences = job.packed.len(), tokens = job.packed.total_tokens(), "batch failed");
        if retry && job.packed.len() > 1 {
            let BatchJob { batch, packed, mut members, .. } = job;
            let (first, second) = packed.halves();
            let rest = members.split_off(first.len());
            // Depth first, so that parts are tried in order of units: a query's comes before those of its documents.
            let part = |packed, members| BatchJob { batch, packed: Arc::new(packed), members, last_try: false };
            self.retries.push_front(part(second, rest));
            self.retries.push_front(part(first, members));
            return 2;
        }
        if retry && !job.last_try {
            self.retries.push_front(BatchJob { last_try: true, ..job });
            return 1;
        }
        let lost = matches!(error, BackendError::DeviceLost(_));
        // As for results: the batch lets go of its requests first.
        let sinks: Vec<_> = job.members.into_iter().map(|request| Arc::clone(&request.sink)).collect();
        for sink in sinks {
            sink.fail(if lost { EngineError::DeviceLost } else { EngineError::Failed });
        }
        if lost {
            self.rebuild(job.packed.lane());
        }
        0
    }

    /// Tries to get a lost device back; what is queued waits meanwhile, up to its deadlines.
    fn rebuild(&mut self, lane: Lane) {
        self.device_up.send_replace(false);
        for attempt in 1..=REBUILD_ATTEMPTS_MAX {
            match self.guarded(lane, |backend| backend.rebuild()) {
                Ok(()) => {
                    tracing::warn!(attempt, "device rebuilt");
                    self.device_up.send_replace(true);
                    // What the next batch takes does not count the rebuilding.
                    self.free_since = self.clock.now();
                    return;
                }
                Err(error) => tracing::error!(attempt, %error, "device still lost"),
            }
            thread::sleep(REBUILD_INTERVAL);
        }
    }
}

fn slot_values(output: BatchOutput) -> std::vec::IntoIter<SlotValue> {
    let values: Vec<SlotValue> = match output {
        BatchOutput::Scores(scores) => scores.into_iter().map(SlotValue::Score).collect(),
        BatchOutput::TokenMatrices(matrices) => matrices.into_iter().map(SlotValue::Tokens).collect(),
        BatchOutput::DenseVectors(vectors) => vectors.into_iter().map(SlotValue::Dense).collect(),
        BatchOutput::Alignments(alignments) => alignments.into_iter().map(SlotValue::Alignment).collect(),
    };
    values.into_iter()
}
