//! `sluice eval`: reranks a test collection and says how good the order is.

mod candidates;
mod score;

use std::{fs, path::Path};

use anyhow::{Context, anyhow, ensure};
use clap::ValueEnum;
use futures_util::{StreamExt, stream};
use indicatif::ProgressBar;
use serde::{Serialize, Serializer};
use sluice_client::{Client, Rerank, RerankResponse, content_hash, table};
use tokio::time::Instant;

use self::{
    candidates::{CandidateSet, Candidates},
    score::Evaluation,
};
use crate::{
    args::{EvalArgs, EvalMethodArg},
    output::{Failure, note, print, print_json, width},
    progress,
    server::connect,
    unscored::Unscored,
};

pub(crate) async fn run(args: &EvalArgs, server_default: &str) -> Result<(), Failure> {
    if args.stored.is_some() && args.method != EvalMethodArg::LateInteraction {
        return Err(Failure::Usage("--stored is for --method late_interaction".to_owned()));
    }
    let qrels = fs::read_to_string(&args.qrels).with_context(|| args.qrels.display().to_string())?;
    let mut evaluation = Evaluation::against(&qrels).with_context(|| args.qrels.display().to_string())?;
    let mut candidates = Candidates::open(&args.candidates)?;
    let ranker = Ranker::connect(args, server_default).await?;

    let progress = progress::bar(Some(candidates.bytes()));
    let start = Instant::now();
    let ranked = rank_all(args, &ranker, &mut candidates, &mut evaluation, &progress).await;
    let elapsed = start.elapsed();
    progress.finish_and_clear();
    let documents = ranked?;
    let missing = evaluation.judged_without_ranking();
    if missing > 0 {
        note(&format!("judged queries without candidates: {missing}; they count as 0 where anything was relevant"));
    }
    let report = evaluation.report();
    if report.queries == 0 {
        return Err(anyhow!("{}: no query has a relevant document", args.qrels.display()).into());
    }

    let method = name(args.method);
    let written = args.run_out.as_deref().map_or(Ok(()), |file| write_run(file, &evaluation, &method));
    let documents_per_second = documents as f64 / elapsed.as_secs_f64().max(1e-9);
    let output = Output { queries: report.queries, method, metrics: report.metrics, documents_per_second };
    // What was measured is told before it is said that its file could not be written.
    if args.json {
        print_json(&output)?;
    } else {
        print(&output.table())?;
    }
    Ok(written?)
}

/// Ranks every candidate set, `concurrency` at once; says how many documents there were.
async fn rank_all(
    args: &EvalArgs,
    ranker: &Ranker,
    candidates: &mut Candidates,
    evaluation: &mut Evaluation,
    progress: &ProgressBar,
) -> anyhow::Result<usize> {
    let mut documents = 0;
    let mut ranked = stream::iter(candidates)
        .map(|set| async move {
            let set = set?;
            let (bytes, qid) = (set.bytes, set.qid.clone());
            let ranking = ranker.rank(set).await.with_context(|| format!("query {qid}"))?;
            anyhow::Ok((qid, ranking, bytes))
        })
        .buffer_unordered(usize::from(args.concurrency));
    while let Some(answer) = ranked.next().await {
        let (qid, ranking, bytes) = answer?;
        documents += ranking.len();
        evaluation.add(&qid, ranking).with_context(|| args.candidates.display().to_string())?;
        progress.inc(bytes);
        progress.set_message(format!("{documents} documents"));
    }
    Ok(documents)
}

/// Puts candidates in order.
enum Ranker {
    /// As they are.
    Given,
    /// By a server's scores.
    Server { client: Client, template: Box<Rerank>, stored: Option<String> },
}

impl Ranker {
    async fn connect(args: &EvalArgs, server_default: &str) -> Result<Self, Failure> {
        let Some(method) = args.method.scored() else { return Ok(Self::Given) };
        let client = connect(&args.server, server_default, args.deadline_ms).await?;
        let template = Rerank::default().method(method).model(args.model.clone().unwrap_or_default());
        Ok(Self::Server { client, template: Box::new(template), stored: args.stored.clone() })
    }

    /// The documents' ids, best first.
    async fn rank(&self, set: CandidateSet) -> anyhow::Result<Vec<String>> {
        match self {
            // A server refuses a request without documents; their order is known.
            Self::Server { client, template, stored } if !set.ids.is_empty() => {
                let request = template.clone().query(set.query);
                let documents = set.ids.iter().zip(set.texts);
                let request = match stored {
                    Some(namespace) => documents
                        .fold(request, |request, (id, text)| request.stored_as(id, namespace, content_hash(&text))),
                    None => request.documents(documents),
                };
                in_order(set.ids, &client.rerank(request).await?)
            }
            Self::Given | Self::Server { .. } => Ok(set.ids),
        }
    }
}

/// The ids in the order of the answer, which must hold each document once.
fn in_order(ids: Vec<String>, response: &RerankResponse) -> anyhow::Result<Vec<String>> {
    let documents = ids.len();
    let mut ids: Vec<Option<String>> = ids.into_iter().map(Some).collect();
    let mut take = |index: u32| ids.get_mut(index as usize).and_then(Option::take);
    let ranking: Option<Vec<String>> = response.results.iter().map(|result| take(result.index)).collect();
    let ranking = ranking.context("the answer names a document that was not asked for, or one twice")?;
    ensure!(ranking.len() == documents, "the answer ranks {} of {documents} documents", ranking.len());
    let unscored = Unscored::among(&response.results);
    ensure!(unscored.total() == 0, "{} of {documents} documents are unscored: {unscored}", unscored.total());
    Ok(ranking)
}

fn write_run(file: &Path, evaluation: &Evaluation, method: &str) -> anyhow::Result<()> {
    fs::write(file, evaluation.trec_run(&format!("sluice-{method}"))).with_context(|| file.display().to_string())
}

/// As it is spelt on the command line.
fn name(method: EvalMethodArg) -> String {
    method.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// What `--json` prints; `sluice eval --help` documents it.
#[derive(Serialize)]
struct Output {
    queries: usize,
    method: String,
    #[serde(serialize_with = "as_object")]
    metrics: Vec<(String, f64)>,
    documents_per_second: f64,
}

/// An object whose keys keep their order.
fn as_object<S: Serializer>(metrics: &[(String, f64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(metrics.iter().map(|(name, value)| (name, value)))
}

impl Output {
    fn table(&self) -> String {
        let mut table = table::plain(width());
        table.set_header(["metric", &self.method]);
        for (name, value) in &self.metrics {
            table.add_row([name.into(), table::right(format!("{value:.4}"))]);
        }
        table.add_row(["queries".into(), table::right(self.queries.to_string())]);
        table.add_row(["documents/s".into(), table::right(format!("{:.1}", self.documents_per_second))]);
        table.to_string()
    }
}

#[cfg(test)]
mod tests {
    use sluice_client::RerankResult;

    use super::*;

    #[test]
    fn an_answer_must_rank_every_document_once() {
        let cases: [(&[u32], Option<&[&str]>); 6] = [
            (&[2, 0, 1], Some(&["c", "a", "b"])),
            (&[0, 1, 2], Some(&["a", "b", "c"])),
            (&[0, 1], None),
            (&[0, 1, 1], None),
            (&[0, 1, 3], None),
            (&[0, 1, 2, 2], None),
        ];
        for (indices, expected) in cases {
            let results = indices.iter().map(|&index| RerankResult { index, ..RerankResult::default() }).collect();
            let response = RerankResponse { results, ..RerankResponse::default() };
            let ranking = in_order(["a", "b", "c"].map(str::to_owned).to_vec(), &response).ok();
            assert_eq!(
                ranking.as_deref(),
                expected.map(|ids| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>()).as_deref(),
                "{indices:?}"
            );
        }
    }
}
