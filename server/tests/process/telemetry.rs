//! What a process says of itself: metrics that any scraper can read, and logs that keep secrets.

use std::{collections::BTreeSet, process::Command, time::Duration};

use sluice_proto::{
    model::v1::{
        EmbeddingKind, EncodeRequest, GetModelRequest, ListModelsRequest, TokenizeRequest,
        encode_service_client::EncodeServiceClient, model_service_client::ModelServiceClient,
    },
    rerank::v1::{
        Method, RerankManyRequest, RerankRequest, StoredDocument, document, rerank_service_client::RerankServiceClient,
    },
};
use tonic::{Code, Request};

use crate::common::{
    child::{PATIENCE, Ports, ServerProcess, free_port, script},
    prometheus::Metrics,
    query, request,
};

/// Appears in every text that is sent; nothing of it may appear in a log.
const SECRET: &str = "xylophone";

fn asking(method: Method, documents: usize) -> RerankRequest {
    RerankRequest { method: method.into(), ..request(SECRET, &vec!["a red xylophone"; documents]) }
}

/// Something of everything that can happen to a request.
async fn traffic(ports: Ports) {
    let channel = ports.channel().await;
    let mut client = RerankServiceClient::new(channel.clone());
    for method in [Method::LateInteraction, Method::Dense, Method::CrossEncoder] {
        client.rerank(asking(method, 3)).await.expect("answered");
    }
    let id = SECRET.to_owned();
    let many = RerankManyRequest { request_id: id, request: Some(asking(Method::Dense, 2)), timeout: None };
    let mut answers = client.rerank_many(tokio_stream::iter([many])).await.expect("opens").into_inner();
    while answers.message().await.expect("goes on").is_some() {}

    // Refused: there is no room beside the first; then the first is dropped in the middle. An answer may be a moment
    // ahead of its room, and the first is let in only where nobody else is.
    ports.at_rest().await;
    let mut first = client.rerank_stream(asking(Method::CrossEncoder, 400)).await.expect("opens").into_inner();
    first.message().await.expect("goes on").expect("scores");
    let refused = client.rerank(asking(Method::CrossEncoder, 3)).await.expect_err("no room");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    drop(first);
    ports.at_rest().await;

    let mut late = Request::new(asking(Method::CrossEncoder, 400));
    late.metadata_mut().insert("grpc-timeout", "45m".parse().expect("ascii"));
    client.rerank(late).await.expect_err("too much for 45 ms");
    ports.at_rest().await;
    let poisoned = client.rerank(request("hemlock", &["xylophone"])).await.expect_err("poisoned");
    assert_eq!(poisoned.code(), Code::Internal);
    let mut unknown = asking(Method::Dense, 1);
    unknown.model = SECRET.to_owned();
    assert_eq!(client.rerank(unknown).await.expect_err("unknown").code(), Code::NotFound);
    let mut empty = asking(Method::Dense, 1);
    empty.query = query(" ");
    assert_eq!(client.rerank(empty).await.expect_err("empty").code(), Code::InvalidArgument);

    let mut stored = asking(Method::LateInteraction, 1);
    let reference = StoredDocument { namespace: "n".to_owned(), ..StoredDocument::default() };
    stored.documents[0].content = Some(document::Content::Stored(reference));
    assert!(client.rerank(stored).await.expect("answered").into_inner().partial, "there is no store");

    let mut encode = EncodeServiceClient::new(channel.clone());
    let texts = vec![SECRET.to_owned()];
    for kind in [EmbeddingKind::Dense, EmbeddingKind::Token] {
        let request = EncodeRequest { texts: texts.clone(), kind: kind.into(), ..EncodeRequest::default() };
        encode.encode(request).await.expect("answered");
    }
    encode.tokenize(TokenizeRequest { texts, ..TokenizeRequest::default() }).await.expect("answered");
    let mut models = ModelServiceClient::new(channel);
    models.list_models(ListModelsRequest {}).await.expect("answered");
    models.get_model(GetModelRequest::default()).await.expect("answered");
}

fn start(prepare: impl FnOnce(&mut Command)) -> (tempfile::TempDir, ServerProcess) {
    let folder = tempfile::tempdir().expect("a folder");
    let text =
        "max_tokens = 64\nbatch_sequences_max = 32\npoison = \"hemlock\"\n[service_time]\nper_batch = \"15ms\"\n";
    // A name that a label has to escape.
    let model = format!("a model with\\ \"marks\"={}", script(folder.path(), text));
    let arguments = ["--model", &model, "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"];
    let process = ServerProcess::start_with(&arguments, |command| {
        command.env("SLUICE_DRAIN__GRACE", "0s").env("SLUICE_ADMISSION__DOCUMENTS_MAX", "8");
        prepare(command);
    });
    (folder, process)
}

/// Names that the server's own source describes.
fn described() -> BTreeSet<&'static str> {
    let source = include_str!("../../src/metrics.rs");
    let names = source.split("describe_").skip(1).filter_map(|rest| rest.split_once("!(\"")?.1.split('"').next());
    names.filter(|name| name.starts_with("sluice_")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_strict_and_complete() {
    let (_folder, mut process) = start(|_| ());
    let ports = process.serving();
    traffic(ports).await;
    let metrics = ports.at_rest().await;

    let described = described();
    assert!(described.len() > 15, "{described:?}");
    let others = ["sluice_connections", "sluice_build_info"];
    let missing: Vec<_> =
        described.iter().chain(&others).filter(|name| !metrics.families.contains_key(**name)).collect();
    // Neither is certain to happen here.
    let possible =
        |name: &&&&str| name.starts_with("sluice_device_cache_") || **name == &"sluice_wasted_device_seconds";
    let missing: Vec<_> = missing.into_iter().filter(|name| !possible(&name)).collect();
    assert_eq!(missing, Vec::<&&str>::new(), "described and not there");

    let values: [(&str, &str, &[&str]); 9] = [
        (
            "sluice_requests_total",
            "rpc",
            &["Encode", "GetModel", "ListModels", "Rerank", "RerankMany", "RerankStream", "Tokenize"],
        ),
        (
            "sluice_requests_total",
            "code",
            &[
                "CANCELLED",
                "DEADLINE_EXCEEDED",
                "INTERNAL",
                "INVALID_ARGUMENT",
                "NOT_FOUND",
                "OK",
                "RESOURCE_EXHAUSTED",
            ],
        ),
        ("sluice_finished_total", "outcome", &["answered", "cancelled", "expired", "failed"]),
        ("sluice_rejected_total", "reason", &["documents"]),
        ("sluice_rejected_total", "tenant", &["default"]),
        ("sluice_units_total", "event", &["cancelled", "dispatched", "enqueued", "expired"]),
        ("sluice_batch_faults_total", "kind", &["failed"]),
        ("sluice_tokens_total", "kind", &["document", "query"]),
        ("sluice_model_info", "model", &["a model with\\ \"marks\""]),
    ];
    for (name, label, expected) in values {
        assert_eq!(metrics.values(name, label), expected.iter().copied().collect(), "{name} {label}");
    }
    assert_eq!(metrics.values("sluice_compute_duration_seconds", "operation").len(), 4);
    let counts = [
        ("sluice_requests_total", vec![("rpc", "Rerank"), ("code", "OK")], 4),
        ("sluice_requests_total", vec![("code", "RESOURCE_EXHAUSTED")], 1),
        ("sluice_requests_total", vec![("rpc", "RerankStream"), ("code", "CANCELLED")], 1),
        ("sluice_rejected_total", vec![], 1),
        ("sluice_finished_total", vec![("outcome", "answered")], 7),
        ("sluice_finished_total", vec![("outcome", "failed")], 1),
        ("sluice_request_duration_seconds_count", vec![("rpc", "Rerank")], 9),
        ("sluice_model_info", vec![("backend", "scripted")], 1),
        ("sluice_build_info", vec![("version", env!("CARGO_PKG_VERSION"))], 1),
    ];
    for (name, labels, expected) in counts {
        assert_eq!(metrics.count(name, &labels), expected, "{name} {labels:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_json_and_hold_no_text_of_a_caller() {
    let (_folder, mut process) = start(|_| ());
    let ports = process.serving();
    traffic(ports).await;
    process.signal("TERM");
    assert_eq!(process.ended(PATIENCE).code(), Some(0));
    process.logged("stopped; every request was answered");
    process.logged("batch failed");
    assert_eq!(process.out(), Vec::<String>::new(), "results go to standard output, and there were none");
    for line in process.log() {
        let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for field in ["timestamp", "level", "target", "message"] {
            assert!(event[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {line}");
        }
        assert!(!line.contains(SECRET) && !line.contains("hemlock"), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_for_people_are_lines_without_colours_in_a_file() {
    let (_folder, mut process) = start(|command| {
        command.env("SLUICE_LOG__FORMAT", "human").env("SLUICE_LISTEN", "127.0.0.1:0");
    });
    let serving = loop {
        if let Some(line) = process.log().into_iter().find(|line| line.contains(" serving ")) {
            break line;
        }
        assert!(process.is_running(), "{:?}", process.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(serving.contains("INFO") && serving.contains("listen=127.0.0.1:"), "{serving}");
    assert!(!process.log().concat().contains(['\u{1b}', '{']), "{:?}", process.log());
}

#[test]
fn a_log_can_be_switched_off() {
    let address = free_port();
    let folder = tempfile::tempdir().expect("a folder");
    let model = format!("model={}", script(folder.path(), ""));
    let arguments = ["--model", &model, "--listen", &address.to_string()];
    let mut process = ServerProcess::start_with(&arguments, |command| {
        command.env("SLUICE_DRAIN__GRACE", "0s").env("SLUICE_LOG__FILTER", "off");
    });
    // Signals are listened to a little later than the port.
    while std::net::TcpStream::connect(address).is_err() {
        assert!(process.is_running());
    }
    std::thread::sleep(Duration::from_millis(200));
    process.signal("TERM");
    assert_eq!(process.ended(PATIENCE).code(), Some(0));
    assert_eq!(process.log(), Vec::<String>::new());
}

/// The reader must refuse what is not as it should be, or its tests would show nothing.
#[test]
fn a_page_that_is_not_strict_is_refused() {
    let counter = "# HELP sluice_a_total A.\n# TYPE sluice_a_total counter\n";
    let gauge = "# HELP sluice_a A.\n# TYPE sluice_a gauge\n";
    let histogram = "# HELP sluice_h H.\n# TYPE sluice_h histogram\n";
    let buckets = |first: &str, second: &str, count: &str| {
        format!(
            "{histogram}sluice_h_bucket{{le=\"1\"}} {first}\nsluice_h_bucket{{le=\"+Inf\"}} {second}\nsluice_h_sum 3\nsluice_h_count {count}\n"
        )
    };
    let right = [
        format!(
            "{counter}sluice_a_total{{x=\"1\",y=\"a\\\\b\\\"c\\nd\"}} 3\nsluice_a_total{{x=\"2\"}} 0\n\n{gauge}sluice_a -1.5\n"
        ),
        buckets("1", "2", "2"),
    ];
    for text in right {
        Metrics::parse(&text).unwrap_or_else(|fault| panic!("{fault}, in\n{text}"));
    }
    let wrong = [
        counter.to_owned(),
        format!("{counter}sluice_a_total 3"),
        format!("{counter}sluice_a_total 3\nsluice_a_total 4\n"),
        format!("{counter}sluice_a_total 3 \n"),
        format!("{counter}sluice_a_total  3\n"),
        format!("{counter}sluice_a_total three\n"),
        format!("{counter}sluice_a_total NaN\n"),
        format!("{counter}sluice_a_total -3\n"),
        format!("{counter}sluice_a_total 0.5\n"),
        format!("{counter}sluice_b_total 3\n"),
        format!("{counter}sluice_a_total{{x=\"1\" 3\n"),
        format!("{counter}sluice_a_total{{x=\"1\"}}3\n"),
        format!("{counter}sluice_a_total{{x=\"a\\tb\"}} 3\n"),
        format!("{counter}sluice_a_total{{x=\"1\",x=\"1\"}} 3\n"),
        format!("{counter}sluice_a_total{{1x=\"1\"}} 3\n"),
        format!("{counter}sluice_a_total 3\n{counter}sluice_a_total{{x=\"1\"}} 3\n"),
        "# TYPE sluice_a_total counter\nsluice_a_total 3\n".to_owned(),
        "# HELP sluice_a_total A.\nsluice_a_total 3\n".to_owned(),
        "sluice_a_total 3\n".to_owned(),
        "# HELP other_total A.\n# TYPE other_total counter\nother_total 3\n".to_owned(),
        "# HELP sluice_a A.\n# TYPE sluice_a counter\nsluice_a 3\n".to_owned(),
        "# HELP sluice_a_total A.\n# TYPE sluice_a_total gauge\nsluice_a_total 3\n".to_owned(),
        "# HELP sluice_a A.\n# TYPE sluice_a summary\nsluice_a{quantile=\"0.5\"} 3\n".to_owned(),
        "# HELP sluice_a  \n# TYPE sluice_a gauge\nsluice_a 3\n".to_owned(),
        buckets("3", "2", "2"),
        buckets("1", "2", "3"),
        buckets("1", "2", "2").replace("+Inf", "0.5"),
        buckets("1", "2", "2").replace("+Inf", "7"),
        buckets("1", "2", "2").replace("{le=\"1\"}", ""),
        buckets("1", "2", "2").replace("sluice_h_sum 3\n", ""),
    ];
    for text in wrong {
        assert!(Metrics::parse(&text).is_err(), "accepted:\n{text}");
    }
    let resting = Metrics::parse(&format!("{counter}sluice_a_total 3\n")).expect("right");
    assert_eq!(resting.faults_at_rest(), Vec::<String>::new());
    for text in [
        "# HELP sluice_queue_units A.\n# TYPE sluice_queue_units gauge\nsluice_queue_units 3\n",
        "# HELP sluice_admitted_total A.\n# TYPE sluice_admitted_total counter\nsluice_admitted_total 3\n",
        "# HELP sluice_units_total A.\n# TYPE sluice_units_total counter\nsluice_units_total{event=\"dispatched\"} 3\n",
    ] {
        assert_eq!(Metrics::parse(text).expect("right").faults_at_rest().len(), 1, "{text}");
    }
}
