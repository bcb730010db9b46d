//! Scheduler and admission under seeded traffic, in virtual time.
//!
//! A seed stands for bounds, requests and service times (`simulation/traffic.rs`). An event loop drives
//! the scheduler through them as the server's driver does, and keeps a plain model of what should be
//! (`simulation/model.rs`), which asserts the scheduler's invariants after every step. No clock is read.
//!
//! `SLUICE_SIM_SEED=N` reruns one seed and prints its events.

#![allow(clippy::disallowed_methods, reason = "real processes and real time")]
#![allow(clippy::print_stderr, reason = "a failing seed and its events are printed")]

#[path = "simulation/model.rs"]
mod model;
#[path = "simulation/traffic.rs"]
mod traffic;

use std::{collections::BTreeMap, env, thread, time::Duration};

use model::{Fate, Model};
use rand::{Rng, SeedableRng, rngs::StdRng};
use sluice_core::{
    RequestId, Time,
    admission::{Admission, Rejected, Resource, Work},
    scheduler::{BatchId, Decision, EnqueueError, Plan, Scheduler},
};
use traffic::{Scenario, on_grid, scenario};

const SEEDS: u64 = 300;
/// Far more than any seed needs: a driver that spins at one instant is found.
const STEPS_MAX: usize = 200_000;

/// How often each thing happened.
type Seen = BTreeMap<&'static str, u64>;

/// What the traffic must bring about for the invariants to mean something.
const ALL_SEEN: [&str; 13] = [
    "admitted beyond the limit",
    "batch of one request",
    "batch of several requests",
    "cancelled units",
    "cancelled with units in flight",
    "dispatched units",
    "expired units",
    "expired with units in flight",
    "left waiting after the deadline",
    "refused: batch budget",
    "refused: queue full",
    "rejected by admission",
    "waited for a slot",
];

#[test]
fn invariants_hold_over_seeded_traffic() {
    if let Ok(seed) = env::var("SLUICE_SIM_SEED") {
        let seen = simulate(seed.parse().expect("SLUICE_SIM_SEED is an integer"), true);
        eprintln!("{seen:#?}");
        return;
    }
    let mut all = Seen::new();
    for seed in 0..SEEDS {
        for (thing, times) in simulate(seed, false) {
            *all.entry(thing).or_default() += times;
        }
    }
    assert_eq!(all.keys().copied().collect::<Vec<_>>(), ALL_SEEN, "the traffic has become tame: {all:#?}");
}

#[test]
fn a_seed_always_means_the_same() {
    assert_eq!(simulate(7, false), simulate(7, false));
}

fn simulate(seed: u64, trace: bool) -> Seen {
    struct PrintSeed(u64);
    impl Drop for PrintSeed {
        fn drop(&mut self) {
            if thread::panicking() {
                eprintln!("failed with SLUICE_SIM_SEED={}", self.0);
            }
        }
    }
    let _print_seed = PrintSeed(seed);
    let mut rng = StdRng::seed_from_u64(seed);
    let scenario = scenario(&mut rng);
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
    Complete(BatchId),
    /// The scheduler asked to be woken.
    Wake,
}

struct Simulation {
    scenario: Scenario,
    rng: StdRng,
    scheduler: Scheduler,
    admission: Admission,
    model: Model,
    now: Time,
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
            scheduler: Scheduler::new(scenario.config),
            admission: Admission::new(scenario.limits),
            model: Model::new(scenario.config),
            scenario,
            rng,
            now: Time::ZERO,
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
            Event::Complete(batch) => self.complete(batch),
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
        } else if self.model.holds_expired(self.now) {
            self.saw("left waiting after the deadline", 1);
        }
        loop {
            let decision = self.scheduler.next(self.now);
            if trace {
                eprintln!("    {decision:?}");
            }
            match decision {
                Decision::Dispatch(plan) => self.dispatch(&plan),
                Decision::WaitUntil(time) => {
                    self.model.wait(self.now, Some(time));
                    self.saw("waited for a slot", u64::from(time > self.now));
                    return self.wake_at(time);
                }
                Decision::Idle => return self.model.wait(self.now, None),
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
        if self.admit(work) {
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
        if !self.admit(Work { tokens, ..Work::default() }) {
            return self.cancel(id);
        }
        let open = self.model.get(id).expect("it is open");
        open.admitted.tokens += tokens;
        open.parts_due -= 1;
        if let Some(time) = next {
            self.schedule(time, Event::Deliver(id, number + 1));
        }
        for unit in units {
            let answer = self.scheduler.enqueue(unit);
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
        let closed = self.close_if_done(id);
        self.saw("cancelled with units in flight", u64::from(units > 0 && !closed));
    }

    fn expire(&mut self) {
        let mut expired = self.scheduler.take_expired(self.now);
        expired.sort_unstable();
        assert_eq!(expired, self.model.expire(self.now), "what expired by {:?}", self.now);
        for (request, units) in expired {
            self.saw("expired units", units as u64);
            let closed = self.close_if_done(request);
            self.saw("expired with units in flight", u64::from(!closed));
        }
        self.check();
    }

    fn dispatch(&mut self, plan: &Plan) {
        self.model.dispatch(self.now, plan);
        let alone = plan.units.iter().all(|id| id.request == plan.units[0].request);
        self.saw(if alone { "batch of one request" } else { "batch of several requests" }, 1);
        self.saw("dispatched units", plan.units.len() as u64);
        let service = self.scenario.service;
        let time = (service.fixed + service.per_token * plan.tokens).mul_f64(self.rng.random_range(0.8..1.2));
        self.schedule(self.now + time, Event::Complete(plan.batch));
    }

    fn complete(&mut self, batch: BatchId) {
        let requests = self.model.complete(batch).expect("a batch that was dispatched");
        assert!(self.scheduler.complete(self.now, batch, Duration::ZERO), "{batch:?} is in flight");
        assert!(!self.scheduler.complete(self.now, batch, Duration::ZERO), "{batch:?} completes once");
        for request in requests {
            self.close_if_done(request);
        }
    }

    fn admit(&mut self, work: Work) -> bool {
        let (held, limits) = (self.model.held(), self.scenario.limits);
        let over = |resource| {
            let [held, work, limit] = [held, work, limits].map(|amounts| amount(resource, amounts));
            held > 0 && work > 0 && held + work > limit
        };
        let over =
            [Resource::Documents, Resource::Tokens, Resource::Bytes].into_iter().find(|&resource| over(resource));
        match self.admission.try_admit(self.now, work) {
            Ok(()) => {
                assert_eq!(over, None, "{work:?} is admitted beside {held:?}");
                let documents = held.documents + work.documents;
                self.saw("admitted beyond the limit", u64::from(documents > limits.documents));
                true
            }
            Err(Rejected { resource, limit, retry_after }) => {
                assert_eq!(over, Some(resource), "{work:?} is rejected beside {held:?}");
                assert_eq!(limit, amount(resource, limits));
                assert!(
                    (Duration::from_millis(10)..=Duration::from_secs(30)).contains(&retry_after),
                    "{retry_after:?}"
                );
                self.saw("rejected by admission", 1);
                false
            }
        }
    }

    fn close_if_done(&mut self, request: RequestId) -> bool {
        let Some(work) = self.model.close_if_done(request) else { return false };
        self.admission.release(self.now, work);
        true
    }

    fn check(&self) {
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

fn amount(resource: Resource, work: Work) -> u64 {
    match resource {
        Resource::Documents => work.documents,
        Resource::Tokens => work.tokens,
        Resource::Bytes => work.bytes,
    }
}
