//! RerankStream: every score once, as it is computed, then the answer.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use sluice_proto::rerank::v1::{
    LongDocument, RerankRequest, RerankResponse, ScoreUpdate, Truncation, rerank_service_client::RerankServiceClient,
    rerank_stream_response::Update,
};
use sluice_server::{ServerConfig, config::PolicyName};
use tonic::{Code, Request, transport::Channel};

use super::{
    METHODS,
    common::{SCRIPT, TestServer, reason, request},
    one_by_one, texts,
};

/// Everything that a stream said.
struct Heard {
    updates: Vec<ScoreUpdate>,
    response: RerankResponse,
}

async fn hear(client: &mut RerankServiceClient<Channel>, request: RerankRequest) -> Heard {
    let mut stream = client.rerank_stream(request).await.expect("it opens").into_inner();
    let mut updates = Vec::new();
    loop {
        let message = stream.message().await.expect("no error").expect("the response comes before the end");
        match message.update.expect("always set") {
            Update::Scores(scores) => updates.push(scores),
            Update::Stage(_) => unreachable!("no stages were asked for"),
            Update::Response(response) => {
                assert!(stream.message().await.expect("no error").is_none(), "nothing comes after the response");
                return Heard { updates, response };
            }
        }
    }
}

/// Scores by index, after checking that the counts are right and no score came twice.
fn scores(updates: &[ScoreUpdate], total: usize) -> BTreeMap<u32, f32> {
    let mut scores = BTreeMap::new();
    for update in updates {
        assert!(!update.documents.is_empty(), "an update says something");
        for document in &update.documents {
            assert!(scores.insert(document.index, document.score).is_none(), "{} was sent twice", document.index);
        }
        assert_eq!((update.scored as usize, update.total as usize), (scores.len(), total));
    }
    scores
}

#[tokio::test]
async fn every_score_comes_once_and_the_last_message_is_the_unary_answer() {
    let script = "max_tokens = 64\nbatch_sequences_max = 7\n[service_time]\nper_batch = \"1ms\"\n";
    let server = TestServer::scripted(script, |_| ()).await;
    let mut client = server.rerank().await;
    let texts = texts(60);
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    for method in METHODS {
        for long_document in [LongDocument::Cut, LongDocument::ChunkMax, LongDocument::ChunkMean] {
            let asked = RerankRequest {
                method: method.into(),
                top_n: 9,
                return_text: true,
                truncation: Some(Truncation { max_tokens_per_document: 2, long_document: long_document.into() }),
                ..request("red apple", &texts)
            };
            let unary = client.rerank(asked.clone()).await.expect("valid").into_inner();
            let Heard { updates, response } = hear(&mut client, asked).await;
            assert_eq!(response.results.len(), 9);
            let untimed = |response: RerankResponse| RerankResponse { timing: None, ..response };
            assert!(response.timing.is_some());
            assert_eq!(untimed(response.clone()), untimed(unary), "{method:?} {long_document:?}");
            let scores = scores(&updates, texts.len());
            assert_eq!(scores.len(), texts.len(), "of every document, whatever top_n says");
            for result in &response.results {
                assert_eq!(scores[&result.index], result.score, "the same number");
            }
        }
    }
}

#[tokio::test]
async fn scores_come_while_others_are_computed() {
    let server = TestServer::scripted(&one_by_one(20), |_| ()).await;
    let texts = texts(12);
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let mut client = server.rerank().await;
    let begin = Instant::now();
    let mut stream = client.rerank_stream(request("red", &texts)).await.expect("it opens").into_inner();
    let mut times = Vec::new();
    while let Some(message) = stream.message().await.expect("no error") {
        if let Some(Update::Scores(update)) = message.update {
            times.push((begin.elapsed(), update.scored));
        }
    }
    let total = begin.elapsed();
    assert!(times.len() >= 4, "twelve batches are not one update: {times:?}");
    assert!(times[0].1 < 12, "{times:?}");
    // Eleven batches of 20 ms were to come, or most of them.
    assert!(total - times[0].0 >= Duration::from_millis(100), "{times:?} of {total:?}");
}

#[tokio::test]
async fn a_slow_reader_gets_updates_merged_and_holds_nobody_up() {
    const DOCUMENTS: usize = 300;
    let in_order = |config: &mut ServerConfig| config.scheduler.policy = PolicyName::Fifo;
    let server = TestServer::scripted(&one_by_one(1), in_order).await;
    // A window for a few updates: what the reader has not read, the server cannot send.
    let narrow = server.endpoint().initial_stream_window_size(128).initial_connection_window_size(1 << 20);
    let mut slow = RerankServiceClient::new(narrow.connect().await.expect("the server listens"));
    let texts = texts(DOCUMENTS);
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let mut stream = slow.rerank_stream(request("red", &texts)).await.expect("it opens").into_inner();
    let mut updates = Vec::new();
    let Some(Update::Scores(first)) = stream.message().await.expect("no error").and_then(|message| message.update)
    else {
        unreachable!("scores come first")
    };
    updates.push(first);
    // It came later and has no earlier deadline: when it is answered, all of the stream's documents are computed.
    server.rerank().await.rerank(request("red", &["red"])).await.expect("nobody is held up");
    let mut response = None;
    while let Some(message) = stream.message().await.expect("no error") {
        match message.update.expect("always set") {
            Update::Scores(scores) => updates.push(scores),
            Update::Stage(_) => unreachable!("no stages were asked for"),
            Update::Response(last) => response = Some(last),
        }
    }
    assert_eq!(scores(&updates, DOCUMENTS).len(), DOCUMENTS);
    assert_eq!(response.expect("it comes last").results.len(), DOCUMENTS);
    let largest = updates.iter().map(|update| update.documents.len()).max().expect("there are some");
    assert!(updates.len() < 60 && largest > DOCUMENTS / 2, "{} updates, the largest of {largest}", updates.len());
}

#[tokio::test]
async fn a_stream_ends_at_its_deadline_with_what_it_has() {
    let server = TestServer::scripted(&one_by_one(20), |_| ()).await;
    let texts = texts(100);
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let mut asked = Request::new(request("red", &texts));
    asked.metadata_mut().insert("grpc-timeout", "400m".parse().expect("ascii"));
    let begin = Instant::now();
    let mut stream = server.rerank().await.rerank_stream(asked).await.expect("it opens").into_inner();
    let mut updates = Vec::new();
    let status = loop {
        match stream.message().await {
            Ok(Some(message)) => match message.update.expect("always set") {
                Update::Scores(scores) => updates.push(scores),
                Update::Stage(_) | Update::Response(_) => unreachable!("2 s of work in 400 ms"),
            },
            Ok(None) => unreachable!("an end without an answer is an error"),
            Err(status) => break status,
        }
    };
    assert_eq!((status.code(), reason(&status).as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
    assert!(begin.elapsed() < Duration::from_millis(1_500), "{:?}", begin.elapsed());
    let scored = scores(&updates, texts.len()).len();
    assert!((1..texts.len()).contains(&scored), "{scored}");
}

#[tokio::test]
async fn one_document_is_one_update() {
    let server = TestServer::scripted(SCRIPT, |_| ()).await;
    let mut client = server.rerank().await;
    let Heard { updates, response } = hear(&mut client, request("red", &["red"])).await;
    assert_eq!((updates.len(), response.results.len()), (1, 1));
    assert_eq!(scores(&updates, 1), BTreeMap::from([(0, response.results[0].score)]));
}
