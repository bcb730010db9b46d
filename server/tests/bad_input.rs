//! Every row of bad input that can occur, through the real port: what is said, and that it harms nothing.

#![allow(clippy::disallowed_methods, reason = "real processes and real time")]

mod common;

use std::time::{Duration, Instant};

use common::{SCRIPT, TestServer, document, fields, query, raw, reason, request};
use prost::Message;
use sluice_proto::{
    model::v1::{DataType, Embedding, EncodeRequest, GetModelRequest, TokenizeRequest},
    rerank::v1::{
        Budget, Document, Method, Query, RerankRequest, ScoreKind, Stage, StoredDocument, Truncation, document,
    },
};
use tonic::Code;
use tonic_types::StatusExt;

/// A request that is fine but for what the case changes.
fn changed(change: impl FnOnce(&mut RerankRequest)) -> RerankRequest {
    let mut request = request("red apple", &["a red apple", "a blue car"]);
    change(&mut request);
    request
}

#[tokio::test]
async fn each_fault_of_a_request_names_its_field() {
    let server = TestServer::scripted(SCRIPT, |config| {
        config.limits.documents_per_request_max = 3;
        config.limits.document_bytes_max = 100;
        config.limits.query_bytes_max = 50;
    })
    .await;
    let cases: Vec<(&str, RerankRequest, &[&str])> = vec![
        ("no query", changed(|r| r.query = None), &["query"]),
        ("query without content", changed(|r| r.query = Some(Query::default())), &["query"]),
        ("empty query", changed(|r| r.query = query("")), &["query.text"]),
        ("blank query", changed(|r| r.query = query(" \t\n")), &["query.text"]),
        ("oversize query", changed(|r| r.query = query("x ".repeat(26))), &["query.text"]),
        ("no documents", changed(|r| r.documents.clear()), &["documents"]),
        ("too many documents", changed(|r| r.documents = vec![document(0, "x"); 4]), &["documents"]),
        ("document without content", changed(|r| r.documents[1] = Document::default()), &["documents[1]"]),
        ("oversize document", changed(|r| r.documents[1] = document(1, "x".repeat(101))), &["documents[1].text"]),
        ("oversize id", changed(|r| r.documents[0] = document("i".repeat(513), "x")), &["documents[0].id"]),
        ("unknown method", changed(|r| r.method = 99), &["method"]),
        ("negative enum", changed(|r| r.score_kind = -1), &["score_kind"]),
        (
            "unknown long-document value",
            changed(|r| r.truncation = Some(Truncation { long_document: 7, ..Truncation::default() })),
            &["truncation.long_document"],
        ),
        (
            "sigmoid of what is no logit",
            changed(|r| {
                r.method = Method::Dense.into();
                r.score_kind = ScoreKind::Sigmoid.into();
            }),
            &["score_kind"],
        ),
        ("NaN", changed(|r| r.min_score = Some(f32::NAN)), &["min_score"]),
        ("oversize model name", changed(|r| r.model = "m".repeat(257)), &["model"]),
        ("unknown priority", changed(|r| r.priority = 4), &["priority"]),
        ("unknown cache policy", changed(|r| r.cache = -7), &["cache"]),
        ("no time", changed(|r| r.budget = Some(budget(0, 0))), &["budget.time"]),
        ("negative time", changed(|r| r.budget = Some(budget(-1, 0))), &["budget.time"]),
        ("nanoseconds out of range", changed(|r| r.budget = Some(budget(1, 1_000_000_000))), &["budget.time"]),
        (
            "several at once",
            changed(|r| {
                r.query = None;
                r.method = 99;
                r.documents[0] = Document::default();
            }),
            &["query", "documents[0]", "method"],
        ),
    ];
    let mut client = server.rerank().await;
    for (name, request, expected) in cases {
        let unary = client.rerank(request.clone()).await.expect_err(name);
        assert_eq!(
            (unary.code(), fields(&unary)),
            (Code::InvalidArgument, expected.iter().map(ToString::to_string).collect()),
            "{name}"
        );
        assert_eq!(reason(&unary), "INVALID_REQUEST", "{name}");
        let mut stream = client.rerank_stream(request).await.expect("streams fail in the stream").into_inner();
        let streamed = stream.message().await.expect_err(name);
        assert_eq!((streamed.code(), fields(&streamed)), (unary.code(), fields(&unary)), "{name}, streamed");
    }
    client.rerank(changed(|_| ())).await.expect("the server goes on");
}

fn budget(seconds: i64, nanos: i32) -> Budget {
    Budget { time: Some(prost_types::Duration { seconds, nanos }), ..Budget::default() }
}

fn stage(method: Method) -> Stage {
    Stage { method: method.into(), ..Stage::default() }
}

/// A request of two stages that is fine but for what the case changes.
fn staged(change: impl FnOnce(&mut RerankRequest)) -> RerankRequest {
    changed(|r| {
        r.stages = vec![stage(Method::LateInteraction), stage(Method::CrossEncoder)];
        change(r);
    })
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table")]
async fn each_fault_of_a_stage_names_its_field() {
    let narrow = "max_tokens = 64\ndim = 4\n";
    let dense = "max_tokens = 64\ncapabilities = [\"dense\"]\n";
    let models = [("model", narrow), ("wide", "max_tokens = 64\ndim = 8\n"), ("dense", dense)];
    let server = TestServer::several(&models, |_| ()).await;
    let embedding = |rows: u32| {
        let content = document::Content::Embedding(Embedding {
            data: vec![0; 4 * 4 * rows as usize].into(),
            dtype: DataType::F32.into(),
            rows,
            dim: 4,
            ..Embedding::default()
        });
        Document { id: "e".to_owned(), content: Some(content) }
    };
    let stored = |text: Option<&str>| {
        let stored =
            StoredDocument { namespace: "n".to_owned(), text: text.map(str::to_owned), ..StoredDocument::default() };
        Document { id: "s".to_owned(), content: Some(document::Content::Stored(stored)) }
    };
    let cases: Vec<(&str, RerankRequest, &[&str])> = vec![
        ("both ways", staged(|r| r.method = Method::Dense.into()), &["method"]),
        ("too many", staged(|r| r.stages = vec![stage(Method::Dense); 5]), &["stages"]),
        ("unknown method", staged(|r| r.stages[1].method = 9), &["stages[1].method"]),
        ("oversize model name", staged(|r| r.stages[0].model = "m".repeat(257)), &["stages[0].model"]),
        (
            "a method that a stage's model lacks",
            staged(|r| r.stages[1].model = "dense".to_owned()),
            &["stages[1].method"],
        ),
        ("nothing comes after", staged(|r| r.stages[1].top_k = 3), &["stages[1].top_k"]),
        ("no time", staged(|r| r.stages[0].budget = Some(budget(0, 0))), &["stages[0].budget.time"]),
        (
            "a deadline is the request's",
            staged(|r| r.stages[0].budget = Some(Budget { until_deadline: true, ..Budget::default() })),
            &["stages[0].budget.until_deadline"],
        ),
        (
            "sigmoid of what is no logit",
            staged(|r| {
                r.stages.reverse();
                r.score_kind = ScoreKind::Sigmoid.into();
            }),
            &["score_kind"],
        ),
        ("vectors for a stage that reads", staged(|r| r.documents[1] = embedding(2)), &["documents[1]"]),
        ("stored without a text to read", staged(|r| r.documents[1] = stored(None)), &["documents[1]"]),
        (
            "vectors of another model",
            staged(|r| {
                r.documents[0] = embedding(1);
                r.stages[1] = Stage { model: "wide".to_owned(), ..stage(Method::LateInteraction) };
            }),
            &["stages[1].model"],
        ),
        (
            "several at once",
            staged(|r| {
                r.priority = 17;
                r.stages[0].method = -1;
                r.stages[1].top_k = 1;
                r.budget = Some(budget(-1, 0));
            }),
            &["stages[0].method", "stages[1].top_k", "priority", "budget.time"],
        ),
    ];
    let mut client = server.rerank().await;
    for (name, request, expected) in cases {
        let status = client.rerank(request).await.expect_err(name);
        assert_eq!(
            (status.code(), fields(&status)),
            (Code::InvalidArgument, expected.iter().map(ToString::to_string).collect()),
            "{name}"
        );
    }
    let unknown: [fn(&mut RerankRequest); 2] =
        [|r| r.stages[1].model = "elsewhere".to_owned(), |r| r.model = "elsewhere".to_owned()];
    for change in unknown {
        let status = client.rerank(staged(change)).await.expect_err("no such model");
        assert_eq!(status.code(), Code::NotFound, "{status:?}");
    }
    let fine = [
        staged(|r| r.documents[1] = stored(Some("a text to read"))),
        staged(|r| r.stages[0].budget = Some(Budget { pairs: 1, ..budget(3600, 0) })),
        staged(|r| {
            r.score_kind = ScoreKind::Sigmoid.into();
            r.stages[0].top_k = 1000;
            r.stages[0].model = "wide".to_owned();
        }),
        changed(|r| r.budget = Some(Budget { pairs: u32::MAX, until_deadline: true, ..budget(i64::MAX, 999_999_999) })),
    ];
    for request in fine {
        client.rerank(request).await.expect("nothing is wrong with it");
    }
}

#[tokio::test]
async fn a_method_that_the_model_lacks_is_refused_on_the_field() {
    let server = TestServer::scripted("max_tokens = 64\ncapabilities = [\"dense\"]\n", |_| ()).await;
    let status = server
        .rerank()
        .await
        .rerank(changed(|r| r.method = Method::CrossEncoder.into()))
        .await
        .expect_err("the model is dense only");
    assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["method".to_owned()]));
}

#[tokio::test]
async fn an_unknown_model_is_not_found() {
    let server = TestServer::scripted(SCRIPT, |_| ()).await;
    let model = "elsewhere".to_owned();
    let statuses = [
        server.rerank().await.rerank(changed(|r| r.model = model.clone())).await.expect_err("unknown"),
        server.models().await.get_model(GetModelRequest { name: model.clone() }).await.expect_err("unknown"),
        server
            .encode()
            .await
            .encode(EncodeRequest { model: model.clone(), texts: vec!["x".to_owned()], ..EncodeRequest::default() })
            .await
            .expect_err("unknown"),
        server
            .encode()
            .await
            .tokenize(TokenizeRequest { model, texts: vec!["x".to_owned()], ..TokenizeRequest::default() })
            .await
            .expect_err("unknown"),
    ];
    for status in statuses {
        assert_eq!(status.code(), Code::NotFound);
        assert!(status.message().contains("elsewhere"), "{status:?}");
    }
}

#[tokio::test]
async fn encode_and_tokenize_name_their_fields_too() {
    let server = TestServer::scripted(SCRIPT, |config| config.limits.documents_per_request_max = 3).await;
    let texts = |n| vec!["x".to_owned(); n];
    let cases = [
        (EncodeRequest { texts: vec![], ..EncodeRequest::default() }, "texts"),
        (EncodeRequest { texts: texts(4), ..EncodeRequest::default() }, "texts"),
        (EncodeRequest { texts: texts(1), kind: 9, ..EncodeRequest::default() }, "kind"),
        (EncodeRequest { texts: texts(1), dtype: 9, ..EncodeRequest::default() }, "dtype"),
    ];
    let mut client = server.encode().await;
    for (request, field) in cases {
        let status = client.encode(request).await.expect_err(field);
        assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec![field.to_owned()]));
    }
    let status = client.tokenize(TokenizeRequest::default()).await.expect_err("no texts");
    assert_eq!(fields(&status), ["texts"]);
}

#[tokio::test]
async fn a_query_is_never_cut() {
    let server = TestServer::scripted(SCRIPT, |_| ()).await;
    for method in [Method::LateInteraction, Method::Dense, Method::CrossEncoder] {
        let long = changed(|r| {
            r.query = query("word ".repeat(64));
            r.method = method.into();
        });
        let status = server.rerank().await.rerank(long).await.expect_err("64 words and special tokens");
        assert_eq!(
            (status.code(), fields(&status)),
            (Code::InvalidArgument, vec!["query.text".to_owned()]),
            "{method:?}"
        );
    }
}

#[tokio::test]
async fn an_empty_document_is_scored_and_a_long_one_is_cut_and_says_so() {
    let server = TestServer::scripted(SCRIPT, |_| ()).await;
    for method in [Method::LateInteraction, Method::Dense, Method::CrossEncoder] {
        let request = changed(|r| {
            r.documents = vec![document("empty", ""), document("long", "word ".repeat(500)), document("short", "red")];
            r.method = method.into();
        });
        let answer = server.rerank().await.rerank(request).await.expect("all are scored").into_inner();
        assert_eq!(answer.results.len(), 3, "{method:?}");
        for result in answer.results {
            assert_eq!(result.truncated, result.id == "long", "{method:?} {result:?}");
            assert!(result.tokens <= 64 && result.score.is_finite(), "{method:?} {result:?}");
        }
    }
}

#[tokio::test]
async fn too_much_at_once_is_refused_at_once() {
    let script = "max_tokens = 64\n[service_time]\nper_batch = \"2s\"\n";
    let server = TestServer::scripted(script, |config| config.admission.documents_max = 4).await;
    let mut first = server.rerank().await;
    let busy = tokio::spawn(async move { first.rerank(request("a", &["a", "b", "c"])).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let begin = Instant::now();
    let status = server.rerank().await.rerank(request("a", &["a", "b"])).await.expect_err("3 + 2 > 4");
    let took = begin.elapsed();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "OVERLOADED"));
    let retry = status.get_error_details().retry_info().and_then(|info| info.retry_delay);
    assert!(retry.is_some_and(|delay| delay > Duration::ZERO), "{status:?}");
    assert!(took < Duration::from_millis(750), "nothing waits to be refused: {took:?}");
    busy.await.expect("no panic").expect("the first is answered");
    server.rerank().await.rerank(request("a", &["a", "b"])).await.expect("room again");
}

#[tokio::test]
async fn deadlines_end_in_deadline_exceeded() {
    let script = "max_tokens = 64\n[service_time]\nper_batch = \"400ms\"\n";
    let server = TestServer::scripted(script, |_| ()).await;
    // A caller without a timer of its own: tonic's would give up, by itself and at the same time.
    let connection = raw::Connection::open(server.address).await;
    let ask = |method: &str, timeout: &str| {
        let path = format!("/sluice.rerank.v1.RerankService/{method}");
        let message = request("a", &["a", "b"]).encode_to_vec();
        let call = raw::Call::new(&path, &message).header("grpc-timeout", timeout.as_bytes());
        let reply = connection.call(call, usize::MAX);
        async move {
            match reply.await.ending {
                raw::Ending::Status(status) => status,
                ending => unreachable!("{ending:?}"),
            }
        }
    };
    for timeout in ["100m", "100000u"] {
        let begin = Instant::now();
        let status = ask("Rerank", timeout).await;
        assert!(begin.elapsed() < Duration::from_millis(390), "at the deadline, not at the batch's end");
        // Until the device is done with it: the next one is not to be refused because of the queue.
        tokio::time::sleep(Duration::from_millis(450)).await;
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
            "{timeout}"
        );
    }
    assert_eq!(ask("Rerank", "0n").await.code(), Code::DeadlineExceeded, "over before it began");
    let malformed = ask("Rerank", "soon").await;
    assert_eq!((malformed.code(), fields(&malformed)), (Code::InvalidArgument, vec!["grpc-timeout".to_owned()]));
    assert_eq!(ask("RerankStream", "100m").await.code(), Code::DeadlineExceeded, "a batch takes longer");
    assert_eq!(ask("Rerank", "10S").await.code(), Code::Ok, "enough time");
}

#[tokio::test]
async fn the_default_deadline_applies_where_none_is_sent() {
    let script = "max_tokens = 64\n[service_time]\nper_batch = \"400ms\"\n";
    let server = TestServer::scripted(script, |config| config.default_deadline = Duration::from_millis(80)).await;
    let status = server.rerank().await.rerank(request("a", &["a"])).await.expect_err("a batch takes longer");
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused() {
    let server = TestServer::scripted(SCRIPT, |config| config.grpc.max_message_size = 64 << 10).await;
    let text = "word ".repeat(20_000);
    let status = server.rerank().await.rerank(request("a", &[&text])).await.expect_err("100 kB");
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status:?}");
    server.rerank().await.rerank(request("a", &["b"])).await.expect("the server goes on");
}

#[tokio::test]
async fn a_poisoned_input_costs_its_own_request() {
    let script = "max_tokens = 64\npoison = \"poison\"\n[service_time]\nper_batch = \"50ms\"\n";
    let server = TestServer::scripted(script, |_| ()).await;
    let channel = server.channel().await;
    let ask = |text: &'static str| {
        let mut client = sluice_proto::rerank::v1::rerank_service_client::RerankServiceClient::new(channel.clone());
        async move { client.rerank(request("apple", &["apple", text, "pear"])).await }
    };
    let (a, b, c, d) = tokio::join!(ask("plum"), ask("fig"), ask("poison"), ask("lime"));
    let status = c.expect_err("poisoned");
    assert_eq!(status.code(), Code::Internal);
    assert_eq!(status.message(), "internal error", "no internals");
    for answer in [a, b, d] {
        assert_eq!(answer.expect("a neighbour").into_inner().results[0].index, 0);
    }
}

#[tokio::test]
async fn a_lost_device_and_a_panic_cost_their_batch_and_not_the_process() {
    let cases = [("device_lost", 1, Code::Unavailable), ("panic", 2, Code::Internal), ("failed", 2, Code::Internal)];
    for (kind, tries, code) in cases {
        // The warm-up is the first batch; the single document of the second cannot be split, only tried again.
        let script = format!(
            "max_tokens = 64\ncapabilities = [\"cross_encoder\"]\n\
             [[fault]]\nat_batch = 2\nkind = \"{kind}\"\nrepeat = {tries}\n"
        );
        let server = TestServer::scripted(&script, |_| ()).await;
        let status = server.rerank().await.rerank(request("a", &["a"])).await.expect_err(kind);
        assert_eq!(status.code(), code, "{kind}: {status:?}");
        let answer = server.rerank().await.rerank(request("a", &["a", "b"])).await.expect("the process lives");
        assert_eq!(answer.into_inner().results.len(), 2);
    }
}

#[tokio::test]
async fn nothing_is_served_before_the_model_is_warm() {
    let server = TestServer::cold("max_tokens = 64\n[load]\ndelay = \"400ms\"\n", |_| ()).await;
    for service in
        ["", "sluice.rerank.v1.RerankService", "sluice.model.v1.ModelService", "sluice.model.v1.EncodeService"]
    {
        assert!(!server.serving(service).await, "{service:?}");
    }
    assert!(server.serving("liveness").await);
    let status = server.rerank().await.rerank(request("a", &["a"])).await.expect_err("loading");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "LOADING"));
    for _ in 0..300 {
        if server.serving("").await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(server.serving("sluice.rerank.v1.RerankService").await);
    server.rerank().await.rerank(request("a", &["a"])).await.expect("warm");
}
