//! One row for each sequence of rows.
//!
//! | pooling | row |
//! |---|---|
//! | [`Pooling::Mean`] | the mean over the sequence's rows |
//! | [`Pooling::First`] | its first row (the `[CLS]` token of a BERT) |
//!
//! | argument | shape | layout |
//! |---|---|---|
//! | `x` | `[total, dim]` | row-major, sequences end to end |
//! | `cu_seqlens` | `[sequences + 1]` | first row of each sequence, then `total` |
//! | `out` | `[sequences, dim]` | row-major |
//!
//! A sequence without rows gives zeros. NaN in a row that is read stays in its column.
//!
//! Accuracy: means are summed in f32 in order of rows: within `rows · 2⁻²⁴` of the largest magnitude.

pub mod reference;

mod fallback;

use crate::{ShapeError, shape};

/// How a sequence becomes one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Mean over rows.
    Mean,
    /// First row.
    First,
}

/// Arguments of [`pool`].
#[derive(Clone, Copy, Debug)]
pub struct Pool<'a> {
    /// Rows of all sequences, `[total, dim]`.
    pub x: &'a [f32],
    /// Where each sequence begins, and the end of the last, in rows: `[sequences + 1]`.
    pub cu_seqlens: &'a [u32],
    /// Elements of a row; at least 1.
    pub dim: usize,
    /// What to take.
    pub pooling: Pooling,
}

/// Writes one row per sequence. See the [module](self).
///
/// # Errors
/// [`ShapeError`] if the arguments do not fit together.
pub fn pool(args: Pool<'_>, out: &mut [f32]) -> Result<(), ShapeError> {
    shape::not_zero("dim", args.dim)?;
    let rows = shape::rows("x", args.x.len(), args.dim)?;
    let sequences = shape::sequences(args.cu_seqlens, rows)?;
    shape::length("out", sequences * args.dim, out.len())?;
    fallback::pool(args, out);
    Ok(())
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::SmallRng};

    use super::*;

    #[test]
    fn equals_the_reference() {
        let mut rng = SmallRng::seed_from_u64(1);
        for dim in [1, 5, 16, 384] {
            let cu_seqlens = [0, 1, 1, 4, 260];
            let x: Vec<f32> = (0..260 * dim).map(|_| rng.random_range(-1.0..1.0)).collect();
            for pooling in [Pooling::Mean, Pooling::First] {
                let args = Pool { x: &x, cu_seqlens: &cu_seqlens, dim, pooling };
                let mut out = vec![f32::NAN; 4 * dim];
                pool(args, &mut out).unwrap();
                assert_eq!(out[dim..2 * dim], vec![0.0; dim], "a sequence without rows");
                for (i, (&y, expected)) in out.iter().zip(reference::pool(args)).enumerate() {
                    assert!((f64::from(y) - expected).abs() <= 2e-6, "{pooling:?} {dim} {i}: {y} {expected}");
                }
            }
        }
    }

    #[test]
    fn nan_stays_where_it_is() {
        let x = [1.0, 2.0, f32::NAN, 4.0, 5.0, 6.0];
        let args = Pool { x: &x, cu_seqlens: &[0, 2, 3], dim: 2, pooling: Pooling::Mean };
        let mut out = [0.0; 4];
        pool(args, &mut out).unwrap();
        assert!(out[0].is_nan());
        assert_eq!(out[1..], [3.0, 5.0, 6.0]);
        pool(Pool { pooling: Pooling::First, ..args }, &mut out).unwrap();
        assert_eq!(out, [1.0, 2.0, 5.0, 6.0]);
    }

    #[test]
    fn misfits_are_named() {
        let x = [0.0; 6];
        let args = Pool { x: &x, cu_seqlens: &[0, 3], dim: 2, pooling: Pooling::First };
        let cases = [
            (Pool { dim: 0, ..args }, 2, ShapeError::Zero { argument: "dim" }),
            (Pool { dim: 4, ..args }, 4, ShapeError::NotRows { argument: "x", dim: 4, found: 6 }),
            (Pool { cu_seqlens: &[0, 2], ..args }, 2, ShapeError::CuSeqlens { rows: 3 }),
            (args, 3, ShapeError::Length { argument: "out", expected: 2, found: 3 }),
        ];
        for (args, out, expected) in cases {
            assert_eq!(pool(args, &mut vec![0.0; out]), Err(expected));
        }
    }
}
