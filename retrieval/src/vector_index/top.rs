//! The best of what a search comes by.

use std::{cmp::Ordering, collections::BinaryHeap};

use super::Hit;
use crate::identity::DocId;

/// Room that is made at once; more comes as it is needed, so that a large `k` costs nothing where little is found.
const ROOM_AT_ONCE: usize = 1024;

/// Keeps the `k` best: the largest scores, of equal ones the smallest numbers. NaN counts as −∞.
#[derive(Debug)]
pub(crate) struct TopK {
    k: usize,
    /// The worst on top.
    kept: BinaryHeap<Worst>,
}

/// A hit, the larger the worse.
#[derive(Clone, Copy, Debug)]
struct Worst(Hit);

impl TopK {
    pub(crate) fn new(k: usize) -> Self {
        Self { k, kept: BinaryHeap::with_capacity(k.min(ROOM_AT_ONCE)) }
    }

    /// Whether something with at most this score may still be kept, whatever its number.
    pub(crate) fn may_keep(&self, score: f32) -> bool {
        self.kept.len() < self.k || self.kept.peek().is_some_and(|worst| score >= worst.0.score)
    }

    /// The worst score that is kept, once `k` are.
    pub(crate) fn floor(&self) -> Option<f32> {
        if self.kept.len() < self.k { None } else { self.kept.peek().map(|worst| worst.0.score) }
    }

    pub(crate) fn push(&mut self, document: DocId, score: f32) {
        let score = if score.is_nan() { f32::NEG_INFINITY } else { score };
        let new = Worst(Hit { document, score });
        if self.kept.len() < self.k {
            self.kept.push(new);
        } else if let Some(mut worst) = self.kept.peek_mut()
            && new < *worst
        {
            *worst = new;
        }
    }

    /// Best first.
    pub(crate) fn into_hits(self) -> Vec<Hit> {
        self.kept.into_sorted_vec().into_iter().map(|worst| worst.0).collect()
    }
}

impl Ord for Worst {
    fn cmp(&self, other: &Self) -> Ordering {
        let score = other.0.score.partial_cmp(&self.0.score).unwrap_or(Ordering::Equal);
        score.then(self.0.document.cmp(&other.0.document))
    }
}

impl PartialOrd for Worst {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Worst {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Worst {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_are_kept_and_ties_go_to_the_smallest_number() {
        let pushed = [(5, 1.0), (9, 3.0), (2, 1.0), (7, f32::NAN), (1, 3.0), (3, 1.0), (8, -0.0), (4, 0.0)];
        for (k, expected) in
            [(0, &[][..]), (1, &[1]), (3, &[1, 9, 2]), (5, &[1, 9, 2, 3, 5]), (99, &[1, 9, 2, 3, 5, 4, 8, 7])]
        {
            let mut top = TopK::new(k);
            for (document, score) in pushed {
                top.push(DocId(document), score);
            }
            let found: Vec<u32> = top.into_hits().iter().map(|hit| hit.document.0).collect();
            assert_eq!(found, expected, "k = {k}");
        }
    }

    #[test]
    fn what_cannot_be_kept_is_known_before() {
        let mut top = TopK::new(2);
        assert!(top.may_keep(f32::NEG_INFINITY) && top.floor().is_none());
        top.push(DocId(1), 2.0);
        top.push(DocId(2), 1.0);
        assert_eq!(top.floor(), Some(1.0));
        assert!(top.may_keep(1.0) && !top.may_keep(0.9) && top.may_keep(1.1));
        assert!(!TopK::new(0).may_keep(f32::INFINITY));
    }
}
