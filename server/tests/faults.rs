//! The fault table: what goes wrong inside, and what every client sees of it.
//!
//! | fault | the request it strikes | its neighbours in the batch | who comes later |
//! |---|---|---|---|
//! | poisoned input | `INTERNAL` | answered | answered |
//! | a batch fails once, however small | answered | answered | answered |
//! | out of memory, until a quarter is tried | answered | answered | answered |
//! | panic, as the batch is taken or computed | answered | answered | answered |
//! | every batch fails | `INTERNAL` | `INTERNAL` | `INTERNAL` |
//! | device lost | `UNAVAILABLE` (`DEVICE_LOST`), with a time to come back | the same | answered |
//! | one of two devices lost | answered | answered | answered |
//! | SIGTERM under load | answered, or `UNAVAILABLE` (`DRAINING`) | | connection refused |
//! | SIGKILL under load | `UNAVAILABLE`, from the transport | | connection refused |
//!
//! Slow readers are in `cancellation.rs`, `wire/stream.rs` and `malformed.rs`. Nobody is answered twice, and nobody
//! hangs: every call here ends well within [`PATIENCE`](common::child::PATIENCE).

#![allow(clippy::disallowed_methods, clippy::panic, reason = "real servers, and real time")]

mod common;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use common::{TestServer, child, child::ServerProcess, ledger::Counts, query, reason, request};
use sluice_proto::rerank::v1::{
    RerankManyRequest, RerankRequest, rerank_many_response::Outcome, rerank_service_client::RerankServiceClient,
};
use tokio::task::JoinSet;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt;

/// One sequence a batch takes at least this long, so that what comes meanwhile shares the next one.
const SLOW: &str = "max_tokens = 64\npoison = \"poison\"\nservice_time.per_batch = \"200ms\"\n";
/// The models' first batch, before anybody is let in.
const WARM_UP_BATCHES: u64 = 1;

/// What a client has seen: `OK`, or the code and the reason.
type Seen = String;

fn seen(result: &Result<usize, Status>, documents: usize) -> Seen {
    match result {
        Ok(results) => {
            assert_eq!(*results, documents, "an answer is whole");
            "OK".to_owned()
        }
        Err(status) => {
            if status.code() == Code::Unavailable && reason(status) == "DEVICE_LOST" {
                assert!(status.get_details_retry_info().is_some(), "a time to come back");
            }
            format!("{:?} {}", status.code(), reason(status))
        }
    }
}

async fn ask(channel: Channel, request: RerankRequest) -> Result<usize, Status> {
    Ok(RerankServiceClient::new(channel).rerank(request).await?.into_inner().results.len())
}

/// Three requests that share a batch, behind one that keeps the device busy meanwhile: what the first of them, its
/// neighbours, and a request after all of them see.
async fn strike(fault: &str, struck: &str) -> [Seen; 3] {
    // However slow a batch is, it takes all three.
    let script = format!("{SLOW}{fault}");
    let server =
        TestServer::scripted(&script, |config| config.scheduler.batch_duration_max = Duration::from_secs(5)).await;
    let channel = server.channel().await;
    let busy = tokio::spawn(ask(channel.clone(), request("red", &["red"])));
    tokio::time::sleep(Duration::from_millis(20)).await;
    let shared: Vec<_> = [struck, "red", "blue"]
        .map(|text| tokio::spawn(ask(channel.clone(), request("red", &[text, "red sand"]))))
        .into_iter()
        .collect();
    let mut all = Vec::new();
    for call in shared {
        let result = tokio::time::timeout(child::PATIENCE, call).await.expect("nobody hangs").expect("no panic");
        all.push(seen(&result, 2));
    }
    assert_eq!(all[1], all[2], "neighbours fare alike");
    let first = tokio::time::timeout(child::PATIENCE, busy).await.expect("nobody hangs").expect("no panic");
    assert!(first.is_ok() || fault.contains("repeat = 1000"), "it came before the fault: {first:?}");
    let after = ask(channel, request("red", &["red"])).await;
    [all[0].clone(), all[1].clone(), seen(&after, 1)]
}

#[tokio::test]
async fn every_client_sees_what_the_table_says() {
    // The batch that the three share: behind the warm-up's and that of the first request.
    let shared = WARM_UP_BATCHES + 2;
    let fault = |kind: &str, when: &str, repeat: u32| {
        format!("[[fault]]\nat_batch = {shared}\nkind = \"{kind}\"\nwhen = \"{when}\"\nrepeat = {repeat}\n")
    };
    let lost = "Unavailable DEVICE_LOST";
    let failed = "Internal INTERNAL";
    let cases = [
        ("poisoned input", String::new(), "poison", [failed, "OK", "OK"]),
        ("a batch fails once", fault("failed", "collect", 1), "red", ["OK", "OK", "OK"]),
        ("out of memory", fault("out_of_memory", "collect", 2), "red", ["OK", "OK", "OK"]),
        ("panic in collect", fault("panic", "collect", 1), "red", ["OK", "OK", "OK"]),
        ("panic in submit", fault("panic", "submit", 1), "red", ["OK", "OK", "OK"]),
        ("every batch fails", fault("failed", "collect", 1000), "red", [failed, failed, failed]),
        ("device lost in collect", fault("device_lost", "collect", 1), "red", [lost, lost, "OK"]),
        ("device lost in submit", fault("device_lost", "submit", 1), "red", [lost, lost, "OK"]),
    ];
    let mut wrong = Vec::new();
    for (name, fault, struck, expected) in cases {
        let seen = strike(&fault, struck).await;
        if seen != expected {
            wrong.push(format!("{name}: {seen:?}, expected {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What the device was computing goes to the other one, and the server goes on serving.
#[tokio::test]
async fn one_of_two_devices_lost_costs_nobody_an_answer() {
    for (device, when) in [(0, "collect"), (1, "collect"), (0, "submit"), (1, "submit")] {
        let fault = format!("[[fault]]\nat_batch = 4\ndevice = {device}\nkind = \"device_lost\"\nwhen = \"{when}\"\n");
        // 20 batches of two requests, and each device takes its turn.
        let batches = "batch_sequences_max = 6\nservice_time.per_batch = \"5ms\"";
        let script = format!("max_tokens = 64\ndevices = 2\n{batches}\n{fault}");
        let server =
            TestServer::scripted(&script, |config| config.metrics_listen = Some(([127, 0, 0, 1], 0).into())).await;
        let before = Counts::of(&server).await;
        let channel = server.channel().await;
        let mut calls = JoinSet::new();
        for call in 0..40 {
            let (channel, text) = (channel.clone(), format!("red {call}"));
            calls.spawn(async move { ask(channel, request("red", &[&text, "red sand", "blue"])).await });
        }
        while let Some(answer) = tokio::time::timeout(child::PATIENCE, calls.join_next()).await.expect("nobody hangs") {
            assert_eq!(seen(&answer.expect("no panic"), 3), "OK", "device {device} in {when}");
        }
        assert!(server.serving("").await);
        // Nobody else in this process has two devices.
        let after = Counts::of(&server).await;
        let moved = |counts: &Counts| counts.sum("sluice_moved_batches_total");
        assert_eq!(moved(&after) - moved(&before), 1.0, "device {device} had its fourth batch in {when}");
        server.stop().await.expect("a clean end");
    }
}

#[tokio::test]
async fn a_fault_that_passes_costs_not_even_a_lone_document_its_answer() {
    for kind in ["failed", "out_of_memory", "panic"] {
        let script = format!(
            "max_tokens = 64\ncapabilities = [\"cross_encoder\"]\n[[fault]]\nat_batch = 2\nkind = \"{kind}\"\n"
        );
        let server = TestServer::scripted(&script, |_| ()).await;
        let answer = ask(server.channel().await, request("red", &["red"])).await;
        assert_eq!(seen(&answer, 1), "OK", "{kind}");
    }
}

/// Answers that make a load.
const ANSWERS: u32 = 100;

/// Clients that ask without a pause, until they are told to go or the server has gone; returns when enough is answered.
async fn load(ports: child::Ports, clients: usize) -> JoinSet<BTreeMap<Seen, u32>> {
    let mut calls = JoinSet::new();
    let answered = Arc::new(AtomicU32::new(0));
    for _ in 0..clients {
        let channel = ports.channel().await;
        let answered = Arc::clone(&answered);
        calls.spawn(async move {
            let mut tally = BTreeMap::new();
            loop {
                let result = ask(channel.clone(), request("red", &["red", "blue", "green"])).await;
                let seen = seen(&result, 3);
                let over = result.is_err();
                *tally.entry(seen).or_insert(0) += 1;
                if over {
                    return tally;
                }
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let begin = Instant::now();
    while answered.load(Ordering::Relaxed) <= ANSWERS {
        assert!(begin.elapsed() < child::PATIENCE, "there is load: {answered:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    calls
}

/// Stops a loaded server with a signal: what its clients saw of it, all together.
async fn stopped_by(signal: &str) -> BTreeMap<Seen, u32> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = child::script(folder.path(), "service_time.per_batch = \"5ms\"\nbatch_sequences_max = 8\n");
    let mut server = ServerProcess::start(&["--model", &format!("m={source}")]);
    let ports = server.serving();
    let mut calls = load(ports, 20).await;
    server.signal(signal);
    let mut all = BTreeMap::new();
    while let Some(tally) = tokio::time::timeout(child::PATIENCE, calls.join_next()).await.expect("nobody hangs") {
        for (seen, count) in tally.expect("no client panics") {
            *all.entry(seen).or_insert(0) += count;
        }
    }
    server.ended(child::PATIENCE);
    all
}

#[tokio::test]
async fn sigterm_under_load_answers_what_it_accepted() {
    let seen = stopped_by("TERM").await;
    assert!(seen["OK"] > ANSWERS, "there was load: {seen:?}");
    let refusals: u32 = seen.iter().filter(|(seen, _)| *seen != "OK").map(|(_, count)| count).sum();
    assert_eq!(refusals, 20, "each client heard once that it is over: {seen:?}");
    // Refused while draining, or never sent because the connection was closed in good order.
    let known = ["OK", "Unavailable DRAINING", "Unavailable ", "Cancelled "];
    assert!(seen.keys().all(|seen| known.contains(&seen.as_str())), "{seen:?}");
}

#[tokio::test]
async fn sigkill_under_load_hangs_nobody() {
    let seen = stopped_by("KILL").await;
    assert!(seen["OK"] > ANSWERS, "there was load: {seen:?}");
    let broken: u32 = seen.iter().filter(|(seen, _)| *seen != "OK").map(|(_, count)| count).sum();
    assert_eq!(broken, 20, "each client heard once: {seen:?}");
    // What the transport makes of a connection that broke.
    let known = ["OK", "Unavailable ", "Unknown ", "Cancelled ", "Internal "];
    assert!(seen.keys().all(|seen| known.contains(&seen.as_str())), "{seen:?}");
}

/// RerankMany numbers its answers: none comes twice, whatever fails between.
#[tokio::test]
async fn nobody_is_answered_twice() {
    let faults = "[[fault]]\nat_batch = 3\nkind = \"panic\"\n[[fault]]\nat_batch = 6\nkind = \"device_lost\"\n\
                  [[fault]]\nat_batch = 9\nkind = \"out_of_memory\"\nrepeat = 1000\n\
                  sequences_above = 3\n";
    let script = format!("poison = \"poison\"\nbatch_sequences_max = 16\nservice_time.per_batch = \"2ms\"\n{faults}");
    let server = TestServer::scripted(&script, |_| ()).await;
    let requests = (0..60).map(|id| RerankManyRequest {
        request_id: id.to_string(),
        request: Some(RerankRequest {
            query: query("red"),
            ..request("red", if id % 10 == 0 { &["poison", "red"] } else { &["red", "blue"] })
        }),
        timeout: None,
    });
    let stream = futures_util::stream::iter(requests.collect::<Vec<_>>());
    let mut answers = server.rerank().await.rerank_many(stream).await.expect("it opens").into_inner();
    let mut outcomes = BTreeMap::new();
    while let Some(answer) =
        tokio::time::timeout(child::PATIENCE, answers.message()).await.expect("it does not hang").expect("no status")
    {
        let code = match answer.outcome.expect("always set") {
            Outcome::Response(response) => {
                assert_eq!(response.results.len(), 2);
                Code::Ok
            }
            Outcome::Error(error) => Code::from_i32(error.code),
        };
        assert_eq!(outcomes.insert(answer.request_id.clone(), code), None, "{} came twice", answer.request_id);
    }
    assert_eq!(outcomes.len(), 60, "every request has its answer");
    for (id, code) in &outcomes {
        let poisoned = id.parse::<u32>().expect("a number") % 10 == 0;
        let allowed: &[Code] =
            if poisoned { &[Code::Internal, Code::Unavailable] } else { &[Code::Ok, Code::Unavailable] };
        assert!(allowed.contains(code), "{id}: {code:?}");
    }
    assert!(outcomes.values().any(|code| *code == Code::Ok) && outcomes.values().any(|code| *code == Code::Internal));
}
