//! Scheduler and admission under seeded traffic, in virtual time.
//!
//! A row of the workload table and a seed stand for bounds, policy, requests and service times
//! (`simulation/traffic.rs`). An event loop drives
//! the scheduler through them as the server's driver does, and keeps a plain model of what should be
//! (`simulation/model.rs`), which asserts the scheduler's invariants after every step. No clock is read.
//!
//! `SLUICE_SIM_SEED=N` reruns one seed of every row; with `SLUICE_SIM_KIND=Bursts`, say, of that row alone, and prints
//! its events.

#![allow(clippy::disallowed_methods, reason = "real processes and real time")]
#![allow(clippy::print_stderr, reason = "a failing seed and its events are printed")]

#[path = "simulation/model.rs"]
mod model;
#[path = "simulation/traffic.rs"]
mod traffic;

use std::{
    collections::{BTreeMap, HashMap},
    env, thread,
    time::Duration,
};

use model::{Fate, Model};
use rand::{Rng, SeedableRng, rngs::StdRng};
use sluice_core::{
    DeviceIndex, Lane, RequestId, Time, Unit,
    admission::{Admission, AdmissionConfig, Admitted, Arrival, Growth, Outcome, Refused, Rejected, Resource, Work},
    cost::BatchShape,
    scheduler::{BatchId, Decision, EnqueueError, Expired, Plan, Scheduler},
};
use traffic::{Kind, Scenario, on_grid, scenario};

const SEEDS: u64 = 1_000;
/// Far more than any seed needs: a driver that spins at one instant is found.
const STEPS_MAX: usize = 200_000;

/// Of so many steps, one is followed by counting everything that waits.
const CHECKED_STEPS: u64 = 7;

/// How often each thing happened.
type Seen = BTreeMap<&'static str, u64>;

/// What the traffic must bring about for the invariants to mean something.
const ALL_SEEN: [&str; 24] = [
    "admitted beyond the limit",
    "all devices lost",
    "batch failed",
    "batch moved",
    "batch of one request",
    "batch of several requests",
    "bound to a device",
    "cancelled units",
    "cancelled with units in flight",
    "device lost",
    "dispatched beyond the prediction",
    "dispatched to a second device",
    "dispatched units",
    "expired units",
    "expired with units in flight",
    "left waiting when late",
    "found unreachable",
    "refused: batch budget",
    "refused: queue full",
    "refused: overloaded",
    "refused: room",
    "refused: unreachable",
    "refused after tokenizing",
    "waited for a slot",
];

#[test]
fn invariants_hold_over_seeded_traffic() {
    if let Ok(seed) = env::var("SLUICE_SIM_SEED") {
        let kind = env::var("SLUICE_SIM_KIND").ok();
        let kinds = Kind::ALL.into_iter().filter(|of| kind.as_ref().is_none_or(|kind| *kind == format!("{of:?}")));
        for of in kinds {
            let seen = simulate(of, seed.parse().expect("SLUICE_SIM_SEED is an integer"), kind.is_some());
            eprintln!("{of:?} {seen:#?}");
        }
        return;
    }
    let rows =
        Kind::ALL.map(|kind| thread::spawn(move || (0..SEEDS).map(|seed| simulate(kind, seed, false)).collect()));
    let mut all = Seen::new();
    for row in rows {
        let row: Vec<Seen> = row.join().expect("the seed is printed above");
        for (thing, times) in row.into_iter().flatten() {
            *all.entry(thing).or_default() += times;
        }
    }
    let mut expected = ALL_SEEN;
    expected.sort_unstable();
    assert_eq!(all.keys().copied().collect::<Vec<_>>(), expected, "the traffic has become tame: {all:#?}");
}

#[test]
fn a_seed_always_means_the_same() {
    for kind in Kind::ALL {
        assert_eq!(simulate(kind, 7, false), simulate(kind, 7, false));
    }
}

fn simulate(kind: Kind, seed: u64, trace: bool) -> Seen {
    struct PrintSeed(Kind, u64);
    impl Drop for PrintSeed {
        fn drop(&mut self) {
            if thread::panicking() {
                eprintln!("failed with SLUICE_SIM_KIND={:?} SLUICE_SIM_SEED={}", self.0, self.1);
            }
        }
    }
    let _print_seed = PrintSeed(kind, seed);
    let mut rng = StdRng::seed_from_u64(seed);
    let scenario = scenario(kind, &mut rng);
    if trace {
        eprintln!("{:?} {:?} {:?}", scenario.config, scenario.limits, scenario.service);
    }
    Simulation::new(scenario, rng).run(trace)
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Arrive(RequestId),
    /// The tokenizer delivers the part of this number.
    Deliver(RequestId, usize),
    Cancel(RequestId),
    /// If it was not moved since.
    Complete(BatchId, Time),
    /// A lost device is there again.
    Up(DeviceIndex),
    /// The scheduler asked to be woken.
    Wake,
}

/// A batch in flight.
#[derive(Clone, Copy, Debug)]
struct Running {
    takes: Duration,
    end: Time,
}

struct Simulation {
    scenario: Scenario,
    rng: StdRng,
    scheduler: Scheduler,
    admission: Admission,
    admitted: HashMap<RequestId, Admitted>,
    model: Model,
    running: HashMap<BatchId, Running>,
    /// By device.
    free: Vec<Time>,
    now: Time,
    steps: u64,
    /// By time; what happens at the same instant is shuffled by the second key, the third makes it unique.
    events: BTreeMap<(Time, u32, u64), Event>,
    scheduled: u64,
    /// The earliest [`Event::Wake`] to come.
    wake: Option<Time>,
    seen: Seen,
}

impl Simulation {
    fn new(scenario: Scenario, rng: StdRng) -> Self {
        let mut simulation = Self {
            scheduler: Scheduler::new(scenario.config.clone()),
            admission: Admission::new(AdmissionConfig {
                room: scenario.limits,
                tenant_room_percent: 100,
                ..AdmissionConfig::default()
            }),
            admitted: HashMap::new(),
            model: Model::new(scenario.config.clone()),
            running: HashMap::new(),
            free: vec![Time::ZERO; usize::from(scenario.config.devices.get())],
            scenario,
            rng,
            now: Time::ZERO,
            steps: 0,
            events: BTreeMap::new(),
            scheduled: 0,
            wake: None,
            seen: Seen::new(),
        };
        for id in (0..).map(RequestId).take(simulation.scenario.requests.len()) {
            simulation.schedule(simulation.scenario.requests[id.0 as usize].arrival, Event::Arrive(id));
        }
        simulation
    }

    fn run(mut self, trace: bool) -> Seen {
        let mut steps = 0;
        while let Some(((time, ..), event)) = self.events.pop_first() {
            assert!(time >= self.now, "time goes forward");
            steps += 1;
            assert!(steps < STEPS_MAX, "the driver spins at {time:?}");
            self.now = time;
            if trace {
                eprintln!("{time:?} {event:?}");
            }
            self.apply(event);
            self.check();
            self.decide(trace);
        }
        self.model.assert_ended();
        assert_eq!(self.scheduler.next(self.now), Decision::Idle, "nothing waits at the end");
        assert_eq!(self.admission.held(), Work::default(), "everything admitted was released");
        self.seen
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Arrive(request) => self.arrive(request),
            Event::Deliver(request, part) => self.deliver(request, part),
            Event::Cancel(request) => self.cancel(request),
            Event::Complete(batch, end) => {
                if self.running.get(&batch).is_some_and(|running| running.end == end) {
                    self.complete(batch);
                }
            }
            Event::Up(device) => {
                self.scheduler.set_up(device, true);
                self.model.set_up(device, true);
            }
            Event::Wake => {
                self.wake = None;
                self.expire();
            }
        }
    }

    /// Asks the scheduler until it stops dispatching.
    fn decide(&mut self, trace: bool) {
        // A driver may ask for work before it asks what has expired: nothing expired may be dispatched.
        if self.rng.random_bool(0.5) {
            self.expire();
        } else if self.model.holds_late(self.now, &self.scheduler) {
            self.saw("left waiting when late", 1);
        }
        loop {
            let decision = self.scheduler.next(self.now);
            if trace {
                eprintln!("    {decision:?}");
            }
            match decision {
                Decision::Dispatch(plan) => self.dispatch(&plan),
                Decision::WaitUntil(time) => {
                    self.model.wait(self.now, Some(time), &self.scheduler);
                    self.saw("waited for a slot", u64::from(time > self.now));
                    let bound = self.model.holds_bound();
                    self.saw("bound to a device", u64::from(bound));
                    return self.wake_at(time);
                }
                Decision::Idle => return self.model.wait(self.now, None, &self.scheduler),
            }
            self.check();
        }
    }

    fn arrive(&mut self, id: RequestId) {
        let request = &self.scenario.requests[id.0 as usize];
        let (work, parts_due) =
            (Work { documents: request.documents, tokens: 0, bytes: request.bytes }, request.parts.len());
        let (first, cancellation) = (self.now + request.parts[0].delay, request.cancellation);
        if let Some(time) = cancellation {
            self.schedule(time, Event::Cancel(id));
        }
        let parts = &self.scenario.requests[id.0 as usize].parts;
        let unit = parts[0].units[0];
        let units = by_lane(&parts[0].units);
        let arrival = Arrival {
            class: unit.class,
            tenant: unit.tenant,
            deadline: unit.deadline,
            worth: unit.worth,
            work,
            units: &units,
            guess: false,
        };
        let answer = self.admission.try_admit(self.now, &arrival, &self.scheduler.forecast(self.now));
        if let Some(admitted) = self.check_admission(work, Work::default(), answer) {
            self.admitted.insert(id, admitted);
            self.model.open(id, work, parts_due);
            self.schedule(first, Event::Deliver(id, 0));
        }
    }

    fn deliver(&mut self, id: RequestId, number: usize) {
        if self.model.get(id).is_none_or(|open| open.parts_due == 0) {
            return;
        }
        let parts = &self.scenario.requests[id.0 as usize].parts;
        let units = parts[number].units.clone();
        let next = parts.get(number + 1).map(|part| self.now + part.delay);
        let tokens = units.iter().map(|unit| u64::from(unit.tokens)).sum();
        let work = Work { tokens, ..Work::default() };
        let forecast = self.scheduler.forecast(self.now);
        let admitted = self.admitted.get_mut(&id).expect("an open request is admitted");
        let growth = Growth { more: work, charged: work.tokens, goes_on: false, units: &by_lane(&units) };
        let answer = self.admission.grow(self.now, admitted, growth, &forecast);
        let own = self.model.get(id).expect("it is open").admitted;
        if self.check_admission(work, own, answer).is_none() {
            self.saw("refused after tokenizing", 1);
            return self.cancel(id);
        }
        if self.rng.random_bool(0.5) {
            self.admission.queued(self.admitted.get_mut(&id).expect("it is"));
        }
        let open = self.model.get(id).expect("it is open");
        open.admitted.tokens += tokens;
        open.parts_due -= 1;
        if let Some(time) = next {
            self.schedule(time, Event::Deliver(id, number + 1));
        }
        for unit in units {
            let answer = self.scheduler.enqueue(self.now, unit);
            assert_eq!(answer, self.model.enqueue(unit), "{unit:?}");
            if let Err(error) = answer {
                let thing = match error {
                    EnqueueError::QueueFull { .. } => "refused: queue full",
                    EnqueueError::ExceedsBudget { .. } => "refused: batch budget",
                };
                self.saw(thing, 1);
                return self.cancel(id);
            }
        }
    }

    /// Also for requests that were rejected, have ended, or were cancelled before.
    fn cancel(&mut self, id: RequestId) {
        let units = self.scheduler.cancel(id);
        assert_eq!(units, self.model.take(id, Fate::Cancelled), "units of {id:?} that were cancelled");
        self.saw("cancelled units", units as u64);
        let closed = self.close(id, Outcome::Gone);
        self.saw("cancelled with units in flight", u64::from(units > 0 && !closed));
    }

    fn expire(&mut self) {
        let mut expired = self.scheduler.take_expired(self.now);
        expired.sort_unstable();
        self.model.expire(self.now, &expired, &self.scheduler);
        for Expired { request, units, unreachable } in expired {
            self.saw("expired units", units as u64);
            self.saw("found unreachable", u64::from(unreachable));
            let closed = self.close(request, Outcome::Late);
            self.saw("expired with units in flight", u64::from(!closed));
        }
        self.check();
    }

    fn dispatch(&mut self, plan: &Plan) {
        let beyond = self.model.dispatch(self.now, plan, &self.scheduler);
        self.saw("dispatched beyond the prediction", u64::from(beyond));
        let alone = plan.units.iter().all(|id| id.request == plan.units[0].request);
        self.saw(if alone { "batch of one request" } else { "batch of several requests" }, 1);
        self.saw("dispatched units", plan.units.len() as u64);
        let service = self.scenario.service;
        let time = (service.fixed + service.per_token * plan.tokens).mul_f64(self.rng.random_range(0.8..1.2));
        self.saw("dispatched to a second device", u64::from(plan.device != DeviceIndex(0)));
        self.start(plan.batch, plan.device, time);
    }

    fn start(&mut self, batch: BatchId, device: DeviceIndex, takes: Duration) {
        let free = &mut self.free[usize::from(device.0)];
        *free = self.now.max(*free) + takes;
        let end = *free;
        self.running.insert(batch, Running { takes, end });
        self.schedule(end, Event::Complete(batch, end));
    }

    /// What was in flight there goes to another device, or fails.
    fn lose(&mut self, device: DeviceIndex) {
        self.saw("device lost", 1);
        self.scheduler.set_up(device, false);
        self.model.set_up(device, false);
        let again = self.now + Duration::from_micros(self.rng.random_range(0..500_000));
        self.schedule(again, Event::Up(device));
        self.free[usize::from(device.0)] = Time::ZERO;
        let to = self.scheduler.first_free(self.now);
        self.model.check_first_free(self.now, to);
        for batch in self.model.on(device).collect::<Vec<_>>() {
            let Running { takes, .. } = self.running[&batch];
            if let Some(to) = to {
                self.saw("batch moved", 1);
                assert!(self.scheduler.reassign(self.now, batch, to), "{batch:?} is in flight");
                self.model.reassign(self.now, batch, to);
                self.start(batch, to, takes);
            } else {
                self.saw("all devices lost", 1);
                self.end(batch, true);
            }
        }
    }

    fn complete(&mut self, batch: BatchId) {
        let several = self.free.len() > 1;
        if several && self.rng.random_bool(self.scenario.losses) {
            return self.lose(self.model.device_of(batch));
        }
        let failed = self.rng.random_bool(self.scenario.faults);
        self.end(batch, failed);
    }

    fn end(&mut self, batch: BatchId, failed: bool) {
        let requests = self.model.complete(batch).expect("a batch that was dispatched");
        let took = self.running.remove(&batch).expect("it ran").takes;
        let was = if failed { self.scheduler.abandon(batch) } else { self.scheduler.complete(self.now, batch, took) };
        assert!(was, "{batch:?} is in flight");
        assert!(!self.scheduler.complete(self.now, batch, took), "{batch:?} completes once");
        assert!(!self.scheduler.abandon(batch), "{batch:?} completes once");
        self.saw("batch failed", u64::from(failed));
        for request in requests {
            if failed {
                // Its executor says so to its caller, and nobody waits for the rest.
                self.cancel(request);
            } else {
                self.close(request, Outcome::Answered);
            }
        }
    }

    /// Whether `work` comes in as it should, for a request that holds `own` already.
    fn check_admission<T>(&mut self, work: Work, own: Work, answer: Result<T, Refused>) -> Option<T> {
        let (held, limits) = (self.model.held(), self.scenario.limits);
        let over = |resource| {
            let [held, work, own, limit] = [held, work, own, limits].map(|amounts| amount(resource, amounts));
            held > own && work > 0 && held + work > limit
        };
        let over =
            [Resource::Documents, Resource::Tokens, Resource::Bytes].into_iter().find(|&resource| over(resource));
        let retry = Admission::RETRY_AFTER_MIN..=Admission::RETRY_AFTER_MAX;
        let thing = match answer {
            Ok(answer) => {
                assert_eq!(over, None, "{work:?} is admitted beside {held:?}");
                let documents = held.documents + work.documents;
                self.saw("admitted beyond the limit", u64::from(documents > limits.documents));
                return Some(answer);
            }
            Err(Refused::Room(Rejected { resource, limit, retry_after })) => {
                assert_eq!(over, Some(resource), "{work:?} is rejected beside {held:?}");
                assert_eq!(limit, amount(resource, limits));
                assert!(retry.contains(&retry_after), "{retry_after:?}");
                "refused: room"
            }
            Err(Refused::Overloaded { retry_after, .. }) => {
                assert!(retry.contains(&retry_after), "{retry_after:?}");
                assert!(!self.admitted.is_empty(), "a queue is the reason while nobody is inside");
                "refused: overloaded"
            }
            Err(Refused::Unreachable { .. }) => "refused: unreachable",
            Err(Refused::Quota(over)) => unreachable!("nobody has a quota: {over:?}"),
        };
        self.saw(thing, 1);
        None
    }

    fn close(&mut self, request: RequestId, outcome: Outcome) -> bool {
        if self.model.close_if_done(request).is_none() {
            return false;
        }
        let admitted = self.admitted.remove(&request).expect("an open request is admitted");
        self.admission.release(self.now, admitted, outcome, self.now);
        true
    }

    /// Counting everything is most of the time of a step, so it is not done in all.
    fn check(&mut self) {
        self.steps += 1;
        if !self.steps.is_multiple_of(CHECKED_STEPS) && !self.events.is_empty() {
            return;
        }
        self.model.assert_counts(&self.scheduler);
        assert_eq!(self.admission.held(), self.model.held(), "work inside");
    }

    /// Timers are late, never early.
    fn wake_at(&mut self, time: Time) {
        if time == Time::MAX || self.wake.is_some_and(|wake| wake <= time) {
            return;
        }
        let late = if self.rng.random_bool(0.3) { self.rng.random_range(0..5_000) } else { 0 };
        let time = time.max(self.now) + Duration::from_micros(late);
        self.wake = Some(time);
        self.schedule(time, Event::Wake);
    }

    fn schedule(&mut self, time: Time, event: Event) {
        let key = (on_grid(time, self.scenario.grid), self.rng.random(), self.scheduled);
        self.scheduled += 1;
        self.events.insert(key, event);
    }

    fn saw(&mut self, thing: &'static str, times: u64) {
        if times > 0 {
            *self.seen.entry(thing).or_default() += times;
        }
    }
}

fn by_lane(units: &[Unit]) -> Vec<(Lane, BatchShape)> {
    let mut shapes: BTreeMap<Lane, BatchShape> = BTreeMap::new();
    for unit in units {
        *shapes.entry(unit.lane).or_default() += BatchShape::of(unit.tokens);
    }
    shapes.into_iter().collect()
}

fn amount(resource: Resource, work: Work) -> u64 {
    match resource {
        Resource::Documents => work.documents,
        Resource::Tokens => work.tokens,
        Resource::Bytes => work.bytes,
    }
}
