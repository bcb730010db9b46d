//! The command line of `sluice tokens`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use sluice_client::TokenStorage;

use super::ServerArgs;

const PUT_HELP: &str = "\
Documents, one a line, in UTF-8: {\"id\", \"text\"}, where the id is a string or a number and other keys
mean nothing. Blank lines are skipped. The first line that is no such object ends it, after the documents
before it were stored. Of two documents with one id the last counts.

A batch is stored whole, durably, or not at all. Storing a document again changes nothing, so what ended
early may be started over.

Output with --json, one object on one line:
  {\"namespace\", \"model\", \"model_digest\", \"documents\", \"tokens\", \"truncated\", \"computed_tokens\",
   \"requests\", \"seconds\"}
  truncated counts documents longer than what the model reads; seconds are from the first line read to
  the last answer.

Exit codes: 0 done, 1 failed, 2 wrong usage.";

const DELETE_HELP: &str = "\
Ids that are not there are no error. A document is counted once for each model that it was stored for.

Output with --json, one object on one line: {\"deleted\"}

Exit codes: 0 done, 1 failed, 2 wrong usage.";

const STATS_HELP: &str = "\
Live bytes hold documents; dead ones hold what was replaced or deleted, until `sluice tokens compact`.

Output with --json, one object on one line:
  {\"collections\": [{\"namespace\", \"model\", \"model_digest\", \"storage\", \"dim\", \"documents\", \"tokens\",
                    \"live_bytes\", \"dead_bytes\", \"segments\"}, …],
   \"corrupt_records\"}
  A collection is what one model has in one namespace; model is empty where the server has none of that
  digest. corrupt_records counts what could not be read back since the server started.

Exit codes: 0 done, 1 failed, 2 wrong usage.";

const COMPACT_HELP: &str = "\
Output with --json, one object on one line: {\"reclaimed_bytes\", \"rewritten_segments\"}

Exit codes: 0 done, 1 failed, 2 wrong usage.";

#[derive(Debug, Subcommand)]
pub(crate) enum TokensCommand {
    /// Have documents encoded and their token vectors stored.
    #[command(after_help = PUT_HELP)]
    Put(PutArgs),
    /// Remove documents.
    #[command(after_help = DELETE_HELP)]
    Delete(DeleteArgs),
    /// Say what is stored.
    #[command(after_help = STATS_HELP)]
    Stats(StatsArgs),
    /// Give back the space of what was replaced or deleted.
    #[command(after_help = COMPACT_HELP)]
    Compact(CompactArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    /// Where to store them: 1 to 128 of A-Z a-z 0-9 . _ -, the first of them no dot
    #[arg(long, value_name = "N")]
    pub namespace: String,
    /// Name of the model [default: the server's default model]
    #[arg(long, value_name = "M")]
    pub model: Option<String>,
    /// How components are kept [default: as the namespace does already, or as the server is configured]
    #[arg(long)]
    pub storage: Option<StorageArg>,
    /// Documents that are sent at once, at most; a batch that the server finds too large is sent in parts
    #[arg(long, value_name = "B", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    pub batch: u16,
    /// Time for each batch, retries included
    #[arg(long, value_name = "D", default_value_t = 300_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub deadline_ms: u64,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// The documents, `-` or nothing for standard input
    pub file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    /// Where they were stored
    #[arg(long, value_name = "N")]
    pub namespace: String,
    /// Time for the whole call, retries included
    #[arg(long, value_name = "D", default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub deadline_ms: u64,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// The documents' ids
    #[arg(value_name = "ID", required = true)]
    pub ids: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    /// One namespace [default: all]
    #[arg(long, value_name = "N")]
    pub namespace: Option<String>,
    /// Time for the whole call, retries included
    #[arg(long, value_name = "D", default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub deadline_ms: u64,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CompactArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    /// One namespace [default: all]
    #[arg(long, value_name = "N")]
    pub namespace: Option<String>,
    /// Time for the whole call, retries included
    #[arg(long, value_name = "D", default_value_t = 600_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub deadline_ms: u64,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum StorageArg {
    /// 2 bytes a component
    F16,
    /// 1 byte a component, and 4 a token
    Int8,
    /// 1 bit a component
    Binary,
}

impl From<StorageArg> for TokenStorage {
    fn from(storage: StorageArg) -> Self {
        match storage {
            StorageArg::F16 => Self::F16,
            StorageArg::Int8 => Self::Int8,
            StorageArg::Binary => Self::Binary,
        }
    }
}
