//! Streamed answers, and many requests on one call.

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use sluice_client::{Answer, Client, ClientError, ClientOptions, Code, Rerank, RetryPolicy, Update};
use tonic::Status;

use crate::fake::{Fake, Step};

async fn client(fake: &Fake) -> Client {
    let retry = RetryPolicy { backoff_initial: Duration::from_millis(1), ..RetryPolicy::default() };
    Client::connect(&fake.url, ClientOptions { retry, ..ClientOptions::default() }).await.unwrap()
}

fn request() -> Rerank {
    Rerank::new("black sand").document("a", "white sand").document("b", "black sand")
}

/// What a stream gives, in short.
async fn updates(client: &Client) -> Vec<String> {
    let updates = match client.rerank_stream(request()).await {
        Ok(updates) => updates,
        Err(error) => return vec![format!("not opened: {error}")],
    };
    let describe = |update: Result<Update, ClientError>| match update {
        Ok(Update::Scores(scores)) => format!("{} of {}", scores.scored, scores.total),
        Ok(Update::Stage(order)) => format!("stage {}", order.stage),
        Ok(Update::Response(answer)) => answer.results.iter().map(|result| result.id.as_str()).collect(),
        Err(error) => error.to_string(),
    };
    updates.map(describe).collect().await
}

#[tokio::test]
async fn scores_then_the_answer_or_an_error_in_its_place() {
    let failing = || Step::Fail(Status::unavailable("draining"));
    let then = |step| Step::AfterScores(Box::new(step));
    let cases = [
        (vec![], vec!["2 of 2", "ba"], 1),
        (vec![Step::Unknown], vec!["2 of 2", "ba"], 1),
        (vec![failing(), failing()], vec!["2 of 2", "ba"], 3),
        (vec![failing(); 4], vec!["not opened: UNAVAILABLE: draining (after 4 attempts)"], 4),
        // What the caller has seen is not taken back: no second attempt.
        (vec![then(failing())], vec!["2 of 2", "UNAVAILABLE: draining"], 1),
        (
            vec![then(Step::End)],
            vec!["2 of 2", "the server broke the protocol: a stream that ends before its answer"],
            1,
        ),
        (vec![Step::End], vec!["the server broke the protocol: a stream that ends before its answer"], 1),
    ];
    for (script, expected, attempts) in cases {
        let name = format!("{script:?}");
        let fake = Fake::with_script(script);
        assert_eq!(updates(&client(&fake).await).await, expected, "{name}");
        assert_eq!(fake.seen().len(), attempts, "{name}");
    }
}

#[tokio::test]
async fn the_deadline_is_that_of_the_whole_stream() {
    let fake = Fake::with_script([Step::AfterScores(Box::new(Step::Hang)), Step::Hang]);
    let client = client(&fake).await.with_deadline(Duration::from_millis(400));
    assert_eq!(updates(&client).await, ["2 of 2", "DEADLINE_EXCEEDED: no answer within 400ms"]);
    assert_eq!(updates(&client).await, ["not opened: DEADLINE_EXCEEDED: no answer within 400ms"]);
}

#[tokio::test]
async fn a_dropped_stream_cancels_the_call() {
    let fake = Fake::with_script([Step::AfterScores(Box::new(Step::Hang))]);
    let client = client(&fake).await;
    let mut updates = client.rerank_stream(request()).await.unwrap();
    assert!(matches!(updates.next().await, Some(Ok(Update::Scores(_)))));
    fake.wait_for_hanging(1);
    drop(updates);
    // Drives the connection, so that the news gets out.
    client.list_models().await.unwrap();
    fake.wait_for_abandoned(1);
}

#[tokio::test]
async fn many_requests_are_answered_by_id_and_fail_alone() {
    let fake = Fake::start();
    let client = client(&fake).await;
    let requests = (0..5).map(|n| match n {
        2 => Rerank::new("").document("a", "b").one_of_many("2", None),
        n => request().one_of_many(n.to_string(), Some(Duration::from_secs(5))),
    });
    let answers = client.rerank_many(stream::iter(requests)).await.unwrap();
    let mut answers: Vec<Answer> = answers.try_collect().await.unwrap();
    assert_eq!(answers[0].request_id, "1", "answers come in an order of their own");
    answers.sort_by(|a, b| a.request_id.cmp(&b.request_id));
    let outcomes: Vec<_> = answers
        .into_iter()
        .map(|answer| match answer.outcome {
            Ok(answer) => answer.results.into_iter().map(|result| result.id).collect(),
            Err(error) => error.to_string(),
        })
        .collect();
    assert_eq!(outcomes, ["ba", "ba", "INVALID_ARGUMENT: query.text: must not be empty", "ba", "ba"]);
}

#[tokio::test]
async fn many_requests_on_a_call_that_fails() {
    let fake = Fake::with_script([Step::Fail(Status::unavailable("draining")), Step::Hang]);
    let client = client(&fake).await.with_deadline(Duration::from_millis(400));
    for expected in [Code::Unavailable, Code::DeadlineExceeded] {
        let error = client.rerank_many(stream::iter([])).await.unwrap_err();
        assert_eq!(error.code(), Some(expected));
    }
    assert_eq!(fake.seen().len(), 2, "requests that are consumed as they are sent cannot be sent again");
    let quiet = client.rerank_many(stream::pending()).await.unwrap();
    let end: Result<Vec<Answer>, ClientError> = quiet.try_collect().await;
    assert_eq!(end.unwrap_err().code(), Some(Code::DeadlineExceeded));
}
