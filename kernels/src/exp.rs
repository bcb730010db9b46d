//! The exponential as straight-line arithmetic, so that loops over it are vectorised.

/// Bits of an f32's fraction.
const FRACTION_BITS: u32 = 23;
/// 1.5 · 2²³. Adding it leaves no room for a fraction: the sum is rounded to an integer, which then
/// stands in its lowest bits.
const ROUNDING: f32 = 12_582_912.0;
/// ln 2 in two parts. The first has so few bits that its product with an exponent is exact.
const LN_2_HIGH: f32 = 355.0 / 512.0;
const LN_2_LOW: f32 = -2.121_944_4e-4;
/// e^x is subnormal below and infinite above.
const X_MIN: f32 = -87.3;
const X_MAX: f32 = 88.3;

/// e^x, within 2e-7 of the value (relative) for −87.3 ≤ x ≤ 88.3. Below that range 0, above it +∞; NaN for NaN.
///
/// x = n·ln 2 + r with |r| ≤ ln(2)/2, and e^x = 2ⁿ·e^r. The Taylor polynomial of degree 7 leaves
/// r⁸/8! ≤ 5.2e-9 of e^r; 2ⁿ is added to the exponent's bits.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let clamped = if x < X_MIN { X_MIN } else { x };
    let clamped = if clamped > X_MAX { X_MAX } else { clamped };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUNDING;
    let n = shifted - ROUNDING;
    let r = (clamped - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut e_r = 1.0 / 5040.0;
    for factorial in [720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0] {
        e_r = e_r * r + 1.0 / factorial;
    }
    // The bits of ROUNDING above the integer leave with the shift.
    let scaled = f32::from_bits(e_r.to_bits().wrapping_add(shifted.to_bits() << FRACTION_BITS));
    let low = if x < X_MIN { 0.0 } else { scaled };
    let high = if x > X_MAX { f32::INFINITY } else { low };
    if x.is_nan() { x } else { high }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_over_the_whole_range() {
        let mut worst = 0.0_f64;
        for step in 0..=2_000_000 {
            let x = X_MIN + (X_MAX - X_MIN) * (step as f32 / 2_000_000.0);
            let expected = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - expected).abs() / expected);
        }
        assert!(worst < 2e-7, "relative error {worst}");
    }

    #[test]
    fn edges() {
        let cases = [
            (0.0, 1.0),
            (-0.0, 1.0),
            (-88.0, 0.0),
            (f32::MIN, 0.0),
            (f32::NEG_INFINITY, 0.0),
            (89.0, f32::INFINITY),
            (f32::INFINITY, f32::INFINITY),
        ];
        for (x, expected) in cases {
            assert_eq!(exp(x), expected, "exp({x})");
        }
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(-f32::NAN).is_nan());
    }
}
