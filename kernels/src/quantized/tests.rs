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
        let mut case =
            Self { x: random(rows * inputs), weight: random(outputs * inputs), bias: random(outputs), inputs };
        // Rows of all signs, of one sign, and larger and smaller than the others.
        for (i, row) in case.x.chunks_exact_mut(inputs).enumerate() {
            row.iter_mut().for_each(|x| *x = [*x, x.abs(), -x.abs() * 30.0, *x * 1e-3][i % 4]);
        }
        case
    }

    fn layer(&self, isa: Isa) -> QuantizedLayer {
        QuantizedLayer::pack(isa, &self.weight, &self.bias, self.inputs, &[]).unwrap()
    }

    fn codes(&self, isa: Isa, x: &[f32]) -> Codes {
        let mut codes = Codes::default();
        quantize(&self.layer(isa), x, &mut codes).unwrap();
        codes
    }

    fn run(&self, isa: Isa, x: &[f32], activation: Option<Activation>) -> Vec<f32> {
        let (layer, codes) = (self.layer(isa), self.codes(isa, x));
        let outputs = self.bias.len();
        let mut out = vec![f32::NAN; codes.rows() * outputs];
        linear_int8(QuantizedLinear { layer: &layer, x: &codes, outputs: 0..outputs, activation }, &mut out).unwrap();
        out
    }
}

/// Around the multiples of every set's tiles and words, and the engine's own.
fn shapes() -> Vec<(usize, usize, usize)> {
    let mut shapes = Vec::new();
    for rows in [0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 18, 19, 25] {
        for outputs in [1, 8, 9, 16, 17, 31, 32, 33, 65] {
            shapes.push((rows, 1 + (rows * 7 + outputs * 3) % 37, outputs));
        }
    }
    shapes.extend([(13, 384, 384), (5, 1536, 384), (14, 384, 1152), (3, 768, 3072), (2, 4096, 1024)]);
    shapes
}

#[test]
fn sums_of_codes_are_exact() {
    for isa in Isa::available() {
        for (rows, inputs, outputs) in shapes() {
            let case = Case::random(1, rows, inputs, outputs);
            let found = case.run(isa, &case.x, None);
            let (layer, codes) = (case.layer(isa), case.codes(isa, &case.x));
            let expected = reference::linear_int8(&codes, &layer, &case.bias, None);
            for (i, (&y, expected)) in found.iter().zip(&expected).enumerate() {
                let what = format!("{}, {rows} × {inputs} × {outputs}, element {i}", isa.name());
                // What is rounded is the sum to f32 and three operations on it.
                let tolerance = 1e-6 + expected.abs() * 4e-7;
                assert!((f64::from(y) - expected).abs() <= tolerance, "{what}: {y}, expected {expected}");
            }
        }
    }
}

#[test]
fn extremes_do_not_saturate() {
    for isa in Isa::available() {
        for sign in [-1.0, 1.0] {
            let case = Case { x: vec![1.0; 4096], weight: vec![sign; 4096], bias: vec![0.0], inputs: 4096 };
            let [y] = case.run(isa, &case.x, None)[..] else { panic!("one output") };
            assert!((y - sign * 4096.0).abs() < 1e-3, "{}: {y}", isa.name());
        }
    }
}

#[test]
fn codes_are_within_half_a_step_and_zero_is_one() {
    for isa in Isa::available() {
        for dim in [1, 3, 4, 7, 8, 15, 16, 17, 100] {
            let case = Case::random(2, 8, dim, 1);
            let codes = case.codes(isa, &case.x);
            assert_eq!((codes.rows(), codes.dim()), (8, dim));
            for (row, x) in case.x.chunks_exact(dim).enumerate() {
                for (k, &x) in x.iter().enumerate() {
                    let found = (f32::from(codes.code(row, k)) - codes.zero(row) as f32) * codes.scale(row);
                    let what = format!("{}, {dim}, row {row}, element {k}", isa.name());
                    // Lowest and highest may lose as much again where zero is rounded to a code.
                    assert!((found - x).abs() <= codes.scale(row) * 1.001, "{what}: {x} became {found}");
                }
            }
        }
        let zeros = Case { x: vec![0.0; 20], weight: vec![1.0; 20], bias: vec![0.5], inputs: 20 };
        assert_eq!(zeros.run(isa, &zeros.x, None), [0.5], "{}", isa.name());
    }
}

#[test]
fn close_to_the_product_in_f32() {
    for isa in Isa::available() {
        let case = Case::random(3, 24, 384, 64);
        let found = case.run(isa, &case.x, None);
        let expected = crate::linear::reference::linear(&case.x, &case.weight, &case.bias, 384, None);
        let (layer, codes) = (case.layer(isa), case.codes(isa, &case.x));
        for (i, (&y, expected)) in found.iter().zip(&expected).enumerate() {
            let (row, output) = (i / 64, i % 64);
            let (step, weight_step) = (codes.scale(row), layer.scale(output));
            let sum = |values: &[f32]| values.iter().map(|value| value.abs()).sum::<f32>();
            let bound = 0.51 * step * sum(&case.weight[output * 384..][..384])
                + 0.51 * weight_step * sum(&case.x[row * 384..][..384])
                + 384.0 * step * weight_step;
            assert!((f64::from(y) - expected).abs() <= f64::from(bound), "{}, {i}: {y} {expected}", isa.name());
        }
    }
}

#[test]
fn factors_even_out_the_inputs() {
    for isa in Isa::available() {
        let mut case = Case::random(7, 12, 100, 33);
        // Every tenth input is a hundred times as large as the others.
        case.x.iter_mut().step_by(10).for_each(|x| *x *= 100.0);
        let factors: Vec<f32> = (0..100).map(|k| if k % 10 == 0 { 10.0 } else { 1.0 }).collect();
        let expected = crate::linear::reference::linear(&case.x, &case.weight, &case.bias, 100, None);
        let error = |factors: &[f32]| -> f64 {
            let layer = QuantizedLayer::pack(isa, &case.weight, &case.bias, 100, factors).unwrap();
            let (mut codes, mut out) = (Codes::default(), vec![f32::NAN; 12 * 33]);
            quantize(&layer, &case.x, &mut codes).unwrap();
            let args = QuantizedLinear { layer: &layer, x: &codes, outputs: 0..33, activation: None };
            linear_int8(args, &mut out).unwrap();
            out.iter().zip(&expected).map(|(&y, expected)| (f64::from(y) - expected).powi(2)).sum()
        };
        let (even, uneven) = (error(&factors), error(&[]));
        assert!(even < uneven / 4.0, "{}: {even}, and {uneven} without", isa.name());
    }
}

#[test]
fn activations_are_applied_to_the_sum() {
    for isa in Isa::available() {
        for activation in [Activation::GeluErf, Activation::GeluTanh, Activation::Relu] {
            let case = Case::random(4, 13, 40, 45);
            let found = case.run(isa, &case.x, Some(activation));
            let (layer, codes) = (case.layer(isa), case.codes(isa, &case.x));
            let expected = reference::linear_int8(&codes, &layer, &case.bias, Some(activation));
            for (&y, expected) in found.iter().zip(&expected) {
                let tolerance = 2e-6 + expected.abs() * 1e-6;
                assert!((f64::from(y) - expected).abs() <= tolerance, "{}, {activation:?}: {y} {expected}", isa.name());
            }
        }
    }
}

#[test]
fn a_row_is_the_same_bits_whatever_is_around_it() {
    for isa in Isa::available() {
        let case = Case::random(5, 29, 70, 50);
        let together = case.run(isa, &case.x, Some(Activation::GeluErf));
        for (first, count) in [(0, 1), (28, 1), (5, 2), (3, 4), (9, 6), (1, 11), (12, 12), (7, 19)] {
            let alone = case.run(isa, &case.x[first * 70..(first + count) * 70], Some(Activation::GeluErf));
            assert_eq!(alone, together[first * 50..(first + count) * 50], "{}: {count} from {first}", isa.name());
        }
    }
}

#[test]
fn what_is_not_a_number_stays_in_its_row() {
    for isa in Isa::available() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut case = Case::random(6, 14, 9, 33);
            case.x[3 * 9 + 2] = bad;
            for (i, row) in case.run(isa, &case.x, None).chunks_exact(33).enumerate() {
                assert!(row.iter().all(|y| y.is_nan() == (i == 3)), "{}, {bad}, row {i}: {row:?}", isa.name());
            }
        }
    }
}

#[test]
fn misfits_are_named() {
    let isa = Isa::fallback();
    let layer = QuantizedLayer::pack(isa, &[0.5; 6], &[0.0; 3], 2, &[]).unwrap();
    assert_eq!((layer.inputs(), layer.outputs(), layer.code(2, 1), layer.isa()), (2, 3, 127, isa));
    assert!(layer.bytes() >= 3 * 4 * 4);
    let mut codes = Codes::default();
    let not_rows = Err(ShapeError::NotRows { argument: "x", dim: 2, found: 5 });
    assert_eq!(quantize(&layer, &[0.0; 5], &mut codes), not_rows);
    quantize(&layer, &[0.0; 4], &mut codes).unwrap();
    let run = |x: &Codes, outputs, out: usize| {
        linear_int8(QuantizedLinear { layer: &layer, x, outputs, activation: None }, &mut vec![0.0; out])
    };
    assert_eq!(run(&codes, 0..3, 5), Err(ShapeError::Length { argument: "out", expected: 6, found: 5 }));
    assert_eq!(run(&codes, 0..4, 6), Err(ShapeError::Length { argument: "outputs", expected: 3, found: 4 }));
    assert_eq!(run(&codes, 0..3, 6), Ok(()));
    let wider = QuantizedLayer::pack(isa, &[0.5; 3], &[0.0], 3, &[]).unwrap();
    quantize(&wider, &[0.0; 6], &mut codes).unwrap();
    assert_eq!(run(&codes, 0..3, 6), Err(ShapeError::Length { argument: "x", expected: 2, found: 3 }));
    for (weight, bias, inputs, factors, expected) in [
        (6, 3, 0, 0, ShapeError::Zero { argument: "inputs" }),
        (6, 0, 2, 0, ShapeError::Zero { argument: "bias" }),
        (7, 3, 2, 0, ShapeError::Length { argument: "weight", expected: 6, found: 7 }),
        (6, 3, 2, 1, ShapeError::Length { argument: "factors", expected: 2, found: 1 }),
    ] {
        let (weight, bias, factors) = (vec![0.0; weight], vec![0.0; bias], vec![1.0; factors]);
        let found = QuantizedLayer::pack(isa, &weight, &bias, inputs, &factors).map(drop);
        assert_eq!(found, Err(expected));
    }
}
