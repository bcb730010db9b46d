//! What a seed stands for: bounds, requests with their units, and how long batches take.

use std::{collections::BTreeMap, num::NonZero, time::Duration};

use rand::{
    Rng,
    rngs::StdRng,
    seq::{IndexedMutRandom, IndexedRandom},
};
use sluice_core::{
    Lane, ModelIndex, Operation, Priority, RequestId, TenantId, Time, Unit, UnitId, Worth,
    admission::Work,
    scheduler::{FairPolicy, Policy, SchedulerConfig},
};

const LANES: [Lane; 4] = [
    Lane { model: ModelIndex(0), operation: Operation::LateInteraction },
    Lane { model: ModelIndex(0), operation: Operation::CrossEncode },
    Lane { model: ModelIndex(1), operation: Operation::CrossEncode },
    Lane { model: ModelIndex(1), operation: Operation::EncodeDense },
];

/// A limit that the traffic of a scenario does not reach.
const ROOMY: u64 = 1_000_000_000;

/// A row of the workload table: what is out of the ordinary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing.
    Ordinary,
    /// Requests come many at once.
    Bursts,
    /// They are of all classes.
    Classes,
    /// One tenant sends large requests without pause.
    HostileTenant,
    /// Deadlines are about as long as the work takes.
    TightDeadlines,
    /// Most callers leave.
    Cancellations,
    /// Batches fail.
    Faults,
}

impl Kind {
    pub(crate) const ALL: [Self; 7] = [
        Self::Ordinary,
        Self::Bursts,
        Self::Classes,
        Self::HostileTenant,
        Self::TightDeadlines,
        Self::Cancellations,
        Self::Faults,
    ];
}

#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) config: SchedulerConfig,
    pub(crate) limits: Work,
    pub(crate) requests: Vec<Request>,
    pub(crate) service: Service,
    /// Every point in time is a multiple of it. A coarse one lets things happen at the same instant:
    /// an arrival at a deadline, a cancellation at a completion.
    pub(crate) grid: Duration,
    /// Part of the batches that fail.
    pub(crate) faults: f64,
    /// Part of the batches that lose their device, where there are several.
    pub(crate) losses: f64,
}

/// Time that a batch takes: `fixed` and `per_token` for each of its tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Service {
    pub(crate) fixed: Duration,
    pub(crate) per_token: Duration,
}

#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) arrival: Time,
    /// Known on arrival.
    pub(crate) documents: u64,
    /// Known on arrival.
    pub(crate) bytes: u64,
    /// Units as the tokenizer delivers them: at least one part, in order.
    pub(crate) parts: Vec<Part>,
    pub(crate) cancellation: Option<Time>,
}

#[derive(Debug)]
pub(crate) struct Part {
    /// After the part before it, or after the arrival.
    pub(crate) delay: Duration,
    pub(crate) units: Vec<Unit>,
}

/// What the requests of one scenario have in common.
struct Habits {
    kind: Kind,
    lanes: usize,
    arrival_gap_max_us: u64,
    unit_tokens_max: u32,
    batch_tokens_max: u32,
    grid: Duration,
    /// Deadlines are multiples of it: a coarse one makes equal deadlines, so that arrival decides.
    deadline_grid: Duration,
}

pub(crate) fn scenario(kind: Kind, rng: &mut StdRng) -> Scenario {
    let config = SchedulerConfig {
        batch_tokens_max: pick(rng, &[64, 512, 4_096, 4_096, 16_384]),
        batch_sequences_max: pick(rng, &[1, 8, 64, 512, 512]),
        devices: NonZero::new(pick(rng, &[1, 1, 2, 4])).expect("at least one"),
        in_flight_batches_max: pick(rng, &[1, 2]),
        queued_units_max: pick(rng, &[150, 1_000, 100_000, 100_000]),
        look_ahead_requests_max: pick(rng, &[0, 2, 32]),
        policy: policy(rng),
    };
    let limits = Work {
        documents: pick(rng, &[400, 2_000, ROOMY, ROOMY]),
        tokens: pick(rng, &[20_000, 200_000, ROOMY, ROOMY]),
        bytes: pick(rng, &[400_000, 4_000_000, ROOMY, ROOMY]),
    };
    let grid = pick(rng, &[Duration::from_nanos(1), Duration::from_millis(1)]);
    let habits = Habits {
        kind,
        lanes: rng.random_range(1..=LANES.len()),
        arrival_gap_max_us: pick(rng, &[0, 1_000, 10_000, 100_000]),
        unit_tokens_max: pick(rng, &[4, 16, 64, 512]).min(config.batch_tokens_max),
        batch_tokens_max: config.batch_tokens_max,
        grid,
        deadline_grid: pick(rng, &[grid, Duration::from_millis(500)]),
    };
    let service = Service {
        fixed: Duration::from_micros(rng.random_range(0..10_000)),
        per_token: Duration::from_nanos(rng.random_range(0..20_000)),
    };
    let mut arrival = Time::ZERO;
    let requests = (0..rng.random_range(10..120))
        .map(|id| {
            // A burst is over before the next one begins.
            let together = kind == Kind::Bursts && id % 30 != 0;
            let gap = if together { 0 } else { rng.random_range(0..=habits.arrival_gap_max_us) };
            let pause = if kind == Kind::Bursts && !together { 1_000_000 } else { 0 };
            arrival = arrival + Duration::from_micros(gap + pause);
            request(rng, &habits, RequestId(id), on_grid(arrival, grid))
        })
        .collect();
    let faults = if kind == Kind::Faults { 0.3 } else { 0.02 };
    let losses = if kind == Kind::Faults { 0.1 } else { 0.0 };
    Scenario { config, limits, requests, service, grid, faults, losses }
}

fn policy(rng: &mut StdRng) -> Policy {
    if rng.random_bool(0.2) {
        return Policy::Fifo;
    }
    let tenant_weights = if rng.random_bool(0.5) { BTreeMap::from([(TenantId(1), 4)]) } else { BTreeMap::new() };
    let ageing = Duration::from_millis(pick(rng, &[0, 50, 5_000]));
    Policy::Fair(FairPolicy {
        class_weights: pick(rng, &[[64, 16, 1], [1, 1, 1], [1_000_000, 1_000, 1]]),
        tenant_weights,
        ageing_max: [ageing, ageing * 2, ageing * 10],
        batch_duration_max: Duration::from_millis(pick(rng, &[1, 20, 100, 10_000])),
        batch_duration_min: Duration::from_millis(pick(rng, &[0, 5])),
        batch_overhead_percent: pick(rng, &[1, 5, 100]),
        shared_overhead_percent: pick(rng, &[1, 20, 100]),
    })
}

/// The first point of the grid that is not before `time`.
pub(crate) fn on_grid(time: Time, grid: Duration) -> Time {
    if time == Time::MAX {
        return time;
    }
    let steps = time.since_origin().as_nanos().div_ceil(grid.as_nanos());
    Time::ZERO + Duration::from_nanos_u128(steps * grid.as_nanos())
}

fn request(rng: &mut StdRng, habits: &Habits, id: RequestId, arrival: Time) -> Request {
    let hostile = habits.kind == Kind::HostileTenant && id.0.is_multiple_of(2);
    let tight = habits.kind == Kind::TightDeadlines;
    let deadline = if tight {
        arrival + Duration::from_micros(rng.random_range(100..200_000))
    } else {
        on_grid(deadline(rng, arrival), habits.deadline_grid)
    };
    let class = if habits.kind == Kind::Classes || rng.random_bool(0.2) {
        pick(rng, &Priority::ALL)
    } else {
        Priority::Standard
    };
    let tenant = TenantId(if hostile { 9 } else { rng.random_range(0..3) });
    let worth = pick(rng, &[Worth::Whole, Worth::Whole, Worth::Parts]);
    let lane = LANES[rng.random_range(0..habits.lanes)];
    let mixes_lanes = rng.random_bool(0.1);
    let size = match rng.random_range(0..100) {
        _ if hostile => rng.random_range(300..=500),
        0..65 => rng.random_range(1..=10),
        65..90 => rng.random_range(11..=100),
        _ => rng.random_range(101..=500),
    };
    let leading = pick(rng, &[0, 0, 1, 1, 2]);
    let mut units: Vec<Unit> = (0..size)
        .map(|index| Unit {
            id: UnitId { request: id, index },
            lane: if mixes_lanes { LANES[rng.random_range(0..habits.lanes)] } else { lane },
            class,
            tenant,
            worth,
            tokens: rng.random_range(1..=habits.unit_tokens_max),
            deadline,
            leads: index < leading,
        })
        .collect();
    if rng.random_bool(0.03) {
        let oversize = units.choose_mut(rng).expect("a request has units");
        oversize.tokens = habits.batch_tokens_max + 1;
    }
    let bytes = u64::from(size) * rng.random_range(10..2_000);
    let leaves = if habits.kind == Kind::Cancellations { 0.8 } else { 0.25 };
    let cancellation = rng.random_bool(leaves).then(|| arrival + Duration::from_micros(rng.random_range(0..300_000)));
    Request {
        arrival,
        documents: u64::from(size),
        bytes,
        parts: parts(rng, habits.grid, units),
        cancellation: cancellation.map(|time| on_grid(time, habits.grid)),
    }
}

/// From no time at all to none that matters.
fn deadline(rng: &mut StdRng, arrival: Time) -> Time {
    let timeout_ms = match rng.random_range(0..100) {
        0..5 => 0,
        5..25 => rng.random_range(1..30),
        25..60 => rng.random_range(50..2_000),
        60..85 => rng.random_range(5_000..60_000),
        _ => return Time::MAX,
    };
    arrival + Duration::from_millis(timeout_ms)
}

fn parts(rng: &mut StdRng, grid: Duration, mut units: Vec<Unit>) -> Vec<Part> {
    let mut parts = Vec::new();
    while !units.is_empty() {
        let whole = parts.len() == 3 || rng.random_bool(0.6);
        let rest = if whole { Vec::new() } else { units.split_off(rng.random_range(1..=units.len())) };
        let delay = Duration::from_micros(pick(rng, &[0, 500, 20_000]));
        parts.push(Part { delay: on_grid(Time::ZERO + delay, grid).since_origin(), units });
        units = rest;
    }
    parts
}

fn pick<T: Copy>(rng: &mut StdRng, choices: &[T]) -> T {
    *choices.choose(rng).expect("there are choices")
}
