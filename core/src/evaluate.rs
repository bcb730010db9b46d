//! How good an order is: metrics of information retrieval over judged queries.
//!
//! The definitions are trec_eval's, and the values agree with `ir-measures` (its `pytrec_eval` provider)
//! to rounding; `tests/ir_measures.rs` compares them. With `rank` from 1, a document *relevant* when its
//! grade is at least 1, `hits@k` the relevant documents among the first `k` retrieved, and `R` all
//! relevant documents of the query:
//!
//! | name | value for one query | in `ir-measures` |
//! |---|---|---|
//! | `ndcg@k` | DCG of the first `k` / DCG of the `k` best grades of the query, DCG = Σ max(grade, 0) / log2(rank + 1) | `nDCG@k` |
//! | `mrr@k` | 1 / rank of the first relevant document if that is ≤ `k`, else 0 | `RR@k` |
//! | `map` | Σ over retrieved relevant documents of hits@rank / rank, divided by `R` | `AP` |
//! | `recall@k` | hits@k / `R` | `R@k` |
//! | `precision@k` | hits@k / `k`, however few were retrieved | `P@k` |
//! | `f1@k` | 2 · hits@k / (`k` + `R`), the harmonic mean of the two above | from `P@k` and `R@k` |
//! | `hit_rate@k` | 1 if hits@k > 0, else 0 | `Success@k` |
//!
//! Without `@k` a metric looks at everything retrieved, and for precision and F1 `k` is then the number
//! retrieved (`SetP`, `SetF`). A document that nobody judged has grade 0; so has, for the gain, a negative
//! grade.
//!
//! The mean is taken over the queries that have a relevant document. One that the run lacks counts 0, as
//! in `ir-measures` and `trec_eval -c`; plain `trec_eval` would leave it out. A query judged without any
//! relevant document is left out, because no order of it is better than another; `ir-measures` and
//! `trec_eval` count it as 0, so drop such queries from the qrels before comparing. A query that has no
//! judgments is left out by all of them.

mod metric;
mod trec;

pub use self::{
    metric::{Cutoff, Metric, UnknownMetric},
    trec::{InsertError, LineFault, ParseError, Qrels, Run},
};

/// What an order is worth.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Queries the means are over.
    pub queries: usize,
    /// Name and mean of each metric, as asked for and in that order. All 0 if there are no queries.
    pub metrics: Vec<(String, f64)>,
}

/// The mean of each metric over the queries of `qrels` that have a relevant document.
#[must_use]
pub fn evaluate(qrels: &Qrels, run: &Run, metrics: &[Metric]) -> Report {
    let mut queries = 0;
    let mut sums = vec![0.0; metrics.len()];
    for query in qrels.queries() {
        let judged = qrels.judged(query, run.ranking(query).unwrap_or_default());
        if judged.ideal.is_empty() {
            continue;
        }
        queries += 1;
        for (sum, metric) in sums.iter_mut().zip(metrics) {
            *sum += metric.of(&judged);
        }
    }
    let mean = |sum: f64| if queries == 0 { 0.0 } else { sum / queries as f64 };
    let metrics = metrics.iter().zip(sums).map(|(metric, sum)| (metric.to_string(), mean(sum))).collect();
    Report { queries, metrics }
}

/// One query's order in grades: all that a metric sees of it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Judged {
    /// Grades of what was retrieved, best rank first; 0 where not judged, or judged below 0.
    ranked: Vec<u32>,
    /// Every grade of at least 1 of the query, largest first.
    ideal: Vec<u32>,
}

#[cfg(test)]
mod tests;
