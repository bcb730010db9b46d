//! The port: health, reflection, metrics, deadlines, drain.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use sluice_proto::retrieval::v1 as wire;
use sluice_retrieval::search::Undisturbed;
use sluice_service::drain::Ending;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, transport::Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::common::{
    TestShard, create, dense_leg, document,
    faults::{Fate, Faults},
    lexical, search, timerless, upsert,
};

async fn health(shard: &TestShard, service: &str) -> Result<ServingStatus, Code> {
    let endpoint = Endpoint::from_shared(format!("http://{}", shard.address)).expect("an address");
    let mut client = HealthClient::new(endpoint.connect().await.expect("it listens"));
    let request = HealthCheckRequest { service: service.to_owned() };
    client.check(request).await.map(|answer| answer.into_inner().status()).map_err(|status| status.code())
}

#[tokio::test]
async fn health_is_known_by_name() {
    let shard = TestShard::start().await;
    for service in ["", "sluice.retrieval.v1.RetrievalService", "liveness"] {
        assert_eq!(health(&shard, service).await, Ok(ServingStatus::Serving), "{service:?}");
    }
    assert_eq!(health(&shard, "sluice.rerank.v1.RerankService").await, Err(Code::NotFound));
}

#[tokio::test]
async fn a_deadline_that_has_passed_costs_nothing() {
    let shard = TestShard::start().await;
    let mut client = shard.client().await;
    create(&mut client, "docs").await;
    let status = timerless::refusal(shard.address, &search("docs", vec![lexical("x")]), "0m").await;
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    let mut request = Request::new(search("docs", vec![lexical("x")]));
    request.metadata_mut().insert("grpc-timeout", "soon".parse().expect("ASCII"));
    assert_eq!(client.search(request).await.expect_err("no limit").code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_is_finished() {
    let faults = Faults::of(&[("dense", Fate::Waits)]);
    let shard = TestShard::start_with(Arc::clone(&faults) as _, |_| ()).await;
    let mut client = shard.client().await;
    create(&mut client, "docs").await;
    upsert(&mut client, "docs", vec![document("a", "apple", [1.0, 0.0])]).await;
    let searching = tokio::spawn({
        let mut client = client.clone();
        async move { client.search(search("docs", vec![dense_leg([1.0, 0.0])])).await }
    });
    let (batches, read) = mpsc::channel(1);
    let mut answers = client.upsert(ReceiverStream::new(read)).await.expect("opens").into_inner();
    let batch = wire::UpsertRequest {
        collection: "docs".into(),
        batch_id: 5,
        documents: vec![document("b", "apple", [1.0, 0.0])],
    };
    batches.send(batch).await.expect("it reads");
    let answer = answers.message().await.expect("goes on").expect("an acknowledgement");
    assert_eq!(answer.batch_id, 5);
    let stopping = tokio::spawn(shard.stop());
    // A call that could go on for ever is ended, with what it is to make of that.
    let refused = answers.message().await.expect_err("it stops");
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(!searching.is_finished());
    faults.release();
    let found = searching.await.expect("no panic").expect("finished").into_inner();
    // It began before the second document came, and may have looked before or after.
    assert!(found.hits.iter().any(|hit| hit.id == "a"), "{:?}", found.hits);
    assert_eq!(stopping.await.expect("no panic").expect("ends well"), Ending::Finished);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_calls_legs_and_batches() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let configure = |config: &mut sluice_retrieval::config::ShardConfig| config.metrics_listen = Some(any);
    let shard = TestShard::start_with(Arc::new(Undisturbed), configure).await;
    let mut client = shard.client().await;
    create(&mut client, "metered").await;
    upsert(&mut client, "metered", vec![document("a", "apple", [1.0, 0.0])]).await;
    client.search(search("metered", vec![lexical("apple"), dense_leg([1.0, 0.0])])).await.expect("found");
    client.search(search("metered", Vec::new())).await.expect_err("no legs");
    let address = shard.metrics.expect("asked for");
    let wanted = [
        "sluice_shard_requests_total{rpc=\"Search\",code=\"OK\"}",
        "sluice_shard_requests_total{rpc=\"Search\",code=\"INVALID_ARGUMENT\"}",
        "sluice_shard_requests_total{rpc=\"Upsert\",code=\"OK\"}",
        "sluice_shard_request_duration_seconds_bucket{rpc=\"Search\",le=\"60\"}",
        "sluice_shard_legs_total{kind=\"lexical\",state=\"ok\"}",
        "sluice_shard_leg_duration_seconds_count{kind=\"dense\"}",
        "sluice_shard_batches_total{outcome=\"written\"}",
        "sluice_shard_documents_written_total",
        "sluice_shard_collections",
        "sluice_build_info",
    ];
    // A call is counted when its last message has gone, which may be after the caller has it.
    let begin = Instant::now();
    loop {
        let text = tokio::task::spawn_blocking(move || scrape(address)).await.expect("no panic");
        let missing: Vec<_> = wanted.iter().filter(|line| !text.contains(**line)).collect();
        if missing.is_empty() {
            return;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "{missing:?} are not in\n{text}");
        tokio::task::yield_now().await;
    }
}

fn scrape(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: shard\r\nconnection: close\r\n\r\n").expect("it reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("it answers");
    text
}
