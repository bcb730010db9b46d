//! `sluice`: talks to a Sluice server from a terminal or a script.
//!
//! Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 failed,
//! 2 wrong usage. A reader that goes away early (`sluice … | head`) is no failure.
#![allow(clippy::disallowed_methods, reason = "the one place of this command that reads its environment")]

mod args;
mod documents;
mod eval;
mod explain;
mod index;
mod lines;
mod models;
mod output;
mod progress;
mod read_ahead;
mod rerank;
mod server;
mod tokens;
mod unscored;

use std::{env, process::ExitCode};

use clap::Parser;

use crate::{
    args::{Args, Command},
    output::{Failure, note},
    server::ServerDefault,
};

/// Where a server listens unless it is told otherwise.
const SERVER_DEFAULT: &str = "http://127.0.0.1:50051";
/// Names the server where `--server` does not.
const SERVER_VARIABLE: &str = "SLUICE_URL";
/// Says who calls where `--token` does not.
const TOKEN_VARIABLE: &str = "SLUICE_TOKEN";

fn main() -> ExitCode {
    let args = Args::parse();
    let failure = match run(args) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(failure) => failure,
    };
    match failure {
        Failure::NobodyReads => ExitCode::SUCCESS,
        Failure::Usage(reason) => {
            note(&reason);
            ExitCode::from(2)
        }
        Failure::Failed(error) => {
            note(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<(), Failure> {
    let default = server_default()?;
    // One thread serves it all: the work is the server's.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match args.command {
        Command::Rerank(args) => runtime.block_on(rerank::run(&args, &default)),
        Command::Models(args) => runtime.block_on(models::run(&args, &default)),
        Command::Eval(args) => runtime.block_on(eval::run(&args, &default)),
        Command::Explain(args) => runtime.block_on(explain::run(&args, &default, colours_welcome())),
        Command::Index(args) => runtime.block_on(index::run(&args, &default)),
        Command::Tokens(command) => runtime.block_on(tokens::run(&command, &default)),
    }
}

/// See <https://no-color.org>.
fn colours_welcome() -> bool {
    let set = |variable| env::var_os(variable).filter(|value| !value.is_empty());
    set("NO_COLOR").is_none() && set("TERM").is_none_or(|terminal| terminal != "dumb")
}

fn server_default() -> Result<ServerDefault, Failure> {
    let url = variable(SERVER_VARIABLE)?.unwrap_or_else(|| SERVER_DEFAULT.to_owned());
    Ok(ServerDefault { url, token: variable(TOKEN_VARIABLE)? })
}

/// What the environment says; nothing, if that is empty.
fn variable(name: &str) -> Result<Option<String>, Failure> {
    match env::var(name) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => Err(Failure::Usage(format!("{name} is not UTF-8"))),
    }
}
