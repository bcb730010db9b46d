//! How a client connects and how long it waits.

use std::{fmt, time::Duration};

use tonic::{
    codec::CompressionEncoding,
    metadata::{Ascii, MetadataValue},
    transport::{Endpoint, Uri},
};

use crate::{ClientError, RetryPolicy};

/// The longest deadline that is sent; a longer one counts as this. It keeps clock arithmetic from overflowing.
pub(crate) const DEADLINE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Bytes that may be under way to us on one call before we have read them: token embeddings of a
/// request are tens of MiB, and HTTP/2's 64 KiB would add a round trip for each of them.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// The same, over all calls of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// How often a connection with calls under way is probed, so that a dead one is noticed before every call's deadline.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long such a probe may stay unanswered.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How a [`Client`](crate::Client) connects, waits, retries and compresses.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Time for a call, all its attempts and the waits between them included; always sent to the
    /// server, as what is left of it. More than a day counts as a day. Default: 30 s.
    pub deadline: Duration,
    /// Time for a connection to come up. Default: 5 s.
    pub connect_timeout: Duration,
    /// Largest message to send or to accept, in bytes after decompression. Default: 64 MiB.
    pub max_message_size: usize,
    /// How requests are compressed; `None` sends them as they are. Compressed answers are always
    /// understood. Default: `None`.
    pub compression: Option<Compression>,
    /// When failed calls are tried again.
    pub retry: RetryPolicy,
    /// Who calls, sent with every call; `None`: nobody in particular. Default: `None`.
    pub token: Option<BearerToken>,
    /// What the client calls itself; the library's own name follows it. Default: `sluice-client/VERSION`.
    pub user_agent: String,
}

/// What tells a server who calls: `authorization: Bearer TOKEN`. It is never printed.
#[derive(Clone)]
pub struct BearerToken(MetadataValue<Ascii>);

/// A compression of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Understood by every gRPC server.
    Gzip,
    /// Faster and smaller; Sluice understands it.
    Zstd,
}

impl BearerToken {
    /// A token as it was given out.
    ///
    /// # Errors
    ///
    /// [`ClientError::Options`] if it is empty, or holds what cannot stand in a header.
    pub fn new(token: &str) -> Result<Self, ClientError> {
        let refused = ClientError::Options("a token must not be empty, nor hold other than visible ASCII characters");
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(refused);
        }
        let mut header: MetadataValue<Ascii> = format!("Bearer {token}").parse().map_err(|_| refused)?;
        header.set_sensitive(true);
        Ok(Self(header))
    }

    pub(crate) fn header(&self) -> MetadataValue<Ascii> {
        self.0.clone()
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken(…)")
    }
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            max_message_size: 64 << 20,
            compression: None,
            retry: RetryPolicy::default(),
            token: None,
            user_agent: concat!("sluice-client/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

impl ClientOptions {
    /// Parses `url` (`http://HOST:PORT`, or `HOST:PORT`) and says how to reach it.
    pub(crate) fn endpoint(&self, url: &str) -> Result<Endpoint, ClientError> {
        let refuse = |reason: &str| ClientError::Address { url: url.to_owned(), reason: reason.to_owned() };
        let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let uri: Uri = full.parse().map_err(|_| refuse("expected http://HOST:PORT"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(refuse("TLS is not supported")),
            _ => return Err(refuse("expected http://HOST:PORT")),
        }
        let host = uri.host().unwrap_or_default();
        if host.is_empty() {
            return Err(refuse("it names no host"));
        }
        // What the parser lets through beside the two: a port that is no number, and a user's name.
        let authority = uri.port_u16().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        if uri.authority().is_none_or(|whole| whole.as_str() != authority) {
            return Err(refuse("expected http://HOST:PORT"));
        }
        if uri.path_and_query().is_some_and(|rest| rest.as_str() != "/") {
            return Err(refuse("a path has no meaning here"));
        }
        let endpoint = Endpoint::from(uri)
            .connect_timeout(self.connect_timeout)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        endpoint
            .user_agent(self.user_agent.as_str())
            .map_err(|_| ClientError::Options("user_agent is not a valid header value"))
    }
}

impl From<Compression> for CompressionEncoding {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::Gzip => Self::Gzip,
            Compression::Zstd => Self::Zstd,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let cases = [
            ("http://127.0.0.1:50051", Ok("http://127.0.0.1:50051/")),
            ("http://127.0.0.1:50051/", Ok("http://127.0.0.1:50051/")),
            ("localhost:50051", Ok("http://localhost:50051/")),
            ("http://[::1]:50051", Ok("http://[::1]:50051/")),
            ("http://sluice", Ok("http://sluice/")),
            ("https://sluice:443", Err("TLS is not supported")),
            ("ftp://sluice", Err("expected http://HOST:PORT")),
            ("http://sluice/v1", Err("a path has no meaning here")),
            ("http://sluice?model=m", Err("a path has no meaning here")),
            ("http://:50051", Err("it names no host")),
            ("nowhere:x", Err("expected http://HOST:PORT")),
            ("http://sluice:70000", Err("expected http://HOST:PORT")),
            ("http://user@sluice:50051", Err("expected http://HOST:PORT")),
            ("", Err("expected http://HOST:PORT")),
            ("not a url", Err("expected http://HOST:PORT")),
        ];
        for (url, expected) in cases {
            let found = ClientOptions::default().endpoint(url);
            match (found, expected) {
                (Ok(endpoint), Ok(uri)) => assert_eq!(endpoint.uri().to_string(), uri, "{url}"),
                (Err(ClientError::Address { url: named, reason }), Err(expected)) => {
                    assert_eq!((named.as_str(), reason.as_str()), (url, expected));
                }
                (found, _) => panic!("{url}: {:?}", found.map(|endpoint| endpoint.uri().clone())),
            }
        }
    }

    #[test]
    fn tokens_fit_into_a_header_and_are_not_printed() {
        let token = BearerToken::new("s3cr3t=/+").unwrap();
        assert_eq!(token.header().to_str().unwrap(), "Bearer s3cr3t=/+");
        let options = ClientOptions { token: Some(token), ..ClientOptions::default() };
        assert!(!format!("{options:?}").contains("s3cr3t"));
        for bad in ["", "two words", "line\n", "ü"] {
            assert!(matches!(BearerToken::new(bad), Err(ClientError::Options(_))), "{bad:?}");
        }
    }

    #[test]
    fn user_agent_must_fit_into_a_header() {
        let options = ClientOptions { user_agent: "two\nlines".into(), ..ClientOptions::default() };
        assert!(matches!(options.endpoint("http://sluice"), Err(ClientError::Options(_))));
    }
}
