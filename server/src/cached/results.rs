//! From what a lane computes to scores.

use sluice_core::Operation;

use crate::engine::SlotValue;

/// Turns a request's results into its documents' scores: the query's own result is none, and pooled vectors become
/// cosines.
pub(super) struct Results {
    /// The first unit is the query.
    query: bool,
    /// For dense requests.
    cosines: Option<Cosines>,
}

/// Cosines of normalised vectors, as these come.
#[derive(Default)]
struct Cosines {
    query: Option<Vec<f32>>,
    /// Those that came before the query's.
    early: Vec<(u32, Vec<f32>)>,
}

impl Results {
    pub(super) fn new(operation: Operation, query: bool) -> Self {
        Self { query, cosines: (operation == Operation::EncodeDense).then(Cosines::default) }
    }

    /// Whether the query's result is kept here, so that further documents need no other.
    pub(super) fn has_query(&self) -> bool {
        self.cosines.as_ref().is_some_and(|cosines| cosines.query.is_some())
    }

    /// Values of documents, by unit; what is no score is a fault of the backend, and passed on.
    pub(super) fn scores(&mut self, results: impl IntoIterator<Item = (u32, SlotValue)>) -> Vec<(u32, SlotValue)> {
        let mut scores = Vec::new();
        for (unit, value) in results {
            match (&mut self.cosines, value) {
                (Some(cosines), SlotValue::Dense(vector)) if unit == 0 => cosines.query(vector, &mut scores),
                (Some(cosines), SlotValue::Dense(vector)) => cosines.document(unit, vector, &mut scores),
                // Late interaction's: 0, and means nothing.
                (None, SlotValue::Score(_)) if self.query && unit == 0 => {}
                (_, value) => scores.push((unit, value)),
            }
        }
        scores
    }
}

impl Cosines {
    /// The first one counts; one that was computed again is the same.
    fn query(&mut self, vector: Vec<f32>, scores: &mut Vec<(u32, SlotValue)>) {
        self.query.get_or_insert(vector);
        for (unit, vector) in std::mem::take(&mut self.early) {
            self.document(unit, vector, scores);
        }
    }

    fn document(&mut self, unit: u32, vector: Vec<f32>, scores: &mut Vec<(u32, SlotValue)>) {
        match &self.query {
            Some(query) => {
                let cosine = query.iter().zip(&vector).map(|(q, d)| f64::from(*q) * f64::from(*d)).sum::<f64>();
                scores.push((unit, SlotValue::Score(cosine as f32)));
            }
            None => self.early.push((unit, vector)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pooled_vectors_wait_for_the_query() {
        let mut results = Results::new(Operation::EncodeDense, true);
        let vector = |unit, x: f32, y: f32| (unit, SlotValue::Dense(vec![x, y]));
        let score = |unit, score| (unit, SlotValue::Score(score));
        assert_eq!(results.scores([vector(1, 0.6, 0.8)]), []);
        assert!(!results.has_query());
        assert_eq!(results.scores([vector(0, 1.0, 0.0), vector(2, 0.8, 0.6)]), [score(1, 0.6), score(2, 0.8)]);
        assert!(results.has_query());
        assert_eq!(results.scores([vector(3, 0.0, 1.0)]), [score(3, 0.0)]);
    }

    #[test]
    fn a_querys_own_score_is_none() {
        let score = |unit, score| (unit, SlotValue::Score(score));
        let cases = [
            (Operation::LateInteraction, true, vec![score(1, 3.0)]),
            (Operation::LateInteraction, false, vec![score(0, 0.0), score(1, 3.0)]),
            (Operation::CrossEncode, false, vec![score(0, 0.0), score(1, 3.0)]),
        ];
        for (operation, query, expected) in cases {
            let found = Results::new(operation, query).scores([score(0, 0.0), score(1, 3.0)]);
            assert_eq!(found, expected, "{operation:?} {query}");
        }
    }
}
