//! `sluice-load`: how much a Sluice server bears, and how it behaves beyond that.
//!
//! Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 failed, 2 wrong usage.
#![allow(clippy::disallowed_methods, reason = "the one place of this command that reads its environment")]

mod args;
mod failure;
mod progress;
mod run;

use std::{
    env,
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;

use crate::{
    args::{Args, Command},
    failure::Failure,
};

/// Where a server listens unless it is told otherwise.
const SERVER_DEFAULT: &str = "http://127.0.0.1:50051";
/// Names the server where `--server` does not.
const SERVER_VARIABLE: &str = "SLUICE_URL";
/// Holds the token where `--token` does not: what stands on a command line, others on the machine can read.
const TOKEN_VARIABLE: &str = "SLUICE_TOKEN";

fn main() -> ExitCode {
    let Command::Run(args) = Args::parse().command;
    let set = |variable| env::var(variable).ok().filter(|value| !value.is_empty());
    let environment = run::Environment {
        server: set(SERVER_VARIABLE).unwrap_or_else(|| SERVER_DEFAULT.to_owned()),
        token: set(TOKEN_VARIABLE),
    };
    let (text, code) = match run::run(&args, &environment) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Usage(reason)) => (reason, ExitCode::from(2)),
        Err(Failure::Failed(error)) => (format!("{error:#}"), ExitCode::FAILURE),
    };
    // Where standard error is gone, there is nobody to tell.
    let _ = writeln!(io::stderr(), "sluice-load: {text}");
    code
}
