use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;
use crate::{ModelIndex, Operation};

const LANE: Lane = Lane { model: ModelIndex(0), operation: Operation::CrossEncode };

fn at(ms: u64) -> Time {
    Time::from_origin(Duration::from_millis(ms))
}

/// Batches such as the scheduler makes: one to sixty sequences of a hundred tokens, more or less.
fn shape(rng: &mut StdRng) -> BatchShape {
    let length = rng.random_range(10..200);
    BatchShape::of_all((0..rng.random_range(1..60)).map(|_| rng.random_range(length / 2..2 * length)))
}

/// Observes batches of a device, one every ten milliseconds, with noise that doubles one in fifty.
fn observe(cost: &mut CostModel, device: Coefficients, batches: u64, noise: f64, rng: &mut StdRng) {
    for turn in 0..batches {
        let shape = shape(rng);
        let disturbed = if noise > 0.0 && rng.random_bool(0.02) { 2.0 } else { 1.0 };
        let factor = disturbed * (1.0 + noise * rng.random_range(-1.0..1.0));
        cost.observe(at(10 * turn), LANE, shape, duration(device.seconds(shape) * factor));
    }
}

fn worst_error(cost: &CostModel, device: Coefficients, rng: &mut StdRng) -> f64 {
    let error = |shape| (cost.predict(LANE, shape).as_secs_f64() / device.seconds(shape) - 1.0).abs();
    (0..200).map(|_| error(shape(rng))).fold(0.0, f64::max)
}

#[test]
fn the_prior_stands_in_and_is_not_relied_on() {
    let cost = CostModel::default();
    let shape = BatchShape::of(100);
    assert_eq!(cost.predict(LANE, shape), duration(Coefficients::PRIOR.seconds(shape)));
    assert_eq!(cost.confidence(Time::ZERO, LANE), 0.0);
    assert_eq!(cost.accuracy(LANE), None);
}

#[test]
fn devices_are_learnt() {
    let cases = [
        ("encoder on two cores", Coefficients { batch: 4e-4, sequence: 3e-5, token: 5e-5, token_squared: 4e-8 }),
        ("encoder on a GPU", Coefficients { batch: 1.2e-3, sequence: 2e-6, token: 4e-7, token_squared: 2e-10 }),
        (
            "no time of its own for a sequence",
            Coefficients { batch: 2e-3, sequence: 0.0, token: 1e-5, token_squared: 0.0 },
        ),
        ("comparisons", Coefficients { batch: 3e-5, sequence: 4e-6, token: 8e-6, token_squared: 0.0 }),
        ("a thousand times the prior", Coefficients { batch: 1.0, sequence: 0.05, token: 0.05, token_squared: 1e-5 }),
    ];
    for (name, device) in cases {
        let mut rng = StdRng::seed_from_u64(1);
        let mut cost = CostModel::default();
        observe(&mut cost, device, 60, 0.0, &mut rng);
        let exact = worst_error(&cost, device, &mut rng);
        assert!(exact < 0.01, "{name}: off by {exact} without noise: {:?}", cost.coefficients(LANE));

        let mut cost = CostModel::default();
        observe(&mut cost, device, 300, 0.1, &mut rng);
        let worst = worst_error(&cost, device, &mut rng);
        let median = cost.accuracy(LANE).expect("it was measured").median_relative_error;
        assert!(worst < 0.2, "{name}: off by {worst} with noise: {:?}", cost.coefficients(LANE));
        assert!(median < 0.1, "{name}: the noise's own median is 0.05, the error's {median}");
        assert!(cost.confidence(at(3_000), LANE) > 0.7, "{name}");
    }
}

#[test]
fn one_shape_alone_is_predicted_at_once_and_tells_nothing_of_others() {
    let mut cost = CostModel::default();
    let shape = BatchShape::of_all([100; 8]);
    for turn in 0..5 {
        cost.observe(at(turn), LANE, shape, Duration::from_millis(400));
    }
    let predicted = cost.predict(LANE, shape).as_secs_f64();
    assert!((predicted / 0.4 - 1.0).abs() < 0.01, "{predicted} s");
    let Coefficients { batch, token, .. } = cost.coefficients(LANE);
    let prior = Coefficients::PRIOR;
    assert!((batch / token / (prior.batch / prior.token) - 1.0).abs() < 0.2, "time stays shared out as in the prior");
}

#[test]
fn a_device_that_changes_is_followed_and_a_disturbed_batch_is_not() {
    let device = Coefficients { batch: 4e-4, sequence: 3e-5, token: 5e-5, token_squared: 4e-8 };
    let slower = Coefficients { batch: 8e-4, sequence: 6e-5, token: 15e-5, token_squared: 9e-8 };
    let mut rng = StdRng::seed_from_u64(2);
    let mut cost = CostModel::default();
    observe(&mut cost, device, 300, 0.05, &mut rng);
    let before = cost.predict(LANE, BatchShape::of_all([100; 16])).as_secs_f64();
    for factor in [50.0, 0.02] {
        let shape = shape(&mut rng);
        cost.observe(at(3_000), LANE, shape, duration(device.seconds(shape) * factor));
    }
    let after = cost.predict(LANE, BatchShape::of_all([100; 16])).as_secs_f64();
    assert!((after / before - 1.0).abs() < 0.05, "{before} s, {after} s after two outliers");
    observe(&mut cost, slower, 300, 0.05, &mut rng);
    let worst = worst_error(&cost, slower, &mut rng);
    assert!(worst < 0.1, "off by {worst} after the change");
}

#[test]
fn confidence_fades_while_nothing_is_measured() {
    let mut rng = StdRng::seed_from_u64(3);
    let mut cost = CostModel::default();
    observe(&mut cost, Coefficients::PRIOR, 100, 0.01, &mut rng);
    let fresh = cost.confidence(at(1_000), LANE);
    assert!(fresh > 0.85, "{fresh}");
    let half = cost.confidence(at(990) + CostModel::CONFIDENCE_HALF_LIFE, LANE);
    assert!((half / fresh - 0.5).abs() < 0.01, "{half} of {fresh}");
    assert!(cost.confidence(at(600_000), LANE) < 1e-9);
}

#[test]
fn no_time_is_no_measurement() {
    let mut cost = CostModel::default();
    cost.observe(at(1), LANE, BatchShape::of(10), Duration::ZERO);
    cost.observe(at(1), LANE, BatchShape::default(), Duration::from_millis(1));
    assert_eq!(cost.lanes().count(), 0);
}

#[test]
fn what_is_restored_is_where_learning_goes_on() {
    let device = Coefficients { batch: 4e-4, sequence: 3e-5, token: 5e-5, token_squared: 4e-8 };
    let mut cost = CostModel::default();
    cost.restore(LANE, Coefficients { token: f64::NAN, ..device });
    assert_eq!(cost.coefficients(LANE), Coefficients::PRIOR, "a broken file is worth nothing");
    let text = serde_json::to_string(&device).expect("four numbers");
    cost.restore(LANE, serde_json::from_str(&text).expect("what was written"));
    let shape = BatchShape::of_all([100; 8]);
    let predicted = cost.predict(LANE, shape).as_secs_f64();
    assert!((predicted / device.seconds(shape) - 1.0).abs() < 1e-9);
    assert_eq!(cost.confidence(Time::ZERO, LANE), 0.0, "the machine may be another one");
}

proptest! {
    #[test]
    fn predictions_are_finite_and_never_negative(batches in prop::collection::vec((1_u32..5_000, 1_u32..300, 1_u64..10_000_000_000), 1..80)) {
        let mut cost = CostModel::default();
        for (turn, (length, sequences, nanoseconds)) in (0..).zip(batches) {
            let shape = BatchShape::of_all((0..sequences).map(|_| length));
            cost.observe(at(turn), LANE, shape, Duration::from_nanos(nanoseconds));
            prop_assert!(cost.coefficients(LANE).is_valid(), "{:?}", cost.coefficients(LANE));
            prop_assert!((0.0..=0.95).contains(&cost.confidence(at(turn), LANE)));
        }
    }
}
