//! The order, and what stands beside each result.

use std::time::Duration;

use sluice_proto::{
    model::v1::GetModelRequest,
    rerank::v1::{Method, RerankRequest, RerankResponse, ScoreKind},
};

use super::{
    METHODS,
    common::{SCRIPT, TestServer, document, request},
};

async fn rerank(server: &TestServer, request: RerankRequest) -> RerankResponse {
    server.rerank().await.rerank(request).await.expect("it is valid").into_inner()
}

fn order(answer: &RerankResponse) -> Vec<u32> {
    answer.results.iter().map(|result| result.index).collect()
}

#[tokio::test]
async fn best_first_and_ties_in_the_requests_order() {
    let server = TestServer::scripted(SCRIPT, |_| ()).await;
    let texts = ["blue red", "red blue", "red", "car red", "blue", "red", "no match here"];
    let asked = |top_n, min_score| RerankRequest { top_n, min_score, ..request("red", &texts) };
    // Scores: 1 + 1 / (2 + words) with a match, else 1 / (2 + words).
    let cases: [(u32, Option<f32>, &[u32]); 8] = [
        (0, None, &[2, 5, 0, 1, 3, 4, 6]),
        (1, None, &[2]),
        (3, None, &[2, 5, 0]),
        (4, None, &[2, 5, 0, 1]),
        (100, None, &[2, 5, 0, 1, 3, 4, 6]),
        (0, Some(1.25), &[2, 5, 0, 1, 3]),
        (1, Some(1.3), &[2]),
        (0, Some(9.0), &[]),
    ];
    for (top_n, min_score, expected) in cases {
        let answer = rerank(&server, asked(top_n, min_score)).await;
        assert_eq!(order(&answer), expected, "top_n {top_n}, min_score {min_score:?}");
    }
    // Bit for bit the limit is good enough.
    let limit = 1.0 / 3.0;
    let answer =
        rerank(&server, RerankRequest { min_score: Some(limit), ..request("red", &["blue", "blue car"]) }).await;
    assert_eq!((order(&answer), answer.results[0].score), (vec![0], limit));
    for method in METHODS {
        let answer = rerank(&server, RerankRequest { method: method.into(), ..request("red", &texts) }).await;
        let keys: Vec<_> = answer.results.iter().map(|result| (result.score, result.index)).collect();
        assert!(keys.is_sorted_by(|a, b| a.0 > b.0 || (a.0 == b.0 && a.1 < b.1)), "{method:?}: {keys:?}");
        assert!(keys.windows(2).any(|pair| pair[0].0 == pair[1].0), "{method:?} has ties");
    }
}

#[tokio::test]
async fn ids_come_back_as_they_came_and_texts_if_asked_for() {
    let server = TestServer::scripted(SCRIPT, |_| ()).await;
    let documents = vec![
        document("", "red"),
        document("same", "red apple"),
        document("same", "red apple"),
        document("ü 漢\u{0}\n", "  Ünïcode\u{3000}text\t"),
        document("i".repeat(512), ""),
    ];
    for return_text in [false, true] {
        let asked = RerankRequest { documents: documents.clone(), return_text, ..request("red", &[]) };
        let answer = rerank(&server, asked).await;
        assert_eq!(answer.results.len(), documents.len());
        for result in &answer.results {
            let sent = &documents[result.index as usize];
            assert_eq!(result.id, sent.id);
            let text = return_text.then(|| document("", result.text.clone().expect("asked for")).content);
            assert_eq!(text, return_text.then(|| sent.content.clone()));
            assert!(return_text || result.text.is_none());
        }
        let score = |index| answer.results.iter().find(|result| result.index == index).map(|result| result.score);
        assert_eq!(score(1), score(2), "the same text scores the same");
    }
}

#[tokio::test]
async fn usage_counts_tokens_as_they_were_read() {
    let server = TestServer::scripted(SCRIPT, |_| ()).await;
    let texts = ["one", "one two three", ""];
    // Special tokens: 2 around a text, 3 around a pair. The query has 2 words.
    let cases = [
        (Method::LateInteraction, [3, 5, 2], 4, 14),
        (Method::Dense, [3, 5, 2], 4, 14),
        (Method::CrossEncoder, [6, 8, 5], 4, 19),
    ];
    for (method, tokens, query, computed) in cases {
        let answer = rerank(&server, RerankRequest { method: method.into(), ..request("two words", &texts) }).await;
        let usage = answer.usage.expect("always there");
        assert_eq!((usage.query_tokens, usage.computed_tokens), (query, computed), "{method:?}");
        for result in &answer.results {
            assert_eq!(result.tokens, tokens[result.index as usize], "{method:?}");
            assert!(!result.truncated && result.best_chunk.is_none());
        }
        assert_eq!(usage.document_tokens, tokens.iter().map(|tokens| u64::from(*tokens)).sum::<u64>(), "{method:?}");
    }
}

#[tokio::test]
async fn timing_says_where_the_time_went() {
    const BATCH: Duration = Duration::from_millis(30);
    let server = TestServer::scripted(&super::one_by_one(30), |_| ()).await;
    let channel = server.channel().await;
    let ask = || {
        let mut client = sluice_proto::rerank::v1::rerank_service_client::RerankServiceClient::new(channel.clone());
        async move { client.rerank(request("red", &["red", "blue"])).await.expect("valid").into_inner() }
    };
    let begin = std::time::Instant::now();
    let (first, second) = tokio::join!(ask(), ask());
    let elapsed = begin.elapsed();
    let read = |answer: &RerankResponse| {
        let timing = answer.timing.expect("always there");
        [timing.queue, timing.tokenize, timing.compute, timing.total]
            .map(|part| Duration::try_from(part.expect("always there")).expect("not negative"))
    };
    let times = [read(&first), read(&second)];
    for [queue, tokenize, compute, total] in times {
        assert!(compute >= 2 * BATCH, "two batches: {compute:?}");
        assert!(total >= compute && total >= queue + compute && total >= tokenize, "{times:?}");
        assert!(total <= elapsed, "{total:?} of {elapsed:?}");
    }
    assert!(times.iter().any(|[queue, ..]| *queue >= BATCH), "one waits for a batch of the other: {times:?}");
}

#[tokio::test]
async fn an_answer_says_what_made_it() {
    let server = TestServer::scripted(SCRIPT, |_| ()).await;
    let model = server.models().await.get_model(GetModelRequest::default()).await.expect("there is one");
    let model = model.into_inner().model.expect("always there");
    for name in ["", "model"] {
        for method in METHODS.into_iter().chain([Method::Unspecified]) {
            let asked = RerankRequest { model: name.to_owned(), method: method.into(), ..request("red", &["red"]) };
            let answer = rerank(&server, asked).await;
            assert_eq!((&answer.model, &answer.model_digest), (&model.name, &model.digest));
            let expected = if method == Method::Unspecified { Method::CrossEncoder } else { method };
            assert_eq!(answer.method(), expected, "a classification head comes first");
        }
    }
    let headless = "max_tokens = 64\ncapabilities = [\"late_interaction\", \"dense\"]\n";
    let server = TestServer::scripted(headless, |_| ()).await;
    assert_eq!(rerank(&server, request("red", &["red"])).await.method(), Method::LateInteraction);
}

#[tokio::test]
async fn sigmoid_is_of_the_raw_score() {
    let server = TestServer::scripted(SCRIPT, |_| ()).await;
    let texts = ["red", "blue", "red apple"];
    let asked = |score_kind: ScoreKind| RerankRequest { score_kind: score_kind.into(), ..request("red", &texts) };
    let raw = rerank(&server, asked(ScoreKind::Raw)).await;
    let sigmoid = rerank(&server, asked(ScoreKind::Sigmoid)).await;
    assert_eq!(order(&raw), order(&sigmoid));
    for (raw, sigmoid) in raw.results.iter().zip(&sigmoid.results) {
        let expected = 1.0 / (1.0 + (-f64::from(raw.score)).exp());
        assert!((f64::from(sigmoid.score) - expected).abs() < 1e-6, "{raw:?} {sigmoid:?}");
    }
    let limited = RerankRequest { min_score: Some(0.7), ..asked(ScoreKind::Sigmoid) };
    assert_eq!(order(&rerank(&server, limited).await), [0, 2], "the limit is on the same scale");
}
