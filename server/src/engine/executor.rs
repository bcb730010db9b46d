//! The executor: one OS thread that owns the backends of one device.
//!
//! It submits up to the device's batches in flight, collects in order, and gives each unit its result. While the device
//! computes and has a slot free, it waits for whichever comes first, a batch or the end of one: so the next batch is
//! there when the device has done the one before.
//! A batch that fails is split in two and tried again until the units that cannot be computed stand
//! alone. Each of those is tried once more, since what failed may have passed; then it fails its own
//! request, and no other. Parts are tried one at a time, before all that was dispatched after them.
//!
//! One that loses its device gives what is under way there back to the driver, if there are other devices,
//! and goes on once it has rebuilt its own. A batch is given away once: who loses a second device has no third.

use std::{
    collections::{HashMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::Duration,
};

use crossbeam_channel::Receiver;
use sluice_core::{
    DeviceIndex, Lane, Time, UnitId,
    backend::{Backend, BackendError, BatchOutput, Ticket},
    batch::PackedBatch,
    scheduler::BatchId,
};
use tokio::sync::{mpsc, watch};

use super::{Backends, Clock, EngineError, SlotValue, request::Request};
use crate::metrics::{self, DeviceCaches};

mod loss;

/// How long a new batch is waited for before the device is asked again whether it is done. The system adds about as much;
/// a batch on a device takes some hundred µs at least.
const POLL_INTERVAL: Duration = Duration::from_micros(25);

/// A staged batch.
pub(super) struct BatchJob {
    pub(super) batch: BatchId,
    pub(super) packed: Arc<PackedBatch>,
    /// The request of each sequence.
    pub(super) members: Vec<Arc<Request>>,
    /// One sequence that has failed alone before.
    pub(super) last_try: bool,
    /// Whether another device was lost with it.
    pub(super) moved: bool,
}

/// What an executor is told.
pub(super) enum Order {
    Compute(BatchJob),
    /// The driver knows that the device was lost: what came before this was sent in ignorance.
    LossKnown,
}

/// What an executor tells.
pub(super) enum Report {
    Done(BatchDone),
    /// The device is lost, with these batches; to be answered by [`Order::LossKnown`].
    Lost(DeviceIndex, Vec<BatchJob>),
    /// A batch that was sent before the loss was known.
    Returned(DeviceIndex, BatchJob),
    /// The device is there again.
    Rebuilt(DeviceIndex),
}

/// A batch whose every unit has its result or its failure.
pub(super) struct BatchDone {
    pub(super) device: DeviceIndex,
    pub(super) batch: BatchId,
    /// On the device, retries included.
    pub(super) measured: Duration,
    /// It went through at once, neither in parts nor after a loss.
    pub(super) whole: bool,
}

/// What an executor has besides its backends.
pub(super) struct ExecutorParts {
    pub(super) device: DeviceIndex,
    /// Whether there are other devices.
    pub(super) has_peers: bool,
    pub(super) in_flight_max: usize,
    pub(super) inbox: Receiver<Order>,
    pub(super) outbox: mpsc::Sender<Report>,
    pub(super) clock: Clock,
    /// Devices that work, counted by all executors together.
    pub(super) devices_up: Arc<watch::Sender<usize>>,
    pub(super) caches: Arc<DeviceCaches>,
}

pub(super) fn start(backends: Backends, parts: ExecutorParts) -> std::io::Result<thread::JoinHandle<()>> {
    let name = match parts.has_peers {
        true => format!("sluice-exec-{}", parts.device.0),
        false => "sluice-executor".to_owned(),
    };
    let executor = Executor {
        free_since: parts.clock.now(),
        backends,
        parts,
        up: true,
        submitted: VecDeque::new(),
        retries: VecDeque::new(),
        held: None,
        open: HashMap::new(),
    };
    thread::Builder::new().name(name).spawn(move || executor.run())
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

enum Next {
    Submit(BatchJob),
    Collect(BatchJob, Ticket),
}

/// How long a new batch is waited for.
#[derive(Clone, Copy)]
enum Wait {
    ForBatch,
    Shortly,
    Not,
}

struct Executor {
    backends: Backends,
    parts: ExecutorParts,
    /// Whether the device works.
    up: bool,
    /// Submitted and not collected, in order.
    submitted: VecDeque<(BatchJob, Ticket)>,
    /// Parts of failed batches, in order of dispatch; before anything new.
    retries: VecDeque<BatchJob>,
    /// A new batch that its backend had no room for.
    held: Option<BatchJob>,
    open: HashMap<BatchId, Open>,
    /// When the device last became free: a batch's time does not count the wait behind another.
    free_since: Time,
}

impl Executor {
    fn run(mut self) {
        while let Some(next) = self.next() {
            match next {
                Next::Submit(job) => self.submit(job),
                Next::Collect(job, ticket) => {
                    let result = self.guarded(job.packed.lane(), |backend| backend.collect(ticket));
                    let spent = self.spent();
                    self.settle(job, result, spent);
                }
            }
        }
    }

    /// How long the device has been at what it is done with now.
    fn spent(&mut self) -> Duration {
        let now = self.parts.clock.now();
        now.since(std::mem::replace(&mut self.free_since, now))
    }

    /// What to do next; waits for something to do. `None` once the driver has gone and nothing is left.
    fn next(&mut self) -> Option<Next> {
        if self.submitted.is_empty() {
            let kept = self.retries.pop_front().or_else(|| self.held.take());
            return kept.or_else(|| self.receive(Wait::ForBatch)).map(Next::Submit);
        }
        let mut is_ready = false;
        // Parts are tried with nothing else in flight, so that none is tried before what it needs is there or has failed.
        while self.retries.is_empty() && self.submitted.len() < self.parts.in_flight_max && !is_ready {
            is_ready = self.is_ready();
            let wait = if is_ready { Wait::Not } else { Wait::Shortly };
            let Some(job) = self.held.take().or_else(|| self.receive(wait)) else { continue };
            if self.has_room(job.packed.lane()) {
                return Some(Next::Submit(job));
            }
            self.held = Some(job);
            break;
        }
        self.submitted.pop_front().map(|(job, ticket)| Next::Collect(job, ticket))
    }

    /// A new batch, if there is one, or comes soon enough.
    fn receive(&mut self, wait: Wait) -> Option<BatchJob> {
        let inbox = &self.parts.inbox;
        loop {
            let order = match wait {
                Wait::ForBatch => inbox.recv().ok()?,
                Wait::Shortly => inbox.recv_timeout(POLL_INTERVAL).ok()?,
                Wait::Not => inbox.try_recv().ok()?,
            };
            if let Order::Compute(job) = order {
                self.open.insert(job.batch, Open { parts: 1, spent: Duration::ZERO, whole: !job.moved });
                return Some(job);
            }
        }
    }

    /// Whether the batch that is collected next is done.
    fn is_ready(&mut self) -> bool {
        let Some((job, Ticket(ticket))) = self.submitted.front() else { return false };
        let (lane, ticket) = (job.packed.lane(), Ticket(*ticket));
        // What has panicked is left to `collect`.
        self.guarded(lane, |backend| Ok(backend.is_ready(&ticket))).unwrap_or(true)
    }

    /// Whether a lane's backend takes another batch: fewer of its own may be in flight than of all backends.
    fn has_room(&mut self, lane: Lane) -> bool {
        let limit = self.backends.of(lane).limits().in_flight_batches_max as usize;
        let same = |(job, _): &&(BatchJob, Ticket)| Backends::are_one(job.packed.lane(), lane);
        self.submitted.iter().filter(same).count() < limit
    }

    fn submit(&mut self, job: BatchJob) {
        if self.submitted.is_empty() {
            self.free_since = self.parts.clock.now();
        }
        let packed = Arc::clone(&job.packed);
        match self.guarded(packed.lane(), |backend| backend.submit(packed)) {
            Ok(ticket) => self.submitted.push_back((job, ticket)),
            Err(error) => {
                // What is computed meanwhile is not this batch.
                let spent = if self.submitted.is_empty() { self.spent() } else { Duration::ZERO };
                self.settle(job, Err(error), spent);
            }
        }
    }

    fn guarded<T>(
        &mut self,
        lane: Lane,
        call: impl FnOnce(&mut dyn Backend) -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        guarded(self.backends.of(lane), call)
    }

    /// Accounts for a batch that came back, with whatever came back.
    fn settle(&mut self, job: BatchJob, result: Result<BatchOutput, BackendError>, spent: Duration) {
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
            let done = BatchDone { device: self.parts.device, batch, measured: open.spent, whole: open.whole };
            self.open.remove(&batch);
            self.report(Report::Done(done));
        }
    }

    fn report(&self, report: Report) {
        // The driver drains this before anything else; were it gone, nobody would want to know.
        let _ = self.parts.outbox.blocking_send(report);
    }

    /// A request's reader hears of its results after the batch has let go of the request: its room is then
    /// free as soon as its answer is there.
    fn deliver(&mut self, job: BatchJob, output: BatchOutput, spent: Duration) {
        let BatchJob { packed, members, .. } = job;
        let computed = self.backends.of(packed.lane()).computed_tokens(&packed);
        let padding = computed.saturating_sub(packed.total_tokens());
        metrics::computed(packed.lane().operation, packed.total_tokens(), padding, spent.as_secs_f64());
        if let Some(cache) = self.backends.of(packed.lane()).device_cache() {
            self.parts.caches.note(self.parts.device, cache);
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
        let device = self.parts.device.0;
        tracing::warn!(%error, kind, device, sequences = job.packed.len(), tokens = job.packed.total_tokens(), "batch failed");
        if retry && job.packed.len() > 1 {
            let BatchJob { batch, packed, mut members, moved, .. } = job;
            let (first, second) = packed.halves();
            let rest = members.split_off(first.len());
            let part = |packed, members| BatchJob { batch, packed: Arc::new(packed), members, last_try: false, moved };
            self.retry(part(second, rest));
            self.retry(part(first, members));
            return 2;
        }
        if retry && !job.last_try {
            self.retry(BatchJob { last_try: true, ..job });
            return 1;
        }
        match error {
            BackendError::DeviceLost(_) => self.lose(job),
            _ => fail_all(job.members, EngineError::Failed),
        }
        0
    }

    /// Tries a part again: after the batches before its own, and depth first within that, so that a query's part comes
    /// before those of its documents.
    fn retry(&mut self, part: BatchJob) {
        let place = self.retries.partition_point(|other| other.batch < part.batch);
        self.retries.insert(place, part);
    }
}

/// A panic in a backend costs its batch, not the thread.
fn guarded<T>(
    backend: &mut dyn Backend,
    call: impl FnOnce(&mut dyn Backend) -> Result<T, BackendError>,
) -> Result<T, BackendError> {
    catch_unwind(AssertUnwindSafe(|| call(backend))).unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<&str>().map(ToString::to_string);
        let message = message.or_else(|| panic.downcast_ref::<String>().cloned());
        Err(BackendError::Failed(format!("panic: {}", message.unwrap_or_default())))
    })
}

/// Fails a batch's requests. As for results: the batch lets go of its requests first.
fn fail_all(members: Vec<Arc<Request>>, error: EngineError) {
    let sinks: Vec<_> = members.into_iter().map(|request| Arc::clone(&request.sink)).collect();
    for sink in sinks {
        sink.fail(error);
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
