//! Work goes when nobody waits for it any more: what the metrics say of callers that leave, run out of time, fail, or
//! do not read.
//!
//! The metrics are one set per process, so these tests take turns.

#![allow(clippy::disallowed_methods, reason = "real processes and real time")]

mod common;

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use common::{
    TestServer,
    ledger::Counts,
    raw::{Call, Connection, End, Ending, frame},
    request,
};
use prost::Message;
use sluice_proto::rerank::v1::{Method, RerankManyRequest, RerankRequest};
use tokio::sync::{Mutex, MutexGuard};
use tonic::Code;

static ALONE: Mutex<()> = Mutex::const_new(());

const RERANK: &str = "/sluice.rerank.v1.RerankService/Rerank";
const RERANK_STREAM: &str = "/sluice.rerank.v1.RerankService/RerankStream";
const RERANK_MANY: &str = "/sluice.rerank.v1.RerankService/RerankMany";

/// Documents of a request, each a batch of its own.
const DOCUMENTS: usize = 60;
/// Requests of a call that has many.
const REQUESTS: usize = 6;
const BATCH: Duration = Duration::from_millis(10);

async fn slow_server() -> (TestServer, MutexGuard<'static, ()>) {
    server("max_tokens = 64\nbatch_sequences_max = 1\npoison = \"poison\"\n[service_time]\nper_batch = \"10ms\"\n")
        .await
}

async fn server(script: &str) -> (TestServer, MutexGuard<'static, ()>) {
    let alone = ALONE.lock().await;
    let server = TestServer::scripted(script, |config| {
        config.metrics_listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    })
    .await;
    (server, alone)
}

fn large(first: &str) -> RerankRequest {
    let texts: Vec<_> = std::iter::once(first).chain((1..DOCUMENTS).map(|_| "red")).collect();
    RerankRequest { method: Method::CrossEncoder.into(), ..request("red", &texts) }
}

/// The large request as the body of a call of that method: cut in pieces where a call has many requests.
fn body(path: &str) -> Vec<Bytes> {
    let request = large("red");
    if path != RERANK_MANY {
        return vec![frame(&request.encode_to_vec())];
    }
    let pieces = request.documents.chunks(DOCUMENTS / REQUESTS).enumerate().map(|(id, documents)| RerankManyRequest {
        request_id: id.to_string(),
        request: Some(RerankRequest { documents: documents.to_vec(), ..request.clone() }),
        timeout: None,
    });
    pieces.map(|request| frame(&request.encode_to_vec())).collect()
}

/// Asserts that nothing is dispatched any more, though there is time for several batches.
async fn assert_idle(server: &TestServer) {
    let before = Counts::at_rest(server).await;
    tokio::time::sleep(6 * BATCH).await;
    let after = Counts::at_rest(server).await;
    assert_eq!(after.units("dispatched"), before.units("dispatched"), "dispatched after nobody waited");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_leaves_takes_its_queued_units_along() {
    enum Leave {
        Reset,
        Disconnect,
    }
    for path in [RERANK, RERANK_STREAM, RERANK_MANY] {
        for leave in [Leave::Reset, Leave::Disconnect] {
            let (server, _alone) = slow_server().await;
            let before = Counts::at_rest(&server).await;
            let gone = |counts: &Counts, event| counts.units(event) - before.units(event);
            let connection = Connection::open(server.address).await;
            let mut call = Call::with_body(path, body(path));
            call.end = if path == RERANK_MANY { End::Open } else { End::Close };
            let open = connection.begin(call).await.expect("the server listens");
            let begun =
                |counts: &Counts| gone(counts, "enqueued") == DOCUMENTS as f64 && gone(counts, "dispatched") >= 3.0;
            Counts::when(&server, "a third batch", begun).await;
            match leave {
                Leave::Reset => drop(open),
                Leave::Disconnect => drop(connection),
            }
            let first = Counts::when(&server, "a cancellation", |counts| gone(counts, "cancelled") > 0.0).await;
            let nothing_waits =
                |counts: &Counts| gone(counts, "dispatched") + gone(counts, "cancelled") == gone(counts, "enqueued");
            let left = Counts::when(&server, "an end of what waited", nothing_waits).await;
            // A request goes as a whole, at once but for a batch that began while the metrics were read; those of a
            // call go one after the other.
            let dispatched_max = if path == RERANK_MANY { DOCUMENTS / 2 } else { 1 };
            let dispatched = gone(&left, "dispatched") - gone(&first, "dispatched");
            assert!(dispatched <= dispatched_max as f64, "{path}: {dispatched} batches after a cancellation");
            assert_idle(&server).await;
            let after = Counts::at_rest(&server).await;
            let finished = |outcome| after.finished(outcome) - before.finished(outcome);
            let requests = if path == RERANK_MANY { REQUESTS } else { 1 };
            assert_eq!(finished("answered") + finished("cancelled"), requests as f64, "{path}");
            assert!(finished("cancelled") >= 1.0, "{path}");
            server.stop().await.expect("it drains");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_late_is_not_computed() {
    for path in [RERANK, RERANK_STREAM] {
        let (server, _alone) = slow_server().await;
        let before = Counts::at_rest(&server).await;
        let call = Call::with_body(path, body(path)).header("grpc-timeout", b"100m");
        let reply = Connection::open(server.address).await.call(call, usize::MAX).await;
        assert_eq!(reply.ending.code(), Some(Code::DeadlineExceeded), "{path}");
        assert_idle(&server).await;
        let after = Counts::at_rest(&server).await;
        let gone = |event| after.units(event) - before.units(event);
        assert_eq!(gone("enqueued"), DOCUMENTS as f64, "{path}");
        assert!(gone("dispatched") <= 11.0, "{path}: {} batches of 10 ms in 100 ms", gone("dispatched"));
        assert_eq!(after.finished("expired") - before.finished("expired"), 1.0, "{path}");
        server.stop().await.expect("it drains");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_has_failed_is_not_computed_further() {
    let (server, _alone) = slow_server().await;
    let before = Counts::at_rest(&server).await;
    let status = server.rerank().await.rerank(large("poison")).await.expect_err("its first document is poison");
    assert_eq!(status.code(), Code::Internal);
    assert_idle(&server).await;
    let after = Counts::at_rest(&server).await;
    let dispatched = after.units("dispatched") - before.units("dispatched");
    assert!(dispatched < DOCUMENTS as f64, "{dispatched} units of a request that had failed");
    assert_eq!(after.finished("failed") - before.finished("failed"), 1.0);
    server.stop().await.expect("it drains");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_does_not_read_holds_nothing_past_its_deadline() {
    // Twelve batches, one after the other: more updates than there is room for.
    let script = "max_tokens = 64\nbatch_sequences_max = 5\n[service_time]\nper_batch = \"10ms\"\n";
    let (server, _alone) = server(script).await;
    for path in [RERANK_STREAM, RERANK_MANY] {
        let before = Counts::at_rest(&server).await;
        // The window is shut: not one byte of an answer can be sent until the caller opens it.
        let connection = Connection::with_window(server.address, 0).await;
        let call = Call::with_body(path, body(path)).header("grpc-timeout", b"3S");
        let open = connection.begin(call).await.expect("the server listens");
        let dispatched = |counts: &Counts| counts.units("dispatched") - before.units("dispatched");
        Counts::when(&server, "all computed", |counts| dispatched(counts) == DOCUMENTS as f64).await;
        Counts::at_rest(&server).await;
        // Late as it is, it hears the truth.
        connection.set_window(1 << 20).await;
        let reply = open.hear(usize::MAX).await;
        let Ending::Status(status) = &reply.ending else { unreachable!("{path}: {reply:?}") };
        match path {
            RERANK_STREAM => assert_eq!(status.code(), Code::DeadlineExceeded, "{path}: {reply:?}"),
            _ => assert_eq!((status.code(), reply.messages.len()), (Code::Ok, REQUESTS), "{path}: computed in time"),
        }
    }
    server.stop().await.expect("it drains");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn room_is_free_again_when_the_answer_is_there() {
    let _alone = ALONE.lock().await;
    let script = "max_tokens = 64\npoison = \"poison\"\n";
    let server = TestServer::scripted(script, |config| config.admission.documents_max = 1).await;
    let mut client = server.rerank().await;
    for number in 0..300 {
        for (text, expected) in [("red", Code::Ok), ("poison", Code::Internal)] {
            let answer = client.rerank(request("red", &[text])).await;
            let code = answer.map_or_else(|status| status.code(), |_| Code::Ok);
            assert_eq!(code, expected, "request {number} came after the answer to the one before");
        }
    }
    server.stop().await.expect("it drains");
}
