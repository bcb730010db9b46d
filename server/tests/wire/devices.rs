//! Several devices answer as one does.

use std::time::{Duration, Instant};

use sluice_proto::rerank::v1::{Method, RerankRequest};
use tokio::task::JoinSet;

use super::{METHODS, texts};
use crate::common::{TestServer, child::PATIENCE, document, query};

fn script(devices: u32, batch: &str) -> String {
    format!("max_tokens = 64\ndevices = {devices}\nin_flight_batches_max = 2\n{batch}")
}

/// A request of so many documents.
fn of(method: Method, documents: usize) -> RerankRequest {
    let documents = texts(documents).into_iter().enumerate().map(|(id, text)| document(id, text)).collect();
    RerankRequest { query: query("red apple"), documents, method: method.into(), ..RerankRequest::default() }
}

/// Documents and scores of each request, in order, all asked at once.
async fn answers(server: &TestServer, requests: &[RerankRequest]) -> Vec<Vec<(String, u32)>> {
    let mut calls = JoinSet::new();
    for (number, request) in requests.iter().cloned().enumerate() {
        let mut client = server.rerank().await;
        calls.spawn(async move { (number, client.rerank(request).await.expect("an answer").into_inner()) });
    }
    let all = tokio::time::timeout(PATIENCE, calls.join_all()).await.expect("nobody hangs");
    let mut answers = vec![Vec::new(); requests.len()];
    for (number, answer) in all {
        answers[number] = answer.results.into_iter().map(|result| (result.id, result.score.to_bits())).collect();
    }
    answers
}

#[tokio::test]
async fn scores_do_not_depend_on_how_many_devices_there_are() {
    let requests: Vec<RerankRequest> =
        (0..24).map(|number| of(METHODS[number % METHODS.len()], 1 + 7 * number)).collect();
    // Small batches, so that a request is spread over devices.
    let batch = "batch_sequences_max = 8\nservice_time.per_batch = \"1ms\"\n";
    let one = TestServer::scripted(&script(1, batch), |_| ()).await;
    let expected = answers(&one, &requests).await;
    assert!(expected.iter().zip(&requests).all(|(answer, request)| answer.len() == request.documents.len()));
    for devices in [2, 4] {
        let several = TestServer::scripted(&script(devices, batch), |_| ()).await;
        assert_eq!(answers(&several, &requests).await, expected, "{devices} devices");
    }
}

/// Twenty batches of twenty milliseconds: 400 ms on one device. Sleeping devices need no processor to overlap.
#[tokio::test]
async fn two_devices_compute_at_a_time() {
    let batch = "batch_sequences_max = 1\nservice_time.per_batch = \"20ms\"\n";
    let server = TestServer::scripted(&script(2, batch), |_| ()).await;
    let asked = Instant::now();
    answers(&server, &[of(Method::CrossEncoder, 10), of(Method::CrossEncoder, 10)]).await;
    assert!(asked.elapsed() < Duration::from_millis(380), "{:?}", asked.elapsed());
}
