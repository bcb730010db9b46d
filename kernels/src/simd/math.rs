//! Functions of registers, the same for every set.

use std::f32::consts::{FRAC_1_SQRT_2, LN_2, LOG2_E};

use super::Simd;

/// Polynomial for 2^r on |r| ≤ ½ with 2⁰ = 1, highest power first: relative error at most 2e-7 (interpolated at
/// Chebyshev's nodes).
const TWO_TO_R: [f32; 6] = [0.001_338_130_2, 0.009_666_368, 0.055_503_81, 0.240_223_5, LN_2, 1.0];
/// Where 2^x has become 0.
const EXPONENT_MIN: f32 = -150.0;

/// [`Simd::exp2`] by rounding: 2^x = 2^n · 2^r.
#[inline(always)]
pub(crate) fn exp2<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    let x = simd.max(simd.splat(EXPONENT_MIN), x);
    let n = simd.round(x);
    let r = simd.sub(x, n);
    let mut p = simd.splat(TWO_TO_R[0]);
    for coefficient in &TWO_TO_R[1..] {
        p = simd.fma(p, r, simd.splat(*coefficient));
    }
    simd.scale(p, n)
}

/// x·Φ(x) = max(x, 0) − |x|·Q(|x|), where Q(a) = ½·erfc(a/√2) is the normal distribution's tail: no cancellation on
/// either side. erfc by Abramowitz and Stegun 7.1.26, within 1.5e-7.
#[inline(always)]
pub(crate) fn gelu_erf_by_exp<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    // Q is 0 in f32 well before 15; the bound keeps ∞ · 0 away.
    let a = simd.min(simd.abs(x), simd.splat(15.0));
    let z = simd.mul(a, simd.splat(FRAC_1_SQRT_2));
    let t = simd.div(simd.splat(1.0), simd.fma(z, simd.splat(0.327_591_1), simd.splat(1.0)));
    let mut polynomial = simd.splat(1.061_405_4);
    for coefficient in [-1.453_152_1, 1.421_413_8, -0.284_496_72, 0.254_829_6] {
        polynomial = simd.fma(polynomial, t, simd.splat(coefficient));
    }
    let e = simd.exp2(simd.mul(simd.mul(z, z), simd.splat(-LOG2_E)));
    let tail = simd.mul(simd.mul(polynomial, simd.mul(t, simd.splat(0.5))), e);
    simd.sub(positive(simd, x), simd.mul(a, tail))
}

/// With u = √(2/π)·(x + 0.044715·x³): ½·(1 + tanh u) = 1 / (1 + e^(−2u)), and by symmetry
/// max(x, 0) − |x| · e^(−2|u|) / (1 + e^(−2|u|)).
#[inline(always)]
fn gelu_tanh<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    const MINUS_TWO_SQRT_2_OVER_PI: f32 = -1.595_769;
    let a = simd.min(simd.abs(x), simd.splat(15.0));
    let cubed = simd.mul(simd.mul(a, a), a);
    let u = simd.fma(cubed, simd.splat(0.044_715), a);
    let e = simd.exp2(simd.mul(u, simd.splat(MINUS_TWO_SQRT_2_OVER_PI * LOG2_E)));
    let tail = simd.div(e, simd.add(e, simd.splat(1.0)));
    simd.sub(positive(simd, x), simd.mul(a, tail))
}

/// A function of a register.
pub(crate) trait Function {
    /// Whether it takes a few instructions.
    const LIGHT: bool;

    /// `#[inline(always)]`.
    fn apply<S: Simd>(simd: S, x: S::F32) -> S::F32;
}

/// x.
pub(crate) struct Identity;
/// The exact GELU.
pub(crate) struct GeluErf;
/// Its approximation by tanh.
pub(crate) struct GeluTanh;
/// The positive part.
pub(crate) struct Relu;

impl Function for Identity {
    const LIGHT: bool = true;

    #[inline(always)]
    fn apply<S: Simd>(_: S, x: S::F32) -> S::F32 {
        x
    }
}

impl Function for GeluErf {
    const LIGHT: bool = false;

    #[inline(always)]
    fn apply<S: Simd>(simd: S, x: S::F32) -> S::F32 {
        simd.gelu_erf(x)
    }
}

impl Function for GeluTanh {
    const LIGHT: bool = false;

    #[inline(always)]
    fn apply<S: Simd>(simd: S, x: S::F32) -> S::F32 {
        gelu_tanh(simd, x)
    }
}

impl Function for Relu {
    const LIGHT: bool = true;

    #[inline(always)]
    fn apply<S: Simd>(simd: S, x: S::F32) -> S::F32 {
        positive(simd, x)
    }
}

/// max(x, 0) that keeps NaN.
#[inline(always)]
fn positive<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    simd.max(simd.splat(0.0), x)
}

/// p · 2ⁿ for integers −150 ≤ n ≤ 127; 0 from −127 down.
#[inline(always)]
pub(crate) fn scale(p: f32, n: f32) -> f32 {
    /// What an f32 adds to its exponent, and where that stands.
    const EXPONENT_BIAS: f32 = 127.0;
    const FRACTION_BITS: u32 = 23;
    /// 1.5 · 2²³: a small integer added to it stands in the sum's lowest bits.
    const ROUNDING: f32 = 12_582_912.0;
    let n = if n > -EXPONENT_BIAS { n } else { -EXPONENT_BIAS };
    // The bits of ROUNDING above the integer leave with the shift.
    p * f32::from_bits((n + (ROUNDING + EXPONENT_BIAS)).to_bits() << FRACTION_BITS)
}
