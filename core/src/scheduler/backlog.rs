//! Work that waits, summed by lane.

use crate::{
    Lane,
    cost::{BatchShape, CostModel},
};

/// Shapes by lane. A request has one or two lanes, a server a handful.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Backlog(Vec<(Lane, BatchShape)>);

impl Backlog {
    pub(super) fn add(&mut self, lane: Lane, shape: BatchShape) {
        match self.0.iter_mut().find(|(of, _)| *of == lane) {
            Some((_, sum)) => *sum += shape,
            None => self.0.push((lane, shape)),
        }
    }

    pub(super) fn subtract(&mut self, lane: Lane, shape: BatchShape) {
        if let Some((_, sum)) = self.0.iter_mut().find(|(of, _)| *of == lane) {
            *sum -= shape;
        }
    }

    /// What waits of a lane.
    pub(super) fn of(&self, lane: Lane) -> BatchShape {
        self.0.iter().find(|(of, _)| *of == lane).map_or_else(BatchShape::default, |(_, shape)| *shape)
    }

    pub(super) fn lanes(&self) -> impl Iterator<Item = (Lane, BatchShape)> + '_ {
        self.0.iter().copied().filter(|(_, shape)| !shape.is_empty())
    }

    /// Seconds that it takes by itself, in batches of at most `batch_seconds(fixed cost)` each.
    pub(super) fn seconds(&self, cost: &CostModel, batch_seconds: impl Fn(f64) -> f64) -> f64 {
        self.lanes()
            .map(|(lane, shape)| {
                let coefficients = cost.coefficients(lane);
                let work = coefficients.marginal_seconds(shape);
                let room = (batch_seconds(coefficients.batch) - coefficients.batch).max(f64::MIN_POSITIVE);
                work + coefficients.batch * (work / room).max(1.0).min(shape.sequences as f64)
            })
            .sum()
    }
}
