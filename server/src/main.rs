//! `sluice-server`: reads flags, environment and clock, and runs the library.

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
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::Parser;
use sluice_inference::{HubSettings, Progress, SilentProgress, TerminalProgress};
use sluice_server::{Server, ServerConfig, quickstart, serve::Machine};
use sluice_service::{
    config::{ConfigFile, Layers, load_and_check, own_variables, render},
    drain::{Drain, Ending},
    telemetry::init_logs,
};

const EXIT_FAILED: u8 = 1;
const EXIT_USAGE: u8 = 2;
/// How long an end waits for what still holds a thread: the engine waits 2 s itself.
const DEVICES_END_MAX: Duration = Duration::from_millis(2_500);
const LOADING_END_MAX: Duration = Duration::from_millis(100);
/// Width of the quickstart's table.
const TABLE_COLUMNS: usize = 100;
/// Printed below it.
const TRY_IT: &str = "cargo run --release -p sluice-client --bin sluice -- rerank --query QUESTION FILE";

/// Reranks documents over gRPC.
///
/// Every key of the configuration can also be set by environment: SLUICE_LISTEN,
/// SLUICE_GRPC__MAX_MESSAGE_SIZE, ... (file < environment < flags; --print-config shows the result).
#[derive(Parser)]
#[command(name = "sluice-server", version)]
struct Flags {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address of the gRPC port [default: 127.0.0.1:50051].
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Address of the Prometheus port; off unless given.
    #[arg(long, value_name = "ADDR")]
    metrics_listen: Option<SocketAddr>,
    /// A model to serve: a folder, hf:ORG/NAME[@REVISION], pip:PACKAGE==VERSION, scripted:FILE.toml or
    /// default. Repeatable; the first answers requests that name none; none means the pinned default model.
    #[arg(long = "model", value_name = "NAME=SOURCE")]
    models: Vec<String>,
    /// Folder in which documents' token vectors are kept; nothing is kept unless given.
    #[arg(long, value_name = "DIR")]
    token_store: Option<PathBuf>,
    /// What computes: auto (the first CUDA device if it is usable, else the processor), cpu, cuda, cuda:N,
    /// cuda:N,M,… (every model on each of these) or cuda:all.
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Print the resolved configuration and exit.
    #[arg(long)]
    print_config: bool,
    /// Serve, and show a ranking of bundled text that came through the port.
    #[arg(long)]
    quickstart: bool,
    /// With --quickstart: stop after the ranking.
    #[arg(long, requires = "quickstart")]
    exit: bool,
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
    let done = if flags.print_config { print_config(&config) } else { run(config, &flags) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluice-server: {}", explain(&error));
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

fn print_config(config: &ServerConfig) -> anyhow::Result<()> {
    // Not print!, which panics when the reader has gone.
    Ok(std::io::stdout().lock().write_all(render(config).as_bytes())?)
}

fn run(mut config: ServerConfig, flags: &Flags) -> anyhow::Result<()> {
    let on_terminal = std::io::stderr().is_terminal();
    init_logs(config.log.format, &config.log.filter, on_terminal)?;
    let machine = machine(on_terminal);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("sluice-network").build()?;
    let mut serving = None;
    let result = runtime.block_on(async {
        if flags.exit {
            // Nobody balances to it: nobody needs time to notice that it stops.
            config.drain.grace = Duration::ZERO;
        }
        let server = Server::bind(config, machine).await?;
        serving = Some(server.serving());
        if flags.quickstart { serve_and_show(server, flags.exit).await } else { serve(server).await }
    });
    // A model that is being loaded is not worth waiting for. Devices are: they are given back while the runtime ends.
    let loaded = serving.is_some_and(|serving| *serving.borrow());
    runtime.shutdown_timeout(if loaded { DEVICES_END_MAX } else { LOADING_END_MAX });
    result
}

async fn serve(server: Server) -> anyhow::Result<()> {
    let drain = Drain::new();
    tokio::spawn(drain.clone().follow_termination());
    report(server.run(drain).await?);
    Ok(())
}

async fn serve_and_show(server: Server, exit: bool) -> anyhow::Result<()> {
    let address = server.local_addr()?;
    let mut serving = server.serving();
    let drain = Drain::new();
    tokio::spawn(drain.clone().follow_termination());
    let running = tokio::spawn(server.run(drain.clone()));
    if serving.wait_for(|serving| *serving).await.is_err() {
        // It ended before it served, and says why.
        running.await??;
        anyhow::bail!("the server stopped before it served");
    }
    let shown = quickstart::ranking(address, TABLE_COLUMNS).await;
    if let Ok(ranking) = &shown {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{ranking}")?;
        if !exit {
            writeln!(out, "Serving on http://{address} until Ctrl-C; ask it with: {TRY_IT}")?;
        }
    }
    if exit || shown.is_err() {
        drain.begin();
    }
    report(running.await??);
    shown.map(|_| ()).map_err(Into::into)
}

fn report(ending: Ending) {
    match ending {
        Ending::Finished | Ending::Unasked => tracing::info!("stopped; every request was answered"),
        Ending::Unfinished => tracing::warn!("stopped; what was unfinished was cut off"),
    }
}

/// The resolved configuration, or everything that is wrong with it, a line each.
fn configuration(flags: &Flags) -> Result<ServerConfig, String> {
    let mut faults = Vec::new();
    let file = flags.config.as_ref().and_then(|path| match std::fs::read_to_string(path) {
        Ok(text) => Some(ConfigFile { path: path.clone(), text }),
        Err(error) => {
            faults.push(format!("cannot read {}: {error}", path.display()));
            None
        }
    });
    let flags = flag_layer(flags, &mut faults);
    let layers = Layers { file, environment: own_variables(std::env::vars_os()), flags };
    match load_and_check(&layers, ServerConfig::faults) {
        Ok(config) if faults.is_empty() => return Ok(config),
        Ok(_) => {}
        Err(found) => faults.push(found.to_string()),
    }
    Err(faults.join("\n"))
}

/// Flags as the uppermost layer of the configuration.
fn flag_layer(flags: &Flags, faults: &mut Vec<String>) -> toml::Table {
    let mut layer = toml::Table::new();
    let mut set = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            layer.insert(key.to_owned(), value.into());
        }
    };
    set("listen", flags.listen.map(|address| address.to_string()));
    set("metrics_listen", flags.metrics_listen.map(|address| address.to_string()));
    set("device", flags.device.clone());
    let mut models = Vec::new();
    for model in &flags.models {
        let Some((name, source)) = model.split_once('=') else {
            faults.push(format!("--model {model:?}: expected NAME=SOURCE"));
            continue;
        };
        let table = [("name", name), ("source", source)].map(|(key, value)| (key.to_owned(), value.into()));
        models.push(toml::Value::Table(table.into_iter().collect()));
    }
    if !models.is_empty() {
        layer.insert("model".to_owned(), models.into());
    }
    if let Some(dir) = &flags.token_store {
        let table = toml::Table::from_iter([("dir".to_owned(), dir.display().to_string().into())]);
        layer.insert("token_store".to_owned(), table.into());
    }
    layer
}

/// What the machine offers.
fn machine(on_terminal: bool) -> Machine {
    let progress: Arc<dyn Progress> = if on_terminal { Arc::new(TerminalProgress) } else { Arc::new(SilentProgress) };
    Machine {
        cache_dir: dirs::cache_dir().unwrap_or_else(std::env::temp_dir).join("sluice").join("models"),
        hub: HubSettings::from_variables(|name| std::env::var(name).ok()),
        processors: std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN),
        progress,
    }
}
