use std::num::NonZero;

use super::*;
use crate::{ModelIndex, Operation, cost::Coefficients};

fn config() -> SchedulerConfig {
    SchedulerConfig {
        batch_tokens_max: 100,
        batch_sequences_max: 4,
        devices: NonZero::<u16>::MIN,
        in_flight_batches_max: 1,
        queued_units_max: 16,
        look_ahead_requests_max: 2,
        policy: Policy::Fair(FairPolicy { batch_duration_min: Duration::from_millis(100), ..FairPolicy::default() }),
    }
}

/// Whose device takes next to no time: only bounds and order matter.
fn scheduler(config: SchedulerConfig) -> Scheduler {
    let prior = Coefficients { batch: 1e-9, token: 1e-12, ..Coefficients::default() };
    Scheduler::with_cost(config, CostModel::new(prior))
}

fn at(ms: u64) -> Time {
    Time::from_origin(Duration::from_secs(1_000) + Duration::from_millis(ms))
}

fn lane(operation: Operation) -> Lane {
    Lane { model: ModelIndex(0), operation }
}

fn unit(request: u64, index: u32, tokens: u32, deadline_ms: u64) -> Unit {
    let id = UnitId { request: RequestId(request), index };
    Unit {
        id,
        lane: lane(Operation::CrossEncode),
        class: Priority::Standard,
        tenant: TenantId(0),
        worth: Worth::Whole,
        tokens,
        deadline: at(deadline_ms),
        leads: false,
    }
}

fn with(units: &[Unit]) -> Scheduler {
    let mut scheduler = scheduler(config());
    for unit in units {
        scheduler.enqueue(at(0), *unit).expect("within bounds");
    }
    scheduler
}

/// `(request, index)` of what is dispatched at time zero; empty if nothing is.
fn dispatched(scheduler: &mut Scheduler) -> Vec<(u64, u32)> {
    match scheduler.next(at(0)) {
        Decision::Dispatch(plan) => plan.units.iter().map(|id| (id.request.0, id.index)).collect(),
        Decision::WaitUntil(_) | Decision::Idle => Vec::new(),
    }
}

#[test]
fn batches_follow_deadline_then_arrival_within_the_budgets() {
    type Case<'a> = (&'a str, &'a [Unit], &'a [(u64, u32)]);
    let cases: [Case; 6] = [
        ("nothing waits", &[], &[]),
        ("one request", &[unit(1, 0, 60, 9), unit(1, 1, 40, 9), unit(1, 2, 1, 9)], &[(1, 0), (1, 1)]),
        ("earlier deadline first", &[unit(1, 0, 60, 9), unit(2, 0, 40, 5)], &[(2, 0), (1, 0)]),
        ("then earlier arrival", &[unit(2, 0, 40, 9), unit(1, 0, 60, 9)], &[(2, 0), (1, 0)]),
        (
            "what does not fit ends its own turn only",
            &[unit(1, 0, 60, 5), unit(1, 1, 60, 5), unit(1, 2, 1, 5), unit(2, 0, 30, 9)],
            &[(1, 0), (2, 0)],
        ),
        (
            "sequences are bounded",
            &[unit(1, 0, 1, 9), unit(1, 1, 1, 9), unit(1, 2, 1, 9), unit(1, 3, 1, 9), unit(1, 4, 1, 9)],
            &[(1, 0), (1, 1), (1, 2), (1, 3)],
        ),
    ];
    for (name, units, expected) in cases {
        assert_eq!(dispatched(&mut with(units)), expected, "{name}");
    }
}

/// A millisecond for a batch and a tenth of one for a token: 20 % of 5 ms, and 40 tokens in what is left of them.
#[test]
fn who_ends_in_a_batch_waits_little_for_who_goes_on() {
    let prior = Coefficients { batch: 1e-3, token: 1e-4, ..Coefficients::default() };
    let fair = FairPolicy { batch_duration_min: Duration::ZERO, ..FairPolicy::default() };
    let config = SchedulerConfig { batch_sequences_max: 50, queued_units_max: 100, ..config() };
    // Of each request the units of ten tokens that wait, and of the first batch how many are of which.
    let cases: [(&[u32], &[usize]); 4] =
        [(&[20], &[10]), (&[1, 20], &[1, 3]), (&[1, 2, 1], &[1, 2, 1]), (&[6, 20], &[6, 0])];
    for (waiting, expected) in cases {
        let mut scheduler = Scheduler::with_cost(
            SchedulerConfig { policy: Policy::Fair(fair.clone()), ..config.clone() },
            CostModel::new(prior),
        );
        for (request, units) in (0..).zip(waiting) {
            for index in 0..*units {
                scheduler.enqueue(at(0), unit(request, index, 10, 60_000)).expect("within bounds");
            }
        }
        let batch = dispatched(&mut scheduler);
        let of = |request: usize| batch.iter().filter(|(of, _)| *of == request as u64).count();
        assert_eq!((0..waiting.len()).map(of).collect::<Vec<_>>(), expected, "{waiting:?}");
    }
}

#[test]
fn a_batch_has_one_lane() {
    let mut other = unit(2, 0, 10, 9);
    other.lane = lane(Operation::EncodeTokens);
    let mut scheduler = with(&[unit(1, 0, 10, 5), other, unit(3, 0, 10, 9)]);
    assert_eq!(dispatched(&mut scheduler), [(1, 0), (3, 0)]);
}

#[test]
fn the_largest_budget_does_not_overflow() {
    let mut scheduler = scheduler(SchedulerConfig { batch_tokens_max: u32::MAX, ..config() });
    for index in 0..=1 {
        scheduler.enqueue(at(0), unit(1, index, u32::MAX, 9)).expect("within bounds");
    }
    assert_eq!(dispatched(&mut scheduler), [(1, 0)]);
    assert_eq!(scheduler.queued_tokens(), u64::from(u32::MAX));
}

#[test]
fn look_ahead_is_bounded() {
    let mut units = vec![unit(0, 0, 60, 1)];
    units.extend((1..=3).map(|request| unit(request, 0, 50, 2)));
    units.push(unit(9, 0, 10, 3));
    assert_eq!(dispatched(&mut with(&units)), [(0, 0)], "three requests were passed over, the bound is two");
    units.remove(1);
    assert_eq!(dispatched(&mut with(&units)), [(0, 0), (9, 0)]);
}

#[test]
fn a_batch_is_chosen_when_a_slot_is_free() {
    let mut scheduler = with(&[unit(1, 0, 90, 9)]);
    let Decision::Dispatch(first) = scheduler.next(at(0)) else { unreachable!("a unit waits") };
    scheduler.enqueue(at(0), unit(2, 0, 90, 9)).expect("room");
    assert_eq!(scheduler.next(at(0)), Decision::WaitUntil(at(9)), "the slot is taken");
    scheduler.enqueue(at(0), unit(3, 0, 90, 5)).expect("room");
    assert!(scheduler.complete(at(1), first.batch, Duration::from_millis(1)));
    assert!(!scheduler.complete(at(1), first.batch, Duration::from_millis(1)), "a batch completes once");
    assert_eq!(dispatched(&mut scheduler), [(3, 0)], "the later arrival with the earlier deadline");
}

#[test]
fn deadlines_expire_and_are_never_dispatched() {
    let mut scheduler = with(&[unit(1, 0, 10, 5), unit(1, 1, 10, 5), unit(2, 0, 10, 9)]);
    let Decision::Dispatch(plan) = scheduler.next(at(5)) else { unreachable!("request 2 is alive") };
    assert_eq!(plan.units, [UnitId { request: RequestId(2), index: 0 }]);
    assert_eq!(scheduler.take_expired(at(5)), [Expired { request: RequestId(1), units: 2, unreachable: false }]);
    assert_eq!((scheduler.queued_units(), scheduler.queued_tokens()), (0, 0));
    assert_eq!(scheduler.next(at(5)), Decision::Idle);
}

#[test]
fn cancellation_removes_what_waits() {
    let mut scheduler = with(&[unit(1, 0, 90, 9), unit(1, 1, 90, 9), unit(2, 0, 10, 9)]);
    assert_eq!(dispatched(&mut scheduler), [(1, 0), (2, 0)]);
    assert_eq!(scheduler.cancel(RequestId(1)), 1, "one is in flight");
    assert_eq!(scheduler.cancel(RequestId(1)), 0);
    assert_eq!((scheduler.queued_units(), scheduler.queued_tokens(), scheduler.in_flight()), (0, 0, 1));
}

#[test]
fn what_can_never_fit_is_refused() {
    let mut scheduler = with(&(0..16).map(|i| unit(i, 0, 1, 9)).collect::<Vec<_>>());
    assert_eq!(scheduler.enqueue(at(0), unit(99, 0, 1, 9)), Err(EnqueueError::QueueFull { queued: 16 }));
    assert_eq!(
        scheduler.enqueue(at(0), unit(99, 0, 101, 9)),
        Err(EnqueueError::ExceedsBudget { tokens: 101, budget: 100 })
    );
    assert_eq!(scheduler.cancel(RequestId(99)), 0, "a refused unit leaves nothing behind");
}

/// Whose device takes a millisecond a token, and is known to.
fn measured(config: SchedulerConfig) -> Scheduler {
    let device = Coefficients { token: 1e-3, ..Coefficients::default() };
    let mut cost = CostModel::new(device);
    for length in [1, 2, 4, 8, 16, 32] {
        let shape = BatchShape::of(length);
        cost.observe(at(0), lane(Operation::CrossEncode), shape, duration(device.seconds(shape)));
    }
    Scheduler::with_cost(config, cost)
}

fn planned(scheduler: &mut Scheduler, now: Time) -> (Vec<(u64, u32)>, BatchId) {
    let Decision::Dispatch(plan) = scheduler.next(now) else { unreachable!("something is dispatched") };
    (plan.units.iter().map(|id| (id.request.0, id.index)).collect(), plan.batch)
}

#[test]
fn a_batch_ends_before_the_nearest_deadline_in_it() {
    let mut scheduler = measured(config());
    for unit in [unit(1, 0, 20, 45), unit(2, 0, 20, 900), unit(2, 1, 20, 900), unit(2, 2, 20, 900)] {
        scheduler.enqueue(at(0), unit).expect("room");
    }
    assert_eq!(planned(&mut scheduler, at(0)).0, [(1, 0), (2, 0)], "a third would make the first late");
}

#[test]
fn what_cannot_be_in_time_is_not_begun() {
    let mut scheduler = measured(config());
    // Forty milliseconds of work in thirty, and ten in thirty.
    for unit in [unit(1, 0, 20, 30), unit(1, 1, 20, 30), unit(2, 0, 10, 30)] {
        scheduler.enqueue(at(0), unit).expect("room");
    }
    let (units, batch) = planned(&mut scheduler, at(0));
    assert_eq!(units, [(2, 0)]);
    assert_eq!(scheduler.take_expired(at(0)), [Expired { request: RequestId(1), units: 2, unreachable: true }]);
    assert!(scheduler.complete(at(10), batch, Duration::from_millis(10)));
    assert_eq!(scheduler.next(at(10)), Decision::Idle);
}

#[test]
fn parts_are_computed_for_as_long_as_one_fits() {
    let mut scheduler = measured(config());
    for index in 0..8 {
        let unit = Unit { worth: Worth::Parts, ..unit(1, index, 20, 70) };
        scheduler.enqueue(at(0), unit).expect("room");
    }
    let (units, batch) = planned(&mut scheduler, at(0));
    assert_eq!(units.len(), 3, "sixty milliseconds of seventy");
    assert!(scheduler.complete(at(60), batch, Duration::from_millis(60)));
    assert_eq!(scheduler.take_expired(at(60)), [Expired { request: RequestId(1), units: 5, unreachable: true }]);
}

#[test]
fn a_lane_may_have_a_budget_of_its_own() {
    let mut scheduler = scheduler(config());
    let comparisons = lane(Operation::MaxSim);
    scheduler.set_budget(comparisons, BatchBudget { tokens: 1_000, sequences: 6 });
    for index in 0..8 {
        let unit = Unit { lane: comparisons, ..unit(1, index, 150, 9_000) };
        scheduler.enqueue(at(0), unit).expect("within the lane's budget");
    }
    assert_eq!(dispatched(&mut scheduler).len(), 6);
    let over = Unit { lane: comparisons, ..unit(2, 0, 1_001, 9_000) };
    let refused = EnqueueError::ExceedsBudget { tokens: 1_001, budget: 1_000 };
    assert_eq!(scheduler.enqueue(at(0), over), Err(refused));
}

#[test]
fn first_come_first_served_knows_neither_class_nor_size() {
    let mut scheduler = measured(SchedulerConfig { policy: Policy::Fifo, ..config() });
    let urgent = Unit { class: Priority::Interactive, tenant: TenantId(7), ..unit(2, 0, 10, 5) };
    for unit in [unit(1, 0, 50, 900), unit(1, 1, 40, 900), urgent] {
        scheduler.enqueue(at(0), unit).expect("room");
    }
    assert_eq!(planned(&mut scheduler, at(0)).0, [(1, 0), (1, 1), (2, 0)], "as large as the budget, late or not");
}

#[test]
fn an_abandoned_batch_frees_its_slot_and_teaches_nothing() {
    let mut scheduler = measured(config());
    scheduler.enqueue(at(0), unit(1, 0, 20, 900)).expect("room");
    let (_, batch) = planned(&mut scheduler, at(0));
    let before = scheduler.cost().accuracy(lane(Operation::CrossEncode));
    assert!(scheduler.abandon(batch));
    assert!(!scheduler.abandon(batch), "once");
    assert_eq!((scheduler.in_flight(), scheduler.cost().accuracy(lane(Operation::CrossEncode))), (0, before));
}

#[test]
fn a_prediction_counts_what_runs_and_what_waits() {
    let mut scheduler = measured(config());
    let ask = Ask {
        class: Priority::Standard,
        tenant: TenantId(0),
        work: vec![(lane(Operation::CrossEncode), BatchShape::of(10))],
        service_max: None,
    };
    assert_eq!(scheduler.predict_completion(at(0), &ask), at(10), "idle");
    for unit in [unit(1, 0, 50, 900), unit(2, 0, 8, 900)] {
        scheduler.enqueue(at(0), unit).expect("room");
    }
    planned(&mut scheduler, at(0));
    scheduler.enqueue(at(0), unit(3, 0, 8, 900)).expect("room");
    let forecast = scheduler.forecast(at(0));
    assert_eq!(forecast.backlog(), Duration::from_millis(66), "58 run and 8 wait");
    assert_eq!(forecast.class_backlog(Priority::Standard), Duration::from_millis(8));
    assert_eq!(scheduler.predict_completion(at(0), &ask), at(76));
    assert_eq!(forecast.predict(at(20), &ask).completion, Duration::from_millis(56), "20 of it are over");
}

/// Several devices, of which each takes so many batches at a time.
fn several(devices: u16, in_flight_batches_max: u32) -> Scheduler {
    let devices = NonZero::new(devices).expect("at least one");
    measured(SchedulerConfig { devices, in_flight_batches_max, ..config() })
}

/// `(device, requests)` of everything that is dispatched at a time.
fn spread(scheduler: &mut Scheduler, now: Time) -> Vec<(u16, Vec<u64>, BatchId)> {
    let mut batches = Vec::new();
    while let Decision::Dispatch(plan) = scheduler.next(now) {
        batches.push((plan.device.0, plan.units.iter().map(|id| id.request.0).collect(), plan.batch));
    }
    batches
}

fn places(batches: &[(u16, Vec<u64>, BatchId)]) -> Vec<(u16, Vec<u64>)> {
    batches.iter().map(|(device, requests, _)| (*device, requests.clone())).collect()
}

#[test]
fn the_device_that_is_free_first_is_next_and_equals_take_turns() {
    let mut scheduler = several(3, 1);
    for request in 1..=5 {
        // A batch of its own for each.
        scheduler.enqueue(at(0), unit(request, 0, 80 + request as u32, 60_000)).expect("room");
    }
    let first = spread(&mut scheduler, at(0));
    assert_eq!(places(&first), [(0, vec![1]), (1, vec![2]), (2, vec![3])], "a slot of each");
    assert_eq!(scheduler.in_flight(), 3);
    assert!(scheduler.complete(at(80), first[1].2, Duration::from_millis(80)));
    assert_eq!(places(&spread(&mut scheduler, at(80))), [(1, vec![4])]);
    for (_, _, batch) in [&first[0], &first[2]] {
        assert!(scheduler.complete(at(81), *batch, Duration::from_millis(81)));
    }
    assert_eq!(places(&spread(&mut scheduler, at(81))), [(0, vec![5])], "that was served longer ago than the third");
    scheduler.enqueue(at(82), unit(6, 0, 80, 60_000)).expect("room");
    assert_eq!(places(&spread(&mut scheduler, at(82))), [(2, vec![6])], "idle before it was busy");
}

#[test]
fn who_needs_a_unit_in_flight_runs_on_its_device() {
    let mut scheduler = several(2, 1);
    scheduler.enqueue(at(0), Unit { leads: true, ..unit(1, 0, 90, 60_000) }).expect("room");
    scheduler.enqueue(at(0), unit(1, 1, 90, 60_000)).expect("room");
    let first = spread(&mut scheduler, at(0));
    assert_eq!(places(&first), [(0, vec![1])], "the other device is free, and not for this");
    assert_eq!(scheduler.bound_to(RequestId(1)), Some(DeviceIndex(0)));
    scheduler.enqueue(at(1), unit(2, 0, 90, 60_000)).expect("room");
    assert_eq!(places(&spread(&mut scheduler, at(1))), [(1, vec![2])], "others pass it by");
    assert!(scheduler.complete(at(90), first[0].2, Duration::from_millis(90)));
    assert_eq!(scheduler.bound_to(RequestId(1)), None);
    assert_eq!(places(&spread(&mut scheduler, at(90))), [(0, vec![1])]);
}

#[test]
fn a_lost_device_gets_nothing_and_what_was_there_moves_with_what_needs_it() {
    let mut scheduler = several(2, 1);
    scheduler.enqueue(at(0), Unit { leads: true, ..unit(1, 0, 90, 60_000) }).expect("room");
    scheduler.enqueue(at(0), unit(1, 1, 90, 60_000)).expect("room");
    let (_, _, batch) = spread(&mut scheduler, at(0))[0];
    scheduler.set_up(DeviceIndex(0), false);
    assert_eq!(scheduler.first_free(at(1)), Some(DeviceIndex(1)));
    assert!(scheduler.is_up(DeviceIndex(1)) && !scheduler.is_up(DeviceIndex(0)));
    // It begins anew there.
    assert!(scheduler.reassign(at(60), batch, DeviceIndex(1)));
    let left = scheduler.forecast(at(60)).backlog().as_secs_f64() * 1e3;
    assert!((left - 180.0).abs() < 2.0, "{left} ms");
    assert_eq!(scheduler.bound_to(RequestId(1)), Some(DeviceIndex(1)));
    assert_eq!(spread(&mut scheduler, at(1)), [], "one device has no slot, the other is lost");
    assert!(scheduler.abandon(batch));
    assert_eq!(places(&spread(&mut scheduler, at(90))), [(1, vec![1])]);
    scheduler.set_up(DeviceIndex(1), false);
    assert_eq!(scheduler.first_free(at(91)), None);
    scheduler.set_up(DeviceIndex(0), true);
    scheduler.enqueue(at(91), unit(2, 0, 90, 60_000)).expect("room");
    assert_eq!(places(&spread(&mut scheduler, at(91))), [(0, vec![2])]);
    assert!(!scheduler.reassign(at(91), BatchId(99), DeviceIndex(0)), "what is not in flight does not move");
}

#[test]
fn devices_share_a_request_and_a_prediction() {
    let ask = |units| Ask {
        class: Priority::Standard,
        tenant: TenantId(0),
        work: vec![(lane(Operation::CrossEncode), BatchShape::of_all((0..units).map(|_| 100)))],
        service_max: None,
    };
    // A unit of a hundred tokens takes a hundred milliseconds, and is as long as a batch may be.
    for (devices, units, expected_ms) in [(1, 1, 100), (1, 4, 400), (2, 1, 100), (2, 4, 200), (4, 4, 100), (8, 4, 100)]
    {
        let scheduler = several(devices, 1);
        let predicted = scheduler.forecast(at(0)).predict(at(0), &ask(units));
        let ms = predicted.completion.as_secs_f64() * 1e3;
        assert!((ms - f64::from(expected_ms)).abs() < 1.0, "{units} units on {devices}: {ms} ms");
        assert_eq!(predicted.service, predicted.completion);
    }
    // Four of them by 250 ms: too much for one device, and not for two.
    for (devices, dispatched) in [(1, 0), (2, 2)] {
        let mut scheduler = several(devices, 1);
        for index in 0..4 {
            scheduler.enqueue(at(0), unit(1, index, 100, 250)).expect("room");
        }
        assert_eq!(spread(&mut scheduler, at(0)).len(), dispatched, "{devices} devices");
    }
}
