//! Budgets: on time with the best order known.

use std::time::{Duration, Instant};

use prost::Message;
use sluice_proto::rerank::v1::{
    Budget, DocumentSource, Method, PartialReason, RerankRequest, RerankResponse, Stage, rerank_stream_response::Update,
};
use tonic::{Code, Request};

use super::{
    METHODS,
    common::{SCRIPT, TestServer, raw, request},
    one_by_one, texts,
};

/// What a busy machine may add to what is measured.
const SLACK: Duration = Duration::from_millis(250);
/// The last of the request has the best score: with every word scored, its order turns round.
const QUESTION: &str = "red apple";

fn time(milliseconds: u64) -> Option<Budget> {
    let time = Duration::from_millis(milliseconds).try_into().expect("in range");
    Some(Budget { time: Some(time), ..Budget::default() })
}

fn pairs(pairs: u32) -> Option<Budget> {
    Some(Budget { pairs, ..Budget::default() })
}

fn asked(documents: usize, method: Method, budget: Option<Budget>) -> RerankRequest {
    let texts = texts(documents);
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    RerankRequest { method: method.into(), budget, ..request(QUESTION, &texts) }
}

async fn rerank(server: &TestServer, request: RerankRequest) -> RerankResponse {
    server.rerank().await.rerank(request).await.expect("answered, if not in full").into_inner()
}

fn untimed(response: RerankResponse) -> RerankResponse {
    RerankResponse { timing: None, ..response }
}

/// Checks that the first documents of the request are scored and the others follow in its order; how many are scored.
fn scored_prefix(answer: &RerankResponse, documents: usize) -> usize {
    assert_eq!(answer.results.len(), documents, "every document is there");
    let scored = answer.results.iter().take_while(|result| !result.unscored).count();
    let (first, rest) = answer.results.split_at(scored);
    let mut indices: Vec<u32> = first.iter().map(|result| result.index).collect();
    assert!(first.is_sorted_by(|a, b| a.score > b.score || (a.score == b.score && a.index < b.index)), "best first");
    indices.sort_unstable();
    let rest_indices: Vec<u32> = rest.iter().map(|result| result.index).collect();
    let in_order: Vec<u32> = (0..).take(documents).collect();
    assert_eq!([indices, rest_indices].concat(), in_order, "the first are scored, the rest keep their order");
    for result in rest {
        let facts = (result.unscored, result.stage, result.score, result.source(), result.tokens);
        assert_eq!(facts, (true, 0, f32::NEG_INFINITY, DocumentSource::NoneBudget, 0));
    }
    assert!(first.iter().all(|result| result.stage == 1 && result.source() == DocumentSource::Text));
    let reasons: Vec<PartialReason> = answer.partial_reasons().collect();
    let expected = if scored < documents { vec![PartialReason::Budget] } else { vec![] };
    assert_eq!((answer.partial, reasons), (scored < documents, expected));
    scored
}

#[tokio::test]
async fn time_that_is_up_leaves_the_rest_in_the_requests_order() {
    let server = TestServer::scripted(&one_by_one(20), |_| ()).await;
    for method in METHODS {
        let begin = Instant::now();
        let answer = rerank(&server, asked(60, method, time(210))).await;
        let took = begin.elapsed();
        assert!(took < Duration::from_millis(210 + 20) + SLACK, "{took:?} where 1.2 s were asked for");
        // It is over when no further batch would be in time.
        assert!(took >= Duration::from_millis(160), "{took:?}: what there was to spend is spent");
        // One batch each; for two methods the query is one too.
        let scored = scored_prefix(&answer, 60);
        assert!((1..=10).contains(&scored), "{method:?}: {scored} batches of 20 ms in 210 ms");
        let usage = answer.usage.expect("always there");
        assert!(usage.computed_tokens < usage.document_tokens, "{usage:?}: what came back in time");
        // What was queued is gone: the next request does not wait for it.
        let begin = Instant::now();
        rerank(&server, asked(1, method, None)).await;
        assert!(begin.elapsed() < Duration::from_millis(80) + SLACK, "{:?}", begin.elapsed());
    }
}

#[tokio::test]
async fn pairs_bound_what_is_scored() {
    let server = TestServer::scripted(SCRIPT, |_| ()).await;
    for method in METHODS {
        let whole = rerank(&server, asked(20, method, None)).await;
        for (budget, expected) in [(1, 1), (7, 7), (19, 19), (20, 20), (1000, 20), (0, 20)] {
            let answer = rerank(&server, asked(20, method, pairs(budget))).await;
            assert_eq!(scored_prefix(&answer, 20), expected, "{method:?} {budget}");
            for result in answer.results.iter().filter(|result| !result.unscored) {
                let same = whole.results.iter().find(|other| other.index == result.index).expect("all are there");
                assert_eq!((result.score, result.tokens), (same.score, same.tokens), "a budget changes no score");
            }
        }
    }
}

#[tokio::test]
async fn a_budget_that_is_enough_changes_nothing() {
    let server = TestServer::scripted(SCRIPT, |_| ()).await;
    for method in METHODS {
        let whole = rerank(&server, asked(20, method, None)).await;
        let enough = Budget { pairs: 20, until_deadline: true, ..time(60_000).expect("set") };
        assert_eq!(untimed(rerank(&server, asked(20, method, Some(enough))).await), untimed(whole), "{method:?}");
    }
}

#[tokio::test]
async fn a_budget_that_is_spent_at_once_gives_the_requests_order_back() {
    let server = TestServer::scripted(SCRIPT, |_| ()).await;
    let nanosecond = Budget { time: Some(Duration::from_nanos(1).try_into().expect("in range")), ..Budget::default() };
    let answer = rerank(&server, asked(20, Method::CrossEncoder, Some(nanosecond))).await;
    assert_eq!(scored_prefix(&answer, 20), 0);
    assert_eq!(answer.usage.map(|usage| usage.computed_tokens), Some(0));
    let only_good = RerankRequest { min_score: Some(0.0), ..asked(20, Method::CrossEncoder, Some(nanosecond)) };
    let answer = rerank(&server, only_good).await;
    assert!(answer.results.is_empty() && answer.partial, "what is not known to be good enough is left out");
}

#[tokio::test]
async fn the_deadline_can_be_a_budget() {
    let server = TestServer::scripted(&one_by_one(20), |_| ()).await;
    let until_deadline = Some(Budget { until_deadline: true, ..Budget::default() });
    for (budget, in_time) in [(until_deadline, true), (None, false)] {
        let path = "/sluice.rerank.v1.RerankService/Rerank";
        let message = asked(100, Method::CrossEncoder, budget).encode_to_vec();
        // A caller without a timer of its own: tonic's would give up at the same time.
        let connection = raw::Connection::open(server.address).await;
        let begin = Instant::now();
        let reply = connection.call(raw::Call::new(path, &message).header("grpc-timeout", b"500m"), usize::MAX).await;
        let raw::Ending::Status(status) = reply.ending else { unreachable!("{:?}", reply.ending) };
        if !in_time {
            assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
            continue;
        }
        assert_eq!(status.code(), Code::Ok, "{status:?}");
        let answer = RerankResponse::decode(&*reply.messages[0]).expect("a response");
        let scored = scored_prefix(&answer, 100);
        assert!((1..=25).contains(&scored), "{scored} batches of 20 ms in 500 ms");
        assert!(begin.elapsed() < Duration::from_millis(500) + SLACK);
    }
}

fn stage(method: Method, top_k: u32, budget: Option<Budget>) -> Stage {
    Stage { method: method.into(), top_k, budget, ..Stage::default() }
}

#[tokio::test]
async fn a_stage_gives_the_next_what_it_scored_and_then_what_it_did_not() {
    let server = TestServer::scripted(SCRIPT, |_| ()).await;
    let texts = ["blue car", "red car", "red apple", "red apple", "red", "red apple"];
    let stages = vec![stage(Method::LateInteraction, 4, pairs(3)), stage(Method::CrossEncoder, 0, None)];
    let asked = RerankRequest { stages, ..request(QUESTION, &texts) };
    let mut messages = server.rerank().await.rerank_stream(asked).await.expect("it opens").into_inner();
    let (mut order, mut answer) = (None, None);
    while let Some(message) = messages.message().await.expect("no error") {
        match message.update.expect("always set") {
            Update::Scores(update) if update.stage == 1 => assert_eq!(update.total, 6, "it was given all"),
            Update::Scores(update) => assert_eq!((update.stage, update.total), (2, 4)),
            Update::Stage(stage) => order = Some(stage),
            Update::Response(response) => answer = Some(response),
        }
    }
    let order = order.expect("of the first stage");
    assert_eq!((order.stage, order.survivors, order.partial), (1, 4, true));
    let places = |results: &[sluice_proto::rerank::v1::RerankResult]| {
        results.iter().map(|result| (result.index, result.stage)).collect::<Vec<_>>()
    };
    assert_eq!(places(&order.results), [(2, 1), (1, 1), (0, 1), (3, 0), (4, 0), (5, 0)]);
    let answer = answer.expect("it comes last");
    assert_eq!(places(&answer.results), [(2, 2), (3, 2), (1, 2), (0, 2), (4, 0), (5, 0)]);
    assert_eq!(answer.partial_reasons().collect::<Vec<_>>(), [PartialReason::Budget]);
}

#[tokio::test]
async fn pairs_of_a_request_are_spent_stage_by_stage() {
    let server = TestServer::scripted(SCRIPT, |_| ()).await;
    let cases: [(u32, &[u32], bool); 5] = [
        (4, &[1, 1, 1, 1, 0, 0], true),
        (6, &[1, 1, 1, 1, 1, 1], true),
        (7, &[2, 1, 1, 1, 1, 1], true),
        (9, &[2, 2, 2, 1, 1, 1], false),
        (0, &[2, 2, 2, 1, 1, 1], false),
    ];
    for (budget, expected, partial) in cases {
        let stages = vec![stage(Method::LateInteraction, 3, None), stage(Method::CrossEncoder, 0, None)];
        let asked = RerankRequest { stages, ..asked(6, Method::Unspecified, pairs(budget)) };
        let answer = rerank(&server, asked).await;
        let stages: Vec<u32> = answer.results.iter().map(|result| result.stage).collect();
        assert_eq!((stages.as_slice(), answer.partial), (expected, partial), "{budget}");
    }
}

#[tokio::test]
async fn a_stage_that_runs_out_of_time_lets_the_next_one_run() {
    let server = TestServer::scripted(&one_by_one(20), |_| ()).await;
    let stages = vec![stage(Method::LateInteraction, 3, time(150)), stage(Method::CrossEncoder, 0, None)];
    let begin = Instant::now();
    let answer = rerank(&server, RerankRequest { stages, ..asked(60, Method::Unspecified, None) }).await;
    assert!(begin.elapsed() < Duration::from_millis(150 + 4 * 20) + SLACK, "{:?}", begin.elapsed());
    let stages: Vec<u32> = answer.results.iter().map(|result| result.stage).collect();
    assert_eq!(stages[..3], [2, 2, 2], "all that went on");
    assert!(stages[3..].is_sorted_by(|a, b| a >= b) && stages.contains(&0), "{stages:?}");
    assert!(answer.partial);
}

#[tokio::test]
async fn a_request_that_runs_out_of_time_in_its_second_stage_keeps_the_first_ones_order() {
    let server = TestServer::several(&[("fast", SCRIPT), ("slow", &one_by_one(40))], |config| {
        config.default_deadline = Duration::from_secs(30);
    })
    .await;
    let stages = |top_k| {
        let slow = Stage { model: "slow".to_owned(), ..stage(Method::CrossEncoder, 0, None) };
        vec![stage(Method::LateInteraction, top_k, None), slow]
    };
    let first = rerank(&server, asked(60, Method::LateInteraction, None)).await;
    let answer =
        rerank(&server, RerankRequest { stages: stages(50), ..asked(60, Method::Unspecified, time(400)) }).await;
    let second = answer.results.iter().take_while(|result| result.stage == 2).count();
    assert!((1..=10).contains(&second), "{second} batches of 40 ms in 400 ms");
    let rest: Vec<(u32, f32)> = answer.results[second..].iter().map(|result| (result.index, result.score)).collect();
    let mut reached: Vec<u32> = answer.results[..second].iter().map(|result| result.index).collect();
    let of_first: Vec<(u32, f32)> = first.results.iter().map(|result| (result.index, result.score)).collect();
    let mut best: Vec<u32> = of_first[..second].iter().map(|(index, _)| *index).collect();
    reached.sort_unstable();
    best.sort_unstable();
    assert_eq!(
        (reached, rest),
        (best, of_first[second..].to_vec()),
        "the second stage takes the first one's best first"
    );
    assert!(answer.partial && answer.results.iter().all(|result| !result.unscored));
}

#[tokio::test]
async fn a_stream_ends_with_what_its_updates_said() {
    let server = TestServer::scripted(&one_by_one(20), |_| ()).await;
    let request = asked(60, Method::CrossEncoder, time(200));
    let mut messages = server.rerank().await.rerank_stream(request).await.expect("it opens").into_inner();
    let (mut sent, mut answer) = (Vec::new(), None);
    while let Some(message) = messages.message().await.expect("no error") {
        match message.update.expect("always set") {
            Update::Scores(update) => sent.extend(update.documents.iter().map(|d| (d.index, d.score.to_bits()))),
            Update::Stage(_) => unreachable!("no stages were asked for"),
            Update::Response(response) => answer = Some(response),
        }
    }
    let answer = answer.expect("it comes last");
    let scored = scored_prefix(&answer, 60);
    let mut said: Vec<(u32, u32)> = answer.results[..scored].iter().map(|r| (r.index, r.score.to_bits())).collect();
    said.sort_unstable();
    sent.sort_unstable();
    assert_eq!(said, sent);
}

/// A stage that would be late is not begun: who has said that less will do gets the order before it, and at once.
#[tokio::test]
async fn a_stage_that_is_refused_leaves_the_order_before_it_to_who_takes_less() {
    let script = "max_tokens = 256\nservice_time.per_token = \"2ms\"\n";
    let server = TestServer::scripted(script, |_| ()).await;
    // Until its predictions count.
    for word in ["blue", "car", "sea", "sand", "green", "red"] {
        rerank(&server, RerankRequest { method: Method::CrossEncoder.into(), ..request(QUESTION, &[word]) }).await;
    }
    // A long query and 20 short texts: half a second in the first stage. In the second, with as many copies of the
    // query, five.
    let long = format!("{QUESTION} {}", "of the sea ".repeat(40));
    let stages = vec![stage(Method::LateInteraction, 0, None), stage(Method::CrossEncoder, 0, None)];
    let texts = texts(20);
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    for (budget, in_part) in [(pairs(100), true), (None, false)] {
        let asked = RerankRequest { stages: stages.clone(), budget, ..request(&long, &texts) };
        let mut asked = Request::new(asked);
        asked.set_timeout(Duration::from_secs(3));
        let begin = Instant::now();
        let answer = server.rerank().await.rerank(asked).await;
        assert!(begin.elapsed() < Duration::from_secs(3), "it is known long before");
        match answer {
            Ok(answer) if in_part => {
                let answer = answer.into_inner();
                assert!(answer.results.iter().all(|result| result.stage == 1), "{answer:?}");
                assert_eq!(answer.partial_reasons().collect::<Vec<_>>(), [PartialReason::Overloaded]);
            }
            Err(status) if !in_part => assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}"),
            other => unreachable!("in part: {in_part}, {other:?}"),
        }
    }
}
