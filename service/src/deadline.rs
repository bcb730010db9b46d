//! How long a caller waits, and since when.
//!
//! tonic enforces `grpc-timeout` by itself, but with `CANCELLED` where gRPC says `DEADLINE_EXCEEDED`.
//! [`ArrivalLayer`] is there first. It also notes when a request's headers came: a deadline counts from
//! then, not from when a large body has been read.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;
use tonic::{body::Body, metadata::MetadataMap};
use tower::{Layer, Service};

use crate::status::{FieldFault, Refusal};

/// The header with a call's time limit.
pub const GRPC_TIMEOUT: &str = "grpc-timeout";

/// Digits of a time limit, by the gRPC specification.
const DIGITS_MAX: usize = 8;

/// The time limit of a call, if its caller set one.
///
/// # Errors
///
/// If the header is not what the gRPC specification says: 1 to 8 digits and a unit of `H M S m u n`.
pub fn timeout(metadata: &MetadataMap) -> Result<Option<Duration>, FieldFault> {
    parse_header(metadata.as_ref()).map_err(|()| {
        FieldFault::new(GRPC_TIMEOUT, "must be 1 to 8 digits and a unit of H, M, S, m, u or n, such as 250m")
    })
}

fn parse_header(headers: &http::HeaderMap) -> Result<Option<Duration>, ()> {
    let Some(value) = headers.get(GRPC_TIMEOUT) else { return Ok(None) };
    let text = value.to_str().map_err(|_| ())?;
    parse(text).map(Some).ok_or(())
}

fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=DIGITS_MAX).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// When the headers of a request came: an extension of every request that passed [`ArrivalLayer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival(pub Instant);

/// When a request came: as [`ArrivalLayer`] noted it, or now.
pub fn arrival<T>(request: &tonic::Request<T>) -> Instant {
    request.extensions().get::<Arrival>().map_or_else(Instant::now, |arrival| arrival.0)
}

/// Notes when each request came, and answers `DEADLINE_EXCEEDED` when its time limit is over: for
/// [`tonic::transport::Server::layer`].
///
/// This bounds a call until its response begins, which for a unary call is its answer. A handler that has
/// an answer of its own at the deadline is asked first. What streams on after its response began has to
/// keep to the deadline itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct ArrivalLayer;

impl<S> Layer<S> for ArrivalLayer {
    type Service = ArrivalService<S>;

    fn layer(&self, inner: S) -> ArrivalService<S> {
        ArrivalService { inner }
    }
}

/// The service that [`ArrivalLayer`] makes.
#[derive(Clone, Debug)]
pub struct ArrivalService<S> {
    inner: S,
}

impl<S, B> Service<http::Request<B>> for ArrivalService<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let arrival = Instant::now();
        request.extensions_mut().insert(Arrival(arrival));
        // A malformed limit is for the handler to refuse, with the rest of what is wrong.
        let timeout = parse_header(request.headers()).ok().flatten();
        let response = self.inner.call(request);
        match timeout.and_then(|timeout| arrival.checked_add(timeout)) {
            None => Box::pin(response),
            Some(deadline) => Box::pin(async move {
                match tokio::time::timeout_at(deadline, response).await {
                    Ok(response) => response,
                    Err(_) => {
                        let refusal = Refusal::DeadlineExceeded { phase: "response" };
                        Ok(tonic::Status::from(refusal).into_http())
                    }
                }
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use tower::{ServiceBuilder, ServiceExt, service_fn};

    use super::*;

    fn metadata(timeout: &[u8]) -> MetadataMap {
        let mut headers = http::HeaderMap::new();
        headers.insert(GRPC_TIMEOUT, http::HeaderValue::from_bytes(timeout).unwrap());
        MetadataMap::from_headers(headers)
    }

    #[test]
    fn time_limits_are_read_as_grpc_says() {
        let check = |text: &str, expected: Option<Duration>| match expected {
            Some(limit) => assert_eq!(timeout(&metadata(text.as_bytes())), Ok(Some(limit)), "{text:?}"),
            None => assert_eq!(timeout(&metadata(text.as_bytes())).unwrap_err().field, GRPC_TIMEOUT, "{text:?}"),
        };
        check("1H", Some(Duration::from_secs(3600)));
        check("2M", Some(Duration::from_secs(120)));
        check("3S", Some(Duration::from_secs(3)));
        check("250m", Some(Duration::from_millis(250)));
        check("7u", Some(Duration::from_micros(7)));
        check("99999999n", Some(Duration::from_nanos(99_999_999)));
        check("99999999H", Some(Duration::from_secs(99_999_999 * 3600)));
        check("0m", Some(Duration::ZERO));
        check("00000001S", Some(Duration::from_secs(1)));
        for text in ["", "S", "1", "1s", "1h", "-1S", "+1S", "1.5S", " 1S", "1S ", "100000000n", "1SS", "1é", "é"] {
            check(text, None);
        }
        assert_eq!(timeout(&metadata(b"\xff1S")).unwrap_err().field, GRPC_TIMEOUT);
        assert_eq!(timeout(&MetadataMap::new()), Ok(None));
    }

    /// What a call with this time limit is answered whose handler takes `work`: its status and when.
    async fn call(limit: Option<&str>, work: Duration) -> (tonic::Code, Duration) {
        let handler = service_fn(move |request: http::Request<()>| async move {
            let stamp = request.extensions().get::<Arrival>().copied();
            assert_eq!(stamp, Some(Arrival(Instant::now())), "the handler starts at once under paused time");
            tokio::time::sleep(work).await;
            Ok::<_, std::convert::Infallible>(tonic::Status::aborted("answered").into_http::<Body>())
        });
        let service = ServiceBuilder::new().layer(ArrivalLayer).service(handler);
        let mut request = http::Request::new(());
        if let Some(limit) = limit {
            request.headers_mut().insert(GRPC_TIMEOUT, limit.parse().unwrap());
        }
        let start = Instant::now();
        let response = service.oneshot(request).await.unwrap();
        let status = tonic::Status::from_header_map(response.headers()).unwrap();
        (status.code(), start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_answered_at_its_deadline_at_the_latest() {
        use tonic::Code::{Aborted, DeadlineExceeded};
        let millis = Duration::from_millis;
        let cases = [
            (None, millis(500), (Aborted, millis(500))),
            (Some("100m"), millis(50), (Aborted, millis(50))),
            (Some("100m"), millis(500), (DeadlineExceeded, millis(100))),
            (Some("100m"), millis(100), (Aborted, millis(100))),
            (Some("nonsense"), millis(500), (Aborted, millis(500))),
            (Some("99999999H"), millis(500), (Aborted, millis(500))),
        ];
        for (limit, work, expected) in cases {
            assert_eq!(call(limit, work).await, expected, "{limit:?} {work:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn arrival_is_the_stamp_or_now() {
        let stamp = Instant::now();
        tokio::time::advance(Duration::from_secs(1)).await;
        let mut request = tonic::Request::new(());
        assert_eq!(arrival(&request), Instant::now());
        request.extensions_mut().insert(Arrival(stamp));
        assert_eq!(arrival(&request), stamp);
    }
}
