//! Unary calls: deadlines, retries, errors.

use std::{
    io::Read,
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use sluice_client::{
    Client, ClientError, ClientOptions, Code, Compression, DataType, EmbeddingKind, EncodeRequest, FieldViolation,
    Matrix, Method, Rerank, RerankRequest, RerankResponse, RetryPolicy, StatusError, TokenizeRequest,
};
use tonic::{Status, metadata::MetadataMap};
use tonic_types::{ErrorDetails, StatusExt};

use crate::fake::{Fake, Step, models};

/// Retries at once, so that no test waits; what waits are is tested without a clock.
fn hasty() -> ClientOptions {
    let retry = RetryPolicy { backoff_initial: Duration::from_millis(1), ..RetryPolicy::default() };
    ClientOptions { retry, ..ClientOptions::default() }
}

fn request() -> Rerank {
    Rerank::new("black sand").document("a", "white sand").document("b", "black sand beach").document("c", "")
}

fn ids(answer: &RerankResponse) -> Vec<&str> {
    answer.results.iter().map(|result| result.id.as_str()).collect()
}

fn unavailable() -> Step {
    Step::Fail(Status::unavailable("draining"))
}

fn busy(wait: Duration) -> Step {
    let details = ErrorDetails::with_retry_info(Some(wait));
    Step::Fail(Status::with_error_details(Code::ResourceExhausted, "the queue is full", details))
}

fn pushed_back(milliseconds: &'static str) -> Step {
    let mut metadata = MetadataMap::new();
    metadata.insert("grpc-retry-pushback-ms", milliseconds.parse().unwrap());
    Step::Fail(Status::with_metadata(Code::Unavailable, "not here", metadata))
}

fn status(error: ClientError) -> StatusError {
    match error {
        ClientError::Status(status) => *status,
        error => panic!("not a status: {error:?}"),
    }
}

#[tokio::test]
async fn a_request_arrives_as_it_was_written_and_says_its_deadline() {
    let fake = Fake::start();
    let client = Client::connect(&fake.url, hasty()).await.unwrap();
    let written = request().method(Method::Dense).top_n(2);
    let answer = client.rerank(written.clone()).await.unwrap();
    assert_eq!(ids(&answer), ["b", "a"]);

    let seen = &fake.seen()[0];
    assert_eq!(seen.request, RerankRequest::from(written));
    let timeout = seen.timeout.expect("a deadline is always sent");
    assert!(timeout > Duration::from_secs(20) && timeout <= Duration::from_secs(30), "{timeout:?}");
    assert!(seen.user_agent.starts_with("sluice-client/"), "{}", seen.user_agent);

    client.with_deadline(Duration::from_secs(90)).list_models().await.unwrap();
    let timeout = fake.seen()[1].timeout.unwrap();
    assert!(timeout > Duration::from_secs(80) && timeout <= Duration::from_secs(90), "{timeout:?}");
    client.with_deadline(Duration::MAX).list_models().await.unwrap();
    assert!(fake.seen()[2].timeout.unwrap() <= Duration::from_secs(24 * 60 * 60));
}

#[tokio::test]
async fn what_may_pass_is_tried_again_with_the_time_that_is_left() {
    let fake = Fake::with_script([unavailable(), busy(Duration::from_millis(50))]);
    let client = Client::connect(&fake.url, hasty()).await.unwrap();
    assert_eq!(ids(&client.rerank(request()).await.unwrap()), ["b", "a", "c"]);

    let seen = fake.seen();
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|attempt| attempt.request == seen[0].request));
    assert!(seen[2].at - seen[1].at >= Duration::from_millis(50), "the server's own wait is kept");
    let left: Vec<_> = seen.iter().map(|attempt| attempt.timeout.unwrap()).collect();
    assert!(left[0] > left[1] && left[1] >= left[2] + Duration::from_millis(50), "{left:?}");
}

#[tokio::test]
async fn some_failures_are_final() {
    let refused = ErrorDetails::with_bad_request_violation("top_n", "too large");
    let cases = [
        (vec![Step::Fail(Status::internal("broken"))], 1, "INTERNAL: broken"),
        (vec![Step::Fail(Status::deadline_exceeded("impossible"))], 1, "DEADLINE_EXCEEDED: impossible"),
        (
            vec![Step::Fail(Status::with_error_details(Code::InvalidArgument, "invalid", refused))],
            1,
            "INVALID_ARGUMENT: top_n: too large",
        ),
        (vec![pushed_back("-1")], 1, "UNAVAILABLE: not here"),
        (vec![pushed_back("1"), pushed_back("-1")], 2, "UNAVAILABLE: not here (after 2 attempts)"),
        (vec![unavailable(); 9], 4, "UNAVAILABLE: draining (after 4 attempts)"),
        (vec![busy(Duration::from_secs(600))], 1, "RESOURCE_EXHAUSTED: the queue is full (come back in 600s)"),
    ];
    for (script, attempts, expected) in cases {
        let fake = Fake::with_script(script);
        let client = Client::connect(&fake.url, hasty()).await.unwrap();
        let error = client.rerank(request()).await.unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert_eq!(fake.seen().len(), attempts, "{expected}");
    }
}

#[tokio::test]
async fn refused_fields_are_typed() {
    let fake = Fake::start();
    let client = Client::connect(&fake.url, hasty()).await.unwrap();
    let error = status(client.rerank(Rerank::new("").document("a", "b")).await.unwrap_err());
    assert_eq!(error.code, Code::InvalidArgument);
    let violation = FieldViolation { field: "query.text".into(), description: "must not be empty".into() };
    assert_eq!(error.field_violations, [violation]);
    assert_eq!(error.to_string(), "INVALID_ARGUMENT: query.text: must not be empty");
}

#[tokio::test]
async fn retries_of_all_calls_have_one_budget() {
    let retry = RetryPolicy { budget_tokens_max: 2, attempts_max: 9, ..hasty().retry };
    let fake = Fake::with_script(vec![unavailable(); 9]);
    let client = Client::connect(&fake.url, ClientOptions { retry, ..hasty() }).await.unwrap();
    let twin = client.clone();
    assert_eq!(status(client.rerank(request()).await.unwrap_err()).attempts, 3);
    assert_eq!(status(twin.rerank(request()).await.unwrap_err()).attempts, 1);
    assert_eq!(fake.seen().len(), 4);
}

#[tokio::test]
async fn a_call_ends_at_its_deadline_and_the_server_is_told() {
    let fake = Fake::with_script([Step::Hang]);
    let client = Client::connect(&fake.url, hasty()).await.unwrap();
    let start = Instant::now();
    let error = status(client.with_deadline(Duration::from_millis(80)).rerank(request()).await.unwrap_err());
    assert_eq!((error.code, error.attempts), (Code::DeadlineExceeded, 1));
    assert_eq!(error.message, "no answer within 80ms");
    assert!(start.elapsed() >= Duration::from_millis(80));

    // The connection outlives the call, and the call does not stay behind on the server.
    assert_eq!(ids(&client.rerank(request()).await.unwrap()), ["b", "a", "c"]);
    fake.wait_for_abandoned(1);
}

#[tokio::test]
async fn no_time_at_all_is_a_deadline_too() {
    let fake = Fake::with_script(vec![Step::Hang; 2]);
    let client = Client::connect(&fake.url, hasty()).await.unwrap();
    let error = client.with_deadline(Duration::ZERO).rerank(request()).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::DeadlineExceeded));
}

#[tokio::test]
async fn a_deadline_ends_retries_too() {
    let fake = Fake::with_script([unavailable(), Step::Hang]);
    let client = Client::connect(&fake.url, hasty()).await.unwrap();
    let error = status(client.with_deadline(Duration::from_millis(400)).rerank(request()).await.unwrap_err());
    assert_eq!((error.code, error.attempts), (Code::DeadlineExceeded, 2));
}

/// A port where nothing listens, at least for now.
fn closed_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[tokio::test]
async fn no_server_is_said_at_once_or_after_retries() {
    let url = closed_port();
    let check = |error: ClientError, expected: u32| {
        assert_eq!(error.code(), Some(Code::Unavailable));
        match &error {
            ClientError::Connection { url: named, reason, attempts } => {
                assert_eq!((named, *attempts), (&url, expected));
                assert!(reason.contains("refused"), "{reason}");
            }
            error => panic!("{error:?}"),
        }
        assert!(error.to_string().starts_with(&format!("cannot reach {url}: ")), "{error}");
    };
    check(Client::connect(&url, hasty()).await.unwrap_err(), 1);
    let lazy = Client::connect_lazy(&url, hasty()).unwrap();
    check(lazy.rerank(request()).await.unwrap_err(), 4);
    let once = ClientOptions { retry: RetryPolicy::never(), ..hasty() };
    check(Client::connect_lazy(&url, once).unwrap().list_models().await.unwrap_err(), 1);
}

#[tokio::test]
async fn a_connection_that_breaks_is_made_anew() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    // Reads the client's greeting, so that the call is under way, and hangs up.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream: TcpStream = stream.unwrap();
            let _ = stream.read(&mut [0; 64]);
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    let client = Client::connect_lazy(&url, hasty()).unwrap();
    let error = client.rerank(request()).await.unwrap_err();
    assert!(matches!(error, ClientError::Connection { attempts: 4, .. }), "{error:?}");
    assert!(accepted.load(Ordering::SeqCst) >= 2, "a broken connection is not used again");
}

#[tokio::test]
async fn requests_and_answers_may_be_compressed() {
    let fake = Fake::start();
    for (n, (compression, expected)) in
        [(None, None), (Some(Compression::Gzip), Some("gzip")), (Some(Compression::Zstd), Some("zstd"))]
            .into_iter()
            .enumerate()
    {
        let client = Client::connect(&fake.url, ClientOptions { compression, ..hasty() }).await.unwrap();
        assert_eq!(ids(&client.rerank(request()).await.unwrap()), ["b", "a", "c"]);
        assert_eq!(fake.seen()[n].encoding.as_deref(), expected);
    }
}

#[tokio::test]
async fn a_message_above_the_limit_is_neither_sent_nor_read() {
    let fake = Fake::start();
    let client = Client::connect(&fake.url, ClientOptions { max_message_size: 300, ..hasty() }).await.unwrap();
    let long = request().document("d", "x".repeat(300));
    let sent = client.rerank(long).await.unwrap_err();
    assert!(matches!(sent, ClientError::TooLarge { limit: 300, bytes: 301.. }), "{sent}");
    assert_eq!(fake.seen().len(), 0);

    let many = (0..30).map(|id| (id.to_string(), ""));
    let read = status(client.rerank(Rerank::new("q").documents(many)).await.unwrap_err());
    // Answers come compressed, and it is the decompressor that stops.
    assert_eq!((read.code, read.attempts), (Code::ResourceExhausted, 1), "{read}");
}

#[tokio::test]
async fn models_and_texts() {
    let fake = Fake::start();
    let client = Client::connect(&fake.url, hasty()).await.unwrap();
    assert_eq!(client.list_models().await.unwrap(), models());
    assert_eq!(client.get_model("cross").await.unwrap(), models()[1]);
    assert_eq!(client.get_model("").await.unwrap(), models()[0]);
    let missing = client.get_model("absent").await.unwrap_err();
    assert_eq!(missing.to_string(), "NOT_FOUND: no model `absent`");

    let texts = vec!["one".to_owned(), "two words".to_owned()];
    let encode = EncodeRequest {
        texts: texts.clone(),
        kind: EmbeddingKind::Dense.into(),
        dtype: DataType::F32.into(),
        ..EncodeRequest::default()
    };
    let encoded = client.encode(encode).await.unwrap();
    let matrix = Matrix::try_from(encoded.results[1].embedding.as_ref().unwrap()).unwrap();
    assert_eq!(matrix.rows().collect::<Vec<_>>(), [[9.0, 1.0]]);

    let split = client.tokenize(TokenizeRequest { texts, ..TokenizeRequest::default() }).await.unwrap();
    assert_eq!(split.results[1].ids, [3, 5]);
}

#[tokio::test]
async fn an_empty_description_breaks_the_protocol() {
    let fake = Fake::with_script([Step::Incomplete]);
    let client = Client::connect(&fake.url, hasty()).await.unwrap();
    assert!(matches!(client.get_model("").await, Err(ClientError::Protocol(_))));
}

#[tokio::test]
async fn calls_may_run_side_by_side_on_any_thread() {
    let fake = Fake::start();
    let client = Client::connect(&fake.url, hasty()).await.unwrap();
    let calls: Vec<_> = (0..32)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.rerank(request()).await })
        })
        .collect();
    for call in calls {
        assert_eq!(ids(&call.await.unwrap().unwrap()), ["b", "a", "c"]);
    }
    assert_eq!(fake.seen().len(), 32);
}
