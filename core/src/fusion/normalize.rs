//! Scores made comparable with those of another list.

/// How a list's scores are made comparable with another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalization {
    /// (s − min) / (max − min) over the list; 1 where all scores are equal, since each is then its list's best.
    MinMax,
    /// (s − floor) / (max − floor), where the floor is the least score that the leg could give ("theoretical min-max");
    /// 0 where no score is above the floor. A list without a floor is normalised by [`MinMax`](Self::MinMax).
    TheoreticalMin,
    /// As they are.
    None,
}

impl Normalization {
    /// The normalised scores, in the order of `scores`.
    pub(super) fn apply(self, scores: &[f64], floor: Option<f64>) -> Vec<f64> {
        match (self, floor) {
            (Self::None, _) => scores.to_vec(),
            (Self::TheoreticalMin, Some(floor)) => between(scores, floor, max(scores), 0.0),
            (Self::MinMax, _) | (Self::TheoreticalMin, None) => between(scores, min(scores), max(scores), 1.0),
        }
    }
}

/// (s − (μ − 3σ)) / 6σ with the list's mean and sample standard deviation: 0 to 1 for all but outliers.
pub(super) fn by_distribution(scores: &[f64]) -> Vec<f64> {
    const EQUAL: f64 = 0.5;
    if scores.len() < 2 || min(scores) == max(scores) {
        return vec![EQUAL; scores.len()];
    }
    let mean = scores.iter().sum::<f64>() / scores.len() as f64;
    let squares: f64 = scores.iter().map(|score| (score - mean).powi(2)).sum();
    let deviation = (squares / (scores.len() - 1) as f64).sqrt();
    scores.iter().map(|score| (score - (mean - 3.0 * deviation)) / (6.0 * deviation)).collect()
}

/// Scaled so that `low` is 0 and `high` is 1; `otherwise` where they are not in this order.
fn between(scores: &[f64], low: f64, high: f64, otherwise: f64) -> Vec<f64> {
    if low < high {
        // A rounded cosine may be a hair below -1.
        scores.iter().map(|score| ((score - low) / (high - low)).max(0.0)).collect()
    } else {
        vec![otherwise; scores.len()]
    }
}

fn min(scores: &[f64]) -> f64 {
    scores.iter().copied().fold(f64::INFINITY, f64::min)
}

fn max(scores: &[f64]) -> f64 {
    scores.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}
