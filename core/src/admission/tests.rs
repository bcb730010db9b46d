use std::num::NonZero;

use super::*;
use crate::{
    ModelIndex, Operation, RequestId, Unit, UnitId,
    cost::{Coefficients, CostModel},
    quota::{QuotaKind, Rate},
    scheduler::{Policy, Scheduler, SchedulerConfig},
};

const LANE: Lane = Lane { model: ModelIndex(0), operation: Operation::CrossEncode };
const ROOM: Work = Work { documents: 1_000_000, tokens: 1_000_000_000, bytes: 1_000_000_000 };

fn at(ms: u64) -> Time {
    Time::from_origin(Duration::from_secs(100) + Duration::from_millis(ms))
}

fn config() -> AdmissionConfig {
    let concurrency = ConcurrencyConfig { wait_max: Duration::from_millis(1_200), ..ConcurrencyConfig::default() };
    AdmissionConfig { room: ROOM, tenant_room_percent: 100, concurrency, ..AdmissionConfig::default() }
}

/// Of a device that takes a millisecond per token, measured just now.
fn scheduler() -> Scheduler {
    with_devices(1)
}

fn with_devices(devices: u16) -> Scheduler {
    let device = Coefficients { batch: 0.0, sequence: 0.0, token: 1e-3, token_squared: 0.0 };
    let mut cost = CostModel::new(device);
    for length in [1, 2, 4, 8, 16, 32] {
        cost.observe(at(0), LANE, BatchShape::of(length), Duration::from_millis(u64::from(length)));
    }
    let config = SchedulerConfig {
        batch_tokens_max: 1_000,
        batch_sequences_max: 100,
        devices: NonZero::new(devices).expect("at least one"),
        in_flight_batches_max: 1,
        queued_units_max: 100_000,
        look_ahead_requests_max: 8,
        policy: Policy::default(),
    };
    Scheduler::with_cost(config, cost)
}

/// A scheduler in which `ms` milliseconds of a class and tenant wait.
fn busy(class: Priority, tenant: u16, ms: u32) -> Scheduler {
    let mut scheduler = scheduler();
    for index in 0..ms {
        let id = UnitId { request: RequestId(1), index };
        let (tenant, deadline) = (TenantId(tenant), Time::MAX);
        let unit = Unit { id, lane: LANE, class, tenant, worth: Worth::Whole, tokens: 1, deadline, leads: false };
        scheduler.enqueue(at(0), unit).expect("room");
    }
    assert_eq!(scheduler.take_expired(at(0)), []);
    scheduler
}

fn arrival(class: Priority, tenant: u16, units: &[(Lane, BatchShape)], deadline_ms: u64) -> Arrival<'_> {
    let work = Work { documents: 1, tokens: units.iter().map(|(_, shape)| shape.tokens).sum(), bytes: 1 };
    Arrival {
        class,
        tenant: TenantId(tenant),
        deadline: at(deadline_ms),
        worth: Worth::Whole,
        work,
        units,
        guess: false,
    }
}

#[test]
fn predictions_decide() {
    use Priority::{Bulk, Interactive, Standard};
    // Twenty milliseconds of work by whom and with how long a deadline, after so many of whose; the answer.
    let cases = [
        ("an idle device", (Standard, 1, 100), (Standard, 1, 0), "in"),
        ("not even an idle one could", (Standard, 1, 15), (Standard, 1, 0), "unreachable"),
        ("nor a busy one", (Standard, 1, 15), (Standard, 1, 500), "unreachable"),
        ("past", (Standard, 1, 0), (Standard, 1, 0), "unreachable"),
        ("a queue that leaves time", (Standard, 1, 2_000), (Standard, 1, 500), "in"),
        ("a small one overtakes a large one", (Standard, 1, 60), (Standard, 1, 5_000), "in"),
        ("another tenant's", (Standard, 2, 60), (Standard, 1, 5_000), "in"),
        ("less urgent work", (Interactive, 1, 60), (Bulk, 1, 5_000), "in"),
        ("more urgent work", (Bulk, 1, 1_000), (Interactive, 1, 5_000), "overloaded"),
        // A sixty-fifth of the device is bulk's: 20 ms take 1.3 s.
        ("the wait is longer than any may be", (Bulk, 1, 100_000), (Interactive, 1, 40_000), "overloaded"),
    ];
    for (name, (class, tenant, deadline_ms), (busy_class, busy_tenant, busy_ms), expected) in cases {
        let forecast = busy(busy_class, busy_tenant, busy_ms).forecast(at(0));
        let units = [(LANE, BatchShape::of(20))];
        let mut admission = Admission::new(config());
        let answer = admission.try_admit(at(0), &arrival(class, tenant, &units, deadline_ms), &forecast);
        assert_eq!(answer.as_ref().map_or_else(Refused::name, |_| "in"), expected, "{name}: {answer:?}");
        if let Err(Refused::Overloaded { retry_after, .. }) = answer {
            assert!(retry_after >= Admission::RETRY_AFTER_MIN && retry_after <= Admission::RETRY_AFTER_MAX, "{name}");
        }
        let held = if expected == "in" { 1 } else { 0 };
        assert_eq!(admission.held().documents, held, "{name}: all or nothing");
    }
}

#[test]
fn work_on_its_way_to_the_scheduler_counts_until_it_is_there() {
    let (forecast, units) = (scheduler().forecast(at(0)), [(LANE, BatchShape::of(20))]);
    let mut admission = Admission::new(config());
    let ask = arrival(Priority::Standard, 1, &units, 95);
    let mut inside = Vec::new();
    while let Ok(admitted) = admission.try_admit(at(0), &ask, &forecast) {
        inside.push(admitted);
    }
    assert_eq!(inside.len(), 4, "of twenty milliseconds each, four fit ninety-five");
    admission.queued(&mut inside[0]);
    // The forecast is an old one, so that the one that was queued is seen nowhere.
    let another = admission.try_admit(at(0), &ask, &forecast).expect("room for one again");
    for admitted in inside.into_iter().chain([another]) {
        admission.release(at(50), admitted, Outcome::Answered, at(50));
    }
    assert_eq!(admission.held(), Work::default());
    assert!(admission.pending.is_empty(), "{:?}", admission.pending);
}

#[test]
fn what_is_known_after_tokenizing_decides_again() {
    let (forecast, guess) = (scheduler().forecast(at(0)), [(LANE, BatchShape::of(20))]);
    let mut admission = Admission::new(config());
    let mut admitted =
        admission.try_admit(at(0), &arrival(Priority::Standard, 1, &guess, 100), &forecast).expect("idle");
    let units = [(LANE, BatchShape::of(300))];
    let growth = Growth { more: Work { tokens: 300, ..Work::default() }, charged: 300, goes_on: false, units: &units };
    let refused = admission.grow(at(1), &mut admitted, growth, &forecast);
    assert!(matches!(refused, Err(Refused::Unreachable { .. })), "{refused:?}");
    assert_eq!(admitted.work().tokens, 20, "it holds what it held");
    let growth = Growth { more: Work::default(), charged: 30, goes_on: false, units: &[(LANE, BatchShape::of(30))] };
    admission.grow(at(1), &mut admitted, growth, &forecast).expect("in time");
    admission.release(at(2), admitted, Outcome::Gone, at(2));
    assert_eq!(admission.held(), Work::default());
}

#[test]
fn a_tenant_has_its_part_of_the_room_and_its_quota() {
    let room = Work { documents: 10, ..ROOM };
    let quota = Quota { in_flight_max: Some(7), ..Quota::default() };
    let tenant_quotas = BTreeMap::from([
        (TenantId(2), Quota { requests: Some(Rate { per_second: 1.0, burst: 1 }), ..Quota::default() }),
        (TenantId(3), Quota::default()),
    ]);
    let mut admission =
        Admission::new(AdmissionConfig { room, tenant_room_percent: 60, quota, tenant_quotas, ..config() });
    let forecast = scheduler().forecast(at(0));
    let mut enter = |tenant| admission.try_admit(at(0), &arrival(Priority::Standard, tenant, &[], 100), &forecast);
    let entered: Vec<_> = (0..6).map(|_| enter(1).expect("six tenths of the room")).collect();
    assert_eq!(enter(1).expect_err("its part is full").name(), "documents");
    let second = enter(2).expect("another tenant");
    let refused = enter(2).expect_err("one a second");
    assert!(matches!(refused, Refused::Quota(OverQuota { kind: QuotaKind::Requests, .. })), "{refused:?}");
    let rest: Vec<_> = (0..3).map(|_| enter(3).expect("what is left")).collect();
    assert_eq!(enter(3).expect_err("the room is full").name(), "documents");
    let held = admission.held();
    assert_eq!((held.documents, admission.held_by(TenantId(1)).documents), (10, 6));
    for admitted in entered.into_iter().chain([second]).chain(rest) {
        admission.release(at(1), admitted, Outcome::Answered, at(1));
    }
    assert_eq!((admission.held(), admission.held_by(TenantId(1))), (Work::default(), Work::default()));
}

#[test]
fn parts_are_let_in_for_what_fits() {
    let forecast = busy(Priority::Standard, 1, 0).forecast(at(0));
    let units = [(LANE, BatchShape::of_all([1; 200]))];
    let whole = arrival(Priority::Standard, 1, &units, 100);
    let mut admission = Admission::new(config());
    assert_eq!(admission.try_admit(at(0), &whole, &forecast).expect_err("200 ms of work").name(), "unreachable");
    let parts = Arrival { worth: Worth::Parts, ..whole };
    let _inside = admission.try_admit(at(0), &parts, &forecast).expect("half of it fits");
}

/// What the scheduler has not seen yet counts as it will there.
#[test]
fn who_was_let_in_just_now_is_ahead_on_each_of_the_devices() {
    let units = [(LANE, BatchShape::of_all([1; 400]))];
    for (devices, completions_ms) in [(1, [400, 800, 1_200]), (4, [100, 200, 300])] {
        let forecast = with_devices(devices).forecast(at(0));
        let mut admission = Admission::new(config());
        for completion_ms in completions_ms {
            let admitted = admission.try_admit(at(0), &arrival(Priority::Standard, 1, &units, 60_000), &forecast);
            let ms = admitted.expect("room").prediction().completion.as_secs_f64() * 1e3;
            assert!((ms - f64::from(completion_ms)).abs() < 2.0, "{completion_ms} on {devices}: {ms} ms");
        }
    }
}

#[test]
fn what_is_observed_changes_what_is_let_in() {
    let prediction = Prediction {
        device: Duration::from_millis(10),
        service: Duration::from_millis(10),
        service_sure: Duration::from_millis(9),
        completion: Duration::from_millis(110),
    };
    let bounds = ConcurrencyConfig { wait_max: Duration::from_secs(1), wait_min: Duration::from_millis(200) };
    let mut concurrency = Concurrency::new(bounds);
    // One in five takes three times as long as predicted.
    for turn in 0..2_000_u64 {
        let took = if turn % 5 == 0 { Duration::from_millis(310) } else { Duration::from_millis(100) };
        concurrency.observe(at(turn * 10), took, &prediction, Outcome::Answered);
    }
    assert!((2.3..3.3).contains(&concurrency.stretch()), "{}", concurrency.stretch());
    for turn in 0..2_000_u64 {
        concurrency.observe(at(30_000 + turn * 10), Duration::from_millis(90), &prediction, Outcome::Answered);
    }
    assert_eq!(concurrency.stretch(), 1.0, "predictions are never stretched below themselves");

    for turn in 0..100 {
        concurrency.observe(at(60_000 + turn * 2_000), Duration::from_secs(1), &prediction, Outcome::Late);
    }
    assert_eq!(concurrency.wait_max(), bounds.wait_min);
    let waited = Prediction { completion: Duration::from_millis(210), ..prediction };
    for turn in 0..1_000 {
        concurrency.observe(at(300_000 + turn), Duration::from_millis(200), &waited, Outcome::Gone);
    }
    assert_eq!(concurrency.wait_max(), bounds.wait_min, "who left says nothing");
    for turn in 0..10 {
        concurrency.observe(at(300_000 + turn), Duration::from_millis(200), &waited, Outcome::Answered);
    }
    assert!(concurrency.wait_max() > bounds.wait_min, "it opens again");
}
