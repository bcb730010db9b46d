//! The formula, in f64.

use super::LayerNorm;

/// Rows of arguments that [`layer_norm`](super::layer_norm) accepts.
#[must_use]
pub fn layer_norm(args: LayerNorm<'_>, x: &[f32]) -> Vec<f64> {
    let dim = args.gamma.len();
    let at = |slice: &[f32], i: usize| slice.get(i).map_or(0.0, |&x| f64::from(x));
    let sums: Vec<f64> = (0..x.len()).map(|i| at(x, i) + at(args.bias, i % dim) + at(args.residual, i)).collect();
    sums.chunks_exact(dim)
        .flat_map(|row| {
            let mean = row.iter().sum::<f64>() / dim as f64;
            let variance = row.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / dim as f64;
            let deviation = (variance + f64::from(args.epsilon)).sqrt();
            row.iter()
                .enumerate()
                .map(move |(j, s)| (s - mean) / deviation * f64::from(args.gamma[j]) + f64::from(args.beta[j]))
        })
        .collect()
}
