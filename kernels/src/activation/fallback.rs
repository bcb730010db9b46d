//! For any machine: straight-line arithmetic that vectorises.

use std::f32::consts::FRAC_1_SQRT_2;

use crate::exp::exp;

/// Replaces each element by `f` of its sum with its column's bias.
#[inline(always)]
pub(super) fn map(x: &mut [f32], bias: &[f32], f: impl Fn(f32) -> f32) {
    for row in x.chunks_exact_mut(bias.len()) {
        for (x, &bias) in row.iter_mut().zip(bias) {
            *x = f(*x + bias);
        }
    }
}

/// x·Φ(x) = max(x, 0) − |x|·Q(|x|), where Q(a) = ½·erfc(a/√2) is the normal distribution's tail: no cancellation on
/// either side. erfc by Abramowitz and Stegun 7.1.26, within 1.5e-7.
#[inline(always)]
pub(super) fn gelu_erf(x: f32) -> f32 {
    // Q is 0 in f32 well before 40; the bound keeps ∞ · 0 away.
    let a = if x.abs() > 40.0 { 40.0 } else { x.abs() };
    let z = a * FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let mut polynomial = 1.061_405_4_f32;
    for coefficient in [-1.453_152_1, 1.421_413_8, -0.284_496_72, 0.254_829_6] {
        polynomial = polynomial * t + coefficient;
    }
    let tail = 0.5 * polynomial * t * exp(-z * z);
    positive(x) - a * tail
}

/// With u = √(2/π)·(x + 0.044715·x³): ½·(1 + tanh u) = 1 / (1 + e^(−2u)), and by symmetry max(x, 0) − |x| / (1 + e^(2|u|)).
#[inline(always)]
pub(super) fn gelu_tanh(x: f32) -> f32 {
    const TWO_SQRT_2_OVER_PI: f32 = 1.595_769;
    let a = if x.abs() > 40.0 { 40.0 } else { x.abs() };
    let twice_u = TWO_SQRT_2_OVER_PI * (a + 0.044_715 * a * a * a);
    positive(x) - a / (1.0 + exp(twice_u))
}

#[inline(always)]
pub(super) fn relu(x: f32) -> f32 {
    positive(x)
}

/// max(x, 0) that keeps NaN.
#[inline(always)]
fn positive(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}
