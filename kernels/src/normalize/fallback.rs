//! For any machine.

use crate::lanes::sum_by;

/// Rows of checked arguments.
pub(super) fn normalize(x: &mut [f32], dim: usize) {
    for row in x.chunks_exact_mut(dim) {
        let squares = sum_by(row, |x| x * x);
        // Where squares are so small that they lost bits, or overflowed, f32 is not enough.
        if (1e-20..f32::INFINITY).contains(&squares) {
            let inverse = 1.0 / squares.sqrt();
            for x in row.iter_mut() {
                *x *= inverse;
            }
        } else {
            in_f64(row);
        }
    }
}

#[cold]
fn in_f64(row: &mut [f32]) {
    let norm = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    if norm != 0.0 {
        for x in row {
            *x = (f64::from(*x) / norm) as f32;
        }
    }
}
