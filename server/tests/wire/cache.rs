//! Scores that are known already: what the answer says of them, and that they are the same.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use sluice_proto::rerank::v1::{
    CachePolicy, LongDocument, Method, RerankManyRequest, RerankRequest, RerankResponse, Truncation, Usage,
    rerank_many_response::Outcome, rerank_stream_response::Update,
};

use super::{
    METHODS,
    common::{SCRIPT, TestServer, request},
    one_by_one,
};

async fn serve(script: &str) -> TestServer {
    TestServer::scripted(script, |config| config.score_cache.bytes_max = 1 << 20).await
}

/// Documents of their own, from one number to another.
fn texts(numbers: std::ops::Range<u32>) -> Vec<String> {
    numbers.map(|number| format!("apple {number} {}", "red ".repeat(number as usize % 3))).collect()
}

fn asking(method: Method, texts: &[String]) -> RerankRequest {
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    RerankRequest { method: method.into(), ..request("red apple 7", &texts) }
}

async fn rerank(server: &TestServer, request: RerankRequest) -> RerankResponse {
    server.rerank().await.rerank(request).await.expect("answered").into_inner()
}

/// Bits of the scores by what was scored.
fn scores(response: &RerankResponse, texts: &[String]) -> BTreeMap<String, u32> {
    let results = response.results.iter();
    results.map(|result| (texts[result.index as usize].clone(), result.score.to_bits())).collect()
}

fn usage(response: &RerankResponse) -> Usage {
    response.usage.expect("always there")
}

#[tokio::test]
async fn known_scores_are_the_same_bits_and_cost_nothing() {
    for method in METHODS {
        let server = serve(SCRIPT).await;
        let all = texts(0..40);
        let bypass = |texts: &[String]| RerankRequest { cache: CachePolicy::Bypass.into(), ..asking(method, texts) };
        let computed = rerank(&server, bypass(&all)).await;
        let expected = scores(&computed, &all);
        let spent = usage(&computed);
        assert_eq!((spent.cached_tokens, spent.computed_tokens > 0), (0, true));

        let first = rerank(&server, asking(method, &all[10..30])).await;
        assert_eq!(usage(&first).cached_tokens, 0, "{method:?}: bypass keeps nothing");
        let partly = rerank(&server, asking(method, &all)).await;
        let (before, now) = (usage(&first), usage(&partly));
        let query = if method == Method::CrossEncoder { 0 } else { before.query_tokens };
        assert_eq!(now.cached_tokens, before.computed_tokens - query, "{method:?}");
        assert_eq!(now.cached_tokens + now.computed_tokens, spent.computed_tokens, "{method:?}");
        let reversed: Vec<String> = all.iter().rev().cloned().collect();
        let known = rerank(&server, asking(method, &reversed)).await;
        assert_eq!(usage(&known), Usage { computed_tokens: 0, cached_tokens: spent.computed_tokens, ..spent });
        let again = rerank(&server, bypass(&all)).await;
        assert_eq!(usage(&again), spent, "{method:?}");

        for (response, texts) in [(&partly, &all), (&known, &reversed), (&again, &all)] {
            assert_eq!(scores(response, texts), expected, "{method:?}");
        }
        assert!(scores(&first, &all[10..30]).iter().all(|(text, bits)| expected[text] == *bits), "{method:?}");
    }
}

#[tokio::test]
async fn chunks_are_known_one_by_one() {
    let server = serve("max_tokens = 12\n").await;
    let long = "red apple tree 7 ".repeat(12);
    let chunked = |texts: &[String], long_document: LongDocument| RerankRequest {
        truncation: Some(Truncation { max_tokens_per_document: 6, long_document: long_document.into() }),
        ..asking(Method::CrossEncoder, texts)
    };
    let cut = rerank(&server, chunked(std::slice::from_ref(&long), LongDocument::Cut)).await;
    let whole = rerank(&server, chunked(std::slice::from_ref(&long), LongDocument::ChunkMax)).await;
    assert!(usage(&whole).cached_tokens >= usage(&cut).computed_tokens, "{:?} {:?}", usage(&cut), usage(&whole));
    let mean = rerank(&server, chunked(&[long], LongDocument::ChunkMean)).await;
    assert_eq!(usage(&mean).computed_tokens, 0, "the same chunks, put together in another way");
    assert!(mean.results[0].score <= whole.results[0].score);
}

#[tokio::test]
async fn streams_and_many_know_what_calls_have_computed() {
    for method in METHODS {
        let server = serve(SCRIPT).await;
        let texts = texts(0..20);
        let first = rerank(&server, asking(method, &texts)).await;
        let mut client = server.rerank().await;
        let mut stream = client.rerank_stream(asking(method, &texts)).await.expect("opens").into_inner();
        let mut streamed = BTreeMap::new();
        let last = loop {
            match stream.message().await.expect("no error").and_then(|message| message.update).expect("an update") {
                Update::Scores(update) => {
                    streamed.extend(update.documents.iter().map(|document| (document.index, document.score.to_bits())));
                }
                Update::Stage(stage) => unreachable!("{stage:?}"),
                Update::Response(response) => break response,
            }
        };
        assert_eq!((usage(&last).computed_tokens, streamed.len()), (0, texts.len()), "{method:?}");
        assert_eq!(scores(&last, &texts), scores(&first, &texts));
        assert!(last.results.iter().all(|result| streamed[&result.index] == result.score.to_bits()));

        let id = "a".to_owned();
        let many = RerankManyRequest { request_id: id, request: Some(asking(method, &texts)), timeout: None };
        let mut answers = client.rerank_many(tokio_stream::iter([many])).await.expect("opens").into_inner();
        match answers.message().await.expect("no error").and_then(|answer| answer.outcome) {
            Some(Outcome::Response(response)) => assert_eq!(usage(&response).computed_tokens, 0, "{method:?}"),
            other => unreachable!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn callers_who_ask_the_same_at_once_share_one_computation() {
    let server = serve(&one_by_one(4)).await;
    let texts = texts(0..25);
    let asking = asking(Method::LateInteraction, &texts);
    let channel = server.channel().await;
    let ask = || {
        let mut client = sluice_proto::rerank::v1::rerank_service_client::RerankServiceClient::new(channel.clone());
        let mut request = tonic::Request::new(asking.clone());
        async move {
            request.set_timeout(std::time::Duration::from_secs(60));
            client.rerank(request).await.expect("answered").into_inner()
        }
    };
    let answers = join_all((0..20).map(|_| ask())).await;
    let expected = scores(&answers[0], &texts);
    let computed: u64 = answers.iter().map(|answer| usage(answer).computed_tokens).sum();
    let one = usage(&answers[0]).computed_tokens + usage(&answers[0]).cached_tokens;
    assert!(answers.iter().all(|answer| scores(answer, &texts) == expected));
    assert_eq!(computed, one, "20 callers, one computation");
}
