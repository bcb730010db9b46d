//! The command line.

use std::{num::NonZero, path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use sluice_core::workload::{Class, Method, parse_period};

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage.";

const RUN_HELP: &str = "\
Requests leave when they are intended to, whether or not earlier ones were answered, and latency counts from then.
The same workload and seed send the same requests at the same intended times, on every machine.

A workload file (TOML) has a `duration`, a `warm_up`, a `seed` and [[stream]] tables, all sent at once:
  duration = \"60s\"
  warm_up = \"5s\"
  [[stream]]
  name = \"chat\"
  arrivals = { process = \"poisson\", rate = 20.0 }   # or constant; or { process = \"closed\", callers = 4, think_time = \"10ms\" }
  documents = 10                                    # or { min, max, shape = \"zipf\" }, or [{ value, weight }, …]
  class = \"interactive\"
  deadline = \"300ms\"
and of a stream also: from, until, document_tokens, query_tokens, content, distinct, model, method, tenant, budget,
abandon. Without a file, the flags describe one stream.

--json FILE writes one object, \"schema\": \"sluice-load/run/1\": total, classes and streams, each with requests, sent,
answered, good, partial, outcomes by status and reason, rates with 95 % intervals, and latency_seconds (from the intended
time), service_seconds (from sending), refusal_seconds and lag_seconds as percentiles; and how the generator kept up.

Tokens for tenants: --tenant-token NAME=TOKEN for streams with `tenant = \"NAME\"`; --token, or SLUICE_TOKEN, for others.

Exit codes: 0 done, 1 failed (also where nothing was answered), 2 wrong usage.";

/// How much a Sluice server bears, and how it behaves beyond that.
#[derive(Debug, Parser)]
#[command(name = "sluice-load", version, after_help = EXIT_CODES)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Send a workload and say what came of it.
    #[command(after_help = RUN_HELP)]
    Run(RunArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RunArgs {
    /// The server [default: $SLUICE_URL, or http://127.0.0.1:50051].
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// What is sent; without it, the flags of one stream say so.
    #[arg(long, value_name = "FILE", conflicts_with = "StreamArgs")]
    pub workload: Option<PathBuf>,
    /// Length of the run [default: 30s, or the file's].
    #[arg(long, value_name = "TIME", value_parser = parse_period)]
    pub duration: Option<Duration>,
    /// What is intended earlier is sent and not counted [default: a tenth of the run, or the file's].
    #[arg(long, value_name = "TIME", value_parser = parse_period)]
    pub warm_up: Option<Duration>,
    /// Of everything drawn [default: 0, or the file's].
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    #[command(flatten)]
    pub stream: StreamArgs,
    /// Documents are drawn from the lines of this file, instead of made ones.
    #[arg(long, value_name = "FILE")]
    pub texts: Option<PathBuf>,
    /// Queries are drawn from the lines of this file, instead of made ones.
    #[arg(long, value_name = "FILE")]
    pub queries: Option<PathBuf>,
    /// Who calls, where the stream has no tenant [default: $SLUICE_TOKEN].
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<String>,
    /// Who calls for a tenant; repeatable.
    #[arg(long, value_name = "NAME=TOKEN")]
    pub tenant_token: Vec<String>,
    /// Connections for each tenant.
    #[arg(long, value_name = "N", default_value = "1")]
    pub connections: NonZero<usize>,
    /// Requests in flight at once; that it was met is reported.
    #[arg(long, value_name = "N", default_value = "4096")]
    pub in_flight: NonZero<usize>,
    /// Also write the figures as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// One stream.
#[derive(Debug, ClapArgs)]
#[group(id = "StreamArgs", multiple = true)]
pub(crate) struct StreamArgs {
    /// Requests a second [default: 10].
    #[arg(long, value_name = "R")]
    pub rate: Option<f64>,
    /// When they come [default: poisson].
    #[arg(long, value_enum)]
    pub arrivals: Option<ArrivalsArg>,
    /// Callers of the closed loop [default: 1].
    #[arg(long, value_name = "N")]
    pub callers: Option<u32>,
    /// From an answer to the caller's next request [default: 0s].
    #[arg(long, value_name = "TIME", value_parser = parse_period)]
    pub think_time: Option<Duration>,
    /// Documents of a request [default: 10].
    #[arg(long, value_name = "N")]
    pub documents: Option<u32>,
    /// Tokens of a document [default: 100].
    #[arg(long, value_name = "N")]
    pub document_tokens: Option<u32>,
    /// Tokens of a query [default: 8].
    #[arg(long, value_name = "N")]
    pub query_tokens: Option<u32>,
    /// Different requests that there are [default: no two alike].
    #[arg(long, value_name = "N")]
    pub distinct: Option<u32>,
    /// Until when an answer is good, and is waited for [default: 30s].
    #[arg(long, value_name = "TIME", value_parser = parse_period)]
    pub deadline: Option<Duration>,
    /// Time after which the best order known is the answer.
    #[arg(long, value_name = "TIME", value_parser = parse_period)]
    pub budget: Option<Duration>,
    /// How urgent [default: standard].
    #[arg(long, value_enum)]
    pub class: Option<ClassArg>,
    /// Model asked for [default: the server's].
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// How documents are scored [default: the model's].
    #[arg(long, value_enum)]
    pub method: Option<MethodArg>,
    /// Ask for so many stored documents by id, put into namespace `load` first.
    #[arg(long, value_name = "N", conflicts_with = "vectors")]
    pub stored: Option<u32>,
    /// Send vectors of so many components.
    #[arg(long, value_name = "DIM")]
    pub vectors: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ArrivalsArg {
    /// Independently of each other.
    #[default]
    Poisson,
    /// Evenly.
    Constant,
    /// After the answer to the one before.
    Closed,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ClassArg {
    Interactive,
    Standard,
    Bulk,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum MethodArg {
    LateInteraction,
    Dense,
    CrossEncoder,
}

impl From<ClassArg> for Class {
    fn from(class: ClassArg) -> Self {
        match class {
            ClassArg::Interactive => Self::Interactive,
            ClassArg::Standard => Self::Standard,
            ClassArg::Bulk => Self::Bulk,
        }
    }
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
