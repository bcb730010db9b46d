//! What a decision costs while a hundred thousand units wait.

#![allow(clippy::print_stderr, reason = "the figure is for whoever reads the test's output")]

#[path = "simulation/cpu_time.rs"]
mod cpu_time;

use std::{num::NonZero, time::Duration};

use cpu_time::cpu_time;
use sluice_core::{
    Lane, ModelIndex, Operation, Priority, RequestId, TenantId, Time, Unit, UnitId, Worth,
    scheduler::{Decision, Policy, Scheduler, SchedulerConfig},
};

const UNITS: u32 = 100_000;
const TENANTS: u64 = 20;

fn config(policy: Policy) -> SchedulerConfig {
    SchedulerConfig {
        batch_tokens_max: 16_384,
        batch_sequences_max: 256,
        devices: NonZero::<u16>::MIN,
        in_flight_batches_max: 1,
        queued_units_max: UNITS as usize,
        look_ahead_requests_max: 32,
        policy,
    }
}

/// Requests of `size` units in all classes, of twenty tenants, in two lanes.
fn unit(request: u64, index: u32) -> Unit {
    let operation = if request.is_multiple_of(2) { Operation::CrossEncode } else { Operation::MaxSim };
    Unit {
        id: UnitId { request: RequestId(request), index },
        lane: Lane { model: ModelIndex(0), operation },
        class: Priority::ALL[request as usize % 3],
        tenant: TenantId((request % TENANTS) as u16),
        worth: Worth::Whole,
        tokens: 20 + (request as u32 * 7 + index * 13) % 100,
        deadline: Time::from_origin(Duration::from_secs(1_000_000 + request)),
        leads: false,
    }
}

/// Nanoseconds of a processor a unit to queue all and to dispatch all, in requests of so many units.
fn measure(policy: &Policy, size: u32) -> Option<[f64; 2]> {
    let mut scheduler = Scheduler::new(config(policy.clone()));
    let now = Time::from_origin(Duration::from_secs(1));
    let begun = cpu_time()?;
    for number in 0..UNITS {
        scheduler.enqueue(now, unit(u64::from(number / size), number % size)).expect("room");
    }
    let (queued, mut dispatched) = (cpu_time()?, 0);
    while let Decision::Dispatch(plan) = scheduler.next(now) {
        dispatched += plan.units.len();
        assert!(scheduler.complete(now, plan.batch, plan.predicted), "it was dispatched");
        assert_eq!(scheduler.take_expired(now), [], "deadlines are far");
    }
    assert_eq!((dispatched, scheduler.queued_units()), (UNITS as usize, 0));
    let each = |took: Duration| took.as_secs_f64() * 1e9 / f64::from(UNITS);
    Some([each(queued - begun), each(cpu_time()? - queued)])
}

#[test]
fn a_unit_costs_little_however_many_wait() {
    for (name, policy) in [("fair", Policy::default()), ("fifo", Policy::Fifo)] {
        for size in [1, 10, 1_000] {
            // Others share the caches: the best of some runs counts.
            let runs: Vec<[f64; 2]> = (0..3).filter_map(|_| measure(&policy, size)).collect();
            if runs.is_empty() {
                return eprintln!("skipped: this system does not say how long a thread has computed");
            }
            let best = |of: usize| runs.iter().map(|run| run[of]).fold(f64::INFINITY, f64::min);
            let (queue, dispatch) = (best(0), best(1));
            eprintln!("{name}, requests of {size:4}: {queue:5.0} ns a unit to queue, {dispatch:6.0} ns to dispatch");
            assert!(queue + dispatch < 50_000.0, "far from some microseconds: {queue} ns, {dispatch} ns");
        }
    }
}
