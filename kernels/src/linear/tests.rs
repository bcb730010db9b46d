use half::f16;
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::*;

struct Case {
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    inputs: usize,
}

impl Case {
    fn random(seed: u64, rows: usize, inputs: usize, outputs: usize) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut random = |count: usize| -> Vec<f32> { (0..count).map(|_| rng.random_range(-1.0..1.0)).collect() };
        Self { x: random(rows * inputs), weight: random(outputs * inputs), bias: random(outputs), inputs }
    }

    fn run(&self, isa: Isa, x: &[f32], activation: Option<Activation>) -> Vec<f32> {
        self.run_stored(isa, Storage::F32, x, activation)
    }

    fn run_stored(&self, isa: Isa, storage: Storage, x: &[f32], activation: Option<Activation>) -> Vec<f32> {
        let layer = PackedLinear::pack(isa, storage, &self.weight, &self.bias, self.inputs).unwrap();
        let outputs = self.bias.len();
        let mut out = vec![f32::NAN; x.len() / self.inputs * outputs];
        linear(Linear { layer: &layer, x, outputs: 0..outputs, activation }, &mut out).unwrap();
        out
    }
}

/// Tiles of every set are of 4, 6 and 12 rows, and 8, 16 and 32 columns: around their multiples, and the engine's own.
fn shapes() -> Vec<(usize, usize, usize)> {
    let mut shapes = Vec::new();
    for rows in [0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 18, 19, 24, 25, 30] {
        for outputs in [1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 40, 65] {
            shapes.push((rows, 1 + (rows * 7 + outputs * 3) % 37, outputs));
        }
    }
    shapes.extend([(13, 384, 384), (5, 1536, 384), (14, 384, 1152), (3, 768, 3072), (2, 4096, 1024)]);
    shapes
}

#[test]
fn equals_the_reference() {
    for isa in Isa::available() {
        for (rows, inputs, outputs) in shapes() {
            let case = Case::random(1, rows, inputs, outputs);
            let found = case.run(isa, &case.x, None);
            let expected = reference::linear(&case.x, &case.weight, &case.bias, inputs, None);
            for (i, (&y, expected)) in found.iter().zip(&expected).enumerate() {
                let tolerance = 4e-6 + 1e-7 * inputs as f64;
                let what = format!("{}, {rows} × {inputs} × {outputs}, element {i}", isa.name());
                assert!((f64::from(y) - expected).abs() <= tolerance, "{what}: {y}, expected {expected}");
            }
        }
    }
}

#[test]
fn weights_in_f16_are_multiplied_as_what_they_were_rounded_to() {
    for isa in Isa::available() {
        for (rows, inputs, outputs) in shapes() {
            let case = Case::random(4, rows, inputs, outputs);
            let rounded = case.weight.iter().map(|&w| f16::from_f32(w).to_f32()).collect();
            assert_ne!(case.weight, rounded);
            for activation in [None, Some(Activation::GeluErf)] {
                let found = case.run_stored(isa, Storage::F16, &case.x, activation);
                let rounded = Case { weight: Vec::clone(&rounded), x: case.x.clone(), bias: case.bias.clone(), inputs };
                let expected = rounded.run(isa, &case.x, activation);
                assert_eq!(found, expected, "{}, {rows} × {inputs} × {outputs}: the same bits", isa.name());
            }
        }
        let case = Case { weight: vec![1e-7, 65504.0, -7e4, f32::NAN], x: vec![1.0], bias: vec![0.0; 4], inputs: 1 };
        let found = case.run_stored(isa, Storage::F16, &case.x, None);
        let subnormal = f16::from_f32(1e-7).to_f32();
        assert!(
            found[..3] == [subnormal, 65504.0, f32::NEG_INFINITY] && found[3].is_nan(),
            "{}: {found:?}",
            isa.name()
        );
        let bytes = |storage| PackedLinear::pack(isa, storage, &[0.5; 64 * 96], &[0.0; 96], 64).unwrap().bytes();
        assert_eq!(bytes(Storage::F32) - bytes(Storage::F16), 64 * 96 * 2);
    }
}

#[test]
fn activations_are_applied_to_the_sum() {
    for isa in Isa::available() {
        for activation in [Activation::GeluErf, Activation::GeluTanh, Activation::Relu] {
            let case = Case::random(2, 13, 40, 45);
            let found = case.run(isa, &case.x, Some(activation));
            let expected = reference::linear(&case.x, &case.weight, &case.bias, 40, Some(activation));
            for (&y, expected) in found.iter().zip(&expected) {
                assert!((f64::from(y) - expected).abs() <= 1e-5, "{}, {activation:?}: {y} {expected}", isa.name());
            }
        }
    }
}

#[test]
fn a_row_is_the_same_bits_whatever_is_around_it() {
    for isa in Isa::available() {
        let case = Case::random(3, 29, 70, 50);
        let together = case.run(isa, &case.x, Some(Activation::GeluErf));
        for (first, count) in [(0, 1), (28, 1), (5, 2), (3, 4), (9, 6), (1, 11), (12, 12), (7, 19)] {
            let alone = case.run(isa, &case.x[first * 70..(first + count) * 70], Some(Activation::GeluErf));
            assert_eq!(alone, together[first * 50..(first + count) * 50], "{}: {count} from {first}", isa.name());
        }
    }
}

#[test]
fn a_range_of_outputs_is_the_same_and_leaves_the_others() {
    for isa in Isa::available() {
        let case = Case::random(4, 7, 20, 96);
        let layer = PackedLinear::pack(isa, Storage::F32, &case.weight, &case.bias, 20).unwrap();
        let all = case.run(isa, &case.x, None);
        let mut out = vec![-7.0; all.len()];
        linear(Linear { layer: &layer, x: &case.x, outputs: 32..64, activation: None }, &mut out).unwrap();
        for (found, expected) in out.chunks_exact(96).zip(all.chunks_exact(96)) {
            assert_eq!(found[32..64], expected[32..64]);
            assert!(found[..32].iter().chain(&found[64..]).all(|&y| y == -7.0), "{}", isa.name());
        }
    }
}

#[test]
fn nan_stays_in_its_row() {
    for isa in Isa::available() {
        let mut case = Case::random(5, 14, 9, 33);
        case.x[3 * 9 + 2] = f32::NAN;
        for activation in [None, Some(Activation::GeluErf), Some(Activation::GeluTanh), Some(Activation::Relu)] {
            for (i, row) in case.run(isa, &case.x, activation).chunks_exact(33).enumerate() {
                assert!(row.iter().all(|y| y.is_nan() == (i == 3)), "{}, {activation:?}, row {i}", isa.name());
            }
        }
    }
}

#[test]
fn misfits_are_named() {
    let isa = Isa::fallback();
    let pack = |weight: usize, bias: usize, inputs| {
        PackedLinear::pack(isa, Storage::F32, &vec![0.0; weight], &vec![0.0; bias], inputs).map(drop)
    };
    assert_eq!(pack(6, 3, 0), Err(ShapeError::Zero { argument: "inputs" }));
    assert_eq!(pack(6, 0, 2), Err(ShapeError::Zero { argument: "bias" }));
    assert_eq!(pack(7, 3, 2), Err(ShapeError::Length { argument: "weight", expected: 6, found: 7 }));
    let layer = PackedLinear::pack(isa, Storage::F32, &[0.0; 6], &[0.0; 3], 2).unwrap();
    assert_eq!((layer.inputs(), layer.outputs()), (2, 3));
    assert!(layer.bytes() >= 9 * 4);
    let run = |x: usize, outputs, out: usize| {
        linear(Linear { layer: &layer, x: &vec![0.0; x], outputs, activation: None }, &mut vec![0.0; out])
    };
    assert_eq!(run(5, 0..3, 6), Err(ShapeError::NotRows { argument: "x", dim: 2, found: 5 }));
    assert_eq!(run(4, 0..3, 5), Err(ShapeError::Length { argument: "out", expected: 6, found: 5 }));
    assert_eq!(run(4, 0..4, 6), Err(ShapeError::Length { argument: "outputs", expected: 3, found: 4 }));
    assert_eq!(run(4, 0..3, 6), Ok(()));
}
