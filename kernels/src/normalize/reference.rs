//! The formula, in f64.

/// Each row of `dim` elements over its length.
#[must_use]
pub fn normalize(x: &[f32], dim: usize) -> Vec<f64> {
    x.chunks_exact(dim)
        .flat_map(|row| {
            let norm = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            row.iter().map(move |&x| if norm == 0.0 { 0.0 } else { f64::from(x) / norm })
        })
        .collect()
}
