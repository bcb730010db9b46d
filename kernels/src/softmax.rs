//! Softmax of rows, in place.
//!
//! yᵢ = e^(scale·xᵢ − m) / Σⱼ e^(scale·xⱼ − m), with m the largest of scale·x, so that nothing overflows.
//!
//! | argument | shape |
//! |---|---|
//! | `x` | `[rows, dim]`, row-major, replaced |
//!
//! A row with NaN, with +∞, or of −∞ alone becomes NaN; −∞ beside a number becomes 0.
//!
//! Accuracy: each element within 1e-6 of the reference. Cost: about 20 FLOPs and 8 bytes per element.

pub mod reference;

mod rows;

use crate::{Isa, ShapeError, shape, simd::dispatch};

/// Replaces each row of `dim` elements by its softmax. See the [module](self).
///
/// # Errors
/// [`ShapeError`] if `x` is not whole rows.
pub fn softmax(isa: Isa, x: &mut [f32], dim: usize, scale: f32) -> Result<(), ShapeError> {
    shape::not_zero("dim", dim)?;
    shape::rows("x", x.len(), dim)?;
    dispatch(isa, rows::Rows { x, dim, scale });
    Ok(())
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::SmallRng};

    use super::*;

    #[test]
    fn equals_the_reference() {
        let mut rng = SmallRng::seed_from_u64(1);
        for dim in [1, 2, 7, 8, 9, 15, 16, 17, 33, 100, 512] {
            for (magnitude, scale) in [(1.0, 1.0), (30.0, 0.125), (1000.0, 1.0)] {
                let x: Vec<f32> = (0..3 * dim).map(|_| rng.random_range(-magnitude..magnitude)).collect();
                let expected = reference::softmax(&x, dim, scale);
                for isa in Isa::available() {
                    let mut y = x.clone();
                    softmax(isa, &mut y, dim, scale).unwrap();
                    for (i, (&y, expected)) in y.iter().zip(&expected).enumerate() {
                        // Rounding scale·x − m itself is worth up to magnitude · 2⁻²³ of the exponential.
                        let tolerance = 1e-6 + f64::from(magnitude) * 2_f64.powi(-22) * expected;
                        let what = format!("{}, {dim}, element {i}", isa.name());
                        assert!((f64::from(y) - expected).abs() <= tolerance, "{what}: {y} {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn edges() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let cases: [(&[f32], &[f32]); 7] = [
            (&[5.0], &[1.0]),
            (&[0.0, 0.0], &[0.5, 0.5]),
            (&[3e38, 3e38], &[0.5, 0.5]),
            (&[-inf, 1.0], &[0.0, 1.0]),
            (&[-inf, -inf], &[nan, nan]),
            (&[inf, 1.0], &[nan, nan]),
            (&[nan, 1.0], &[nan, nan]),
        ];
        for (isa, (x, expected)) in Isa::available().flat_map(|isa| cases.map(|case| (isa, case))) {
            let mut y = x.to_vec();
            softmax(isa, &mut y, x.len(), 1.0).unwrap();
            let same = |(a, b): (&f32, &f32)| a == b || (a.is_nan() && b.is_nan());
            // ∞ beside numbers leaves 0 or NaN for them, as the reference has it; only its own place is defined.
            assert!(
                y.iter().zip(expected).all(same) || (x[0] == inf && y[0].is_nan()),
                "{}: {x:?} → {y:?}",
                isa.name()
            );
        }
        let isa = Isa::fallback();
        assert_eq!(softmax(isa, &mut [0.0; 3], 0, 1.0), Err(ShapeError::Zero { argument: "dim" }));
        assert_eq!(softmax(isa, &mut [0.0; 3], 2, 1.0), Err(ShapeError::NotRows { argument: "x", dim: 2, found: 3 }));
    }
}
