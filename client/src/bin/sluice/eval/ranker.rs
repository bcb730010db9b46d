//! Puts a query's candidates in order.

use std::time::Duration;

use anyhow::{Context, ensure};
use sluice_client::{Client, Rerank, RerankResponse, content_hash};
use tokio::time::Instant;

use super::candidates::CandidateSet;
use crate::{
    args::{EvalArgs, EvalMethodArg, spending::SpendingArgs},
    output::Failure,
    server::{ServerDefault, connect},
    unscored::Unscored,
};

/// Puts candidates in order.
pub(super) enum Ranker<'a> {
    /// As they are.
    Given,
    /// By a server's scores.
    Server { client: Client, template: Box<Rerank>, stored: Option<String>, spending: &'a SpendingArgs },
}

/// A query's candidates in order.
#[derive(Debug, PartialEq)]
pub(super) struct Ranked {
    /// The documents' ids, best first.
    pub ids: Vec<String>,
    /// How many have a score.
    pub scored: usize,
    /// A budget was spent before all was done.
    pub partial: bool,
    /// From the request to its answer.
    pub took: Duration,
}

impl<'a> Ranker<'a> {
    pub(super) async fn connect(args: &'a EvalArgs, server_default: &ServerDefault) -> Result<Self, Failure> {
        let mut template = Rerank::default().model(args.model.clone().unwrap_or_default());
        match args.method.map(EvalMethodArg::scored) {
            Some(None) => return Ok(Self::Given),
            Some(Some(method)) => template = template.method(method),
            None => {}
        }
        let client = connect(&args.server, server_default, args.deadline_ms).await?;
        let template = Box::new(args.spending.apply(template));
        Ok(Self::Server { client, template, stored: args.stored.clone(), spending: &args.spending })
    }

    /// Ranks them within a budget of so many milliseconds.
    pub(super) async fn rank(&self, set: CandidateSet, budget_ms: Option<u64>) -> anyhow::Result<Ranked> {
        match self {
            // A server refuses a request without documents; their order is known.
            Self::Server { client, template, stored, spending } if !set.ids.is_empty() => {
                let request = spending.within(template.as_ref().clone().query(set.query), budget_ms);
                let documents = set.ids.iter().zip(set.texts);
                let request = match stored {
                    Some(namespace) => documents
                        .fold(request, |request, (id, text)| request.stored_as(id, namespace, content_hash(&text))),
                    None => request.documents(documents),
                };
                let bounded = budget_ms.is_some() || spending.is_bounded();
                let start = Instant::now();
                let response = client.rerank(request).await?;
                in_order(set.ids, &response, bounded, start.elapsed())
            }
            Self::Given | Self::Server { .. } => {
                let scored = set.ids.len();
                Ok(Ranked { ids: set.ids, scored, partial: false, took: Duration::ZERO })
            }
        }
    }
}

/// The ids in the order of the answer, which must hold each document once; without a score those alone that were beyond
/// a budget.
fn in_order(ids: Vec<String>, response: &RerankResponse, bounded: bool, took: Duration) -> anyhow::Result<Ranked> {
    let documents = ids.len();
    let mut ids: Vec<Option<String>> = ids.into_iter().map(Some).collect();
    let mut take = |index: u32| ids.get_mut(index as usize).and_then(Option::take);
    let ranking: Option<Vec<String>> = response.results.iter().map(|result| take(result.index)).collect();
    let ranking = ranking.context("the answer names a document that was not asked for, or one twice")?;
    ensure!(ranking.len() == documents, "the answer ranks {} of {documents} documents", ranking.len());
    let unscored = Unscored::among(&response.results);
    let beyond = if bounded { unscored.budget } else { 0 };
    let lost = unscored.total() - beyond;
    ensure!(lost == 0, "{lost} of {documents} documents are unscored: {unscored}");
    Ok(Ranked { ids: ranking, scored: documents - unscored.total(), partial: response.partial, took })
}

#[cfg(test)]
mod tests {
    use sluice_client::{DocumentSource, RerankResult};

    use super::*;

    fn ranked(results: Vec<RerankResult>, bounded: bool) -> Option<Vec<String>> {
        let response = RerankResponse { results, ..RerankResponse::default() };
        let ids = ["a", "b", "c"].map(str::to_owned).to_vec();
        in_order(ids, &response, bounded, Duration::ZERO).ok().map(|ranked| ranked.ids)
    }

    #[test]
    fn an_answer_must_rank_every_document_once() {
        let cases: [(&[u32], Option<[&str; 3]>); 6] = [
            (&[2, 0, 1], Some(["c", "a", "b"])),
            (&[0, 1, 2], Some(["a", "b", "c"])),
            (&[0, 1], None),
            (&[0, 1, 1], None),
            (&[0, 1, 3], None),
            (&[0, 1, 2, 2], None),
        ];
        for (indices, expected) in cases {
            let results = indices.iter().map(|&index| RerankResult { index, ..RerankResult::default() }).collect();
            assert_eq!(ranked(results, false), expected.map(|ids| ids.map(str::to_owned).to_vec()), "{indices:?}");
        }
    }

    #[test]
    fn what_is_unscored_was_beyond_the_budget() {
        let cases = [
            (DocumentSource::NoneBudget, true, true),
            (DocumentSource::NoneBudget, false, false),
            (DocumentSource::NoneMissing, true, false),
        ];
        for (source, bounded, fine) in cases {
            let result =
                |index| RerankResult { index, unscored: index == 2, source: source.into(), ..RerankResult::default() };
            assert_eq!(ranked((0..3).map(result).collect(), bounded).is_some(), fine, "{source:?} {bounded}");
        }
    }
}
