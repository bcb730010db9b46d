//! RerankMany: many requests over one call, answered as they are ready.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use prost::Message;
use sluice_proto::rerank::v1::{
    RequestError, RerankManyRequest, RerankManyResponse, RerankRequest, RerankResponse, rerank_many_response::Outcome,
};
use sluice_service::drain::Ending;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt;

use super::{
    common::{SCRIPT, TestServer, fields, reason, request},
    one_by_one, texts,
};

/// Requests that a test sends without waiting.
const SENT_MAX: usize = 64;

/// A RerankMany call.
struct Many {
    requests: Option<mpsc::Sender<RerankManyRequest>>,
    answers: Streaming<RerankManyResponse>,
}

impl Many {
    async fn open(server: &TestServer) -> Self {
        Self::with_timeout(server, None).await
    }

    async fn with_timeout(server: &TestServer, timeout: Option<&str>) -> Self {
        let (requests, inbox) = mpsc::channel(SENT_MAX);
        let mut call = Request::new(ReceiverStream::new(inbox));
        if let Some(timeout) = timeout {
            // Raw metadata: tonic's own client would give up by itself.
            call.metadata_mut().insert("grpc-timeout", timeout.parse().expect("ascii"));
        }
        let answers = server.rerank().await.rerank_many(call).await.expect("it opens").into_inner();
        Self { requests: Some(requests), answers }
    }

    async fn ask(&self, id: &str, request: RerankRequest) {
        self.ask_within(id, request, None).await;
    }

    async fn ask_within(&self, id: &str, request: RerankRequest, timeout: Option<Duration>) {
        let timeout = timeout.map(|timeout| timeout.try_into().expect("in range"));
        let request = RerankManyRequest { request_id: id.to_owned(), request: Some(request), timeout };
        self.requests.as_ref().expect("open").send(request).await.expect("the call lives");
    }

    /// Says that there is nothing more.
    fn close(&mut self) {
        self.requests = None;
    }

    async fn next(&mut self) -> Result<Option<(String, Outcome)>, Status> {
        let answer = self.answers.message().await?;
        Ok(answer.map(|answer| (answer.request_id, answer.outcome.expect("always set"))))
    }

    /// What is still to come, and how the call ends.
    async fn rest(&mut self) -> (BTreeMap<String, Outcome>, Result<(), Status>) {
        let mut answers = BTreeMap::new();
        loop {
            match self.next().await {
                Ok(Some((id, outcome))) => assert!(answers.insert(id, outcome).is_none(), "one answer each"),
                Ok(None) => return (answers, Ok(())),
                Err(status) => return (answers, Err(status)),
            }
        }
    }
}

fn response(outcome: &Outcome) -> &RerankResponse {
    match outcome {
        Outcome::Response(response) => response,
        Outcome::Error(error) => unreachable!("{error:?}"),
    }
}

/// The status that a call of its own would have had, after checking that its parts agree.
fn status(outcome: &Outcome) -> Status {
    let Outcome::Error(RequestError { code, message, status_details }) = outcome else { unreachable!("{outcome:?}") };
    let details = tonic_types::Status::decode(status_details.as_slice()).expect("a google.rpc.Status");
    assert_eq!((details.code, &details.message), (*code, message));
    Status::with_details(Code::from_i32(*code), message.clone(), status_details.clone().into())
}

fn documents(count: usize) -> RerankRequest {
    let texts = texts(count);
    request("red", &texts.iter().map(String::as_str).collect::<Vec<_>>())
}

#[tokio::test]
async fn answers_are_those_of_calls_of_their_own_and_come_as_they_are_ready() {
    let server = TestServer::scripted(&one_by_one(10), |_| ()).await;
    let mut many = Many::open(&server).await;
    many.ask("large", documents(30)).await;
    many.ask_within("small", documents(2), Some(Duration::from_secs(5))).await;
    let (first, outcome) = many.next().await.expect("no error").expect("an answer");
    assert_eq!(first, "small", "its deadline is earlier, and it is done earlier");
    assert_eq!(response(&outcome).results.len(), 2);
    many.ask("small", documents(1)).await;
    many.close();
    let (answers, end) = many.rest().await;
    end.expect("all was answered");
    assert_eq!(answers.keys().collect::<Vec<_>>(), ["large", "small"], "an id is free again once it is answered");
    assert_eq!(response(&answers["small"]).results.len(), 1);
    let alone = server.rerank().await.rerank(documents(30)).await.expect("valid").into_inner();
    let large = response(&answers["large"]);
    assert_eq!((&large.results, large.usage), (&alone.results, alone.usage));
    assert!(large.timing.is_some_and(|timing| timing.total.is_some()));
}

#[tokio::test]
async fn no_more_than_the_bound_are_worked_on_at_once() {
    // Twelve requests of one document at once where there is room for four: the bound keeps them apart, or
    // admission refuses some.
    for (in_flight_max, refused) in [(2, false), (32, true)] {
        let server = TestServer::scripted(&one_by_one(20), |config| {
            config.limits.requests_in_flight_per_stream_max = in_flight_max;
            config.admission.documents_max = 4;
        })
        .await;
        let mut many = Many::open(&server).await;
        for id in 0..12 {
            many.ask(&id.to_string(), documents(1)).await;
        }
        many.close();
        let (answers, end) = many.rest().await;
        end.expect("each is answered");
        assert_eq!(answers.len(), 12);
        let errors: Vec<_> = answers.values().filter(|outcome| matches!(outcome, Outcome::Error(_))).collect();
        assert_eq!(!errors.is_empty(), refused, "{in_flight_max} at once: {errors:?}");
        for error in errors {
            let status = status(error);
            assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "OVERLOADED"));
            assert!(status.get_error_details().retry_info().is_some(), "{status:?}");
        }
    }
}

#[tokio::test]
async fn each_request_has_its_own_time() {
    let server = TestServer::scripted(&one_by_one(150), |_| ()).await;
    let mut many = Many::open(&server).await;
    let begin = Instant::now();
    many.ask_within("hurried", documents(5), Some(Duration::from_millis(200))).await;
    many.ask_within("patient", documents(2), Some(Duration::from_secs(20))).await;
    many.ask("default", documents(1)).await;
    many.close();
    let (id, outcome) = many.next().await.expect("no error").expect("an answer");
    // Too late by itself, or behind the others, whichever is known first.
    let code = status(&outcome).code();
    assert!(id == "hurried" && [Code::DeadlineExceeded, Code::ResourceExhausted].contains(&code), "{id}: {code:?}");
    assert!(begin.elapsed() < Duration::from_millis(700), "at its deadline, not at its end: {:?}", begin.elapsed());
    let (answers, end) = many.rest().await;
    end.expect("each is answered");
    assert_eq!(answers.len(), 2);
    answers.values().for_each(|outcome| assert!(!response(outcome).results.is_empty()));
}

#[tokio::test]
async fn a_request_that_fails_says_why_and_leaves_the_others_alone() {
    let script = "max_tokens = 64\npoison = \"poison\"\n[service_time]\nper_batch = \"20ms\"\n";
    let server = TestServer::scripted(script, |_| ()).await;
    let mut many = Many::open(&server).await;
    many.ask("a", documents(3)).await;
    many.ask("poisoned", request("red", &["red", "poison"])).await;
    many.ask("b", documents(3)).await;
    many.ask("invalid", RerankRequest { query: None, method: 99, ..documents(1) }).await;
    many.ask("unknown", RerankRequest { model: "elsewhere".to_owned(), ..documents(1) }).await;
    many.ask("c", documents(3)).await;
    many.close();
    let (answers, end) = many.rest().await;
    end.expect("each is answered");
    assert_eq!(answers.len(), 6);
    for id in ["a", "b", "c"] {
        assert_eq!(response(&answers[id]).results.len(), 3, "{id}");
    }
    let [poisoned, invalid, unknown] = ["poisoned", "invalid", "unknown"].map(|id| status(&answers[id]));
    assert_eq!((poisoned.code(), poisoned.message()), (Code::Internal, "internal error"));
    assert_eq!((invalid.code(), reason(&invalid).as_str()), (Code::InvalidArgument, "INVALID_REQUEST"));
    assert_eq!(fields(&invalid), ["query", "method"]);
    assert_eq!((unknown.code(), reason(&unknown).as_str()), (Code::NotFound, "NOT_FOUND"));
    let resource = unknown.get_error_details().resource_info().map(|info| info.resource_name.clone());
    assert_eq!(resource.as_deref(), Some("elsewhere"));
}

#[tokio::test]
async fn an_id_in_flight_is_not_taken_twice() {
    let server = TestServer::scripted(&one_by_one(50), |_| ()).await;
    let mut many = Many::open(&server).await;
    many.ask("same", documents(4)).await;
    many.ask("same", documents(1)).await;
    many.close();
    let (id, outcome) = many.next().await.expect("no error").expect("an answer");
    let refused = status(&outcome);
    assert_eq!(
        (id.as_str(), refused.code(), fields(&refused)),
        ("same", Code::InvalidArgument, vec!["request_id".to_owned()])
    );
    let (answers, end) = many.rest().await;
    end.expect("each is answered");
    assert_eq!(response(&answers["same"]).results.len(), 4);
}

#[tokio::test]
async fn the_calls_own_deadline_ends_it() {
    let server = TestServer::scripted(&one_by_one(2_000), |_| ()).await;
    let mut many = Many::with_timeout(&server, Some("300m")).await;
    let begin = Instant::now();
    many.ask_within("x", documents(1), Some(Duration::from_secs(30))).await;
    let (answers, end) = many.rest().await;
    let status_ = end.expect_err("its time is over");
    assert_eq!((status_.code(), reason(&status_).as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
    assert!(begin.elapsed() < Duration::from_millis(1_500), "{:?}", begin.elapsed());
    answers.values().for_each(|outcome| assert_eq!(status(outcome).code(), Code::DeadlineExceeded));
}

#[tokio::test]
async fn a_request_without_a_time_has_the_calls_or_the_default() {
    let configure = |config: &mut sluice_server::ServerConfig| config.default_deadline = Duration::from_millis(100);
    let server = TestServer::scripted(&one_by_one(300), configure).await;
    for (timeout, expected) in [(Some("20S"), Code::Ok), (None, Code::DeadlineExceeded)] {
        let mut many = Many::with_timeout(&server, timeout).await;
        many.ask("x", documents(1)).await;
        many.close();
        let (answers, end) = many.rest().await;
        end.expect("it is answered");
        let code = match &answers["x"] {
            Outcome::Response(_) => Code::Ok,
            error @ Outcome::Error(_) => status(error).code(),
        };
        assert_eq!(code, expected, "{timeout:?}");
    }
}

#[tokio::test]
async fn a_call_with_nothing_in_it_ends_well() {
    let server = TestServer::scripted(SCRIPT, |_| ()).await;
    let mut many = Many::open(&server).await;
    many.close();
    let (answers, end) = many.rest().await;
    end.expect("nothing was wrong");
    assert!(answers.is_empty());
}

#[tokio::test]
async fn a_drain_answers_what_was_read_and_ends_the_call() {
    let server = TestServer::scripted(&one_by_one(100), |_| ()).await;
    let (mut open, mut closed) = (Many::open(&server).await, Many::open(&server).await);
    for many in [&open, &closed] {
        many.ask("first", documents(1)).await;
        many.ask("second", documents(3)).await;
    }
    closed.close();
    open.next().await.expect("no error").expect("the first is answered, so the second was read");
    closed.next().await.expect("no error").expect("the first is answered, so the second was read");
    server.drain.begin();
    let (answers, end) = open.rest().await;
    assert_eq!(response(&answers["second"]).results.len(), 3, "what was read is answered");
    let status = end.expect_err("the caller could have asked for more");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "DRAINING"));
    let (answers, end) = closed.rest().await;
    assert_eq!(response(&answers["second"]).results.len(), 3);
    end.expect("this caller wanted no more, and has it all");
    assert_eq!(server.stop().await.expect("no fault"), Ending::Finished);
}
