//! Which connections a port accepts, and for how long.
//!
//! tonic can do without this, but not well enough for a port that is exposed: it has no limit on
//! connections; it spins when the process runs out of file descriptors; it ignores `TCP_NODELAY` on a
//! listener that it did not bind; and its `max_connection_age_grace` replaces the polite `GOAWAY` at the
//! maximum age by an abrupt end after age and grace (tonic 0.14.9, `connection_timeout_future`), which
//! breaks the calls that the grace is for. So tonic is told the age alone, and a [`Connection`] ends
//! itself when the grace is over too.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Sleep,
};
use tokio_stream::Stream;
use tonic::transport::server::Connected;

/// Open connections of the gRPC port.
const CONNECTIONS: &str = "sluice_connections";

/// Connections that were closed at once because there were too many.
const CONNECTIONS_REFUSED: &str = "sluice_connections_refused_total";

/// Time that a caller has for its first bytes. Protects the slots for connections from callers that connect and
/// say nothing: HTTP/2's own keepalive begins only after its preface.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of HTTP/2's connection preface (RFC 9113, section 3.4).
const PREFACE_BYTES: usize = 24;

/// Wait after the operating system refused to accept: out of file descriptors, mostly. Protects the
/// processor, which would otherwise do nothing but try.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Says what the connection metrics mean.
pub(crate) fn describe_metrics() {
    metrics::describe_gauge!(CONNECTIONS, "Open connections of the gRPC port.");
    metrics::describe_counter!(CONNECTIONS_REFUSED, "Connections closed at once because there were too many.");
}

/// The connections of a listener, as a stream that never ends.
#[derive(Debug)]
pub struct Incoming {
    listener: TcpListener,
    slots: Arc<Semaphore>,
    lifetime: Option<Duration>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Incoming {
    /// Accepts up to `connections_max` connections at a time, each for at most `lifetime`. What comes beyond
    /// is closed at once.
    pub fn new(listener: TcpListener, connections_max: usize, lifetime: Option<Duration>) -> Self {
        let slots = Arc::new(Semaphore::new(connections_max.min(Semaphore::MAX_PERMITS)));
        Self { listener, slots, lifetime, pause: None }
    }

    fn admit(&self, stream: TcpStream) -> Option<Connection<TcpStream>> {
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            metrics::counter!(CONNECTIONS_REFUSED).increment(1);
            return None;
        };
        // An answer is written in one go: waiting to fill a packet would only delay it.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        Some(Connection::new(stream, self.lifetime, slot))
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection<TcpStream>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match ready!(self.listener.poll_accept(cx)) {
                Ok((stream, _)) => {
                    if let Some(connection) = self.admit(stream) {
                        return Poll::Ready(Some(Ok(connection)));
                    }
                }
                // The caller was gone before it was accepted.
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    self.pause = Some(Box::pin(tokio::time::sleep(ACCEPT_RETRY)));
                }
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// An accepted connection. It fails when its lifetime is over, or if it does not begin in time.
#[derive(Debug)]
pub struct Connection<I> {
    io: I,
    end: Option<Pin<Box<Sleep>>>,
    preface: Option<Preface>,
    _slot: OwnedSemaphorePermit,
}

/// What is missing of a connection's first bytes.
#[derive(Debug)]
struct Preface {
    bytes: usize,
    timeout: Pin<Box<Sleep>>,
}

impl<I> Connection<I> {
    fn new(io: I, lifetime: Option<Duration>, slot: OwnedSemaphorePermit) -> Self {
        metrics::gauge!(CONNECTIONS).increment(1.0);
        let timer = |time| Box::pin(tokio::time::sleep(time));
        let preface = Preface { bytes: PREFACE_BYTES, timeout: timer(PREFACE_TIMEOUT) };
        Self { io, end: lifetime.map(timer), preface: Some(preface), _slot: slot }
    }

    fn check_time(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let is_over = self.end.as_mut().is_some_and(|end| end.as_mut().poll(cx).is_ready());
        if is_over {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the connection's lifetime is over"));
        }
        let is_late = self.preface.as_mut().is_some_and(|preface| preface.timeout.as_mut().poll(cx).is_ready());
        if is_late {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the connection did not begin in time"));
        }
        Ok(())
    }

    fn count_preface(&mut self, bytes: usize) {
        if let Some(preface) = &mut self.preface {
            preface.bytes = preface.bytes.saturating_sub(bytes);
            if preface.bytes == 0 {
                self.preface = None;
            }
        }
    }
}

impl<I> Drop for Connection<I> {
    fn drop(&mut self) {
        metrics::gauge!(CONNECTIONS).decrement(1.0);
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Connection<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check_time(cx)?;
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        self.count_preface(buf.filled().len() - before);
        read
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Connection<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check_time(cx)?;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_time(cx)?;
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<I: Connected> Connected for Connection<I> {
    type ConnectInfo = I::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::Instant;
    use tokio_stream::StreamExt;

    use super::*;

    /// A peer that says so many bytes at once, and nothing after that.
    #[derive(Debug)]
    struct Talker(usize);

    impl AsyncRead for Talker {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let bytes = self.0.min(buf.remaining());
            if bytes == 0 {
                return Poll::Pending;
            }
            buf.put_slice(&vec![b'x'; bytes]);
            self.0 -= bytes;
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_fails_when_its_time_is_over() {
        let lifetime = Duration::from_secs(90);
        let cases = [
            (0, Some(lifetime), PREFACE_TIMEOUT),
            (PREFACE_BYTES - 1, Some(lifetime), PREFACE_TIMEOUT),
            (PREFACE_BYTES - 1, None, PREFACE_TIMEOUT),
            (PREFACE_BYTES, Some(lifetime), lifetime),
            (10 * PREFACE_BYTES, Some(lifetime), lifetime),
            (0, Some(Duration::from_secs(1)), Duration::from_secs(1)),
        ];
        for (says, lifetime, expected) in cases {
            let slots = Arc::new(Semaphore::new(1));
            let slot = Arc::clone(&slots).try_acquire_owned().unwrap();
            let mut connection = Connection::new(Talker(says), lifetime, slot);
            let start = Instant::now();
            let mut heard = 0;
            let error = loop {
                let mut bytes = [0; 7];
                let mut buf = ReadBuf::new(&mut bytes);
                match poll_fn(|cx| Pin::new(&mut connection).poll_read(cx, &mut buf)).await {
                    Ok(()) => heard += buf.filled().len(),
                    Err(error) => break error,
                }
            };
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert_eq!((heard, start.elapsed()), (says, expected), "{says} bytes, lifetime {lifetime:?}");
            assert_eq!(slots.available_permits(), 0);
            drop(connection);
            assert_eq!(slots.available_permits(), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_began_may_be_idle() {
        let slot = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let mut connection = Connection::new(Talker(PREFACE_BYTES), None, slot);
        let mut bytes = [0; PREFACE_BYTES];
        poll_fn(|cx| Pin::new(&mut connection).poll_read(cx, &mut ReadBuf::new(&mut bytes))).await.unwrap();
        let read = poll_fn(|cx| Pin::new(&mut connection).poll_read(cx, &mut ReadBuf::new(&mut bytes)));
        tokio::time::timeout(100 * PREFACE_TIMEOUT, read).await.expect_err("nobody ends it");
    }

    #[tokio::test]
    async fn too_many_connections_are_closed_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut incoming = Incoming::new(listener, 1, None);
        let _first = TcpStream::connect(address).await.unwrap();
        let accepted = incoming.next().await.unwrap().unwrap();
        assert!(accepted.io.nodelay().unwrap());

        let second = TcpStream::connect(address).await.unwrap();
        let closed = async {
            second.readable().await.unwrap();
            second.try_read(&mut [0; 1])
        };
        let closed = tokio::select! {
            closed = closed => closed,
            _ = incoming.next() => panic!("it was accepted"),
        };
        assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");

        drop(accepted);
        let _third = TcpStream::connect(address).await.unwrap();
        incoming.next().await.unwrap().expect("the slot is free again");
    }
}
