//! Activations: of every half there is.

use half::f16;
use sluice_kernels::{
    activation::{Activation, reference::activation},
    cuda::encoder::{Activate, Function, Op},
};

use super::machine::{Machine, assert_close, bits, random, rows_of};
use crate::runner;

fn formula(function: Function, x: f64) -> f64 {
    match function {
        Function::GeluErf => activation(Activation::GeluErf, x),
        Function::GeluTanh => activation(Activation::GeluTanh, x),
        // f64::max drops NaN.
        Function::Relu => {
            if x.is_nan() {
                x
            } else {
                activation(Activation::Relu, x)
            }
        }
        Function::Tanh => x.tanh(),
    }
}

pub const ALL: [Function; 4] = [Function::GeluErf, Function::GeluTanh, Function::Relu, Function::Tanh];

#[test]
fn every_half_is_activated_as_the_formula_has_it() {
    if runner::skipped() {
        return;
    }
    let halves: Vec<f32> = (0..=u16::MAX).map(|bits| f16::from_bits(bits).to_f32()).collect();
    for function in ALL {
        let mut machine = Machine::new(1);
        let count = machine.u32(&[64]);
        let x = machine.matrix(&halves, 1024);
        let op = Op::Activate(Activate { count, x, bias: None, function });
        let kernel = machine.run(op, &rows_of(&x, 64));
        let expected: Vec<f64> = halves
            .iter()
            .map(|&x| match (function, x) {
                // 0 · ∞ in the formula.
                (Function::GeluErf | Function::GeluTanh, f32::NEG_INFINITY) => 0.0,
                _ => formula(function, f64::from(x)),
            })
            .collect();
        assert_close(kernel, &machine.rows(&x, 64), &expected, 3e-7);
    }
}

#[test]
fn the_bias_belongs_to_the_column() {
    if runner::skipped() {
        return;
    }
    for columns in [8, 24, 1536] {
        let (x, bias) = (random(1, 5 * columns, 3.0), random(2, columns, 1.0));
        for function in ALL {
            let mut machine = Machine::new(3);
            let count = machine.u32(&[3]);
            let matrix = machine.matrix(&x, columns);
            let bias_region = machine.f16(&bias);
            let op = Activate { count, x: matrix, bias: Some(bias_region), function };
            let kernel = machine.run(Op::Activate(op), &rows_of(&matrix, 3));
            let expected: Vec<f64> = x[..3 * columns]
                .iter()
                .zip(bias.iter().cycle())
                .map(|(x, b)| formula(function, f64::from(x + b)))
                .collect();
            assert_close(&format!("{kernel}, {columns}"), &machine.rows(&matrix, 3), &expected, 3e-7);
            assert_eq!(bits(&machine.rows(&matrix, 5)[3 * columns..]), bits(&x[3 * columns..]));
        }
    }
}
