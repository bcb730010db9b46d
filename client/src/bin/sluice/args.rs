//! The command line.

pub(crate) mod explain;
pub(crate) mod index;
pub(crate) mod spending;
pub(crate) mod tokens;

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use sluice_client::{LongDocument, Method, ScoreKind};

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage.";

const DOCUMENTS_HELP: &str = "\
Documents, one a line, in UTF-8:
  A line that begins with `{` and is a JSON object with a string \"text\" is a document of that text;
  its \"id\", a string or a number, comes back with the result, and other keys mean nothing.
  Any other line is a document as it stands, also one that begins with `{` but is no such object.
  A document without an id is called by its line number, from 1. Blank lines are skipped.
With --stored, every line is {\"id\"} or {\"id\", \"text\"}: the document that the server's token store has under
that id, as `sluice tokens put` has put it. With a text, that is encoded where nothing is stored or what is
stored was made from another text; without, such a document is unscored and comes last.

Output with --json, one object on one line; absent values are null:
  {\"query\", \"model\", \"model_digest\", \"method\", \"score_kind\", \"documents\",
   \"partial\", \"partial_reasons\": [\"stored_document_unavailable\", \"budget\"],
   \"results\": [{\"rank\", \"index\", \"id\", \"score\", \"stage\", \"unscored\", \"source\", \"tokens\", \"truncated\",
                \"best_chunk\", \"text\"}, …],
   \"usage\": {\"query_tokens\", \"document_tokens\", \"computed_tokens\", \"cached_tokens\"},
   \"timing\": {\"queue_seconds\", \"tokenize_seconds\", \"compute_seconds\", \"total_seconds\"}}
  rank counts from 1, index is the document's position in the input, from 0;
  best_chunk is {\"index\", \"byte_start\", \"byte_end\"} where a document was scored in chunks;
  source says what was scored: text, stored, text_for_missing or text_for_stale; of an unscored document
  none_missing, none_stale or none_budget, and its score is null. stage is the last one that scored it, from 1,
  and 0 for an unscored document. partial says that some documents were not scored by every stage that they
  should have reached, partial_reasons why.

Exit codes: 0 done, 1 failed, 2 wrong usage.";

const MODELS_HELP: &str = "\
Output with --json, one object on one line:
  {\"models\": [{\"name\", \"is_default\", \"digest\", \"source\", \"architecture\", \"backend\",
               \"capabilities\", \"max_tokens\", \"embedding_dim\", \"parameters\"}, …]}

Exit codes: 0 done, 1 failed, 2 wrong usage.";

const EVAL_HELP: &str = "\
Candidates, one query a line: {\"qid\", \"query\", \"documents\": [{\"id\", \"text\"}, …]}.
Qrels, as TREC has them: `query iteration document grade`.

With --stored, the documents are taken from the server's token store, where `sluice tokens put` has put them
under the same ids; the texts are not sent, only their hashes. A document that is not there, or was made from
another text, ends the command.

Means are over the queries that have a relevant document (grade 1 or more); one of them without
candidates counts as 0. nDCG's gain is the grade itself, as in trec_eval.

--run-out writes TREC's `query Q0 document rank score tag`. There the score of the document at rank r
of n is n + 1 - r, not the model's: scores decrease strictly even where the model's are equal or too
close for 32 bits, so trec_eval finds exactly the order that was scored here.

Output with --json, one object on one line:
  {\"queries\", \"method\",
   \"metrics\": {\"ndcg@10\", \"mrr@10\", \"map\", \"recall@100\", \"precision@10\", \"f1@10\", \"hit_rate@10\"},
   \"documents_per_second\"}
  documents_per_second is over the time from the first request to the last answer (for the method
  `none`, from the first line read to the last).
With --budget-ms, one such object for each budget, on a line of its own, with besides
   \"budget_ms\", \"partial_queries\", \"scored_share\", \"latency_seconds\": {\"p50\", \"p90\", \"max\"}
  partial_queries counts answers that were partial; scored_share is the share of documents that have a score;
  latencies are those of the calls, where --concurrency 1 leaves each the server alone. The table has a row for each.

Exit codes: 0 done, 1 failed, 2 wrong usage.";

/// Talk to a Sluice server: rerank documents, keep and explain their token vectors, list models, measure how good an
/// order is; and fill a first-stage shard.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, after_help = EXIT_CODES)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Put documents in order for a query, best first.
    #[command(after_help = DOCUMENTS_HELP)]
    Rerank(RerankArgs),
    /// List the models of a server.
    #[command(after_help = MODELS_HELP)]
    Models(ModelsArgs),
    /// Rerank a test collection and compare the order with people's judgments.
    #[command(after_help = EVAL_HELP)]
    Eval(EvalArgs),
    /// Show which words a late-interaction score comes from.
    #[command(after_help = explain::HELP)]
    Explain(explain::ExplainArgs),
    /// Write documents to a collection of a first-stage shard, embedded by a server on the way.
    #[command(after_help = index::HELP)]
    Index(Box<index::IndexArgs>),
    /// Keep documents' token vectors on the server, so that reranking carries ids instead of texts.
    #[command(subcommand, after_help = EXIT_CODES)]
    Tokens(tokens::TokensCommand),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RerankArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    /// Name of the model [default: the server's default model]
    #[arg(long, value_name = "M")]
    pub model: Option<String>,
    /// How to score [default: what the model is made for]
    #[arg(long, conflicts_with = "stages")]
    pub method: Option<MethodArg>,
    #[command(flatten)]
    pub spending: spending::SpendingArgs,
    /// Time from the request's arrival, after which the best order known is the answer
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    pub budget_ms: Option<u64>,
    /// What the documents are scored against
    #[arg(long, value_name = "Q")]
    pub query: String,
    /// Take the documents from this namespace of the server's token store
    #[arg(long, value_name = "NAMESPACE")]
    pub stored: Option<String>,
    /// Results to print; 0 prints all
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub top_n: u32,
    /// Leave out results with a lower score
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true, value_parser = finite)]
    pub min_score: Option<f32>,
    /// Scale of the scores; `sigmoid` is for cross_encoder
    #[arg(long)]
    pub score_kind: Option<ScoreKindArg>,
    /// Tokens of a document that are read at once [default: what fits]
    #[arg(long, value_name = "N")]
    pub max_tokens_per_document: Option<u32>,
    /// What happens to a longer one: read its beginning, or score its chunks and take the best or their mean
    #[arg(long)]
    pub long_document: Option<LongDocumentArg>,
    /// Time for the whole call, retries included
    #[arg(long, value_name = "D", default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub deadline_ms: u64,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// The documents, `-` or nothing for standard input
    pub file: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ModelsArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    /// Time for the whole call, retries included
    #[arg(long, value_name = "D", default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub deadline_ms: u64,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct EvalArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    /// Name of the model [default: the server's default model]
    #[arg(long, value_name = "M")]
    pub model: Option<String>,
    /// How to score; `none` keeps the given order and needs no server
    #[arg(long, required_unless_present = "stages", conflicts_with = "stages")]
    pub method: Option<EvalMethodArg>,
    #[command(flatten)]
    pub spending: spending::SpendingArgs,
    /// Time for each query, after which the best order known is the answer; several, separated by commas, are measured
    /// one after another
    #[arg(long, value_name = "MS", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..))]
    pub budget_ms: Vec<u64>,
    /// Take the documents from this namespace of the server's token store; for late_interaction
    #[arg(long, value_name = "NAMESPACE")]
    pub stored: Option<String>,
    /// Queries with their candidates
    #[arg(long, value_name = "FILE.jsonl")]
    pub candidates: PathBuf,
    /// Judgments
    #[arg(long, value_name = "FILE")]
    pub qrels: PathBuf,
    /// Write the order as a TREC run
    #[arg(long, value_name = "FILE")]
    pub run_out: Option<PathBuf>,
    /// Queries that are worked on at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub concurrency: u16,
    /// Time for each query, retries included
    #[arg(long, value_name = "D", default_value_t = 300_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub deadline_ms: u64,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ServerArgs {
    /// The server's address [default: $SLUICE_URL, or else http://127.0.0.1:50051]
    #[arg(long = "server", value_name = "URL")]
    pub url: Option<String>,
    /// Who calls [default: $SLUICE_TOKEN, which others on the machine cannot read]
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum MethodArg {
    /// MaxSim over token vectors
    LateInteraction,
    /// Cosine of pooled vectors
    Dense,
    /// Classification head over the pair
    CrossEncoder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum EvalMethodArg {
    /// MaxSim over token vectors
    LateInteraction,
    /// Cosine of pooled vectors
    Dense,
    /// Classification head over the pair
    CrossEncoder,
    /// The order of the candidates' file
    None,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ScoreKindArg {
    /// What the method computes
    Raw,
    /// Between 0 and 1
    Sigmoid,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LongDocumentArg {
    /// Read its beginning
    Cut,
    /// The best chunk's score
    ChunkMax,
    /// The mean of the chunks' scores
    ChunkMean,
}

impl From<MethodArg> for Method {
    fn from(method: MethodArg) -> Self {
        match method {
            MethodArg::LateInteraction => Self::LateInteraction,
            MethodArg::Dense => Self::Dense,
            MethodArg::CrossEncoder => Self::CrossEncoder,
        }
    }
}

impl EvalMethodArg {
    /// The method on the wire; `None` for the given order.
    pub(crate) fn scored(self) -> Option<Method> {
        match self {
            Self::LateInteraction => Some(Method::LateInteraction),
            Self::Dense => Some(Method::Dense),
            Self::CrossEncoder => Some(Method::CrossEncoder),
            Self::None => None,
        }
    }
}

impl From<ScoreKindArg> for ScoreKind {
    fn from(kind: ScoreKindArg) -> Self {
        match kind {
            ScoreKindArg::Raw => Self::Raw,
            ScoreKindArg::Sigmoid => Self::Sigmoid,
        }
    }
}

impl From<LongDocumentArg> for LongDocument {
    fn from(policy: LongDocumentArg) -> Self {
        match policy {
            LongDocumentArg::Cut => Self::Cut,
            LongDocumentArg::ChunkMax => Self::ChunkMax,
            LongDocumentArg::ChunkMean => Self::ChunkMean,
        }
    }
}

fn finite(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => Err("not a finite number".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn scores_may_be_negative_but_are_numbers() {
        let cases = [("-1.5", Some(-1.5)), ("0", Some(0.0)), ("1e3", Some(1000.0)), ("nan", None), ("inf", None)];
        for (text, expected) in cases {
            assert_eq!(finite(text).ok(), expected, "{text}");
        }
    }
}
