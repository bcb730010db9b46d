//! Layer normalisation of a sum, in place.
//!
//! s = x + bias + residual, y = (s − mean(s)) / √(var(s) + epsilon) · gamma + beta, row by row, with the variance over
//! `dim` (Ba, Kiros and Hinton, "Layer Normalization", 2016).
//!
//! | argument | shape |
//! |---|---|
//! | `x` | `[rows, dim]`, row-major, replaced |
//! | `residual` | `[rows, dim]`, or empty for none |
//! | `bias` | `[dim]`, or empty for none |
//! | `gamma`, `beta` | `[dim]` |
//!
//! A constant row becomes `beta`. NaN or ±∞ in a row makes the whole row NaN.
//!
//! Accuracy: within 1e-5 of the reference for sums of magnitude up to 10 and gamma of about 1.
//! Cost: about 10 FLOPs and 12 bytes per element.

pub mod reference;

mod rows;

use crate::{Isa, ShapeError, shape, simd::dispatch};

/// Arguments of [`layer_norm`].
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm<'a> {
    /// Added to every row first, `[dim]`; empty for none.
    pub bias: &'a [f32],
    /// Added element by element, `[rows, dim]`; empty for none.
    pub residual: &'a [f32],
    /// Factor, `[dim]`; not empty.
    pub gamma: &'a [f32],
    /// Offset, `[dim]`.
    pub beta: &'a [f32],
    /// Added to the variance.
    pub epsilon: f32,
}

/// Replaces each row of `x`. See the [module](self).
///
/// # Errors
/// [`ShapeError`] if the arguments do not fit together.
pub fn layer_norm(isa: Isa, args: LayerNorm<'_>, x: &mut [f32]) -> Result<(), ShapeError> {
    let dim = args.gamma.len();
    shape::not_zero("gamma", dim)?;
    shape::length("beta", dim, args.beta.len())?;
    shape::rows("x", x.len(), dim)?;
    if !args.bias.is_empty() {
        shape::length("bias", dim, args.bias.len())?;
    }
    if !args.residual.is_empty() {
        shape::length("residual", x.len(), args.residual.len())?;
    }
    dispatch(isa, rows::Rows { args, x });
    Ok(())
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::SmallRng};

    use super::*;

    #[test]
    fn equals_the_reference() {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut random = |count: usize, magnitude: f32| -> Vec<f32> {
            (0..count).map(|_| rng.random_range(-magnitude..magnitude)).collect()
        };
        for dim in [1, 3, 7, 8, 9, 15, 16, 17, 33, 384] {
            for (with_bias, with_residual) in [(false, false), (true, false), (false, true), (true, true)] {
                let x = random(3 * dim, 5.0);
                let bias = random(if with_bias { dim } else { 0 }, 1.0);
                let residual = random(if with_residual { 3 * dim } else { 0 }, 4.0);
                let (gamma, beta) = (random(dim, 1.5), random(dim, 1.0));
                let args = LayerNorm { bias: &bias, residual: &residual, gamma: &gamma, beta: &beta, epsilon: 1e-6 };
                for isa in Isa::available() {
                    let mut y = x.clone();
                    layer_norm(isa, args, &mut y).unwrap();
                    for (i, (&y, expected)) in y.iter().zip(reference::layer_norm(args, &x)).enumerate() {
                        // The variance of a single element is 0, and 1/√epsilon magnifies the sum's own rounding.
                        let tolerance = if dim == 1 { 1e-3 } else { 1e-5 };
                        let what = format!("{}, {dim}, element {i}", isa.name());
                        assert!((f64::from(y) - expected).abs() <= tolerance, "{what}: {y} {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn edges() {
        let (gamma, beta) = ([2.0; 4], [0.5; 4]);
        let args = LayerNorm { bias: &[], residual: &[], gamma: &gamma, beta: &beta, epsilon: 1e-12 };
        let mut x = [3.0; 8];
        x[5] = f32::NAN;
        for isa in Isa::available() {
            let mut x = x;
            layer_norm(isa, args, &mut x).unwrap();
            assert_eq!(x[..4], beta, "a constant row, {}", isa.name());
            assert!(x[4..].iter().all(|x| x.is_nan()), "{}: {x:?}", isa.name());
        }
        let isa = Isa::fallback();

        let cases = [
            (LayerNorm { gamma: &[], ..args }, ShapeError::Zero { argument: "gamma" }),
            (LayerNorm { beta: &[0.0; 3], ..args }, ShapeError::Length { argument: "beta", expected: 4, found: 3 }),
            (LayerNorm { bias: &[0.0; 5], ..args }, ShapeError::Length { argument: "bias", expected: 4, found: 5 }),
            (
                LayerNorm { residual: &[0.0; 4], ..args },
                ShapeError::Length { argument: "residual", expected: 8, found: 4 },
            ),
        ];
        for (args, expected) in cases {
            assert_eq!(layer_norm(isa, args, &mut x), Err(expected));
        }
        assert_eq!(layer_norm(isa, args, &mut x[1..]), Err(ShapeError::NotRows { argument: "x", dim: 4, found: 7 }));
    }
}
