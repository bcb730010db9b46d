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

mod fallback;

use crate::{ShapeError, shape};

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
pub fn bias_activation(x: &mut [f32], bias: &[f32], activation: Activation) -> Result<(), ShapeError> {
    rows_of(x, bias)?;
    match activation {
        Activation::GeluErf => fallback::map(x, bias, fallback::gelu_erf),
        Activation::GeluTanh => fallback::map(x, bias, fallback::gelu_tanh),
        Activation::Relu => fallback::map(x, bias, fallback::relu),
    }
    Ok(())
}

/// Adds `bias` to every row.
///
/// # Errors
/// [`ShapeError`] if `x` is not whole rows of `bias.len()` elements.
pub fn add_bias(x: &mut [f32], bias: &[f32]) -> Result<(), ShapeError> {
    rows_of(x, bias)?;
    fallback::map(x, bias, |x| x);
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

    fn activate(activation: Activation, x: f32) -> f32 {
        let mut y = [x];
        bias_activation(&mut y, &[0.0], activation).unwrap();
        y[0]
    }

    #[test]
    fn close_to_the_reference() {
        for activation in ALL {
            let mut worst = 0.0_f64;
            for step in -800_000..=800_000 {
                let x = step as f32 / 100_000.0;
                let expected = reference::activation(activation, f64::from(x));
                worst = worst.max((f64::from(activate(activation, x)) - expected).abs());
            }
            assert!(worst <= 1e-6, "{activation:?}: {worst}");
            for x in [8.5, 30.0, 1e3, 1e10, 1e30, f32::MAX] {
                for x in [x, -x] {
                    let expected = reference::activation(activation, f64::from(x));
                    let error = (f64::from(activate(activation, x)) - expected).abs();
                    assert!(error <= f64::from(x.abs()) * 2_f64.powi(-22), "{activation:?}({x}): {error}");
                }
            }
        }
    }

    #[test]
    fn the_two_gelus_differ() {
        let difference = (activate(Activation::GeluErf, 2.0) - activate(Activation::GeluTanh, 2.0)).abs();
        assert!((1e-5..1e-3).contains(&difference), "{difference}");
    }

    #[test]
    fn edges() {
        for activation in ALL {
            assert!(activate(activation, f32::NAN).is_nan(), "{activation:?}");
            assert_eq!(activate(activation, f32::INFINITY), f32::INFINITY, "{activation:?}");
            assert_eq!(activate(activation, f32::NEG_INFINITY), 0.0, "{activation:?}");
            assert_eq!(activate(activation, 0.0), 0.0, "{activation:?}");
        }
    }

    #[test]
    fn the_bias_belongs_to_the_column() {
        for dim in [1, 3, 16, 21] {
            let bias: Vec<f32> = (0..dim).map(|j| j as f32 / 4.0 - 1.0).collect();
            let x: Vec<f32> = (0..3 * dim).map(|i| (i as f32).sin() * 3.0).collect();
            let sums: Vec<f32> = x.iter().zip(bias.iter().cycle()).map(|(x, b)| x + b).collect();
            let mut y = x.clone();
            add_bias(&mut y, &bias).unwrap();
            assert_eq!(y, sums, "dim {dim}");
            for activation in ALL {
                let mut y = x.clone();
                bias_activation(&mut y, &bias, activation).unwrap();
                let expected: Vec<f32> = sums.iter().map(|&x| activate(activation, x)).collect();
                assert_eq!(y, expected, "{activation:?}, dim {dim}");
            }
        }
        assert_eq!(add_bias(&mut [0.0; 3], &[]), Err(ShapeError::Zero { argument: "bias" }));
        assert_eq!(
            bias_activation(&mut [0.0; 3], &[0.0; 2], Activation::Relu),
            Err(ShapeError::NotRows { argument: "x", dim: 2, found: 3 })
        );
    }
}
