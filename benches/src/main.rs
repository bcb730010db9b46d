//! `sluice-benches`: reads the command line, the environment and the clock, and runs a scenario.
#![allow(clippy::disallowed_methods, reason = "main alone reads the environment and the clock")]

use std::{
    fs,
    io::{Write, stderr, stdout},
    num::NonZero,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::OnceLock,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use sluice_benches::{encoder, end_to_end, machine::Machine, maxsim, report::Report, scheduler, shard, tokenstore};
use sluice_inference::HubSettings;
use sluice_server::config::Device;

/// Runs a scenario beside its rivals, and prints a table with ratios.
#[derive(Parser)]
#[command(name = "sluice-benches", version)]
struct Flags {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand)]
enum Scenario {
    /// Rerank throughput on text, beside ONNX Runtime with the same weights and threads.
    Encoder(EncoderFlags),
    /// The server over gRPC beside its own engine in process, both kept busy.
    EndToEnd(EndToEndFlags),
    /// Reranking stored documents by id over gRPC, beside sending their vectors along.
    Tokenstore(TokenstoreFlags),
    /// MaxSim over token vectors, beside maxsim-cpu and NumPy.
    Maxsim(MaxSimFlags),
    /// A server process under overload, beside a FIFO policy and a simulation.
    Scheduler(SchedulerFlags),
    /// The first-stage shard: quality on judged collections, memory and speed, beside tantivy, usearch and NumPy.
    Shard(ShardFlags),
}

#[derive(Args)]
struct EncoderFlags {
    /// Also write the rows as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Texts: lines of {"qid","query","documents":[{"id","text"}]} [default: ../shared/data/dl19/candidates.jsonl, or
    /// drawn words where it is missing].
    #[arg(long, value_name = "FILE")]
    candidates: Option<PathBuf>,
    /// Queries of a pass.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = positive)]
    queries: usize,
    /// Documents of a query, at most.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = positive)]
    documents: usize,
    /// Threads of either side [default: all processors].
    #[arg(long, value_name = "N", value_parser = positive)]
    threads: Option<usize>,
    /// Passes over the queries.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = positive)]
    repeat: usize,
    /// Seconds for which a server is kept busy while its memory is watched.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    memory_seconds: u64,
}

#[derive(Args)]
struct EndToEndFlags {
    /// Also write the rows as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The model's folder.
    #[arg(long, value_name = "FOLDER")]
    model: PathBuf,
    /// cpu, cuda or cuda:N.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: Device,
    /// Documents of a request.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = positive)]
    documents: usize,
    /// Requests at a time.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = positive)]
    callers: usize,
    /// Threads that tokenize, and that compute on the processor [default: all processors].
    #[arg(long, value_name = "N", value_parser = positive)]
    threads: Option<usize>,
    /// Seconds of each contender in a pass.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = positive)]
    seconds: usize,
    /// Passes.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = positive)]
    repeat: usize,
}

#[derive(Args)]
struct TokenstoreFlags {
    /// Also write the rows as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Threads for the network, and for the kernel [default: all processors].
    #[arg(long, value_name = "N", value_parser = positive)]
    threads: Option<usize>,
    /// Requests of each kind, one after the other.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = positive)]
    requests: usize,
    /// Callers of the closed loop.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = positive)]
    callers: usize,
    /// Seconds of the closed loop.
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = positive)]
    seconds: usize,
}

#[derive(Args)]
struct MaxSimFlags {
    /// Also write the rows as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Documents at 128 components; at others as many as make as many bytes.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = positive)]
    documents: usize,
    /// Token vectors of a document.
    #[arg(long, value_name = "N", default_value_t = 180, value_parser = positive)]
    tokens: usize,
    /// Token vectors of the query.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = positive)]
    query_tokens: usize,
    /// Threads of the cases with several [default: all processors].
    #[arg(long, value_name = "N", value_parser = positive)]
    threads: Option<usize>,
    /// Passes over the contenders of a case.
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = positive)]
    repeat: usize,
}

#[derive(Args)]
struct SchedulerFlags {
    /// Also write the rows as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The server [default: sluice-server beside this executable, built if it is not there].
    #[arg(long, value_name = "FILE")]
    server: Option<PathBuf>,
    /// Seconds that are counted of each load.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = positive)]
    seconds: usize,
    /// What is run [default: all].
    #[arg(long, value_enum, value_delimiter = ',')]
    parts: Vec<PartArg>,
    /// Queries of the cases with texts (anytime, early-stop), at most; 0 leaves them out.
    #[arg(long, value_name = "N", default_value_t = 43)]
    queries: usize,
    /// Folder of the plots.
    #[arg(long, value_name = "FOLDER", default_value = "target/plots/scheduler")]
    plots: PathBuf,
    /// Loads of two seconds and two queries: whether it runs, not how it does.
    #[arg(long)]
    quick: bool,
}

#[derive(Args)]
struct ShardFlags {
    /// Also write the rows as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Drawn documents; 0 leaves them out.
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    documents: usize,
    /// Folder of a judged collection: corpus.jsonl, queries.jsonl, qrels.txt; may be given again [default: scifact and
    /// cranfield in ../shared/data, where they are].
    #[arg(long, value_name = "DIR")]
    data: Vec<PathBuf>,
    /// Queries over the drawn documents.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = positive)]
    queries: usize,
    /// Passes over the queries.
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = positive)]
    repeat: usize,
    /// Seconds of each closed loop.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = positive)]
    seconds: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum PartArg {
    Overload,
    Fairness,
    Storm,
    Anytime,
    EarlyStop,
}

impl From<PartArg> for scheduler::Part {
    fn from(part: PartArg) -> Self {
        match part {
            PartArg::Overload => Self::Overload,
            PartArg::Fairness => Self::Fairness,
            PartArg::Storm => Self::Storm,
            PartArg::Anytime => Self::Anytime,
            PartArg::EarlyStop => Self::EarlyStop,
        }
    }
}

fn main() -> ExitCode {
    let result = match Flags::parse().scenario {
        Scenario::Encoder(flags) => run_encoder(&flags),
        Scenario::EndToEnd(flags) => run_end_to_end(&flags),
        Scenario::Tokenstore(flags) => run_tokenstore(&flags),
        Scenario::Maxsim(flags) => run_maxsim(&flags),
        Scenario::Scheduler(flags) => run_scheduler(&flags),
        Scenario::Shard(flags) => run_shard(&flags),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(stderr(), "sluice-benches: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_tokenstore(flags: &TokenstoreFlags) -> anyhow::Result<()> {
    let machine = machine()?;
    let threads = flags.threads.unwrap_or(machine.processors.get());
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let options = tokenstore::Options {
        threads,
        requests: flags.requests,
        loop_time: Duration::from_secs(flags.seconds as u64),
        callers: flags.callers,
    };
    finish(&tokenstore::run(&options, &machine)?, flags.json.as_deref())
}

fn run_encoder(flags: &EncoderFlags) -> anyhow::Result<()> {
    let machine = machine()?;
    let threads = flags.threads.unwrap_or(machine.processors.get());
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let options = encoder::Options {
        candidates: flags.candidates.clone(),
        queries: flags.queries,
        documents: flags.documents,
        threads,
        passes: flags.repeat,
        memory_time: Duration::from_secs(flags.memory_seconds),
    };
    finish(&encoder::run(&options, &machine)?, flags.json.as_deref())
}

fn run_end_to_end(flags: &EndToEndFlags) -> anyhow::Result<()> {
    let machine = machine()?;
    let options = end_to_end::Options {
        model: flags.model.clone(),
        device: flags.device.clone(),
        documents: flags.documents,
        callers: flags.callers,
        threads: flags.threads.unwrap_or(machine.processors.get()),
        time: Duration::from_secs(flags.seconds as u64),
        passes: flags.repeat,
    };
    finish(&end_to_end::run(&options, &machine)?, flags.json.as_deref())
}

fn run_maxsim(flags: &MaxSimFlags) -> anyhow::Result<()> {
    let machine = machine()?;
    let threads = flags.threads.and_then(NonZero::new).unwrap_or(machine.processors);
    rayon::ThreadPoolBuilder::new().num_threads(threads.get()).build_global()?;
    let options = maxsim::Options {
        documents: flags.documents,
        tokens: flags.tokens,
        query_tokens: flags.query_tokens,
        threads,
        passes: flags.repeat,
    };
    finish(&maxsim::run(&options, &machine)?, flags.json.as_deref())
}

fn run_scheduler(flags: &SchedulerFlags) -> anyhow::Result<()> {
    let machine = machine()?;
    let server = match &flags.server {
        Some(server) => server.clone(),
        None => built_server()?,
    };
    let (seconds, queries) = if flags.quick { (2, flags.queries.min(2)) } else { (flags.seconds, flags.queries) };
    let parts: Vec<scheduler::Part> = flags.parts.iter().map(|part| (*part).into()).collect();
    let options = scheduler::Options {
        server,
        parts: if parts.is_empty() { scheduler::Part::ALL.to_vec() } else { parts },
        time: Duration::from_secs(seconds as u64),
        anytime_queries: queries,
        plots: Some(flags.plots.clone()),
    };
    finish(&scheduler::run(&options, &machine)?, flags.json.as_deref())
}

fn run_shard(flags: &ShardFlags) -> anyhow::Result<()> {
    let machine = machine()?;
    let options = shard::Options {
        documents: flags.documents,
        data: flags.data.clone(),
        queries: flags.queries,
        passes: flags.repeat,
        loop_time: Duration::from_secs(flags.seconds as u64),
    };
    finish(&shard::run(&options, &machine)?, flags.json.as_deref())
}

/// The server that belongs to this executable: of the same build, made now if need be.
fn built_server() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this executable is")?;
    let folder = own.parent().context("an executable stands in a folder")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "-p", "sluice-server", "--bin", "sluice-server"]);
    if folder.file_name().is_some_and(|name| name == "release") {
        build.arg("--release");
    }
    // Wherever this one was built to.
    if let Some(target) = folder.parent() {
        build.arg("--target-dir").arg(target);
    }
    progress("building sluice-server");
    let status = build.current_dir(env!("CARGO_MANIFEST_DIR")).status().context("cannot run cargo")?;
    if !status.success() {
        bail!("sluice-server is not built: {status}");
    }
    Ok(folder.join("sluice-server"))
}

/// Prints the figures, and keeps them unless they are of wrong answers.
fn finish(report: &Report, json: Option<&Path>) -> anyhow::Result<()> {
    write!(stdout(), "{report}")?;
    if !report.faults.is_empty() {
        bail!("{}", report.faults.join("; "));
    }
    if let Some(path) = json {
        let mut text = serde_json::to_string_pretty(report)?;
        text.push('\n');
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn machine() -> anyhow::Result<Machine> {
    let cache = dirs::cache_dir().unwrap_or_else(std::env::temp_dir).join("sluice");
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the crate stands in a workspace")?;
    Ok(Machine {
        clock,
        cache,
        hub: HubSettings::from_variables(|name| std::env::var(name).ok()),
        workspace: workspace.to_owned(),
        processors: std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN),
        cpuinfo: fs::read_to_string("/proc/cpuinfo").unwrap_or_default(),
        progress,
    })
}

/// Time since it was first asked.
fn clock() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

fn progress(what: &str) {
    let _ = writeln!(stderr(), "[{:5.0} s] {what}", clock().as_secs_f64());
}

fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "expected a number of at least 1".to_owned())
}
