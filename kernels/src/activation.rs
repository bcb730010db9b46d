//! Activations of x + bias, in place.
//!
//! | activation | f(x) | source |
//! |---|---|---|
//! | [`Activation::GeluErf`] | x·Φ(x) = ½·x·(1 + erf(x/√2)) | Hendrycks and Gimpel, 2016 |
//! | [`Activation::GeluTanh`] | ½·x·(1 + tanh(√(2/π)·(x + 0.044715·x³))) | the same, their approximation |
//! | [`Activation::Relu`] | max(x, 0) | |
//!
//! | argument | shape |
//! |---|---|
//! | `x` | `[rows, dim]`, row-major, replaced |
//! | `bias` | `[dim]`, added to every row first |
//!
//! NaN stays NaN, +∞ stays +∞, −∞ becomes 0.
//!
//! Accuracy: within 1e-6 of the reference for |x| ≤ 8, and within 2⁻²² of |x| beyond.
//! Cost: about 30 FLOPs and 8 bytes per element.

pub mod reference;

mod rows;

use crate::{Isa, ShapeError, shape, simd::dispatch};

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// The exact GELU.
    GeluErf,
    /// Its tanh approximation: another function, up to 5e-4 away, for models trained with it.
    GeluTanh,
    /// The positive part.
    Relu,
}

/// Replaces each `x[i, j]` by the activation of `x[i, j] + bias[j]`. See the [module](self).
///
/// # Errors
/// [`ShapeError`] if `x` is not whole rows of `bias.len()` elements.
pub fn bias_activation(isa: Isa, x: &mut [f32], bias: &[f32], activation: Activation) -> Result<(), ShapeError> {
    rows_of(x, bias)?;
    dispatch(isa, rows::Rows { x, bias, activation: Some(activation) });
    Ok(())
}

/// Adds `bias` to every row.
///
/// # Errors
/// [`ShapeError`] if `x` is not whole rows of `bias.len()` elements.
pub fn add_bias(isa: Isa, x: &mut [f32], bias: &[f32]) -> Result<(), ShapeError> {
    rows_of(x, bias)?;
    dispatch(isa, rows::Rows { x, bias, activation: None });
    Ok(())
}

fn rows_of(x: &[f32], bias: &[f32]) -> Result<(), ShapeError> {
    shape::not_zero("bias", bias.len())?;
    shape::rows("x", x.len(), bias.len()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Activation; 3] = [Activation::GeluErf, Activation::GeluTanh, Activation::Relu];

    fn each() -> impl Iterator<Item = (Isa, Activation)> {
        Isa::available().flat_map(|isa| ALL.map(|activation| (isa, activation)))
    }

    fn activate(isa: Isa, activation: Activation, x: f32) -> f32 {
        let mut y = [x];
        bias_activation(isa, &mut y, &[0.0], activation).unwrap();
        y[0]
    }

    #[test]
    fn close_to_the_reference() {
        let steps: Vec<f32> = (-800_000..=800_000).map(|step| step as f32 / 100_000.0).collect();
        for activation in ALL {
            let expected: Vec<f64> = steps.iter().map(|&x| reference::activation(activation, f64::from(x))).collect();
            for isa in Isa::available() {
                let mut found = steps.clone();
                bias_activation(isa, &mut found, &vec![0.0; steps.len()], activation).unwrap();
                let distances = found.iter().zip(&expected).map(|(&y, expected)| (f64::from(y) - expected).abs());
                let worst = distances.fold(0.0, f64::max);
                assert!(worst <= 1e-6, "{}, {activation:?}: {worst}", isa.name());
            }
        }
        for (isa, activation) in each() {
            for x in [8.5, 30.0, 1e3, 1e10, 1e30, f32::MAX] {
                for x in [x, -x] {
                    let expected = reference::activation(activation, f64::from(x));
                    let error = (f64::from(activate(isa, activation, x)) - expected).abs();
                    let what = format!("{}, {activation:?}({x})", isa.name());
                    assert!(error <= f64::from(x.abs()) * 2_f64.powi(-22), "{what}: {error}");
                }
            }
        }
    }

    #[test]
    fn the_two_gelus_differ() {
        for isa in Isa::available() {
            let [erf, tanh] = [Activation::GeluErf, Activation::GeluTanh].map(|which| activate(isa, which, 2.0));
            assert!((1e-5..1e-3).contains(&(erf - tanh).abs()), "{}: {erf} {tanh}", isa.name());
        }
    }

    #[test]
    fn edges() {
        for (isa, activation) in each() {
            let what = format!("{}, {activation:?}", isa.name());
            assert!(activate(isa, activation, f32::NAN).is_nan(), "{what}");
            assert_eq!(activate(isa, activation, f32::INFINITY), f32::INFINITY, "{what}");
            assert_eq!(activate(isa, activation, f32::NEG_INFINITY), 0.0, "{what}");
            assert_eq!(activate(isa, activation, 0.0), 0.0, "{what}");
        }
    }

    #[test]
    fn the_bias_belongs_to_the_column() {
        for dim in [1, 3, 16, 21] {
            let bias: Vec<f32> = (0..dim).map(|j| j as f32 / 4.0 - 1.0).collect();
            let x: Vec<f32> = (0..3 * dim).map(|i| (i as f32).sin() * 3.0).collect();
            let sums: Vec<f32> = x.iter().zip(bias.iter().cycle()).map(|(x, b)| x + b).collect();
            for isa in Isa::available() {
                let mut y = x.clone();
                add_bias(isa, &mut y, &bias).unwrap();
                assert_eq!(y, sums, "{}, dim {dim}", isa.name());
            }
            for (isa, activation) in each() {
                let mut y = x.clone();
                bias_activation(isa, &mut y, &bias, activation).unwrap();
                let expected: Vec<f32> = sums.iter().map(|&x| activate(isa, activation, x)).collect();
                assert_eq!(y, expected, "{}, {activation:?}, dim {dim}", isa.name());
            }
        }
        let isa = Isa::fallback();
        assert_eq!(add_bias(isa, &mut [0.0; 3], &[]), Err(ShapeError::Zero { argument: "bias" }));
        assert_eq!(
            bias_activation(isa, &mut [0.0; 3], &[0.0; 2], Activation::Relu),
            Err(ShapeError::NotRows { argument: "x", dim: 2, found: 3 })
        );
    }
}
