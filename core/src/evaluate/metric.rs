//! The metrics themselves: their names, and their value for one query.

use std::{fmt, num::NonZeroUsize, str::FromStr};

use super::Judged;

/// How many ranks count; `None` for all. `NonZeroUsize::new(10)` is the first ten.
pub type Cutoff = Option<NonZeroUsize>;

/// A metric; the [module](super) has the definitions.
///
/// ```
/// # use std::num::NonZeroUsize;
/// # use sluice_core::evaluate::Metric;
/// assert_eq!("ndcg@10".parse(), Ok(Metric::Ndcg(NonZeroUsize::new(10))));
/// assert_eq!(Metric::Recall(NonZeroUsize::new(100)).to_string(), "recall@100");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Metric {
    /// Normalised discounted cumulative gain, the gain being the grade.
    Ndcg(Cutoff),
    /// Reciprocal rank of the first relevant document.
    Mrr(Cutoff),
    /// Average precision.
    Map,
    /// The share of the relevant documents that was retrieved.
    Recall(Cutoff),
    /// The share of the ranks that hold a relevant document.
    Precision(Cutoff),
    /// Harmonic mean of precision and recall.
    F1(Cutoff),
    /// Whether anything relevant was retrieved.
    HitRate(Cutoff),
}

/// Not the name of a metric.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown metric {name:?}: expected map, or one of ndcg, mrr, recall, precision, f1, hit_rate, \
     alone or with a cutoff of at least 1, like ndcg@10"
)]
pub struct UnknownMetric {
    /// What was given.
    pub name: String,
}

impl Metric {
    /// Its value for a query with at least one relevant document.
    pub(super) fn of(self, judged: &Judged) -> f64 {
        let relevant = judged.ideal.len() as f64;
        match self {
            Self::Ndcg(cutoff) => dcg(head(&judged.ranked, cutoff)) / dcg(head(&judged.ideal, cutoff)),
            Self::Mrr(cutoff) => {
                let first = head(&judged.ranked, cutoff).iter().position(|&grade| grade > 0);
                first.map_or(0.0, |index| 1.0 / (index + 1) as f64)
            }
            Self::Map => average_precision(&judged.ranked, relevant),
            Self::Recall(cutoff) => hits(&judged.ranked, cutoff) / relevant,
            Self::Precision(cutoff) => match ranks(&judged.ranked, cutoff) {
                0 => 0.0,
                ranks => hits(&judged.ranked, cutoff) / ranks as f64,
            },
            Self::F1(cutoff) => 2.0 * hits(&judged.ranked, cutoff) / (ranks(&judged.ranked, cutoff) as f64 + relevant),
            Self::HitRate(cutoff) => f64::from(hits(&judged.ranked, cutoff) > 0.0),
        }
    }

    fn name(self) -> (&'static str, Cutoff) {
        match self {
            Self::Ndcg(cutoff) => ("ndcg", cutoff),
            Self::Mrr(cutoff) => ("mrr", cutoff),
            Self::Map => ("map", None),
            Self::Recall(cutoff) => ("recall", cutoff),
            Self::Precision(cutoff) => ("precision", cutoff),
            Self::F1(cutoff) => ("f1", cutoff),
            Self::HitRate(cutoff) => ("hit_rate", cutoff),
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            (name, None) => f.write_str(name),
            (name, Some(cutoff)) => write!(f, "{name}@{cutoff}"),
        }
    }
}

impl FromStr for Metric {
    type Err = UnknownMetric;

    fn from_str(text: &str) -> Result<Self, UnknownMetric> {
        let unknown = || UnknownMetric { name: text.to_owned() };
        let (name, cutoff) = match text.split_once('@') {
            None => (text, None),
            Some((name, cutoff)) => (name, Some(cutoff.parse::<NonZeroUsize>().map_err(|_| unknown())?)),
        };
        match (name, cutoff) {
            ("ndcg", _) => Ok(Self::Ndcg(cutoff)),
            ("mrr", _) => Ok(Self::Mrr(cutoff)),
            ("map", None) => Ok(Self::Map),
            ("recall", _) => Ok(Self::Recall(cutoff)),
            ("precision", _) => Ok(Self::Precision(cutoff)),
            ("f1", _) => Ok(Self::F1(cutoff)),
            ("hit_rate", _) => Ok(Self::HitRate(cutoff)),
            _ => Err(unknown()),
        }
    }
}

/// Σ grade / log2(rank + 1).
fn dcg(grades: &[u32]) -> f64 {
    grades.iter().zip(2_u32..).map(|(&grade, rank_and_one)| f64::from(grade) / f64::from(rank_and_one).log2()).sum()
}

fn average_precision(ranked: &[u32], relevant: f64) -> f64 {
    let mut hits = 0.0;
    let mut sum = 0.0;
    for (index, &grade) in ranked.iter().enumerate() {
        if grade > 0 {
            hits += 1.0;
            sum += hits / (index + 1) as f64;
        }
    }
    sum / relevant
}

fn hits(ranked: &[u32], cutoff: Cutoff) -> f64 {
    head(ranked, cutoff).iter().filter(|&&grade| grade > 0).count() as f64
}

/// The ranks a share is taken of.
fn ranks(ranked: &[u32], cutoff: Cutoff) -> usize {
    cutoff.map_or(ranked.len(), NonZeroUsize::get)
}

fn head(grades: &[u32], cutoff: Cutoff) -> &[u32] {
    &grades[..cutoff.map_or(grades.len(), |cutoff| grades.len().min(cutoff.get()))]
}
