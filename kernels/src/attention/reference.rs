//! The formula, in f64.

use super::Attention;
use crate::shape::ranges;

/// Output rows of arguments that [`attention`](super::attention) accepts.
#[must_use]
pub fn attention(args: Attention<'_>) -> Vec<f64> {
    let (dim, head_dim) = (args.dim(), args.head_dim);
    let mut out = vec![0.0; args.qkv.len() / 3];
    for rows in ranges(args.cu_seqlens) {
        for head in 0..args.num_heads {
            for i in rows.clone() {
                let query = args.vector(i, 0, head);
                let scores: Vec<f64> =
                    rows.clone().map(|j| dot(query, args.vector(j, 1, head)) * f64::from(args.scale)).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for (j, weight) in rows.clone().zip(&weights) {
                    let value = args.vector(j, 2, head);
                    for (k, &v) in value.iter().enumerate() {
                        out[i * dim + head * head_dim + k] += weight / sum * f64::from(v);
                    }
                }
            }
        }
    }
    out
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}
