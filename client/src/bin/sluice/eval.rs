//! `sluice eval`: reranks a test collection and says how good the order is.

mod candidates;
mod ranker;
mod report;
mod score;

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, anyhow};
use clap::ValueEnum;
use futures_util::{StreamExt, stream};
use indicatif::ProgressBar;
use tokio::time::Instant;

use self::{
    candidates::Candidates,
    ranker::{Ranked, Ranker},
    report::{Latencies, Output, Within},
    score::Evaluation,
};
use crate::{
    args::{EvalArgs, EvalMethodArg},
    output::{Failure, note, print, print_json},
    progress,
    server::ServerDefault,
};

pub(crate) async fn run(args: &EvalArgs, server_default: &ServerDefault) -> Result<(), Failure> {
    if args.stored.is_some() && args.method != Some(EvalMethodArg::LateInteraction) {
        return Err(Failure::Usage("--stored is for --method late_interaction".to_owned()));
    }
    if args.run_out.is_some() && args.budget_ms.len() > 1 {
        return Err(Failure::Usage("--run-out is for one --budget-ms: a file holds one run".to_owned()));
    }
    let qrels = fs::read_to_string(&args.qrels).with_context(|| args.qrels.display().to_string())?;
    let ranker = Ranker::connect(args, server_default).await?;
    let budgets: Vec<Option<u64>> =
        if args.budget_ms.is_empty() { vec![None] } else { args.budget_ms.iter().copied().map(Some).collect() };
    let mut outputs = Vec::with_capacity(budgets.len());
    let mut written = Ok(());
    for budget in budgets {
        let (output, evaluation) = measure(args, &qrels, &ranker, budget).await?;
        if args.json {
            print_json(&output)?;
        }
        if let Some(file) = &args.run_out {
            written = write_run(file, &evaluation, &output.method);
        }
        outputs.push(output);
    }
    // What was measured is told before it is said that its file could not be written.
    if !args.json {
        print(&report::table(&outputs))?;
    }
    Ok(written?)
}

/// Ranks every candidate set within a budget of so many milliseconds, and holds the order against the judgments.
async fn measure(
    args: &EvalArgs,
    qrels: &str,
    ranker: &Ranker<'_>,
    budget_ms: Option<u64>,
) -> Result<(Output, Evaluation), Failure> {
    let mut evaluation = Evaluation::against(qrels).with_context(|| args.qrels.display().to_string())?;
    let mut candidates = Candidates::open(&args.candidates)?;
    let progress = progress::bar(Some(candidates.bytes()));
    let start = Instant::now();
    let counted = rank_all(args, (ranker, budget_ms), &mut candidates, &mut evaluation, &progress).await;
    let elapsed = start.elapsed();
    progress.finish_and_clear();
    let counted = counted?;
    let missing = evaluation.judged_without_ranking();
    if missing > 0 {
        note(&format!("judged queries without candidates: {missing}; they count as 0 where anything was relevant"));
    }
    let report = evaluation.report();
    if report.queries == 0 {
        return Err(anyhow!("{}: no query has a relevant document", args.qrels.display()).into());
    }
    let output = Output {
        queries: report.queries,
        method: name(args),
        metrics: report.metrics,
        documents_per_second: counted.documents as f64 / elapsed.as_secs_f64().max(1e-9),
        within: budget_ms.map(|budget_ms| counted.within(budget_ms)),
    };
    Ok((output, evaluation))
}

/// Ranks every candidate set, `concurrency` at once.
async fn rank_all(
    args: &EvalArgs,
    (ranker, budget_ms): (&Ranker<'_>, Option<u64>),
    candidates: &mut Candidates,
    evaluation: &mut Evaluation,
    progress: &ProgressBar,
) -> anyhow::Result<Counted> {
    let mut counted = Counted::default();
    let mut ranked = stream::iter(candidates)
        .map(|set| async move {
            let set = set?;
            let (bytes, qid) = (set.bytes, set.qid.clone());
            let ranked = ranker.rank(set, budget_ms).await.with_context(|| format!("query {qid}"))?;
            anyhow::Ok((qid, ranked, bytes))
        })
        .buffer_unordered(usize::from(args.concurrency));
    while let Some(answer) = ranked.next().await {
        let (qid, ranked, bytes) = answer?;
        counted.add(&ranked);
        evaluation.add(&qid, ranked.ids).with_context(|| args.candidates.display().to_string())?;
        progress.inc(bytes);
        progress.set_message(format!("{} documents", counted.documents));
    }
    Ok(counted)
}

/// What was ranked.
#[derive(Debug, Default)]
struct Counted {
    documents: usize,
    /// Of those, what a stage has scored.
    scored: usize,
    partial: usize,
    latencies: Vec<Duration>,
}

impl Counted {
    fn add(&mut self, ranked: &Ranked) {
        self.documents += ranked.ids.len();
        self.scored += ranked.scored;
        self.partial += usize::from(ranked.partial);
        self.latencies.push(ranked.took);
    }

    fn within(mut self, budget_ms: u64) -> Within {
        self.latencies.sort_unstable();
        Within {
            budget_ms,
            partial_queries: self.partial,
            scored_share: self.scored as f64 / self.documents.max(1) as f64,
            latency_seconds: Latencies::of(&self.latencies),
        }
    }
}

fn write_run(file: &Path, evaluation: &Evaluation, method: &str) -> anyhow::Result<()> {
    fs::write(file, evaluation.trec_run(&format!("sluice-{method}"))).with_context(|| file.display().to_string())
}

/// The method, or the stages, as they are spelt on the command line.
fn name(args: &EvalArgs) -> String {
    let method = args.method.and_then(|method| method.to_possible_value());
    method.map_or_else(|| args.spending.stage_names(), |method| method.get_name().to_owned())
}
