//! Sums over a row in a fixed order that vectorises.

/// Running sums; 16 hide the latency of an addition on 4-lane registers.
const LANES: usize = 16;

/// Σ f(x). The order depends on the length alone.
#[inline(always)]
pub(crate) fn sum_by(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (chunks, tail) = x.as_chunks::<LANES>();
    let mut lanes = [0.0_f32; LANES];
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f(x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(tail) {
        *lane += f(x);
    }
    // A tree, so that rounding grows with the logarithm.
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The largest element; −∞ if there is none. NaN may or may not be skipped.
#[inline(always)]
pub(crate) fn largest(x: &[f32]) -> f32 {
    let (chunks, tail) = x.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    lanes.iter().chain(tail).fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length() {
        for length in 0..70_usize {
            let x: Vec<f32> = (0..length).map(|i| (i as f32 * 7.0) % 11.0 - 5.0).collect();
            let sum: f32 = x.iter().map(|x| x * 2.0).sum();
            assert_eq!(sum_by(&x, |x| x * 2.0), sum, "{length} elements");
            let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(largest(&x), max, "{length} elements");
        }
    }
}
