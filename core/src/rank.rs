//! Who comes first.

use std::cmp::Ordering;

/// Indices of the `k` largest scores, best first; all of them if `k` is larger or `None`.
///
/// Equal scores keep the order they came in. NaN counts as smaller than everything, −∞ included.
///
/// ```
/// assert_eq!(sluice_core::rank::top_k(&[0.1, 0.5, f32::NAN, 0.5], Some(3)), [1, 3, 0]);
/// ```
#[must_use]
pub fn top_k(scores: &[f32], k: Option<usize>) -> Vec<usize> {
    let k = k.unwrap_or(scores.len()).min(scores.len());
    let mut order: Vec<usize> = (0..scores.len()).collect();
    let better = |a: &usize, b: &usize| descending(scores[*a], scores[*b]).then(a.cmp(b));
    if k > 0 && k < order.len() {
        order.select_nth_unstable_by(k - 1, better);
    }
    order.truncate(k);
    order.sort_unstable_by(better);
    order
}

/// The logistic function, `1 / (1 + e^-x)`, without overflow for either sign.
#[must_use]
pub fn sigmoid(logit: f32) -> f32 {
    let e = (-logit.abs()).exp();
    if logit < 0.0 { e / (1.0 + e) } else { 1.0 / (1.0 + e) }
}

fn descending(a: f32, b: f32) -> Ordering {
    b.partial_cmp(&a).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn edges() {
        let nan = f32::NAN;
        let cases: [(&[f32], Option<usize>, &[usize]); 7] = [
            (&[], None, &[]),
            (&[1.0], Some(0), &[]),
            (&[1.0, 2.0], Some(9), &[1, 0]),
            (&[0.0, -0.0, 0.0], None, &[0, 1, 2]),
            (&[nan, f32::NEG_INFINITY, nan, 1.0], None, &[3, 1, 0, 2]),
            (&[nan, nan], Some(1), &[0]),
            (&[f32::INFINITY, 3.0, f32::INFINITY], Some(2), &[0, 2]),
        ];
        for (scores, k, expected) in cases {
            assert_eq!(top_k(scores, k), expected, "{scores:?} {k:?}");
        }
    }

    #[test]
    fn sigmoid_is_defined_everywhere() {
        for (logit, expected) in [(0.0, 0.5), (2.0, 0.880_797), (-2.0, 0.119_203), (f32::MAX, 1.0), (f32::MIN, 0.0)] {
            assert!((sigmoid(logit) - expected).abs() < 1e-6, "{logit}");
        }
    }

    proptest! {
        #[test]
        fn top_k_is_the_head_of_a_stable_sort(scores in prop::collection::vec(-3_i8..3, 0..40), k in 0_usize..45) {
            let scores: Vec<f32> = scores.into_iter().map(f32::from).collect();
            let mut sorted: Vec<usize> = (0..scores.len()).collect();
            sorted.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
            sorted.truncate(k);
            prop_assert_eq!(top_k(&scores, Some(k)), sorted);
        }
    }
}
