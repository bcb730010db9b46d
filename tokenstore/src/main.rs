//! `sluice-tokenstore`: looks after a token store's folder while no server writes to it.
#![allow(clippy::disallowed_methods, reason = "main alone reads the command line")]

use std::{
    io::{Write, stderr, stdout},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use sluice_tokenstore::{ImportTarget, Layout, ModelDigest, Namespace, Options, Storage, TokenStore};

/// Copies documents' token vectors out of a token store's folder and into it, and checks them.
///
/// A path that ends in `.safetensors` is a file of that format; any other is a folder of NumPy files (vectors.npy,
/// cu_seqlens.npy, ids.jsonl, for int8 scales.npy).
#[derive(Parser)]
#[command(name = "sluice-tokenstore", version)]
struct Flags {
    /// The store's folder. Reading it disturbs no server; writing needs it to be closed.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// What is stored.
    Stats,
    /// Reads every byte of every document, and names those that are damaged.
    Verify,
    /// Copies a namespace's documents into files.
    Export {
        #[command(flatten)]
        collection: Collection,
        /// Where to.
        path: PathBuf,
    },
    /// Puts documents from files, in f32, f16 or as they are kept. A batch is stored whole or not at all.
    Import {
        #[command(flatten)]
        collection: Collection,
        /// How to keep them; of a namespace that has some, as it does.
        #[arg(long, value_enum, default_value_t = KeptAs::F16)]
        storage: KeptAs,
        /// Components of a vector.
        #[arg(long, value_name = "N")]
        dim: usize,
        /// Where from.
        path: PathBuf,
    },
}

#[derive(Args)]
struct Collection {
    /// Namespace of the documents.
    #[arg(long, value_name = "NAME", value_parser = Namespace::new)]
    namespace: Namespace,
    /// Digest of the model that made the vectors: 64 hexadecimal digits, as `sluice models --json` shows them.
    #[arg(long, value_name = "DIGEST", value_parser = digest)]
    model_digest: ModelDigest,
}

#[derive(Clone, Copy, ValueEnum)]
enum KeptAs {
    F16,
    Int8,
    Binary,
}

fn main() -> ExitCode {
    match run(&Flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(stderr(), "sluice-tokenstore: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(Flags { dir, action }: &Flags) -> anyhow::Result<()> {
    match action {
        Action::Stats => stats(&reading(dir)?),
        Action::Verify => verify(&reading(dir)?),
        Action::Export { collection: Collection { namespace, model_digest }, path } => {
            let store = reading(dir)?;
            let done = if is_safetensors(path) {
                store.export_safetensors(namespace, *model_digest, path)?
            } else {
                store.export_numpy(namespace, *model_digest, path)?
            };
            say(&format!("{} documents of {} vectors exported", done.documents, done.rows))
        }
        Action::Import { collection: Collection { namespace, model_digest }, storage, dim, path } => {
            let storage = match storage {
                KeptAs::F16 => Storage::F16,
                KeptAs::Int8 => Storage::Int8,
                KeptAs::Binary => Storage::Binary,
            };
            let layout = Layout::new(storage, *dim)?;
            let target = ImportTarget { namespace: namespace.clone(), model: *model_digest, layout };
            let store = TokenStore::open(dir, Options::default())?;
            let done = if is_safetensors(path) {
                store.import_safetensors(&target, path)?
            } else {
                store.import_numpy(&target, path)?
            };
            say(&format!("{} documents of {} vectors imported", done.documents, done.rows))
        }
    }
}

fn reading(dir: &Path) -> anyhow::Result<TokenStore> {
    TokenStore::open_read_only(dir).with_context(|| format!("cannot open {}", dir.display()))
}

fn stats(store: &TokenStore) -> anyhow::Result<()> {
    for found in store.stats().collections {
        say(&format!(
            "{}\t{}\t{}\tdim {}\t{} documents\t{} vectors\t{} bytes live\t{} dead\t{} files",
            found.namespace,
            found.model,
            found.layout.storage().name(),
            found.layout.dim(),
            found.documents,
            found.rows,
            found.live_bytes,
            found.dead_bytes,
            found.segments,
        ))?;
    }
    Ok(())
}

fn verify(store: &TokenStore) -> anyhow::Result<()> {
    let report = store.verify()?;
    for record in &report.corrupt_records {
        say(&format!("damaged: {} of {} for model {}", record.id, record.namespace, record.model))?;
    }
    say(&format!("{} documents read, {} damaged", report.documents, report.corrupt_records.len()))?;
    if !report.corrupt_records.is_empty() {
        bail!("damaged documents count as missing until they are put again");
    }
    Ok(())
}

fn say(line: &str) -> anyhow::Result<()> {
    Ok(writeln!(stdout(), "{line}")?)
}

fn is_safetensors(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "safetensors")
}

fn digest(text: &str) -> Result<ModelDigest, String> {
    ModelDigest::from_hex(text).ok_or_else(|| "expected 64 hexadecimal digits".to_owned())
}
