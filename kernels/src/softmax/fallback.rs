//! For any machine: three passes over a row that is in cache.

use crate::{
    exp::exp,
    lanes::{largest, sum_by},
};

/// Softmax of one row. A negative `scale` would make the smallest element the largest: m is taken after scaling.
#[inline]
pub(crate) fn softmax_row(row: &mut [f32], scale: f32) {
    for x in row.iter_mut() {
        *x *= scale;
    }
    let max = largest(row);
    for x in row.iter_mut() {
        *x = exp(*x - max);
    }
    let inverse = 1.0 / sum_by(row, |x| x);
    for x in row.iter_mut() {
        *x *= inverse;
    }
}
