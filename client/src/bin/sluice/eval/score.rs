//! Orders against judgments: the one place here that knows `sluice_core::evaluate`.

use std::num::NonZeroUsize;

use sluice_core::evaluate::{self, InsertError, Metric, ParseError, Qrels, Report, Run};

/// Ranks that most metrics look at, and those that recall looks at: what `ndcg@10` and `recall@100` say.
const TOP: Option<NonZeroUsize> = NonZeroUsize::new(10);
const POOL: Option<NonZeroUsize> = NonZeroUsize::new(100);

/// What is reported, in this order.
const METRICS: [Metric; 7] = [
    Metric::Ndcg(TOP),
    Metric::Mrr(TOP),
    Metric::Map,
    Metric::Recall(POOL),
    Metric::Precision(TOP),
    Metric::F1(TOP),
    Metric::HitRate(TOP),
];

/// Judgments, and the rankings that are held against them.
#[derive(Debug)]
pub(crate) struct Evaluation {
    qrels: Qrels,
    run: Run,
}

impl Evaluation {
    /// Reads judgments; nothing is ranked yet.
    pub(crate) fn against(qrels: &str) -> Result<Self, ParseError> {
        Ok(Self { qrels: Qrels::parse(qrels)?, run: Run::new() })
    }

    /// Adds the ranking of a query, best document first.
    pub(crate) fn add(&mut self, query: &str, ranking: Vec<String>) -> Result<(), InsertError> {
        self.run.insert(query, ranking)
    }

    /// Queries with judgments but no ranking.
    pub(crate) fn judged_without_ranking(&self) -> usize {
        self.qrels.queries().filter(|query| self.run.ranking(query).is_none()).count()
    }

    /// Means over the queries with a relevant document.
    pub(crate) fn report(&self) -> Report {
        evaluate::evaluate(&self.qrels, &self.run, &METRICS)
    }

    /// The rankings as a TREC run, scores strictly decreasing.
    pub(crate) fn trec_run(&self, tag: &str) -> String {
        self.run.to_trec(tag)
    }
}
