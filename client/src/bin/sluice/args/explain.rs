//! The command line of `sluice explain`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::ServerArgs;

pub(super) const HELP: &str = "\
Documents, 1 to 100, as `sluice rerank --help` says; with --stored, lines of {\"id\"} or {\"id\", \"text\"}, or
--id once for each document. Of a stored document without a text, tokens are known by position only.

For every document, best first, its text: each token that query tokens chose is marked with its heat, the
sum of their similarities. The score is the sum of all heats. Long texts show what is around the chosen
tokens, on lines of their own; --full shows all of them with their line breaks. Then a table says what
each query token chose: the document token with the largest dot product, alone and in its text.

Output with --json, one object on one line; absent values are null:
  {\"query\", \"model\", \"model_digest\", \"documents\",
   \"query_tokens\": [{\"text\", \"byte_start\", \"byte_end\"}, …],
   \"results\": [{\"rank\", \"index\", \"id\", \"score\", \"unscored\", \"source\", \"truncated\", \"text\",
                \"tokens\": [{\"text\", \"byte_start\", \"byte_end\"}, …],
                \"matches\": [{\"query_token\", \"document_token\", \"similarity\"}, …]}, …]}
  documents counts those of the request; rank counts from 1, index is the position in the input, from 0;
  tokens are as the vocabulary has them, special tokens are empty ranges of bytes; matches has one entry for
  each query token, which are positions in query_tokens and tokens; source is as in `sluice rerank --json`.

Exit codes: 0 done, 1 failed, 2 wrong usage.";

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    /// Name of the model [default: the server's default model]
    #[arg(long, value_name = "M")]
    pub model: Option<String>,
    /// What the documents are scored against
    #[arg(long, value_name = "Q")]
    pub query: String,
    /// Take the documents from this namespace of the server's token store
    #[arg(long, value_name = "NAMESPACE")]
    pub stored: Option<String>,
    /// A stored document; may be repeated
    #[arg(long = "id", value_name = "ID", requires = "stored", conflicts_with = "file")]
    pub ids: Vec<String>,
    /// Documents to show; 0 shows all
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub top_n: u32,
    /// Show long texts whole, with their line breaks
    #[arg(long)]
    pub full: bool,
    /// When to use colours; `auto` does on a terminal, unless $NO_COLOR is set or $TERM is `dumb`
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub color: ColorArg,
    /// Time for the whole call, retries included
    #[arg(long, value_name = "D", default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub deadline_ms: u64,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// The documents, `-` or nothing for standard input
    pub file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorArg {
    /// On a terminal
    Auto,
    /// Also into a file or a pipe
    Always,
    /// Numbers in brackets instead
    Never,
}
