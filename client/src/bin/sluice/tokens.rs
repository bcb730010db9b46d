//! `sluice tokens`: the server's token store.

mod batches;
mod put;

use comfy_table::Cell;
use indicatif::BinaryBytes;
use serde::Serialize;
use sluice_client::{CollectionStats, StatsResponse, names, table};

use crate::{
    args::tokens::{CompactArgs, DeleteArgs, StatsArgs, TokensCommand},
    output::{Failure, note, print, print_json, width},
    server::{ServerDefault, connect},
};

pub(crate) async fn run(command: &TokensCommand, server_default: &ServerDefault) -> Result<(), Failure> {
    match command {
        TokensCommand::Put(args) => put::run(args, server_default).await,
        TokensCommand::Delete(args) => delete(args, server_default).await,
        TokensCommand::Stats(args) => stats(args, server_default).await,
        TokensCommand::Compact(args) => compact(args, server_default).await,
    }
}

async fn delete(args: &DeleteArgs, server_default: &ServerDefault) -> Result<(), Failure> {
    let client = connect(&args.server, server_default, args.deadline_ms).await?;
    let deleted = client.delete_tokens(&args.namespace, &args.ids).await?.deleted;
    if args.json { print_json(&Deleted { deleted }) } else { print(&format!("{deleted} deleted")) }
}

async fn stats(args: &StatsArgs, server_default: &ServerDefault) -> Result<(), Failure> {
    let client = connect(&args.server, server_default, args.deadline_ms).await?;
    let stats = client.token_stats(args.namespace.as_deref().unwrap_or_default()).await?;
    if args.json {
        return print_json(&Stats::new(&stats));
    }
    if stats.corrupt_records > 0 {
        let count = stats.corrupt_records;
        note(&format!("records that could not be read back since the server started: {count}; they count as missing"));
    }
    if stats.collections.is_empty() { print("nothing is stored") } else { print(&overview(&stats)) }
}

async fn compact(args: &CompactArgs, server_default: &ServerDefault) -> Result<(), Failure> {
    let client = connect(&args.server, server_default, args.deadline_ms).await?;
    let gained = client.compact_tokens(args.namespace.as_deref().unwrap_or_default()).await?;
    let (reclaimed_bytes, rewritten_segments) = (gained.reclaimed_bytes, gained.rewritten_segments);
    if args.json {
        return print_json(&Compacted { reclaimed_bytes, rewritten_segments });
    }
    print(&format!("{} given back, {rewritten_segments} files rewritten", BinaryBytes(reclaimed_bytes)))
}

fn overview(stats: &StatsResponse) -> String {
    let width = width();
    let mut overview = table::plain(width);
    let texts = ["namespace", "model", "storage"].map(Cell::new);
    let numbers = ["dim", "documents", "tokens", "live", "dead", "files"].map(|name| table::right(name.into()));
    overview.set_header(texts.into_iter().chain(numbers));
    for collection in &stats.collections {
        overview.add_row([
            table::one_line(&collection.namespace, width).into(),
            model(collection, width).into(),
            names::token_storage(collection.storage).into(),
            table::right(collection.dim.to_string()),
            table::right(collection.documents.to_string()),
            table::right(collection.tokens.to_string()),
            table::right(BinaryBytes(collection.live_bytes).to_string()),
            table::right(BinaryBytes(collection.dead_bytes).to_string()),
            table::right(collection.segments.to_string()),
        ]);
    }
    overview.to_string()
}

/// Its name, or the beginning of its digest where the server has no such model any more.
fn model(collection: &CollectionStats, width: usize) -> String {
    if collection.model.is_empty() {
        let digest: String = table::one_line(&collection.model_digest, width).chars().take(12).collect();
        return format!("not loaded: {digest}");
    }
    table::one_line(&collection.model, width)
}

/// What `--json` prints; the commands' `--help` documents it.
#[derive(Serialize)]
struct Deleted {
    deleted: u64,
}

#[derive(Serialize)]
struct Compacted {
    reclaimed_bytes: u64,
    rewritten_segments: u32,
}

#[derive(Serialize)]
struct Stats<'a> {
    collections: Vec<Collection<'a>>,
    corrupt_records: u64,
}

#[derive(Serialize)]
struct Collection<'a> {
    namespace: &'a str,
    model: &'a str,
    model_digest: &'a str,
    storage: String,
    dim: u32,
    documents: u64,
    tokens: u64,
    live_bytes: u64,
    dead_bytes: u64,
    segments: u32,
}

impl<'a> Stats<'a> {
    fn new(stats: &'a StatsResponse) -> Self {
        let collection = |found: &'a CollectionStats| Collection {
            namespace: &found.namespace,
            model: &found.model,
            model_digest: &found.model_digest,
            storage: names::token_storage(found.storage),
            dim: found.dim,
            documents: found.documents,
            tokens: found.tokens,
            live_bytes: found.live_bytes,
            dead_bytes: found.dead_bytes,
            segments: found.segments,
        };
        Self { collections: stats.collections.iter().map(collection).collect(), corrupt_records: stats.corrupt_records }
    }
}
