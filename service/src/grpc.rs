//! How the gRPC port behaves: sizes, compression, keepalive, limits, reflection.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic_reflection::server::{self as reflection_server, v1, v1alpha};

pub use tonic::codec::CompressionEncoding;

use crate::{config, config::ConfigFault, incoming::Incoming};

/// Streams that hyper resets on its own account, for faults of the caller, before it gives up on a connection.
/// hyper's default, said here because it is a limit.
const LOCAL_ERROR_RESETS_MAX: usize = 1024;

/// Behaviour of a gRPC port. Every limit protects the server from a caller, and is per connection where it
/// says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GrpcConfig {
    /// Largest message that is read or written, in bytes after decompression. Protects memory: a message is
    /// held whole. A larger request is refused with `OUT_OF_RANGE` (`RESOURCE_EXHAUSTED` if it is
    /// compressed), unread.
    #[serde(with = "config::bytes")]
    pub max_message_size: usize,
    /// How responses are compressed, if the caller accepts it. Requests may come with gzip or zstd always.
    pub compression: Compression,
    /// Time between HTTP/2 pings, or `"off"`. Finds peers that are gone without a word, whose connections
    /// would be held forever.
    #[serde(with = "config::duration::optional")]
    pub keepalive_interval: Option<Duration>,
    /// Time that a ping may stay unanswered before its connection is closed.
    #[serde(with = "config::duration")]
    pub keepalive_timeout: Duration,
    /// Age at which a connection is asked to go (GOAWAY), or `"off"`. Makes clients look up the name again:
    /// without it a client stays with the replica it found first, whatever replicas come and go.
    #[serde(with = "config::duration::optional")]
    pub max_connection_age: Option<Duration>,
    /// Time that calls then have to finish before the connection is closed under them.
    #[serde(with = "config::duration")]
    pub max_connection_age_grace: Duration,
    /// Connections at a time. Protects file descriptors; what comes beyond is closed at once.
    pub max_connections: usize,
    /// Calls at a time, per connection. Further ones wait at the caller. Protects memory.
    pub max_concurrent_streams: u32,
    /// Size of a request's headers, in bytes. Protects memory before anything is known of a request.
    #[serde(with = "config::bytes")]
    pub max_header_list_size: u32,
    /// Calls that a caller may have reset before they were accepted, per connection, before the connection
    /// is closed. Protects from a caller that opens and resets calls as fast as it can (rapid reset).
    pub max_pending_reset_streams: usize,
}

/// Compression of responses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// None: on a local network the processor is worth more than the bytes.
    #[default]
    None,
    /// gzip, which every gRPC implementation can read.
    Gzip,
    /// zstd, which is faster and smaller.
    Zstd,
}

impl Compression {
    /// tonic's name for it.
    pub fn encoding(self) -> Option<CompressionEncoding> {
        match self {
            Self::None => None,
            Self::Gzip => Some(CompressionEncoding::Gzip),
            Self::Zstd => Some(CompressionEncoding::Zstd),
        }
    }
}

impl Default for GrpcConfig {
    fn default() -> Self {
        Self {
            max_message_size: 64 << 20,
            compression: Compression::None,
            keepalive_interval: Some(Duration::from_secs(60)),
            keepalive_timeout: Duration::from_secs(20),
            max_connection_age: None,
            max_connection_age_grace: Duration::from_secs(30),
            max_connections: 1000,
            max_concurrent_streams: 256,
            max_header_list_size: 16 << 10,
            max_pending_reset_streams: 20,
        }
    }
}

impl GrpcConfig {
    /// What is wrong with it, under the key `prefix`.
    pub fn faults(&self, prefix: &str) -> Vec<ConfigFault> {
        const SECOND: Duration = Duration::from_secs(1);
        let age_ok = self.max_connection_age.is_none_or(|age| age >= SECOND);
        let interval_ok = self.keepalive_interval.is_none_or(|interval| interval >= SECOND);
        let rules = [
            // The length of a message is 32 bits on the wire.
            ("max_message_size", (1 << 10..=1 << 31).contains(&self.max_message_size), "must be 1KiB to 2GiB"),
            ("keepalive_interval", interval_ok, "must be at least 1s, or \"off\""),
            ("keepalive_timeout", self.keepalive_timeout >= SECOND, "must be at least 1s"),
            ("max_connection_age", age_ok, "must be at least 1s, or \"off\""),
            ("max_connections", self.max_connections > 0, "must be at least 1"),
            ("max_concurrent_streams", self.max_concurrent_streams > 0, "must be at least 1"),
            ("max_header_list_size", (1 << 12..=1 << 20).contains(&self.max_header_list_size), "must be 4KiB to 1MiB"),
            ("max_pending_reset_streams", self.max_pending_reset_streams > 0, "must be at least 1"),
        ];
        let broken = rules.into_iter().filter(|(_, holds, _)| !holds);
        broken.map(|(name, _, message)| ConfigFault::new(format!("{prefix}.{name}"), message)).collect()
    }

    /// A server builder with these limits. It serves what [`incoming`](Self::incoming) accepts, through
    /// `serve_with_incoming_shutdown`.
    pub fn server(&self) -> Server {
        let server = Server::builder()
            .tcp_nodelay(true)
            .http2_keepalive_interval(self.keepalive_interval)
            .http2_keepalive_timeout(Some(self.keepalive_timeout))
            .max_concurrent_streams(self.max_concurrent_streams)
            .http2_max_header_list_size(self.max_header_list_size)
            .http2_max_pending_accept_reset_streams(Some(self.max_pending_reset_streams))
            .http2_max_local_error_reset_streams(Some(LOCAL_ERROR_RESETS_MAX));
        // The grace is kept by the connections themselves: see `incoming`.
        match self.max_connection_age {
            Some(age) => server.max_connection_age(age),
            None => server,
        }
    }

    /// The connections of `listener`, within these limits.
    pub fn incoming(&self, listener: TcpListener) -> Incoming {
        let lifetime = self.max_connection_age.map(|age| age.saturating_add(self.max_connection_age_grace));
        Incoming::new(listener, self.max_connections, lifetime)
    }
}

/// Applies a [`GrpcConfig`]'s message size and compression to a generated server, which has no trait for
/// them: `grpc_service!(config, RerankServiceServer::new(service))`.
#[macro_export]
macro_rules! grpc_service {
    ($config:expr, $service:expr $(,)?) => {{
        let config: &$crate::grpc::GrpcConfig = &$config;
        let service = $service
            .max_decoding_message_size(config.max_message_size)
            .max_encoding_message_size(config.max_message_size)
            .accept_compressed($crate::grpc::CompressionEncoding::Gzip)
            .accept_compressed($crate::grpc::CompressionEncoding::Zstd);
        match config.compression.encoding() {
            Some(encoding) => service.send_compressed(encoding),
            None => service,
        }
    }};
}

/// Names that every process of ours reflects besides its own services.
const COMMON_SERVICES: [&str; 3] =
    ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];

/// Server reflection, so that generic tools can call a server without its `.proto` files: v1, and v1alpha
/// for tools that have not moved on.
///
/// `descriptors` is an encoded `FileDescriptorSet` that may describe more than is served; `services` are
/// the full names of what is, to which health and reflection are added.
///
/// # Errors
///
/// If `descriptors` is not a `FileDescriptorSet`.
pub fn reflection(
    descriptors: &'static [u8],
    services: &[&str],
) -> Result<
    (
        v1::ServerReflectionServer<impl v1::ServerReflection + use<>>,
        v1alpha::ServerReflectionServer<impl v1alpha::ServerReflection + use<>>,
    ),
    reflection_server::Error,
> {
    let builder = || {
        let sets = [
            descriptors,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let builder = sets
            .into_iter()
            .fold(reflection_server::Builder::configure().include_reflection_service(false), |builder, set| {
                builder.register_encoded_file_descriptor_set(set)
            });
        services.iter().chain(&COMMON_SERVICES).fold(builder, |builder, name| builder.with_service_name(*name))
    };
    Ok((builder().build_v1()?, builder().build_v1alpha()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigFile, Layers, load, render};

    #[test]
    fn every_setting_is_shown_and_loads_back() {
        let text = render(&GrpcConfig::default());
        let expected = "\
max_message_size = \"64MiB\"
compression = \"none\"
keepalive_interval = \"1m\"
keepalive_timeout = \"20s\"
max_connection_age = \"off\"
max_connection_age_grace = \"30s\"
max_connections = 1000
max_concurrent_streams = 256
max_header_list_size = \"16KiB\"
max_pending_reset_streams = 20
";
        assert_eq!(text, expected);
        let file = Some(ConfigFile { path: "grpc.toml".into(), text });
        assert_eq!(load::<GrpcConfig>(&Layers { file, ..Layers::default() }), Ok(GrpcConfig::default()));
    }

    #[test]
    fn settings_that_cannot_work_are_faults() {
        let default = GrpcConfig::default;
        assert_eq!(default().faults("grpc"), []);
        let check = |config: GrpcConfig, key: &str| {
            let keys: Vec<_> = config.faults("grpc").into_iter().map(|fault| fault.key).collect();
            assert_eq!(keys, [format!("grpc.{key}")]);
        };
        check(GrpcConfig { max_message_size: 0, ..default() }, "max_message_size");
        check(GrpcConfig { max_message_size: usize::MAX, ..default() }, "max_message_size");
        check(GrpcConfig { keepalive_interval: Some(Duration::ZERO), ..default() }, "keepalive_interval");
        check(GrpcConfig { keepalive_timeout: Duration::ZERO, ..default() }, "keepalive_timeout");
        check(GrpcConfig { max_connection_age: Some(Duration::ZERO), ..default() }, "max_connection_age");
        check(GrpcConfig { max_connections: 0, ..default() }, "max_connections");
        check(GrpcConfig { max_concurrent_streams: 0, ..default() }, "max_concurrent_streams");
        check(GrpcConfig { max_header_list_size: 0, ..default() }, "max_header_list_size");
        check(GrpcConfig { max_pending_reset_streams: 0, ..default() }, "max_pending_reset_streams");
    }
}
