//! `sluice-shard`: reads flags, environment and clock, and runs the library.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the rim: reads flags and environment, prints results"
)]

use std::{
    io::{IsTerminal, Write},
    net::SocketAddr,
    num::NonZero,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Parser;
use sluice_retrieval::{
    config::{EngineKind, ShardConfig},
    qdrant::QdrantStore,
    serve::Shard,
    store::{DurableStore, Store, StoreError},
};
use sluice_service::{
    config::{ConfigFile, Layers, load_and_check, own_variables, render},
    drain::{Drain, Ending},
    telemetry::init_logs,
};

const EXIT_FAILED: u8 = 1;
const EXIT_USAGE: u8 = 2;

/// Keeps collections of documents and finds candidates in them, by words and by vectors.
///
/// Every key of the configuration can also be set by environment: SLUICE_LISTEN,
/// SLUICE_SEARCH__LEG_SHARE, ... (file < environment < flags; --print-config shows the result).
#[derive(Parser)]
#[command(name = "sluice-shard", version)]
struct Flags {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address of the gRPC port [default: 127.0.0.1:50052].
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Folder that collections are kept in; created if it is not there. Not with `engine = "qdrant"`.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Address of the Prometheus port; off unless given.
    #[arg(long, value_name = "ADDR")]
    metrics_listen: Option<SocketAddr>,
    /// Throw away all indexes of this collection and fill them anew from its documents, beside the first searches.
    /// May be given more than once. Not with `engine = "qdrant"`.
    #[arg(long, value_name = "COLLECTION")]
    rebuild: Vec<String>,
    /// Print the resolved configuration and exit.
    #[arg(long)]
    print_config: bool,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let config = match configuration(&flags) {
        Ok(config) => config,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let done = if flags.print_config { print_config(&config) } else { run(config, flags.rebuild) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluice-shard: {}", explain(&error));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// An error and what caused it, each said once: most errors of ours end with their cause.
fn explain(error: &anyhow::Error) -> String {
    error
        .chain()
        .skip(1)
        .map(ToString::to_string)
        .fold(error.to_string(), |text, cause| if text.ends_with(&cause) { text } else { format!("{text}: {cause}") })
}

fn print_config(config: &ShardConfig) -> anyhow::Result<()> {
    // Not print!, which panics when the reader has gone.
    Ok(std::io::stdout().lock().write_all(render(config).as_bytes())?)
}

fn run(config: ShardConfig, rebuild: Vec<String>) -> anyhow::Result<()> {
    init_logs(config.log.format, &config.log.filter, std::io::stderr().is_terminal())?;
    let processors = std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("sluice-network").build()?;
    let result = runtime.block_on(async {
        let shard = Shard::bind(config, processors).await?;
        let drain = Drain::new();
        tokio::spawn(drain.clone().follow_termination());
        match shard.run(move |folder, config| open(folder, config, &rebuild), drain).await? {
            Ending::Finished | Ending::Unasked => tracing::info!("stopped; every request was answered"),
            Ending::Unfinished => tracing::warn!("stopped; what was unfinished was cut off"),
        }
        Ok(())
    });
    // A leg that hangs may still hold a thread; nothing on it is worth waiting for.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

fn open(folder: &Path, config: &ShardConfig, rebuild: &[String]) -> Result<Arc<dyn Store>, StoreError> {
    Ok(match config.engine {
        EngineKind::Local => Arc::new(DurableStore::open_rebuilding(folder, &config.store, rebuild)?),
        EngineKind::Qdrant => {
            // A clock before 1970 is a fault that versions do not add to.
            let since_1970 = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let store = QdrantStore::open(&config.qdrant, Arc::new(since_1970))?;
            store.greet();
            Arc::new(store)
        }
    })
}

/// The resolved configuration, or everything that is wrong with it, a line each.
fn configuration(flags: &Flags) -> Result<ShardConfig, String> {
    let mut faults = Vec::new();
    let file = flags.config.as_ref().and_then(|path| match std::fs::read_to_string(path) {
        Ok(text) => Some(ConfigFile { path: path.clone(), text }),
        Err(error) => {
            faults.push(format!("cannot read {}: {error}", path.display()));
            None
        }
    });
    let layers = Layers { file, environment: own_variables(std::env::vars_os()), flags: flag_layer(flags) };
    match load_and_check(&layers, ShardConfig::faults) {
        Ok(config) if config.engine == EngineKind::Qdrant && !flags.rebuild.is_empty() => {
            faults.push("--rebuild: the indexes are the cluster's".to_owned());
        }
        Ok(config) if faults.is_empty() => return Ok(config),
        Ok(_) => {}
        Err(found) => faults.push(found.to_string()),
    }
    Err(faults.join("\n"))
}

/// Flags as the uppermost layer of the configuration.
fn flag_layer(flags: &Flags) -> toml::Table {
    let values = [
        ("listen", flags.listen.map(|address| address.to_string())),
        ("metrics_listen", flags.metrics_listen.map(|address| address.to_string())),
        ("data", flags.data.as_ref().map(|folder| folder.display().to_string())),
    ];
    values.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.into()))).collect()
}
