//! The README's first command: a ranking of real text through the server's own port.

use std::process::Command;

use sluice_inference::testing::default_model;
use sluice_proto::rerank::v1::rerank_service_client::RerankServiceClient;

use crate::common::{
    child::{Output, PATIENCE, Ports, ServerProcess},
    request,
};

/// The caller's own cache, in which the test before this has put the default model.
fn with_cache(command: &mut Command) {
    for name in ["HOME", "XDG_CACHE_HOME"] {
        match std::env::var_os(name) {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("SLUICE_DRAIN__GRACE", "0s");
}

#[test]
fn quickstart_prints_a_sensible_ranking_and_exits() {
    if default_model().is_none() {
        return;
    }
    let arguments = ["--quickstart", "--exit", "--listen", "127.0.0.1:0"];
    let Output { code, stdout, stderr } = ServerProcess::output(&arguments, with_cache);
    assert_eq!(code, Some(0), "{stderr}");
    let lines: Vec<&str> = stdout.lines().collect();
    assert!(lines[0].starts_with("\"why does bread dough rise\" over 8 documents, reranked by all-MiniLM-L6-v2 at "));
    let row = |id: &str| lines.iter().position(|line| line.contains(id)).unwrap_or_else(|| panic!("{id}: {stdout}"));
    assert!(row("yeast") < row("steel") && row("yeast") < row("sunrise"), "{stdout}");
    let rows = ["yeast", "kneading", "temperature", "soda", "storage", "oven-history", "steel", "sunrise"].map(row);
    assert_eq!(rows.iter().min(), Some(&row("yeast")), "what answers the question is first:\n{stdout}");
    let widest = lines[1..].iter().map(|line| line.chars().count()).max();
    assert!(widest.is_some_and(|columns| columns <= 100), "{widest:?}:\n{stdout}");
    assert!(!stdout.contains("Ctrl-C"), "it does not go on:\n{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn quickstart_serves_until_it_is_interrupted() {
    if default_model().is_none() {
        return;
    }
    let mut process = ServerProcess::start_with(&["--quickstart", "--listen", "127.0.0.1:0"], with_cache);
    let line = process.printed("Ctrl-C");
    let address = line.split_once("http://").and_then(|(_, rest)| rest.split(' ').next()).expect("an address");
    let ports = Ports { grpc: address.parse().expect("an address"), metrics: None };
    assert_eq!(process.serving(), ports, "the log says the same");
    let ask = request("where do penguins live", &["A car needs fuel.", "Penguins live in the Antarctic."]);
    let answer = RerankServiceClient::new(ports.channel().await).rerank(ask).await.expect("served").into_inner();
    assert_eq!((answer.model.as_str(), answer.results[0].index), ("all-MiniLM-L6-v2", 1));
    assert!(process.is_running());
    process.signal("INT");
    assert_eq!(process.ended(PATIENCE).code(), Some(0), "{:?}", process.log());
}
