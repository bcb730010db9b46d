//! How the port behaves whatever is asked: compression, reflection, health, the age of connections.

use std::{
    collections::BTreeSet,
    error::Error,
    time::{Duration, Instant},
};

use sluice_proto::rerank::v1::rerank_service_client::RerankServiceClient;
use sluice_service::{drain::Ending, grpc::Compression};
use tokio_stream::StreamExt;
use tonic::{Code, Request, Status, codec::CompressionEncoding};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::common::{SCRIPT, TestServer, raw, request};

const PATIENCE: Duration = Duration::from_secs(20);
/// Every service of the port.
const SERVICES: [&str; 7] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "sluice.model.v1.EncodeService",
    "sluice.model.v1.ModelService",
    "sluice.rerank.v1.RerankService",
    "sluice.rerank.v1.TokenStoreService",
];

#[tokio::test]
async fn requests_may_be_compressed_and_answers_are_as_configured() {
    let text = "red apple ".repeat(500);
    let asked = request("red", &[&text, "blue car"]);
    for (compression, expected) in
        [(Compression::None, None), (Compression::Gzip, Some("gzip")), (Compression::Zstd, Some("zstd"))]
    {
        let server = TestServer::scripted(SCRIPT, |config| config.grpc.compression = compression).await;
        let plain = server.rerank().await.rerank(asked.clone()).await.expect("valid");
        assert_eq!(plain.metadata().get("grpc-encoding"), None, "nobody accepts it");
        let plain = plain.into_inner().results;
        for sent in [None, Some(CompressionEncoding::Gzip), Some(CompressionEncoding::Zstd)] {
            let client = RerankServiceClient::new(server.channel().await)
                .accept_compressed(CompressionEncoding::Gzip)
                .accept_compressed(CompressionEncoding::Zstd);
            let mut client = match sent {
                Some(encoding) => client.send_compressed(encoding),
                None => client,
            };
            let answer = client.rerank(asked.clone()).await.expect("valid");
            let encoding = answer.metadata().get("grpc-encoding").map(|value| value.to_str().expect("ascii"));
            assert_eq!(encoding, expected, "sent {sent:?}");
            assert_eq!(answer.into_inner().results, plain, "sent {sent:?}");
            let mut updates = client.rerank_stream(asked.clone()).await.expect("valid").into_inner();
            while updates.message().await.expect("readable").is_some() {}
        }
    }
}

/// Asks one version of reflection, whose types are its own: for a symbol's file, else for the list of services.
macro_rules! ask_reflection {
    ($server:expr, $version:ident, $symbol:expr) => {{
        use tonic_reflection::pb::$version::{
            ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
            server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
        };
        let symbol: Option<&str> = $symbol;
        let list = MessageRequest::ListServices(String::new());
        let ask = symbol.map_or(list, |symbol| MessageRequest::FileContainingSymbol(symbol.to_owned()));
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(ask) };
        let mut client = ServerReflectionClient::new($server.channel().await);
        let answers = client.server_reflection_info(tokio_stream::once(request)).await.expect("it answers");
        let answer = answers.into_inner().next().await.expect("one answer").expect("no error");
        match answer.message_response.expect("always set") {
            MessageResponse::ListServicesResponse(list) => {
                list.service.into_iter().map(|service| service.name).collect::<BTreeSet<_>>()
            }
            MessageResponse::FileDescriptorResponse(files) => {
                assert!(files.file_descriptor_proto.iter().all(|file| !file.is_empty()));
                BTreeSet::from(["a file".to_owned()])
            }
            other => unreachable!("{symbol:?}: {other:?}"),
        }
    }};
}

#[tokio::test]
async fn reflection_lists_and_describes_every_service() {
    let server = TestServer::scripted(SCRIPT, |_| ()).await;
    let services = BTreeSet::from(SERVICES.map(str::to_owned));
    assert_eq!(ask_reflection!(server, v1, None), services);
    assert_eq!(ask_reflection!(server, v1alpha, None), services);
    let messages = ["sluice.rerank.v1.RerankRequest", "sluice.model.v1.Embedding", "google.protobuf.Duration"];
    for symbol in SERVICES.into_iter().chain(messages) {
        let file = BTreeSet::from(["a file".to_owned()]);
        assert_eq!(ask_reflection!(server, v1, Some(symbol)), file, "{symbol}");
        assert_eq!(ask_reflection!(server, v1alpha, Some(symbol)), file, "{symbol}");
    }
}

#[tokio::test]
async fn a_watch_on_health_sees_a_servers_life() {
    let server = TestServer::cold("max_tokens = 64\n[load]\ndelay = \"300ms\"\n", |_| ()).await;
    let mut watches = Vec::new();
    let mut client = HealthClient::new(server.channel().await);
    for service in
        ["", "sluice.rerank.v1.RerankService", "sluice.model.v1.ModelService", "sluice.model.v1.EncodeService"]
    {
        let request = HealthCheckRequest { service: service.to_owned() };
        watches.push((service, client.watch(request).await.expect("it watches").into_inner()));
    }
    async fn next(watch: &mut tonic::Streaming<HealthCheckResponse>) -> Option<ServingStatus> {
        let next = tokio::time::timeout(PATIENCE, watch.next()).await.expect("in time");
        next.map(|status| status.expect("no error").status())
    }
    for (service, watch) in &mut watches {
        assert_eq!(next(watch).await, Some(ServingStatus::NotServing), "{service:?} loads");
    }
    for (service, watch) in &mut watches {
        assert_eq!(next(watch).await, Some(ServingStatus::Serving), "{service:?} is warm");
    }
    let answer = server.rerank().await.rerank(request("red", &["red"])).await;
    answer.expect("what says that it serves, serves");
    server.drain.begin();
    for (service, watch) in &mut watches {
        assert_eq!(next(watch).await, Some(ServingStatus::NotServing), "{service:?} drains");
        assert_eq!(next(watch).await, None, "{service:?} is over");
    }
    assert_eq!(server.stop().await.expect("no fault"), Ending::Finished);
}

/// Whether the transport gave the request back as it was.
fn was_never_sent(status: &Status) -> bool {
    let causes = std::iter::successors(status.source(), |&cause| cause.source());
    status.code() == Code::Cancelled && causes.last().is_some_and(|cause| cause.to_string() == "connection closed")
}

#[tokio::test]
async fn old_connections_are_asked_to_go_and_no_request_notices() {
    const AGE: Duration = Duration::from_secs(1);
    let script = "max_tokens = 64\n[service_time]\nper_batch = \"5ms\"\n";
    let server = TestServer::scripted(script, |config| {
        config.grpc.max_connection_age = Some(AGE);
        config.grpc.max_connection_age_grace = Duration::from_secs(5);
    })
    .await;
    let begin = Instant::now();
    let mut idle = raw::Connection::open(server.address).await;
    let gone = async {
        tokio::time::timeout(PATIENCE, idle.over()).await.expect("it is closed");
        begin.elapsed()
    };
    let channel = server.channel().await;
    let asking = async {
        let mut answered = 0;
        while begin.elapsed() < 3 * AGE {
            let mut request = Request::new(request("red", &["red", "blue"]));
            request.set_timeout(PATIENCE);
            match RerankServiceClient::new(channel.clone()).rerank(request).await {
                Ok(_) => answered += 1,
                // tonic had chosen a connection that was just about to close; it says so, and sends nothing again.
                Err(status) => assert!(was_never_sent(&status), "a new connection takes over: {status:?}"),
            }
        }
        answered
    };
    let (gone, answered) = tokio::join!(gone, asking);
    assert!(gone >= AGE, "closed after {gone:?}");
    assert!(answered > 20, "only {answered} requests in {:?}", 3 * AGE);
}
