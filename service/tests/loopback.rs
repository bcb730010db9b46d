//! The parts together, through a real port.

#![allow(clippy::disallowed_methods, reason = "real processes and real time")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests, helpers included")]

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use sluice_service::{
    deadline::ArrivalLayer,
    drain::{Drain, DrainConfig, Ending, termination},
    grpc::{Compression, GrpcConfig, reflection},
    grpc_service,
    health::Health,
};
use tokio::{net::TcpListener, time::Instant};
use tokio_stream::StreamExt;
use tonic::{
    Code, Request, Response, Status, Streaming,
    codec::CompressionEncoding,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_client::HealthClient,
    health_server::{self, HealthServer},
};
use tonic_types::StatusExt;

/// Longer than anything here takes: what hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(30);

fn request(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.into() }
}

async fn channel(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

async fn next(watch: &mut Streaming<HealthCheckResponse>) -> Option<Result<ServingStatus, Status>> {
    let next = tokio::time::timeout(PATIENCE, watch.next()).await.expect("something happens in time");
    next.map(|response| response.map(|response| response.status()))
}

#[tokio::test]
async fn a_drain_is_seen_by_watchers_and_not_held_up_by_them() {
    let config = GrpcConfig::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (health, service) = Health::new(&["sluice.rerank.v1.RerankService"]);
    let drain = Drain::new();
    let limits = DrainConfig { grace: Duration::from_millis(50), bound: PATIENCE };
    let server = config
        .server()
        .layer(ArrivalLayer)
        .add_service(grpc_service!(config, service))
        .serve_with_incoming_shutdown(config.incoming(listener), drain.stopping());
    let ending = tokio::spawn({
        let (drain, health) = (drain.clone(), health.clone());
        async move { drain.serve(server, &health, &limits).await }
    });

    let mut client = HealthClient::new(channel(address).await);
    let name = "sluice.rerank.v1.RerankService";
    let mut watch = client.watch(request(name)).await.unwrap().into_inner();
    assert_eq!(next(&mut watch).await.unwrap().unwrap(), ServingStatus::NotServing);
    health.set_serving(true);
    assert_eq!(next(&mut watch).await.unwrap().unwrap(), ServingStatus::Serving);
    assert_eq!(client.check(request("")).await.unwrap().get_ref().status(), ServingStatus::Serving);

    let start = Instant::now();
    drain.begin();
    assert_eq!(next(&mut watch).await.unwrap().unwrap(), ServingStatus::NotServing);
    assert!(next(&mut watch).await.is_none(), "the watch ends with the grace");
    assert_eq!(ending.await.unwrap().unwrap(), Ending::Finished);
    assert!(start.elapsed() < PATIENCE);
    std::net::TcpStream::connect(address).expect_err("nobody listens any more");
}

/// Answers with what it was asked, at its leisure.
struct Leisurely;

#[tonic::async_trait]
impl health_server::Health for Leisurely {
    type WatchStream = tokio_stream::Pending<Result<HealthCheckResponse, Status>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if request.get_ref().service == "slow" {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(HealthCheckResponse { status: request.get_ref().service.len() as i32 }))
    }

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(tokio_stream::pending()))
    }
}

/// Serves [`Leisurely`] until the test ends.
async fn leisurely(config: GrpcConfig) -> (SocketAddr, HealthClient<Channel>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = grpc_service!(&config, HealthServer::new(Leisurely));
    let server = config.server().layer(ArrivalLayer).add_service(service);
    tokio::spawn(server.serve_with_incoming(config.incoming(listener)));
    (address, HealthClient::new(channel(address).await))
}

/// The status of a call of the `slow` check with this `grpc-timeout`, from a client without a timer of its
/// own: tonic's would answer itself.
async fn call_without_patience(address: SocketAddr, timeout: &str, body: Option<&'static [u8]>) -> Status {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", timeout);
    let (response, mut upload) = client.send_request(request.body(()).unwrap(), false).unwrap();
    if let Some(body) = body {
        upload.send_data(body.into(), true).unwrap();
    }
    let response = tokio::time::timeout(PATIENCE, response).await.unwrap().unwrap();
    Status::from_header_map(response.headers()).unwrap()
}

#[tokio::test]
async fn a_call_past_its_deadline_is_answered_deadline_exceeded() {
    let (address, _) = leisurely(GrpcConfig::default()).await;
    // A message of 6 bytes, uncompressed: field 1, a string of length 4.
    let whole = Some(b"\0\0\0\0\x06\x0a\x04slow".as_slice());
    for (body, what) in [(whole, "the handler is slow"), (None, "the request never comes")] {
        for timeout in ["1n", "50m"] {
            let status = call_without_patience(address, timeout, body).await;
            assert_eq!(status.code(), Code::DeadlineExceeded, "{what}, {timeout}: {status:?}");
            assert_eq!(status.get_details_error_info().unwrap().metadata["phase"], "response");
        }
    }
}

#[tokio::test]
async fn messages_are_compressed_as_configured_and_limited_after_decompression() {
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let config = GrpcConfig { max_message_size: 1 << 16, compression, ..GrpcConfig::default() };
        let (_, client) = leisurely(config).await;
        for encoding in [None, Some(CompressionEncoding::Gzip), Some(CompressionEncoding::Zstd)] {
            let client = client.clone().accept_compressed(CompressionEncoding::Gzip);
            let client = client.accept_compressed(CompressionEncoding::Zstd);
            let mut client = match encoding {
                Some(encoding) => client.send_compressed(encoding),
                None => client,
            };
            let response = client.check(request(&"x".repeat(60_000))).await.unwrap();
            assert_eq!(response.get_ref().status, 60_000);
            let header = response.metadata().get("grpc-encoding").map(|value| value.to_str().unwrap());
            let expected = match compression {
                Compression::None => None,
                Compression::Gzip => Some("gzip"),
                Compression::Zstd => Some("zstd"),
            };
            assert_eq!(header, expected);

            let status = client.check(request(&"x".repeat(70_000))).await.unwrap_err();
            let expected = if encoding.is_some() { Code::ResourceExhausted } else { Code::OutOfRange };
            assert_eq!(status.code(), expected, "{status:?}");
        }
    }
}

#[tokio::test]
async fn a_connection_ends_when_it_is_too_old() {
    let config = GrpcConfig {
        max_connection_age: Some(Duration::from_millis(50)),
        max_connection_age_grace: Duration::from_millis(200),
        ..GrpcConfig::default()
    };
    let start = Instant::now();
    let (_, mut client) = leisurely(config).await;
    let mut watch = client.watch(request("")).await.unwrap().into_inner();
    next(&mut watch).await.unwrap().expect_err("the connection was closed under the call");
    assert!(start.elapsed() >= Duration::from_millis(250), "calls have the grace to finish");
    // The client connects anew by itself.
    assert_eq!(client.check(request("abc")).await.unwrap().get_ref().status, 3);
}

#[tokio::test]
async fn reflection_lists_what_is_served() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = GrpcConfig::default();
    let (v1, v1alpha) = reflection(sluice_proto::FILE_DESCRIPTOR_SET, &["sluice.rerank.v1.RerankService"]).unwrap();
    let server = config.server().add_service(v1).add_service(v1alpha);
    tokio::spawn(server.serve_with_incoming(config.incoming(listener)));

    let ask = |message: MessageRequest| async move {
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(message) };
        let mut client = ServerReflectionClient::new(channel(address).await);
        let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
        answers.next().await.unwrap().unwrap().message_response.unwrap()
    };
    let MessageResponse::ListServicesResponse(list) = ask(MessageRequest::ListServices(String::new())).await else {
        panic!("services were asked for");
    };
    let names: BTreeSet<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    let expected = [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "sluice.rerank.v1.RerankService",
    ];
    assert_eq!(names, BTreeSet::from(expected));
    for name in expected {
        let answer = ask(MessageRequest::FileContainingSymbol(name.into())).await;
        assert!(matches!(answer, MessageResponse::FileDescriptorResponse(_)), "{name}: {answer:?}");
    }
    assert!(reflection(b"\xff", &[]).is_err());
}

#[cfg(unix)]
#[tokio::test]
async fn termination_resolves_on_sigterm_and_sigint() {
    for (signal, name) in [("TERM", "SIGTERM"), ("INT", "SIGINT")] {
        let mut asked = std::pin::pin!(termination());
        // The first poll is what starts to listen; before it the signal would end this process.
        tokio::select! {
            biased;
            _ = &mut asked => panic!("nobody asked"),
            () = std::future::ready(()) => {}
        }
        let kill = format!("kill -{signal} {}", std::process::id());
        assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        assert_eq!(tokio::time::timeout(PATIENCE, asked).await.unwrap(), name);
    }
}
