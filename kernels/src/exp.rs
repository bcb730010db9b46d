//! The exponential as straight-line arithmetic, so that loops over it are vectorised.

/// Bits of an f32's fraction.
const FRACTION_BITS: u32 = 23;
/// What an f32 adds to its exponent.
const EXPONENT_BIAS: u32 = 127;
/// 1.5 · 2²³. Adding it leaves no room for a fraction: the sum is rounded to an integer, which then
/// stands in its lowest bits.
const ROUNDING: f32 = 12_582_912.0;
/// ln 2 in two parts. The first has so few bits that its product with an exponent is exact.
const LN_2_HIGH: f32 = 355.0 / 512.0;
const LN_2_LOW: f32 = -2.121_944_4e-4;
/// −127 · ln 2, where 2ⁿ has become 0, and 128 · ln 2, where it has become ∞.
const X_MIN: f32 = -88.029_69;
const X_MAX: f32 = 88.722_84;
/// Polynomial for e^r on |r| ≤ ln(2)/2, highest power first: least maximal relative error (2e-9), by Remez' algorithm.
const E_R: [f32; 7] = [0.001_383_679_5, 0.008_374_857, 0.041_668_23, 0.166_664_2, 0.499_999_9, 1.0, 1.0];

/// e^x, within 2e-7 of the value (relative) for −87.6 ≤ x ≤ 88.3. Further below 0, further above +∞; NaN for NaN.
///
/// x = n·ln 2 + r with |r| ≤ ln(2)/2, and e^x = 2ⁿ·e^r.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Comparisons that keep NaN, as one instruction each.
    let x = if x < X_MIN { X_MIN } else { x };
    let x = if x > X_MAX { X_MAX } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUNDING;
    let n = shifted - ROUNDING;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut e_r = E_R[0];
    for &coefficient in &E_R[1..] {
        e_r = e_r * r + coefficient;
    }
    // The bits of ROUNDING above the integer leave with the shift.
    e_r * f32::from_bits(shifted.to_bits().wrapping_add(EXPONENT_BIAS) << FRACTION_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_over_the_whole_range() {
        let mut worst = 0.0_f64;
        for step in 0..=2_000_000 {
            let x = -87.6 + (88.3 + 87.6) * (step as f32 / 2_000_000.0);
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
            (-88.1, 0.0),
            (f32::MIN, 0.0),
            (f32::NEG_INFINITY, 0.0),
            (89.0, f32::INFINITY),
            (f32::INFINITY, f32::INFINITY),
        ];
        for (x, expected) in cases {
            assert_eq!(exp(x), expected, "exp({x})");
        }
        for bits in [0x7fc0_0000, 0xffc0_0000, 0x7f80_0001, 0x7fff_ffff, 0xff80_0fff] {
            assert!(exp(f32::from_bits(bits)).is_nan(), "NaN of bits {bits:#x}");
        }
    }
}
