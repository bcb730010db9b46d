//! A gRPC caller that says exactly what it is told: any path, any header, any bytes.

use std::{net::SocketAddr, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::{
    Reason, RecvStream, SendStream,
    client::{Builder, ResponseFuture, SendRequest},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use tokio::{net::TcpStream, sync::mpsc, task::JoinHandle};
use tonic::{Code, Status};

/// Longer than any answer takes: what hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(20);

/// What to say.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: Method,
    pub path: String,
    /// Besides the pseudo-headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body, one DATA frame each.
    pub body: Vec<Bytes>,
    pub end: End,
}

/// How the caller's half of a call ends.
#[derive(Clone, Debug)]
pub enum End {
    /// As gRPC says.
    Close,
    /// With trailers, which gRPC's callers do not send.
    Trailers(HeaderMap),
    /// The caller resets the call.
    Reset,
    /// The caller says nothing more.
    Open,
}

impl Call {
    /// A proper call with one message, if these bytes are one.
    pub fn new(path: &str, message: &[u8]) -> Self {
        Self::with_body(path, vec![frame(message)])
    }

    /// A call with a body of any kind.
    pub fn with_body(path: &str, body: Vec<Bytes>) -> Self {
        let header = |name, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
        let headers = vec![header("content-type", "application/grpc"), header("te", "trailers")];
        Self { method: Method::POST, path: path.to_owned(), headers, body, end: End::Close }
    }

    pub fn header(mut self, name: &'static str, value: &[u8]) -> Self {
        let value = HeaderValue::from_bytes(value).expect("a header's value");
        self.headers.push((HeaderName::from_static(name), value));
        self
    }
}

/// A message in gRPC's frame: not compressed, its length, its bytes.
pub fn frame(message: &[u8]) -> Bytes {
    frame_of(0, u32::try_from(message.len()).expect("a message of less than 4 GiB"), message)
}

/// A frame that may lie.
pub fn frame_of(flag: u8, length: u32, message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(flag);
    frame.put_u32(length);
    frame.put_slice(message);
    frame.freeze()
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Bytes of the messages, in order.
    pub messages: Vec<Bytes>,
    pub ending: Ending,
}

/// How a call ended.
#[derive(Clone, Debug)]
pub enum Ending {
    /// With a gRPC status.
    Status(Status),
    /// With an HTTP status and no gRPC status.
    Http(StatusCode),
    /// The server reset the call.
    Reset(Reason),
    /// The connection went, for this reason.
    Gone(String),
    /// The caller had enough.
    Left,
    /// Not at all.
    Never,
}

impl Ending {
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Status(status) => Some(status.code()),
            _ => None,
        }
    }

    fn failed(error: &h2::Error) -> Self {
        match error.reason() {
            Some(reason) if error.is_reset() => Self::Reset(reason),
            _ => Self::Gone(error.to_string()),
        }
    }
}

/// An HTTP/2 connection.
pub struct Connection {
    address: SocketAddr,
    client: SendRequest<Bytes>,
    windows: mpsc::Sender<u32>,
    driver: JoinHandle<()>,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Self {
        Self::with_window(address, 65_535).await
    }

    /// One whose calls let the server send so many bytes before the caller has read some.
    pub async fn with_window(address: SocketAddr, bytes: u32) -> Self {
        let stream = TcpStream::connect(address).await.expect("the server listens");
        stream.set_nodelay(true).expect("a socket");
        let (client, mut connection) =
            Builder::new().initial_window_size(bytes).handshake(stream).await.expect("HTTP/2 on both sides");
        let (windows, mut inbox) = mpsc::channel(1);
        let driver = tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = &mut connection => return,
                    Some(bytes) = inbox.recv() => connection.set_initial_window_size(bytes).expect("not while another is"),
                }
            }
        });
        Self { address, client, windows, driver }
    }

    /// Lets the server send so many bytes on every call, those under way too.
    pub async fn set_window(&self, bytes: u32) {
        self.windows.send(bytes).await.expect("the connection lives");
    }

    /// Resolves when the connection is over.
    pub async fn over(&mut self) {
        let _ = (&mut self.driver).await;
    }

    /// Says all there is to say.
    pub async fn begin(&self, call: Call) -> Result<Open, Ending> {
        let Call { method, path, headers, body, end } = call;
        let failed = |error| Ending::failed(&error);
        let mut client = self.client.clone().ready().await.map_err(failed)?;
        let uri: Uri = format!("http://{}{path}", self.address).parse().expect("a path");
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.version_mut() = http::Version::HTTP_2;
        for (name, value) in headers {
            request.headers_mut().append(name, value);
        }
        let closed = body.is_empty() && matches!(end, End::Close);
        let (response, mut upload) = client.send_request(request, closed).map_err(failed)?;
        let mut chunks = body.into_iter().peekable();
        while let Some(chunk) = chunks.next() {
            let last = chunks.peek().is_none() && matches!(end, End::Close);
            // A server that has seen enough has answered already.
            if upload.send_data(chunk, last).is_err() {
                break;
            }
        }
        match end {
            End::Close | End::Open => {}
            End::Trailers(trailers) => drop(upload.send_trailers(trailers)),
            End::Reset => upload.send_reset(Reason::CANCEL),
        }
        Ok(Open { response, upload })
    }

    /// Says it, and hears the answer to its end, or `messages_max` messages of it.
    pub async fn call(&self, call: Call, messages_max: usize) -> Reply {
        let conversation = async {
            match self.begin(call).await {
                Ok(open) => open.hear(messages_max).await,
                Err(ending) => Reply { messages: Vec::new(), ending },
            }
        };
        let never = |_| Reply { messages: Vec::new(), ending: Ending::Never };
        tokio::time::timeout(PATIENCE, conversation).await.unwrap_or_else(never)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A call under way. Dropped, it is reset.
pub struct Open {
    response: ResponseFuture,
    pub upload: SendStream<Bytes>,
}

impl Open {
    /// Hears the answer to its end, or `messages_max` messages of it.
    pub async fn hear(self, messages_max: usize) -> Reply {
        let mut messages = Vec::new();
        let ending = match self.hear_into(&mut messages, messages_max).await {
            Ok(ending) => ending,
            Err(error) => Ending::failed(&error),
        };
        Reply { messages, ending }
    }

    async fn hear_into(self, messages: &mut Vec<Bytes>, messages_max: usize) -> Result<Ending, h2::Error> {
        // Held until the end: dropping it would reset what the caller has not closed.
        let Self { response, upload: _upload } = self;
        let (head, mut body) = response.await?.into_parts();
        if head.status != StatusCode::OK {
            return Ok(Ending::Http(head.status));
        }
        let mut bytes = BytesMut::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            bytes.extend_from_slice(&chunk);
            split(&mut bytes, messages);
            if messages.len() >= messages_max {
                return Ok(Ending::Left);
            }
        }
        assert!(bytes.is_empty(), "the server sent half a message: {bytes:?}");
        status(&head.headers, &mut body).await
    }
}

/// Moves whole messages out.
fn split(bytes: &mut BytesMut, messages: &mut Vec<Bytes>) {
    while bytes.len() >= 5 {
        let length = u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize;
        assert_eq!(bytes[0], 0, "nobody asked for compression");
        if bytes.len() < 5 + length {
            return;
        }
        bytes.advance(5);
        messages.push(bytes.split_to(length).freeze());
    }
}

/// The status from the trailers, or from the headers where there is nothing else.
async fn status(headers: &HeaderMap, body: &mut RecvStream) -> Result<Ending, h2::Error> {
    let trailers = body.trailers().await?;
    let status = trailers.as_ref().and_then(Status::from_header_map).or_else(|| Status::from_header_map(headers));
    Ok(status.map_or(Ending::Http(StatusCode::OK), Ending::Status))
}
