//! The coefficients of one lane, from its measured batches.
//!
//! Recursive least squares in information form: the normal equations `A θ = b` of all batches so far, each
//! forgotten by [`FORGETTING`] with every later one, and faster while the device seems to have changed. What is minimised is the *relative* error, so that small
//! batches count as much as large ones: a row is divided by the larger of measured and predicted time, which
//! also bounds what one disturbed measurement can do; Huber's weights bound it further. Along directions that
//! no batch has explored (all of one shape, say) the fit stays where it was. Solved over θ ≥ 0 exactly, by
//! trying the sixteen sets of coefficients that may be positive where all of them cannot: some microseconds per batch at
//! most.

use std::collections::VecDeque;

use super::{Accuracy, BatchShape, Coefficients};
use crate::Time;

const N: usize = 4;
type Vector = [f64; N];
type Matrix = [[f64; N]; N];

/// Weight that a batch keeps with every later one: the latest 100 are most of what counts.
const FORGETTING: f64 = 0.99;
/// The same while the latest batches are predicted much worse than those before: the device has changed.
const FORGETTING_CHANGED: f64 = 0.8;
/// Batches that tell so.
const RECENT: usize = 9;
/// Relative errors below this are no change, and no outliers.
const ERROR_MIN: f64 = 0.1;
/// How much of its own weight holds a coefficient where it was.
const INERTIA: f64 = 1e-3;
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
    /// The coefficients are of another device, perhaps: how much one takes has to be seen first.
    is_prior: bool,
    /// Relative errors of the latest batches, at most [`ERRORS`].
    errors: VecDeque<f64>,
    median_error: f64,
}

impl Fit {
    /// Of a device that nothing is known of: `coefficients` say only how time is shared out.
    pub(super) fn unknown(coefficients: Coefficients) -> Self {
        Self { is_prior: true, ..Self::known(coefficients) }
    }

    /// Of a device that was measured earlier.
    pub(super) fn known(coefficients: Coefficients) -> Self {
        let Coefficients { batch, sequence, token, token_squared } = coefficients;
        let mut theta = [batch, sequence, token, token_squared];
        theta.iter_mut().zip(SCALES).for_each(|(theta, scale)| *theta *= scale);
        Self {
            theta,
            gram: [[0.0; N]; N],
            moment: [0.0; N],
            observations: 0,
            measured_at: Time::ZERO,
            is_prior: false,
            errors: VecDeque::with_capacity(ERRORS),
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
        if std::mem::take(&mut self.is_prior) && predicted > 0.0 {
            // Of an unknown device the first batch says how fast it is; how time is shared out, the prior.
            self.theta.iter_mut().for_each(|theta| *theta *= seconds / predicted);
        } else {
            self.note_error((predicted - seconds).abs() / seconds);
        }
        let predicted = dot(&row, &self.theta);
        let scale = seconds.max(predicted);
        let error = (seconds - predicted).abs() / scale;
        let recent = median(self.errors.iter().rev().take(RECENT));
        let changed = recent > ERROR_MIN && recent > 2.0 * self.median_error;
        let forgetting = if changed { FORGETTING_CHANGED } else { FORGETTING };
        let tolerated = (3.0 * recent.max(self.median_error)).max(ERROR_MIN);
        let weight = (tolerated / error).min(1.0) / (scale * scale);
        for (i, moment) in self.moment.iter_mut().enumerate() {
            *moment = forgetting * *moment + weight * row[i] * seconds;
            for (j, entry) in self.gram[i].iter_mut().enumerate() {
                *entry = forgetting * *entry + weight * row[i] * row[j];
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
        const ALL: u32 = (1 << N) - 1;
        if let Some(unconstrained) = solve_among(&gram, &moment, ALL) {
            return unconstrained;
        }
        let candidates = (0..ALL).filter_map(|positive| solve_among(&gram, &moment, positive));
        candidates.min_by(|a, b| objective(a).total_cmp(&objective(b))).unwrap_or(self.theta)
    }

    fn note_error(&mut self, error: f64) {
        if self.errors.len() == ERRORS {
            self.errors.pop_front();
        }
        self.errors.push_back(error);
        self.median_error = median(self.errors.iter());
    }
}

/// 0 of none.
fn median<'a>(values: impl Iterator<Item = &'a f64>) -> f64 {
    let mut values: Vec<f64> = values.copied().collect();
    let middle = values.len() / 2;
    if values.is_empty() { 0.0 } else { *values.select_nth_unstable_by(middle, f64::total_cmp).1 }
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
