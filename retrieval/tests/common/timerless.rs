//! A caller that waits for the shard's own answer at a deadline: tonic's channel has a timer of its own, which may answer
//! first.

use std::{net::SocketAddr, time::Duration};

use prost::Message;
use sluice_proto::retrieval::v1 as wire;
use tonic::Status;

/// Longer than any answer takes: what hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a search with this `grpc-timeout` is refused.
pub async fn refusal(address: SocketAddr, search: &wire::SearchRequest, timeout: &str) -> Status {
    let stream = tokio::net::TcpStream::connect(address).await.expect("it listens");
    let (mut client, connection) = h2::client::handshake(stream).await.expect("HTTP/2 on both sides");
    tokio::spawn(connection);
    let request = http::Request::post(format!("http://{address}/sluice.retrieval.v1.RetrievalService/Search"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", timeout);
    let request = request.body(()).expect("a request");
    let (response, mut upload) = client.send_request(request, false).expect("a call");
    let message = search.encode_to_vec();
    let length = u32::try_from(message.len()).expect("less than 4 GiB").to_be_bytes();
    // Not compressed, its length, its bytes. A call that was answered before it was read is as good.
    let _ = upload.send_data([&[0], &length[..], &message].concat().into(), true);
    let response = tokio::time::timeout(PATIENCE, response).await.expect("an answer").expect("headers");
    Status::from_header_map(response.headers()).expect("a refusal has nothing but headers")
}
