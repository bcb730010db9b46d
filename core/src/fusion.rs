//! How several legs' lists become one.
//!
//! A *leg* is one way of finding documents (words, a dense vector, a sparse one); its list holds the documents that it
//! found, each with the leg's own score. [`fuse`] gives every document one score, and keeps what each leg said of it.
//!
//! With `rank` from 1 in a leg's list, `w` the leg's weight and `s` its normalised score of the document:
//!
//! | method | fused score | source |
//! |---|---|---|
//! | [`Method::Rrf`] | Σ `w` / (`k` + `rank`) | Cormack, Clarke, Büttcher, SIGIR 2009, with weights as Elasticsearch and OpenSearch have them |
//! | [`Method::Dbsf`] | Σ `w · s`, `s` = (score − (μ − 3σ)) / 6σ of the list | Mazzeschi, 2023, with the sample deviation that Qdrant takes |
//! | [`Method::CombSum`] | Σ `w · s` | Fox and Shaw, TREC-2, 1994 |
//! | [`Method::CombMnz`] | Σ `w · s` × legs that have the document | the same |
//! | [`Method::Convex`] | Σ `w · s` / Σ `w` | Bruch, Gai, Ingber, TOIS 2023 (arXiv 2210.11934) |
//!
//! A leg that does not have a document adds nothing. Sums run over the legs in their order, in f64: the same lists give
//! the same bits. Equal fused scores are in ascending order of id, and so are equal scores in a list before its ranks are
//! counted. For a few hundred hits this costs some tens of microseconds: a hash lookup a hit, and a sort.

mod adaptive;
mod cursor;
mod normalize;

use std::{cmp::Ordering, collections::HashMap, hash::Hash};

pub use self::{
    adaptive::{FACTOR_MAX, FACTOR_MIN, LegKind, QueryFeatures, agreement, factors, rarity},
    cursor::{Cursor, CursorError, FINGERPRINT_BYTES},
    normalize::Normalization,
};

/// What a list may weigh at most: with scores of f32 no sum of weighted ones leaves f64 then.
pub const WEIGHT_MAX: f64 = 1e6;
/// The k of RRF where none is given.
pub const RRF_K: f64 = 60.0;

/// How lists become one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// Reciprocal rank fusion.
    Rrf {
        /// Added to every rank; finite, not negative.
        k: f64,
    },
    /// Distribution-based score fusion; 0.5 for every hit of a list whose scores are all equal.
    Dbsf,
    /// Sum of normalised scores.
    CombSum(Normalization),
    /// The same, times the number of legs that have the document.
    CombMnz(Normalization),
    /// Weighted mean of normalised scores, 0 where a leg does not have the document. 0 if all weights are.
    Convex(Normalization),
}

impl Default for Method {
    fn default() -> Self {
        Self::Rrf { k: RRF_K }
    }
}

/// What one leg found.
#[derive(Clone, Debug, PartialEq)]
pub struct RankedList<Id> {
    hits: Vec<(Id, f32)>,
    weight: f64,
    floor: Option<f64>,
}

impl<Id: Ord> RankedList<Id> {
    /// A list with weight 1, of hits in any order. It is put in order here: larger scores first, equal ones by ascending
    /// id. NaN is no score, so such a hit is left out; infinite ones count as the largest finite ones. `floor` is the least
    /// score that the leg could give, if there is one.
    #[must_use]
    pub fn new(hits: impl IntoIterator<Item = (Id, f32)>, floor: Option<f64>) -> Self {
        let finite = |(id, score): (Id, f32)| (!score.is_nan()).then(|| (id, score.clamp(f32::MIN, f32::MAX)));
        let mut hits: Vec<_> = hits.into_iter().filter_map(finite).collect();
        hits.sort_by(|(a, a_score), (b, b_score)| descending(f64::from(*a_score), f64::from(*b_score)).then(a.cmp(b)));
        Self { hits, weight: 1.0, floor }
    }

    /// The same list with another weight, not negative and at most [`WEIGHT_MAX`]: then no fused score is NaN or infinite.
    #[must_use]
    pub fn with_weight(self, weight: f64) -> Self {
        Self { weight, ..self }
    }

    /// What it counts.
    #[must_use]
    pub fn weight(&self) -> f64 {
        self.weight
    }

    /// Best first.
    #[must_use]
    pub fn hits(&self) -> &[(Id, f32)] {
        &self.hits
    }

    fn scores(&self) -> Vec<f64> {
        self.hits.iter().map(|(_, score)| f64::from(*score)).collect()
    }
}

/// One document of the fused list.
#[derive(Clone, Debug, PartialEq)]
pub struct FusedHit<Id> {
    /// Which.
    pub id: Id,
    /// Larger is better; finite.
    pub score: f64,
    /// The legs that have it, in their order; at least one.
    pub legs: Vec<LegPlace>,
}

/// What one leg said of a document.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LegPlace {
    /// Position of the leg's list among the lists.
    pub leg: usize,
    /// Place in it, from 1.
    pub rank: u32,
    /// The leg's own score.
    pub score: f32,
    /// What it adds to the fused score: of CombMNZ, before it is multiplied.
    pub contribution: f64,
}

/// Fuses `lists`: every document that at least one of them has, best first, equal scores by ascending id. Of a document
/// that a list has twice, the better place counts.
///
/// ```
/// use sluice_core::fusion::{Method, RankedList, fuse};
///
/// let words = RankedList::new([("a", 7.1), ("b", 3.2)], Some(0.0));
/// let dense = RankedList::new([("b", 0.8), ("c", 0.7)], Some(-1.0));
/// let fused = fuse(&[words, dense], Method::default());
/// let order: Vec<_> = fused.iter().map(|hit| hit.id).collect();
/// assert_eq!(order, ["b", "a", "c"]);
/// assert_eq!(fused[0].score, 1.0 / 62.0 + 1.0 / 61.0);
/// ```
#[must_use]
pub fn fuse<Id: Clone + Eq + Hash + Ord>(lists: &[RankedList<Id>], method: Method) -> Vec<FusedHit<Id>> {
    let mut found: HashMap<&Id, Vec<LegPlace>> = HashMap::new();
    for (leg, list) in lists.iter().enumerate() {
        for ((id, score), (rank, value)) in list.hits.iter().zip((1..).zip(values(list, method))) {
            let places = found.entry(id).or_default();
            if places.last().is_none_or(|place| place.leg != leg) {
                places.push(LegPlace { leg, rank, score: *score, contribution: value });
            }
        }
    }
    let weights: f64 = lists.iter().map(|list| list.weight).sum();
    let fused = found.into_iter().map(|(id, mut legs)| {
        if matches!(method, Method::Convex(_)) {
            for place in &mut legs {
                place.contribution = if weights > 0.0 { place.contribution / weights } else { 0.0 };
            }
        }
        let sum: f64 = legs.iter().map(|place| place.contribution).sum();
        let score = if matches!(method, Method::CombMnz(_)) { sum * legs.len() as f64 } else { sum };
        FusedHit { id: id.clone(), score, legs }
    });
    let mut fused: Vec<_> = fused.collect();
    fused.sort_by(|a, b| descending(a.score, b.score).then_with(|| a.id.cmp(&b.id)));
    fused
}

/// What each hit of a list is worth, weight included.
fn values<Id: Ord>(list: &RankedList<Id>, method: Method) -> Vec<f64> {
    let values = match method {
        Method::Rrf { k } => (1..=list.hits.len()).map(|rank| reciprocal(k, rank)).collect(),
        Method::Dbsf => normalize::by_distribution(&list.scores()),
        Method::CombSum(normalization) | Method::CombMnz(normalization) | Method::Convex(normalization) => {
            normalization.apply(&list.scores(), list.floor)
        }
    };
    values.into_iter().map(|value| list.weight * value).collect()
}

fn reciprocal(k: f64, rank: usize) -> f64 {
    1.0 / (k + rank as f64)
}

/// Larger first, NaN last: an order whatever comes. -0 and 0 are one score, so this is not `total_cmp`.
fn descending(a: f64, b: f64) -> Ordering {
    b.partial_cmp(&a).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

#[cfg(test)]
mod tests;
