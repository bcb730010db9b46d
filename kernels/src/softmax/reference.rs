//! The formula, in f64.

/// Softmax of each row of `dim` elements.
#[must_use]
pub fn softmax(x: &[f32], dim: usize, scale: f32) -> Vec<f64> {
    x.chunks_exact(dim)
        .flat_map(|row| {
            let scaled: Vec<f64> = row.iter().map(|&x| f64::from(x) * f64::from(scale)).collect();
            let max = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scaled.iter().map(|x| (x - max).exp()).sum();
            scaled.into_iter().map(move |x| (x - max).exp() / sum)
        })
        .collect()
}
