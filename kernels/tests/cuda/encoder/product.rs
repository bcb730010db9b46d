//! Products with weights.

use std::collections::BTreeSet;

use rand::{Rng, SeedableRng, rngs::SmallRng};
use sluice_kernels::{
    activation::Activation,
    cuda::encoder::{
        Function::{self, GeluErf, GeluTanh, Relu, Tanh},
        Op, OpError, Output, Product,
    },
    linear::reference::linear,
};

use super::machine::{Machine, assert_close, bits, part_of, random, rows_of};
use crate::runner;

/// Shapes that are drawn.
const SHAPES: u64 = 12;

/// Rows of the matrices, rows that are truly there, inputs, outputs.
struct Case {
    capacity: usize,
    count: usize,
    k: usize,
    n: usize,
    bias: bool,
    function: Option<Function>,
}

struct Found {
    halves: Vec<f32>,
    floats: Vec<f32>,
    kernel: &'static str,
}

impl Case {
    fn inputs(&self) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let bias = if self.bias { random(3, self.n, 1.0) } else { Vec::new() };
        (random(1, self.count * self.k, 1.0), random(2, self.n * self.k, 1.0), bias)
    }

    /// Into halves and into floats; behind `x` its matrix holds NaN.
    fn run(&self, seed: u64, x: &[f32]) -> Found {
        let (_, weight, bias) = self.inputs();
        let mut machine = Machine::new(seed);
        let count = machine.u32(&[self.count as u32]);
        let mut all = vec![f32::NAN; self.capacity * self.k];
        all[..x.len()].copy_from_slice(x);
        let x = machine.matrix(&all, self.k);
        let weight = machine.matrix(&weight, self.k);
        let bias = self.bias.then(|| machine.f16(&bias));
        let out = machine.room_for_rows(self.capacity, self.n);
        let op =
            Product { count, x, weight, bias, function: self.function, out: Output::F16(out), rows_max: x.row_count() };
        let kernel = machine.run(Op::Product(op), &rows_of(&out, self.count));
        let floats = machine.room::<f32>(self.capacity * self.n);
        let op = Product { out: Output::F32(floats), ..op };
        machine.run(Op::Product(op), &[part_of(&floats, self.count * self.n)]);
        let mut floats = machine.read_f32(&floats);
        floats.truncate(self.count * self.n);
        Found { halves: machine.rows(&out, self.count), floats, kernel }
    }
}

/// What errors are relative to: the largest Σ|x·w| of a product.
fn magnitude(x: &[f32], weight: &[f32], k: usize) -> f64 {
    let absolute = |x: &[f32]| x.iter().map(|x| x.abs()).collect::<Vec<f32>>();
    let sums = linear(&absolute(x), &absolute(weight), &vec![0.0; weight.len() / k], k, None);
    sums.into_iter().fold(0.0, f64::max)
}

/// Runs a case into halves and floats, and says which kernel that took.
fn check(seed: u64, case: &Case) -> &'static str {
    let &Case { capacity, count, k, n, function, .. } = case;
    let (x, weight, bias) = case.inputs();
    let no_bias = vec![0.0; n];
    let activation = match function {
        Some(GeluErf) => Some(Activation::GeluErf),
        Some(GeluTanh) => Some(Activation::GeluTanh),
        Some(Relu) => Some(Activation::Relu),
        _ => None,
    };
    let bias = if case.bias { &bias } else { &no_bias };
    let mut expected = linear(&x, &weight, bias, k, activation);
    if function == Some(Tanh) {
        expected.iter_mut().for_each(|y| *y = y.tanh());
    }
    // An activation's slope is 1.13 at most.
    let largest = magnitude(&x, &weight, k) + 1.0;
    let tolerance = 1.13 * largest * runner::sum_tolerance(k) + 3e-7;
    let Found { halves, floats, kernel } = case.run(seed, &x);
    let what = format!("{kernel}, {count} of {capacity} rows, {k} to {n}, {function:?}");
    assert_close(&what, &halves, &expected, tolerance);
    for (i, (&found, expected)) in floats.iter().zip(&expected).enumerate() {
        assert!((f64::from(found) - expected).abs() <= tolerance, "{what}, float {i}: {found}, expected {expected}");
    }
    kernel
}

#[test]
fn products_conform() {
    if runner::skipped() {
        return;
    }
    let mut kernels = BTreeSet::new();
    for (seed, (capacity, count, k, n, bias, function)) in (0..).zip([
        (1, 1, 8, 8, false, None),
        (1, 1, 384, 384, true, Some(Tanh)),
        (64, 64, 32, 64, true, None),
        (70, 65, 40, 72, true, Some(GeluErf)),
        (63, 17, 136, 24, true, Some(GeluTanh)),
        (130, 129, 64, 128, false, Some(Relu)),
        (512, 66, 96, 136, true, None),
        (130, 129, 384, 200, true, Some(GeluErf)),
        (33, 33, 768, 72, true, Some(GeluTanh)),
        (3, 3, 1024, 16, true, None),
        (16_800, 1, 8, 8, true, None),
        (16_770, 128, 32, 128, true, Some(GeluErf)),
        (8330, 130, 72, 136, true, None),
        (16_900, 257, 104, 40, false, Some(Tanh)),
        (8330, 20, 512, 264, true, None),
    ]) {
        kernels.insert(check(seed, &Case { capacity, count, k, n, bias, function }));
    }
    assert_eq!(kernels, ["encoder_product_128", "encoder_product_64"].into());
}

#[test]
fn products_of_any_shape_conform() {
    if runner::skipped() {
        return;
    }
    let mut rng = SmallRng::seed_from_u64(17);
    for seed in 0..SHAPES {
        let mut eights = |most: usize| 8 * rng.random_range(1..=most);
        let (k, n, spare) = (eights(20), eights(30), eights(12));
        let count = rng.random_range(1..150);
        let function = [None, Some(GeluErf), Some(Relu)][rng.random_range(0..3)];
        check(seed, &Case { capacity: count + spare - 8, count, k, n, bias: rng.random(), function });
    }
}

/// The same bits wherever a row lies, whatever lies beside it, in tiles of either size.
#[test]
fn a_row_has_the_same_bits_in_any_batch() {
    if runner::skipped() {
        return;
    }
    let case = |capacity, count| Case { capacity, count, k: 136, n: 72, bias: true, function: Some(GeluErf) };
    let (x, ..) = case(150, 150).inputs();
    let together = case(150, 150).run(1, &x);
    let large = case(16_800, 150).run(2, &x);
    assert_ne!(together.kernel, large.kernel);
    assert_eq!(bits(&together.floats), bits(&large.floats));
    assert_eq!(bits(&together.halves), bits(&large.halves));
    for row in [0, 7, 64, 149] {
        for capacity in [1, 16_800] {
            let alone = case(capacity, 1).run(3, &x[row * 136..(row + 1) * 136]);
            assert_eq!(bits(&alone.floats), bits(&together.floats[row * 72..(row + 1) * 72]), "row {row}, {capacity}");
        }
    }
}

#[test]
fn large_and_unsound_numbers_stay_in_their_row() {
    if runner::skipped() {
        return;
    }
    let case = Case { capacity: 20, count: 20, k: 64, n: 16, bias: false, function: None };
    let (mut x, ..) = case.inputs();
    let sound = case.run(1, &x);
    x[3 * 64 + 5] = f32::NAN;
    x[4 * 64 + 5] = f32::INFINITY;
    x[5 * 64..6 * 64].fill(65504.0);
    let found = case.run(1, &x);
    let row = |x: &[f32], row: usize| x[row * 16..(row + 1) * 16].to_vec();
    assert!(row(&found.floats, 3).iter().all(|x| x.is_nan()));
    assert!(row(&found.floats, 4).iter().all(|x| x.is_infinite()));
    assert!(row(&found.floats, 5).iter().all(|x| x.is_finite()), "sums are floats");
    for i in (0..20).filter(|i| !(3..6).contains(i)) {
        assert_eq!(bits(&row(&found.floats, i)), bits(&row(&sound.floats, i)), "row {i}");
    }
}

#[test]
fn parts_of_matrices_are_products_too() {
    if runner::skipped() {
        return;
    }
    let mut machine = Machine::new(4);
    let count = machine.u32(&[10]);
    let (x, weight) = (random(1, 10 * 48, 1.0), random(2, 40 * 32, 1.0));
    let whole = machine.matrix(&x, 48);
    let weights = machine.matrix(&weight, 32);
    let out = machine.room_for_rows(10, 64);
    // Columns 16..48 of x with rows 16..40 of the weight, into columns 8..32.
    let part = out.columns(8..32).unwrap();
    let (columns, rows) = (whole.columns(16..48).unwrap(), weights.rows(16..40).unwrap());
    let op =
        Product { count, x: columns, weight: rows, bias: None, function: None, out: Output::F16(part), rows_max: 10 };
    machine.run(Op::Product(op), &rows_of(&part, 10));
    let x: Vec<f32> = x.chunks_exact(48).flat_map(|row| row[16..].to_vec()).collect();
    let expected = linear(&x, &weight[16 * 32..], &[0.0; 24], 32, None);
    assert_close("part", &machine.rows(&part, 10), &expected, 32.0 * runner::sum_tolerance(32));
}

#[test]
fn misfits_are_refused() {
    if runner::skipped() {
        return;
    }
    let mut machine = Machine::new(1);
    let count = machine.u32(&[2]);
    let (x, weight) = (machine.room_for_rows(4, 16), machine.room_for_rows(24, 16));
    let (out, narrow) = (machine.room_for_rows(4, 24), machine.room_for_rows(4, 16));
    let sound =
        Product { count, x, weight, bias: None, function: None, out: Output::F16(out), rows_max: x.row_count() };
    let floats = machine.room::<f32>(95);
    let shape = |argument, expected, found| OpError::Shape { argument, expected, found };
    let odd = weight.rows(0..20).unwrap();
    for (op, expected) in [
        (Product { x: out, ..sound }, shape("weight", 24, 16)),
        (Product { out: Output::F16(narrow), ..sound }, shape("out", 24, 16)),
        (Product { out: Output::F32(floats), ..sound }, shape("out", 96, 95)),
        (Product { bias: Some(machine.room(16)), ..sound }, shape("bias", 24, 16)),
        (Product { weight: odd, ..sound }, OpError::Width { argument: "weight", found: 20, most: usize::MAX }),
        (
            Product { out: Output::F16(x), weight: weight.rows(0..16).unwrap(), ..sound },
            OpError::Overlap { argument: "x" },
        ),
    ] {
        assert_eq!(machine.try_run(Op::Product(op), &[]), Err(expected), "{op:?}");
    }
}
