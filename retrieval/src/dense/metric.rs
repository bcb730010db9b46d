//! How alike two dense vectors are.
//!
//! | metric | score of q and d | edge |
//! |---|---|---|
//! | cosine | ⟨q, d⟩ / (‖q‖·‖d‖) | 0 where one of them is all zeros |
//! | dot | ⟨q, d⟩ | |
//! | Euclidean | −‖q − d‖ | |
//!
//! Sums are in f32, in an order that the dimension alone fixes: within `dim · 2⁻²⁴` of Σ|qₖ·dₖ| (or Σ(qₖ−dₖ)²).

use crate::schema::{Metric, VectorFault};

/// Sums that are kept apart, so that they fill the registers of any machine and do not wait for each other.
const SUMS: usize = 16;

/// A metric at work.
impl Metric {
    /// What is stored and compared in place of a vector: its unit vector, if the angle alone counts.
    pub(crate) fn prepare(self, vector: &[f32]) -> Vec<f32> {
        let mut prepared = vector.to_vec();
        if self == Self::Cosine {
            // In f64, so that no finite vector overflows.
            let norm = prepared.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
            if norm > 0.0 {
                for x in &mut prepared {
                    *x = (f64::from(*x) / norm) as f32;
                }
            }
        }
        prepared
    }

    /// The score of two prepared vectors of one length.
    pub(crate) fn score(self, query: &[f32], document: &[f32]) -> f32 {
        match self {
            Self::Cosine | Self::Dot => sum(query, document, |q, d| q * d),
            Self::Euclidean => -sum(query, document, |q, d| (q - d) * (q - d)).sqrt(),
        }
    }
}

/// Refuses what is no vector of that many components. One of zeros is none to a schema with cosines; here its score is 0.
pub(crate) fn check(vector: &[f32], dim: u32) -> Result<(), VectorFault> {
    if vector.len() != dim as usize {
        return Err(VectorFault::Dim { expected: dim, found: vector.len() });
    }
    match vector.iter().position(|component| !component.is_finite()) {
        Some(position) => Err(VectorFault::NotFinite { position }),
        None => Ok(()),
    }
}

/// Σ part(aₖ, bₖ).
#[inline]
fn sum(a: &[f32], b: &[f32], part: impl Fn(f32, f32) -> f32) -> f32 {
    let (a, a_rest) = a.as_chunks::<SUMS>();
    let (b, b_rest) = b.as_chunks::<SUMS>();
    let mut sums = [0.0_f32; SUMS];
    for (a, b) in a.iter().zip(b) {
        for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
            *sum += part(a, b);
        }
    }
    for ((sum, &a), &b) in sums.iter_mut().zip(a_rest).zip(b_rest) {
        *sum += part(a, b);
    }
    let mut width = SUMS / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(metric: Metric, query: &[f32], document: &[f32], expected: f64) {
        let score = f64::from(metric.score(&metric.prepare(query), &metric.prepare(document)));
        let near = (score - expected).abs() <= 1e-6 * expected.abs().max(1.0);
        assert!(near, "{metric:?} of {query:?} and {document:?}: {score}, expected {expected}");
    }

    #[test]
    fn scores_are_the_formulas() {
        check(Metric::Cosine, &[3.0, 4.0], &[4.0, 3.0], 0.96);
        check(Metric::Cosine, &[1e30, 0.0], &[1e30, 1e30], 0.5_f64.sqrt());
        check(Metric::Cosine, &[0.0, 0.0], &[1.0, 0.0], 0.0);
        check(Metric::Dot, &[3.0, 4.0], &[4.0, 3.0], 24.0);
        check(Metric::Euclidean, &[3.0, 4.0], &[0.0, 0.0], -5.0);
        check(Metric::Euclidean, &[1.0, 1.0], &[1.0, 1.0], 0.0);
    }

    #[test]
    fn every_component_counts_whatever_the_length() {
        for dim in 1..70 {
            let query: Vec<f32> = (0..dim).map(|i| (i % 7) as f32 - 2.0).collect();
            let document: Vec<f32> = (0..dim).map(|i| (i % 5) as f32 - 1.0).collect();
            let pairs = || query.iter().zip(&document).map(|(&q, &d)| (f64::from(q), f64::from(d)));
            check(Metric::Dot, &query, &document, pairs().map(|(q, d)| q * d).sum());
            let distance = pairs().map(|(q, d)| (q - d) * (q - d)).sum::<f64>().sqrt();
            check(Metric::Euclidean, &query, &document, -distance);
        }
    }
}
