//! `sluice-load run`.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use sluice_client::BearerToken;
use sluice_core::workload::{Budget, Content, Process, Sizes, Stream, Traffic, Workload};
use sluice_loadtest::{
    Options, Target,
    compose::{Composer, Texts},
    report::Report,
    run as send, table,
};

use crate::{
    args::{ArrivalsArg, RunArgs, StreamArgs},
    failure::Failure,
    progress::Shown,
};

/// Length of a run that no file describes.
const DURATION_DEFAULT: Duration = Duration::from_secs(30);

/// What the environment says where the flags do not.
pub(crate) struct Environment {
    pub server: String,
    pub token: Option<String>,
}

pub(crate) fn run(args: &RunArgs, environment: &Environment) -> Result<(), Failure> {
    let traffic = Traffic::new(workload(args)?).map_err(|faults| Failure::Usage(format!("workload: {faults}")))?;
    let texts = Texts { documents: lines(args.texts.as_deref())?, queries: lines(args.queries.as_deref())? };
    let target = target(args, environment)?;
    let options = Options { connections: args.connections, in_flight_max: args.in_flight, ..Options::default() };

    let shown = Shown::new(traffic.workload().duration);
    let composer = Arc::new(Composer::new(traffic, texts));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no threads")?;
    let sending = send(composer, &target, &options, |progress| shown.show(progress), interrupted());
    let report = runtime.block_on(sending)?;
    drop(shown);
    // What is still under way is for nobody.
    runtime.shutdown_background();
    finish(&report, args.json.as_deref())
}

/// Writes the figures before it says that they are of nothing.
fn finish(report: &Report, json: Option<&Path>) -> Result<(), Failure> {
    if let Some(path) = json {
        let mut text = serde_json::to_string_pretty(report).context("figures as JSON")?;
        text.push('\n');
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let mut stdout = io::stdout().lock();
    match stdout.write_all(table::render(report).as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(Failure::Failed(anyhow::Error::new(error).context("writing to standard output")));
        }
        _ => {}
    }
    if report.interrupted {
        return Err(Failure::Failed(anyhow::anyhow!("interrupted")));
    }
    if report.total.answered == 0 {
        return Err(Failure::Failed(anyhow::anyhow!("nothing was answered")));
    }
    Ok(())
}

/// Ends when the user says so.
async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        // It cannot be told: then it never ends.
        std::future::pending::<()>().await;
    }
}

fn workload(args: &RunArgs) -> Result<Workload, Failure> {
    let mut workload = match &args.workload {
        Some(path) => {
            let text = read(path)?;
            toml::from_str(&text).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?
        }
        None => {
            let duration = args.duration.unwrap_or(DURATION_DEFAULT);
            Workload { duration, warm_up: duration / 10, seed: 0, streams: vec![stream(&args.stream)] }
        }
    };
    workload.duration = args.duration.unwrap_or(workload.duration);
    workload.warm_up = args.warm_up.unwrap_or(workload.warm_up);
    workload.seed = args.seed.unwrap_or(workload.seed);
    Ok(workload)
}

fn stream(args: &StreamArgs) -> Stream {
    let rate = args.rate.unwrap_or(10.0);
    let arrivals = match args.arrivals.unwrap_or_default() {
        ArrivalsArg::Poisson => Process::Poisson { rate },
        ArrivalsArg::Constant => Process::Constant { rate },
        ArrivalsArg::Closed => {
            Process::Closed { callers: args.callers.unwrap_or(1), think_time: args.think_time.unwrap_or_default() }
        }
    };
    let content = match (args.stored, args.vectors) {
        (Some(pool), _) => Content::Stored { namespace: "load".to_owned(), pool },
        (None, Some(dim)) => Content::Vectors { dim },
        (None, None) => Content::Text,
    };
    let mut stream = Stream::new("requests", arrivals, Sizes::Fixed(args.documents.unwrap_or(10)));
    stream.document_tokens = args.document_tokens.map_or(stream.document_tokens, Sizes::Fixed);
    stream.query_tokens = args.query_tokens.map_or(stream.query_tokens, Sizes::Fixed);
    stream.content = content;
    stream.distinct = args.distinct;
    stream.deadline = args.deadline.unwrap_or(stream.deadline);
    stream.budget = args.budget.map(|time| Budget { time: Some(time), pairs: None });
    stream.class = args.class.map_or(stream.class, Into::into);
    stream.model = args.model.clone().unwrap_or_default();
    stream.method = args.method.map(Into::into);
    stream
}

fn target(args: &RunArgs, environment: &Environment) -> Result<Target, Failure> {
    let token = args.token.as_ref().or(environment.token.as_ref()).map(|token| BearerToken::new(token)).transpose()?;
    let mut tenants = BTreeMap::new();
    for pair in &args.tenant_token {
        let (name, token) =
            pair.split_once('=').ok_or_else(|| Failure::Usage("--tenant-token: expected NAME=TOKEN".to_owned()))?;
        tenants.insert(name.to_owned(), BearerToken::new(token)?);
    }
    Ok(Target { url: args.server.clone().unwrap_or_else(|| environment.server.clone()), token, tenants })
}

/// The lines of a file that are not blank; none without a file.
fn lines(path: Option<&Path>) -> Result<Vec<String>, Failure> {
    let Some(path) = path else { return Ok(Vec::new()) };
    let lines: Vec<String> = read(path)?.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
    if lines.is_empty() { Err(Failure::Usage(format!("{}: no lines of text", path.display()))) } else { Ok(lines) }
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| Failure::Usage(format!("cannot read {}: {error}", path.display())))
}
