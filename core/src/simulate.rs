//! What a server would do with a workload: the same scheduler, cost model and admission in virtual time.
//!
//! ```
//! use sluice_core::{
//!     simulate::{Setup, simulate},
//!     workload::{Process, Sizes, Stream, Workload},
//! };
//! let stream = Stream::new("chat", Process::Poisson { rate: 20.0 }, Sizes::Fixed(10));
//! let workload = Workload {
//!     duration: std::time::Duration::from_secs(60),
//!     warm_up: std::time::Duration::ZERO,
//!     seed: 1,
//!     streams: vec![stream],
//! };
//! let report = simulate(&workload, &Setup::default()).expect("a valid workload");
//! let p99 = report.total().latencies.quantile(0.99).expect("requests were answered");
//! assert!(p99 < std::time::Duration::from_secs(1), "{p99:?}");
//! ```
//!
//! Batches take what [`Device`] says, with noise drawn from the workload's seed; everything else costs no time but
//! [`Setup::preparation`]. A closed caller that is refused comes back after the time that it was told. The same
//! workload and setup give the same report on every machine.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use crate::{
    Lane, Priority, RequestId, TenantId, Time, Worth,
    admission::{Admission, Admitted, Arrival, Outcome, Refused, Work},
    cost::{BatchShape, duration},
    scheduler::{BatchId, Decision, Plan, Scheduler},
    workload::{self, Caller, Random, Stream, Traffic, Workload, WorkloadFaults},
};

mod report;
mod setup;
mod units;

pub use report::{Ending, Latencies, Report, Tally};
pub use setup::{Device, Setup};

/// Plays `workload` against `setup` until the last request has ended.
///
/// # Errors
/// What is wrong with the workload.
pub fn simulate(workload: &Workload, setup: &Setup) -> Result<Report, WorkloadFaults> {
    let traffic = Traffic::new(workload.clone())?;
    let mut simulation = Simulation::new(&traffic, setup);
    let mut arrivals = traffic.arrivals();
    let mut next = arrivals.next();
    loop {
        let event = simulation.events.first_key_value().map(|(&(time, _), _)| time);
        match &next {
            Some(arrival) if event.is_none_or(|time| Time::from_origin(arrival.at) <= time) => {
                simulation.now = Time::from_origin(arrival.at);
                simulation.arrive(&arrival.request, None);
                next = arrivals.next();
            }
            _ => {
                let Some(((time, _), event)) = simulation.events.pop_first() else { break };
                simulation.now = time;
                simulation.apply(event);
            }
        }
        simulation.decide();
    }
    Ok(simulation.report)
}

#[derive(Clone, Copy, Debug)]
enum Event {
    /// A closed caller sends.
    Send(usize),
    /// A request's units are there.
    Queue(RequestId),
    /// Its caller leaves.
    Leave(RequestId),
    /// Its deadline is there.
    Deadline(RequestId),
    Done(BatchId),
    Wake,
}

struct Simulation<'a> {
    workload: &'a Workload,
    setup: &'a Setup,
    scheduler: Scheduler,
    admission: Option<Admission>,
    now: Time,
    events: BTreeMap<(Time, u64), Event>,
    scheduled: u64,
    wake: Option<Time>,
    callers: Vec<Caller>,
    requests: HashMap<RequestId, Inside>,
    admitted: u64,
    /// What runs, and how long it takes.
    running: HashMap<BatchId, (Plan, Duration)>,
    /// By device.
    free: Vec<Time>,
    noise: Random,
    report: Report,
}

/// A request that was let in, until the last of its work is gone.
struct Inside {
    stream: usize,
    caller: Option<usize>,
    sent: Time,
    deadline: Time,
    worth: Worth,
    units: Vec<units::Cost>,
    computed: usize,
    in_flight: usize,
    /// Device time that went into it.
    spent: Duration,
    admitted: Option<Admitted>,
    ending: Option<Ending>,
}

impl<'a> Simulation<'a> {
    fn new(traffic: &'a Traffic, setup: &'a Setup) -> Self {
        let workload = traffic.workload();
        let mut simulation = Self {
            scheduler: Scheduler::with_cost(setup.scheduler.clone(), setup.device.measured()),
            admission: setup.admission.clone().map(Admission::new),
            now: Time::ZERO,
            events: BTreeMap::new(),
            scheduled: 0,
            wake: None,
            callers: traffic.callers(),
            requests: HashMap::new(),
            admitted: 0,
            running: HashMap::new(),
            free: vec![Time::ZERO; usize::from(setup.scheduler.devices.get())],
            noise: Random::new(Random::seed(&[workload.seed, NOISE])),
            report: Report::new(workload, setup.scheduler.devices),
            workload,
            setup,
        };
        for caller in 0..simulation.callers.len() {
            simulation.schedule(Time::from_origin(simulation.callers[caller].begins()), Event::Send(caller));
        }
        simulation
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Send(caller) => {
                if let Some(request) = self.callers[caller].send(self.now.since_origin()) {
                    self.arrive(&request, Some(caller));
                }
            }
            Event::Queue(id) => self.enqueue(id),
            Event::Leave(id) => self.end(id, Ending::Abandoned),
            Event::Deadline(id) => self.run_out(id),
            Event::Done(batch) => self.complete(batch),
            Event::Wake => self.wake = None,
        }
    }

    fn arrive(&mut self, request: &workload::Request, caller: Option<usize>) {
        let stream: &'a Stream = &self.workload.streams[request.stream];
        self.report.offered(request.stream, self.now);
        let units = units::of(stream, request);
        let budget = stream.budget.and_then(|budget| budget.time);
        let worth = if budget.is_some() { Worth::Parts } else { Worth::Whole };
        let deadline = self.now + budget.map_or(stream.deadline, |budget| budget.min(stream.deadline));
        let admitted = match self.admit(stream, &units, deadline, worth) {
            Ok(admitted) => admitted,
            Err(refused) => {
                self.report.ended(request.stream, self.now, Ending::Refused(refused), Duration::ZERO, Duration::ZERO);
                return self.resume(caller, refused.retry_after().unwrap_or_default().max(Admission::RETRY_AFTER_MIN));
            }
        };
        let id = RequestId(self.admitted);
        self.admitted += 1;
        if let Some(after) = request.abandoned_after {
            self.schedule(self.now + after, Event::Leave(id));
        }
        self.schedule(deadline, Event::Deadline(id));
        let inside = Inside {
            stream: request.stream,
            caller,
            sent: self.now,
            deadline,
            worth,
            units,
            computed: 0,
            in_flight: 0,
            spent: Duration::ZERO,
            admitted,
            ending: None,
        };
        self.requests.insert(id, inside);
        if self.setup.preparation.is_zero() {
            self.enqueue(id);
        } else {
            self.schedule(self.now + self.setup.preparation, Event::Queue(id));
        }
    }

    fn admit(
        &mut self,
        stream: &Stream,
        units: &[units::Cost],
        deadline: Time,
        worth: Worth,
    ) -> Result<Option<Admitted>, Refused> {
        let Some(admission) = &mut self.admission else { return Ok(None) };
        let mut by_lane: Vec<(Lane, BatchShape)> = Vec::new();
        for unit in units {
            match by_lane.iter_mut().find(|(lane, _)| *lane == unit.lane) {
                Some((_, shape)) => *shape += BatchShape::of(unit.tokens),
                None => by_lane.push((unit.lane, BatchShape::of(unit.tokens))),
            }
        }
        let tokens = by_lane.iter().map(|(_, shape)| shape.tokens).sum();
        let work = Work { documents: units.len() as u64, tokens, bytes: 0 };
        let (class, tenant) = (Priority::from(stream.class), tenant(self.setup, stream));
        let arrival = Arrival { class, tenant, deadline, worth, work, units: &by_lane, guess: false };
        admission.try_admit(self.now, &arrival, &self.scheduler.forecast(self.now)).map(Some)
    }

    fn enqueue(&mut self, id: RequestId) {
        let Some(inside) = self.requests.get_mut(&id).filter(|inside| inside.ending.is_none()) else { return };
        let stream = &self.workload.streams[inside.stream];
        let (class, tenant) = (Priority::from(stream.class), tenant(self.setup, stream));
        if let (Some(admission), Some(admitted)) = (&mut self.admission, &mut inside.admitted) {
            admission.queued(admitted);
        }
        for (index, unit) in (0..).zip(&inside.units) {
            let unit = units::unit(id, index, *unit, class, tenant, inside.worth, inside.deadline);
            if self.scheduler.enqueue(self.now, unit).is_err() {
                return self.end(id, Ending::QueueFull);
            }
        }
    }

    fn decide(&mut self) {
        for expired in self.scheduler.take_expired(self.now) {
            self.run_out(expired.request);
        }
        loop {
            match self.scheduler.next(self.now) {
                Decision::Dispatch(plan) => self.run(plan),
                Decision::WaitUntil(time) => return self.wake_at(time),
                Decision::Idle => return,
            }
        }
    }

    fn run(&mut self, plan: Plan) {
        for unit in &plan.units {
            if let Some(inside) = self.requests.get_mut(&unit.request) {
                inside.in_flight += 1;
            }
        }
        let factor = 1.0 + self.setup.device.noise * (2.0 * self.noise.unit() - 1.0);
        let takes = duration(self.setup.device.seconds(plan.lane, plan.shape) * factor);
        let free = &mut self.free[usize::from(plan.device.0)];
        let start = self.now.max(*free);
        *free = start + takes;
        let end = *free;
        self.report.computed(&plan, start, takes);
        self.schedule(end, Event::Done(plan.batch));
        self.running.insert(plan.batch, (plan, takes));
    }

    fn complete(&mut self, batch: BatchId) {
        let Some((plan, takes)) = self.running.remove(&batch) else { return };
        self.scheduler.complete(self.now, batch, takes);
        for unit in &plan.units {
            let Some(inside) = self.requests.get_mut(&unit.request) else { continue };
            inside.in_flight -= 1;
            inside.computed += 1;
            let share = f64::from(inside.units[unit.index as usize].tokens) / f64::from(plan.tokens);
            inside.spent += takes.mul_f64(share);
            if inside.computed == inside.units.len() {
                self.end(unit.request, Ending::Answered);
            } else {
                self.forget(unit.request);
            }
        }
    }

    /// Nothing more of a request will be computed in time.
    fn run_out(&mut self, id: RequestId) {
        let Some(inside) = self.requests.get(&id) else { return };
        match inside.worth {
            Worth::Whole => self.end(id, Ending::Late),
            // What is in flight may still count.
            Worth::Parts if inside.in_flight > 0 && self.now < inside.deadline => {}
            Worth::Parts => self.end(id, Ending::Partial),
        }
    }

    /// A request has its answer; what waits of it is removed, what runs goes on.
    fn end(&mut self, id: RequestId, ending: Ending) {
        let Some(inside) = self.requests.get_mut(&id) else { return };
        if inside.ending.is_none() {
            inside.ending = Some(ending);
            let caller = inside.caller;
            self.scheduler.cancel(id);
            self.resume(caller, Duration::ZERO);
        }
        self.forget(id);
    }

    /// Gives back the room of a request that has ended, once nothing of it runs.
    fn forget(&mut self, id: RequestId) {
        let gone = |inside: &Inside| inside.ending.is_some() && inside.in_flight == 0;
        if !self.requests.get(&id).is_some_and(gone) {
            return;
        }
        let Some(inside) = self.requests.remove(&id) else { return };
        let ending = inside.ending.unwrap_or(Ending::Abandoned);
        let took = self.now.since(inside.sent);
        self.report.ended(inside.stream, inside.sent, ending, took, inside.spent);
        if let (Some(admission), Some(admitted)) = (&mut self.admission, inside.admitted) {
            let outcome = match ending {
                Ending::Answered | Ending::Partial => Outcome::Answered,
                Ending::Late => Outcome::Late,
                Ending::Abandoned | Ending::QueueFull | Ending::Refused(_) => Outcome::Gone,
            };
            admission.release(self.now, admitted, outcome, self.now);
        }
    }

    /// A closed caller sends again, having waited for `pause` besides its time to think.
    fn resume(&mut self, caller: Option<usize>, pause: Duration) {
        if let Some(caller) = caller {
            let next = self.callers[caller].resumes(self.now.since_origin()).saturating_add(pause);
            self.schedule(Time::from_origin(next), Event::Send(caller));
        }
    }

    fn wake_at(&mut self, time: Time) {
        if time != Time::MAX && self.wake.is_none_or(|wake| time < wake) {
            let time = time.max(self.now);
            self.wake = Some(time);
            self.schedule(time, Event::Wake);
        }
    }

    fn schedule(&mut self, time: Time, event: Event) {
        self.events.insert((time, self.scheduled), event);
        self.scheduled += 1;
    }
}

/// What the seed of the noise is for.
const NOISE: u64 = 101;

fn tenant(setup: &Setup, stream: &Stream) -> TenantId {
    stream.tenant.as_ref().and_then(|name| setup.tenants.get(name).copied()).unwrap_or_default()
}

impl From<workload::Class> for Priority {
    fn from(class: workload::Class) -> Self {
        match class {
            workload::Class::Interactive => Self::Interactive,
            workload::Class::Standard => Self::Standard,
            workload::Class::Bulk => Self::Bulk,
        }
    }
}
