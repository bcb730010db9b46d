//! Signals: what was accepted is finished, within a bound, and nothing is left behind.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use sluice_proto::rerank::v1::{
    RerankManyRequest, RerankRequest, RerankStreamResponse, rerank_many_response::Outcome,
    rerank_service_client::RerankServiceClient, rerank_stream_response::Update,
};
use tonic::{Code, Request, Status, Streaming, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::common::{
    child::{PATIENCE, Ports, ServerProcess, free_port, script},
    request,
};

/// Four documents in 100 ms: slow enough to be met in the middle.
const SLOW: &str = "max_tokens = 64\nbatch_sequences_max = 4\ncapabilities = [\"cross_encoder\"]\n\
                    [service_time]\nper_batch = \"100ms\"\n";

fn start(folder: &Path, text: &str, grace: &str, bound: &str) -> ServerProcess {
    let model = format!("model={}", script(folder, text));
    let ports = ["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"];
    ServerProcess::start_with(&[&["--model", &model], &ports[..]].concat(), |command| {
        command.env("SLUICE_DRAIN__GRACE", grace).env("SLUICE_DRAIN__BOUND", bound);
    })
}

fn documents(count: usize) -> RerankRequest {
    request("apple", &vec!["a red apple"; count])
}

/// A stream under way: its first scores are there, so that it is computed and not just queued.
async fn streaming(channel: &Channel, count: usize) -> Streaming<RerankStreamResponse> {
    let mut client = RerankServiceClient::new(channel.clone());
    let mut stream = client.rerank_stream(documents(count)).await.expect("opens").into_inner();
    let first = stream.message().await.expect("goes on").expect("not at its end").update;
    assert!(matches!(first, Some(Update::Scores(_))), "{first:?}");
    stream
}

/// The number of results of its last message.
async fn rest_of(mut stream: Streaming<RerankStreamResponse>) -> Result<usize, Status> {
    let mut results = None;
    while let Some(message) = stream.message().await? {
        assert!(results.is_none(), "nothing comes after the answer");
        if let Some(Update::Response(response)) = message.update {
            results = Some(response.results.len());
        }
    }
    Ok(results.expect("a stream ends with its answer"))
}

async fn quick(channel: Channel) -> Result<usize, Status> {
    let mut ask = Request::new(documents(1));
    // Before the others' deadline, so that it does not wait for them.
    ask.set_timeout(Duration::from_secs(5));
    Ok(RerankServiceClient::new(channel).rerank(ask).await?.into_inner().results.len())
}

async fn health_changes(ports: Ports) -> Streaming<tonic_health::pb::HealthCheckResponse> {
    let watch = HealthCheckRequest { service: "sluice.rerank.v1.RerankService".to_owned() };
    let mut changes = HealthClient::new(ports.channel().await).watch(watch).await.expect("watched").into_inner();
    let first = changes.message().await.expect("goes on").expect("the present state");
    assert_eq!(first.status(), ServingStatus::Serving);
    changes
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_finishes_what_was_accepted() {
    const GRACE: Duration = Duration::from_millis(1500);
    let folder = tempfile::tempdir().expect("a folder");
    let mut process = start(folder.path(), SLOW, "1500ms", "20s");
    let ports = process.serving();
    let mut changes = health_changes(ports).await;
    let channel = ports.channel().await;
    let stream = streaming(&channel, 40).await;
    let mut client = RerankServiceClient::new(channel.clone());
    let unary = tokio::spawn(async move { client.rerank(documents(40)).await });
    // Two requests, and a caller who might send more for as long as the call lives.
    let requests = [("a", 8), ("b", 12)].map(|(id, count)| RerankManyRequest {
        request_id: id.to_owned(),
        request: Some(documents(count)),
        timeout: None,
    });
    let requests = stream::iter(requests).chain(stream::pending());
    let mut many = RerankServiceClient::new(channel.clone()).rerank_many(requests).await.expect("opens").into_inner();
    let all_in = || ports.scrape().sum("sluice_requests_in_flight", &[]) == 4.0;
    let begin = Instant::now();
    while !all_in() {
        assert!(begin.elapsed() < PATIENCE, "four requests are in flight");
    }

    let signalled = Instant::now();
    process.signal("TERM");
    let flipped = changes.message().await.expect("goes on").expect("a change");
    assert_eq!(flipped.status(), ServingStatus::NotServing);
    // Who was not told yet still calls, over connections old and new.
    assert_eq!(quick(channel.clone()).await.expect("in the grace"), 1);
    assert_eq!(quick(ports.channel().await).await.expect("in the grace"), 1);
    assert!(signalled.elapsed() < GRACE, "the grace was over too soon for this machine to show anything");
    assert!(process.is_running());
    let liveness = HealthCheckRequest { service: "liveness".to_owned() };
    let alive = HealthClient::new(ports.channel().await).check(liveness).await.expect("answers").into_inner();
    assert_eq!(alive.status(), ServingStatus::Serving, "nobody should kill it for stopping");

    assert_eq!(rest_of(stream).await.expect("a stream finishes"), 40);
    assert_eq!(unary.await.expect("no panic").expect("a call finishes").into_inner().results.len(), 40);
    let mut answered = Vec::new();
    let refused = loop {
        match many.message().await {
            Ok(Some(answer)) => {
                answered.push((answer.request_id, matches!(answer.outcome, Some(Outcome::Response(_)))));
            }
            Ok(None) => unreachable!("what was not read is refused"),
            Err(status) => break status,
        }
    };
    answered.sort();
    assert_eq!(answered, [("a".to_owned(), true), ("b".to_owned(), true)], "what was read is answered");
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert!(changes.message().await.expect("ends well").is_none(), "watches end, or nothing would");

    assert_eq!(process.ended(PATIENCE).code(), Some(0));
    assert!(signalled.elapsed() >= GRACE, "{:?}", signalled.elapsed());
    assert_eq!(process.logged("draining")["signal"], "SIGTERM");
    process.logged("stopped; every request was answered");
    assert!(ports.endpoint().connect().await.is_err(), "nobody listens any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_grace_nothing_new_is_accepted() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut process = start(folder.path(), SLOW, "0s", "20s");
    let ports = process.serving();
    let stream = streaming(&ports.channel().await, 80).await;
    process.signal("TERM");
    let begin = Instant::now();
    // The listener goes within a moment, while the stream still runs for two seconds.
    while ports.endpoint().connect().await.is_ok() {
        assert!(begin.elapsed() < Duration::from_millis(1500), "still accepts");
    }
    assert!(process.is_running());
    assert_eq!(rest_of(stream).await.expect("it was accepted before"), 80);
    assert_eq!(process.ended(PATIENCE).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_longer_than_the_bound_is_cut() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut process = start(folder.path(), SLOW, "100ms", "500ms");
    let ports = process.serving();
    // Twenty seconds of work, which its deadline leaves time for.
    let stream = streaming(&ports.channel().await, 800).await;
    let signalled = Instant::now();
    process.signal("TERM");
    assert_eq!(process.ended(PATIENCE).code(), Some(0));
    let took = signalled.elapsed();
    assert!((Duration::from_millis(600)..Duration::from_millis(3000)).contains(&took), "{took:?}");
    rest_of(stream).await.expect_err("cut");
    process.logged("stopped; what was unfinished was cut off");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_twice_means_it() {
    for (grace, bound) in [("1h", "1h"), ("0s", "1h")] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut process = start(folder.path(), SLOW, grace, bound);
        let ports = process.serving();
        let stream = streaming(&ports.channel().await, 4000).await;
        process.signal("TERM");
        process.logged("draining");
        std::thread::sleep(Duration::from_millis(100));
        assert!(process.is_running(), "grace {grace}, bound {bound}");
        let signalled = Instant::now();
        process.signal("TERM");
        assert_eq!(process.ended(PATIENCE).code(), Some(0));
        assert!(signalled.elapsed() < Duration::from_secs(2), "{:?}", signalled.elapsed());
        process.logged("not waiting for unfinished work");
        rest_of(stream).await.expect_err("cut");
    }
}

#[test]
fn an_idle_process_stops_at_once_whichever_way_it_is_asked() {
    for signal in ["TERM", "INT"] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut process = start(folder.path(), SLOW, "0s", "1h");
        process.serving();
        let signalled = Instant::now();
        process.signal(signal);
        assert_eq!(process.ended(PATIENCE).code(), Some(0), "{signal}");
        assert!(signalled.elapsed() < Duration::from_secs(2), "{signal}: {:?}", signalled.elapsed());
        assert_eq!(process.logged("draining")["signal"], format!("SIG{signal}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn loading_does_not_hold_up_a_stop() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = format!("model={}", script(folder.path(), "[load]\ndelay = \"600s\"\n"));
    let address = free_port();
    let arguments = ["--listen", &address.to_string(), "--model", &model];
    let mut process = ServerProcess::start_with(&arguments, |command| {
        command.env("SLUICE_DRAIN__GRACE", "0s");
    });
    let ports = Ports { grpc: address, metrics: None };
    let begin = Instant::now();
    let channel = loop {
        match ports.endpoint().connect().await {
            Ok(channel) => break channel,
            Err(error) => assert!(begin.elapsed() < PATIENCE && process.is_running(), "{error}: {:?}", process.log()),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let health = HealthCheckRequest::default();
    let status = HealthClient::new(channel.clone()).check(health).await.expect("answers").into_inner().status();
    assert_eq!(status, ServingStatus::NotServing);
    let refused = RerankServiceClient::new(channel).rerank(documents(1)).await.expect_err("loading");
    assert_eq!(refused.code(), Code::Unavailable);
    let signalled = Instant::now();
    process.signal("TERM");
    assert_eq!(process.ended(PATIENCE).code(), Some(0));
    assert!(signalled.elapsed() < Duration::from_secs(3), "{:?}", signalled.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn sigkill_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut process = start(folder.path(), SLOW, "0s", "20s");
    let ports = process.serving();
    let stream = streaming(&ports.channel().await, 400).await;
    process.signal("KILL");
    let status = process.ended(PATIENCE);
    assert_eq!(status.code(), None, "{status:?}");
    rest_of(stream).await.expect_err("its connection is gone");

    let model = format!("model={}", script(folder.path(), SLOW));
    let metrics = ports.metrics.expect("given").to_string();
    let again = ["--model", &model, "--listen", &ports.grpc.to_string(), "--metrics-listen", &metrics];
    let mut process = ServerProcess::start_with(&again, |_| ());
    assert_eq!(process.serving(), ports, "the same ports at once");
    assert_eq!(quick(ports.channel().await).await.expect("served"), 1);
    assert_eq!(ports.scrape().count("sluice_admitted_total", &[]), 1, "a new life");
}
