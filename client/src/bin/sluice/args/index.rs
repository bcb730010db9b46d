//! The command line of `sluice index`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use sluice_client::proto::retrieval::v1::PayloadType;

pub(crate) const HELP: &str = "\
Files: JSONL, one object a line, or CSV with a header; `-` is standard input; gzip is recognised.
  JSONL  {\"id\", \"title\", \"text\", …}: the id (or \"_id\") is a string or a number. Names of the collection's text
         fields are texts; \"vectors\" is {\"NAME\": [1.5, …]} or, of a sparse vector, {\"NAME\": {\"indices\", \"values\"}};
         what is in an object \"payload\", and every other key, is payload.
  CSV    a column for each of these; an empty cell is no value. No vectors.
  Payload is read as the type that the collection's schema says: numbers, true or false, dates and times as RFC 3339
  (2026-01-31 or 2026-01-31T12:00:00Z), strings, and lists of them; null is no value. A field that the schema does
  not declare is kept and returned, but neither filtered nor counted; objects are kept as their JSON text.
  A bad line is named on standard error with its file and number.

With --encode, a server embeds every document that does not bring the vector itself; with --tokens, it also keeps
the documents' token vectors under the collection's name, where they are found by the content hash that hits carry.
Which model made them is kept in each document's payload: `_vector_NAME` as NAME@DIGEST, and `_tokens` as
NAME@DIGEST/NAMESPACE.

Indexing again goes on where it was: a document that is there already, equal and with vectors of the same model, is
not sent, and a vector whose text has not changed is not made again. So what was interrupted, by Ctrl-C or worse, is
started over with the same command. A document that the model cannot embed is written without its vector.

--backfill changes nothing but vectors, and no documents but those that are there: it embeds the texts that the shard
has of the ids in FILES, where the vector or the token vectors are missing or of another model. A vector that came
with its document is left as it is. Nobody else should write those documents meanwhile.

--again embeds documents and stores their token vectors, also where the shard says that it was done: it cannot know
that a token store was wiped, or that --encode names another server with a store of its own. With --backfill, only of
documents that are there. An interrupted run begins anew with it.

A schema file (TOML, or JSON if its name ends so) has these keys; without `dim`, a vector has the model's:
  texts = [{ name = \"title\", boost = 2.0, language = \"english\" }, { name = \"text\" }]
  vectors = [{ name = \"dense\", dim = 384, metric = \"cosine\" }, { name = \"splade\", sparse = true, idf = false }]
  payload = { year = \"integer\", tags = \"keyword\" }
  content = { fields = [\"title\", \"text\"], separator = \". \" }

Output with --json, one object on one line:
  {\"collection\", \"documents\", \"written\", \"unchanged\", \"duplicates\", \"absent\", \"bad_lines\", \"embedded\",
   \"kept_vectors\", \"not_embedded\", \"tokens_stored\", \"tokens_not_stored\", \"model\", \"model_digest\", \"lsn\",
   \"interrupted\", \"seconds\"}
  documents counts what was read and is not bad: written, unchanged, duplicates (of an id later in the same batch)
  and, with --backfill, absent from the collection. not_embedded were written without a vector. lsn is the last
  write's: a search with it as `min_lsn` sees them all.

Exit codes: 0 done, also with bad lines skipped; 1 failed or interrupted; 2 wrong usage.";

#[derive(Debug, Args)]
pub(crate) struct IndexArgs {
    /// The shard's address
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:50052")]
    pub shard: String,
    /// Collection or alias to write to
    #[arg(long, value_name = "C")]
    pub collection: String,
    /// Create the collection if it is not there: title and text in English, with --encode a dense vector, and --payload
    #[arg(long)]
    pub create: bool,
    /// With --create: what its documents look like
    #[arg(long, value_name = "FILE", requires = "create")]
    pub schema: Option<PathBuf>,
    /// With --create: a payload field to filter and count by; repeatable
    #[arg(long, value_name = "NAME:TYPE", requires = "create", value_parser = payload_field)]
    pub payload: Vec<(String, PayloadType)>,
    /// Have documents embedded by this server
    #[arg(long, value_name = "SERVER_URL")]
    pub encode: Option<String>,
    /// Name of the model [default: the server's default model]
    #[arg(long, value_name = "M", requires = "encode")]
    pub model: Option<String>,
    /// Dense vector that the model's embeddings go to [default: the only one of the collection]
    #[arg(long, value_name = "NAME", requires = "encode")]
    pub vector: Option<String>,
    /// Also keep token vectors in the server's token store
    #[arg(long, requires = "encode")]
    pub tokens: bool,
    /// Model of the token vectors [default: as --model]
    #[arg(long, value_name = "M", requires = "tokens")]
    pub token_model: Option<String>,
    /// Where the token store keeps them [default: the collection's name]
    #[arg(long, value_name = "N", requires = "tokens")]
    pub namespace: Option<String>,
    /// Who calls the server [default: $SLUICE_TOKEN, which others on the machine cannot read]
    #[arg(long, value_name = "TOKEN", requires = "encode")]
    pub token: Option<String>,
    /// Only embed what has no vector, or one of another model
    #[arg(long, requires = "encode")]
    pub backfill: bool,
    /// Embed, and store token vectors, whatever the shard has of them: for a token store that has lost some
    #[arg(long, requires = "encode")]
    pub again: bool,
    /// What a bad line does: nothing but be named, or end it after the documents before it
    #[arg(long, value_enum, default_value_t = BadLine::Skip)]
    pub on_bad_line: BadLine,
    /// How files are written [default: csv where a name ends in .csv or .csv.gz, or else jsonl]
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Documents that are embedded and written at once, all or none [default: 32 with --encode, or else 256]
    #[arg(long, value_name = "B", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub batch: Option<u16>,
    /// Batches that are embedded at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub concurrency: u8,
    /// Time for each batch at the server, and for reading and for writing it at the shard; calls and retries included
    #[arg(long, value_name = "D", default_value_t = 300_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub deadline_ms: u64,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// The documents
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
}

/// What a bad line does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BadLine {
    /// It is named and counted
    Skip,
    /// It ends the command
    Fail,
}

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A JSON object a line
    Jsonl,
    /// Comma-separated values with a header
    Csv,
}

fn payload_field(text: &str) -> Result<(String, PayloadType), String> {
    let (name, kind) = text.split_once(':').ok_or("expected NAME:TYPE")?;
    Ok((name.to_owned(), payload_type(kind)?))
}

/// A payload type by its name.
pub(crate) fn payload_type(name: &str) -> Result<PayloadType, String> {
    match name {
        "keyword" => Ok(PayloadType::Keyword),
        "integer" => Ok(PayloadType::Integer),
        "float" => Ok(PayloadType::Float),
        "boolean" => Ok(PayloadType::Boolean),
        "datetime" => Ok(PayloadType::Datetime),
        "text" => Ok(PayloadType::Text),
        _ => Err(format!("`{name}` is none of keyword, integer, float, boolean, datetime and text")),
    }
}
