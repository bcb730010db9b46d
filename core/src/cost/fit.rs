//! The coefficients of one lane, from its measured batches.
//!
//! Recursive least squares in information form: the normal equations `A θ = b` of all batches so far, each
//! forgotten by [`FORGETTING`] with every later one. What is minimised is the *relative* error, so that small
//! batches count as much as large ones: a row is divided by the larger of measured and predicted time, which
//! also bounds what one disturbed measurement can do; Huber's weights bound it further. Along directions that
//! no batch has explored (all of one shape, say) the fit stays where it was. Solved over θ ≥ 0 exactly, by
//! trying the sixteen sets of coefficients that may be positive: about two microseconds per batch.

use super::{Accuracy, BatchShape, Coefficients};
use crate::Time;

const N: usize = 4;
type Vector = [f64; N];
type Matrix = [[f64; N]; N];

/// Weight that a batch keeps with every later one: the latest 100 are most of what counts.
const FORGETTING: f64 = 0.99;
/// How much of its own weight holds a coefficient where it was.
const INERTIA: f64 = 1e-3;
/// Relative errors below this are never treated as outliers.
const OUTLIER_MIN: f64 = 0.1;
/// Batches whose relative errors are kept.
const ERRORS: usize = 64;
/// Batches before a decision may rest on a prediction.
const OBSERVATIONS_MIN: u64 = 4;
/// Units in which a batch is about 1 in every term, so that the equations are well scaled.
const SCALES: Vector = [1.0, 16.0, 2048.0, 524_288.0];

#[derive(Clone, Debug)]
pub(super) struct Fit {
    /// Scaled: θ\[j\] = coefficient · SCALES\[j\].
    theta: Vector,
    gram: Matrix,
    moment: Vector,
    observations: u64,
    measured_at: Time,
    /// Relative errors of the latest batches, as a ring.
    errors: Vec<f64>,
    median_error: f64,
}

impl Fit {
    pub(super) fn new(coefficients: Coefficients) -> Self {
        let Coefficients { batch, sequence, token, token_squared } = coefficients;
        let mut theta = [batch, sequence, token, token_squared];
        theta.iter_mut().zip(SCALES).for_each(|(theta, scale)| *theta *= scale);
        Self {
            theta,
            gram: [[0.0; N]; N],
            moment: [0.0; N],
            observations: 0,
            measured_at: Time::ZERO,
            errors: Vec::with_capacity(ERRORS),
            median_error: 0.0,
        }
    }

    pub(super) fn coefficients(&self) -> Coefficients {
        let [batch, sequence, token, token_squared] = std::array::from_fn(|j| self.theta[j] / SCALES[j]);
        Coefficients { batch, sequence, token, token_squared }
    }

    pub(super) fn measured_at(&self) -> Time {
        self.measured_at
    }

    pub(super) fn accuracy(&self) -> Option<Accuracy> {
        let Self { observations, median_error, .. } = *self;
        (observations > 0).then_some(Accuracy { observations, median_relative_error: median_error })
    }

    /// The part of a fresh prediction that can be relied on: less the more it has erred of late.
    pub(super) fn steadiness(&self) -> f64 {
        if self.observations < OBSERVATIONS_MIN { 0.0 } else { (1.0 - 3.0 * self.median_error).clamp(0.0, 0.95) }
    }

    pub(super) fn observe(&mut self, now: Time, shape: BatchShape, seconds: f64) {
        let row = features(shape);
        let predicted = dot(&row, &self.theta);
        self.note_error((predicted - seconds).abs() / seconds);
        if self.observations == 0 && predicted > 0.0 {
            // Of an unknown device the first batch says how fast it is; how time is shared out, the prior.
            self.theta.iter_mut().for_each(|theta| *theta *= seconds / predicted);
        }
        let predicted = dot(&row, &self.theta);
        let scale = seconds.max(predicted);
        let error = (seconds - predicted).abs() / scale;
        let tolerated = (3.0 * self.median_error).max(OUTLIER_MIN);
        let weight = (tolerated / error).min(1.0) / (scale * scale);
        for (i, moment) in self.moment.iter_mut().enumerate() {
            *moment = FORGETTING * *moment + weight * row[i] * seconds;
            for (j, entry) in self.gram[i].iter_mut().enumerate() {
                *entry = FORGETTING * *entry + weight * row[i] * row[j];
            }
        }
        self.theta = self.solve();
        self.observations += 1;
        self.measured_at = self.measured_at.max(now);
    }

    /// Minimises the weighted squares, plus what holds each coefficient where it is, over θ ≥ 0.
    fn solve(&self) -> Vector {
        let (mut gram, mut moment) = (self.gram, self.moment);
        for j in 0..N {
            let inertia = INERTIA * self.gram[j][j];
            gram[j][j] += inertia;
            moment[j] += inertia * self.theta[j];
        }
        let objective =
            |theta: &Vector| (0..N).map(|i| theta[i] * (0.5 * dot(&gram[i], theta) - moment[i])).sum::<f64>();
        let candidates = (0..1_u32 << N).filter_map(|positive| solve_among(&gram, &moment, positive));
        candidates.min_by(|a, b| objective(a).total_cmp(&objective(b))).unwrap_or(self.theta)
    }

    fn note_error(&mut self, error: f64) {
        if self.errors.len() < ERRORS {
            self.errors.push(error);
        } else {
            self.errors[self.observations as usize % ERRORS] = error;
        }
        let mut sorted = self.errors.clone();
        let middle = sorted.len() / 2;
        self.median_error = *sorted.select_nth_unstable_by(middle, f64::total_cmp).1;
    }
}

fn features(shape: BatchShape) -> Vector {
    let terms = [1.0, shape.sequences as f64, shape.tokens as f64, shape.tokens_squared as f64];
    std::array::from_fn(|j| terms[j] / SCALES[j])
}

fn dot(a: &Vector, b: &Vector) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The solution in which only the coefficients of the set `positive` (a bit each) are not zero; `None` if one of
/// them comes out negative, or cannot be told from the others.
fn solve_among(gram: &Matrix, moment: &Vector, positive: u32) -> Option<Vector> {
    let members: Vec<usize> = (0..N).filter(|j| positive >> j & 1 == 1).collect();
    // Cholesky, L Lᵀ = A, and both substitutions.
    let mut lower = [[0.0_f64; N]; N];
    for (row, &i) in members.iter().enumerate() {
        for (column, &j) in members.iter().enumerate().take(row + 1) {
            let rest = gram[i][j] - (0..column).map(|k| lower[row][k] * lower[column][k]).sum::<f64>();
            lower[row][column] = if row > column {
                rest / lower[column][column]
            } else if rest > 1e-12 * gram[i][i] {
                rest.sqrt()
            } else {
                return None;
            };
        }
    }
    let mut solution = [0.0_f64; N];
    for (row, &i) in members.iter().enumerate() {
        let known = (0..row).map(|k| lower[row][k] * solution[k]).sum::<f64>();
        solution[row] = (moment[i] - known) / lower[row][row];
    }
    for row in (0..members.len()).rev() {
        let known = (row + 1..members.len()).map(|k| lower[k][row] * solution[k]).sum::<f64>();
        solution[row] = (solution[row] - known) / lower[row][row];
    }
    let mut theta = [0.0; N];
    for (row, &j) in members.iter().enumerate() {
        if !solution[row].is_finite() || solution[row] < 0.0 {
            return None;
        }
        theta[j] = solution[row];
    }
    Some(theta)
}
