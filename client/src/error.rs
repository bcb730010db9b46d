//! What went wrong, decoded once from what gRPC carries.

use std::{collections::BTreeMap, error::Error, fmt, time::Duration};

use sluice_proto::rerank::v1::RequestError;
use tonic::{Code, Status, TimeoutExpired};
use tonic_types::StatusExt;

/// Field violations that are shown; the others are counted.
const VIOLATIONS_SHOWN_MAX: usize = 8;

/// Why a call has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// The URL does not name a server.
    #[error("`{url}` is not a server's address: {reason}")]
    Address {
        /// As it was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An option cannot be used.
    #[error("{0}")]
    Options(&'static str),
    /// A request that is not sent because it is larger than [`max_message_size`](crate::ClientOptions::max_message_size).
    #[error("a request of {bytes} bytes, where at most {limit} are sent")]
    TooLarge {
        /// Its encoded size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// There is no connection, or it broke before the answer was complete.
    #[error("cannot reach {url}: {reason}{}", After(*.attempts))]
    Connection {
        /// The server.
        url: String,
        /// What the operating system or the transport says.
        reason: String,
        /// Attempts that were made.
        attempts: u32,
    },
    /// The call ended with a status, the server's or our own at the deadline.
    #[error(transparent)]
    Status(Box<StatusError>),
    /// The server answered with what the protocol does not allow.
    #[error("the server broke the protocol: {0}")]
    Protocol(&'static str),
}

/// A status and the `google.rpc` details that came with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusError {
    /// The gRPC code.
    pub code: Code,
    /// The server's message, for people.
    pub message: String,
    /// The fields that were refused: `google.rpc.BadRequest`.
    pub field_violations: Vec<FieldViolation>,
    /// When to come back: `google.rpc.RetryInfo`.
    pub retry_after: Option<Duration>,
    /// A stable reason for programs: `google.rpc.ErrorInfo`.
    pub reason: Option<Reason>,
    /// Attempts that were made, this one included.
    pub attempts: u32,
}

/// A field that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// Its path in the request, e.g. `documents[3].id`.
    pub field: String,
    /// What is wrong with it.
    pub description: String,
}

/// A reason that programs may compare with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// E.g. `QUEUE_FULL`.
    pub reason: String,
    /// Who defines it: `sluice.dev` for Sluice's own.
    pub domain: String,
    /// Facts that belong to it.
    pub metadata: BTreeMap<String, String>,
}

impl ClientError {
    /// The gRPC code, where there is one; a lost connection counts as [`Code::Unavailable`].
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Connection { .. } => Some(Code::Unavailable),
            Self::Status(status) => Some(status.code),
            Self::Address { .. } | Self::Options(_) | Self::TooLarge { .. } | Self::Protocol(_) => None,
        }
    }

    /// Reads the status that attempt number `attempts` of a call to `url` has ended with.
    pub(crate) fn from_status(status: &Status, url: &str, attempts: u32) -> Self {
        match broken_connection(status) {
            Some(cause) => Self::connection(cause, url, attempts),
            None => Self::Status(Box::new(StatusError { attempts, ..StatusError::from(status) })),
        }
    }

    pub(crate) fn connection(cause: &(dyn Error + 'static), url: &str, attempts: u32) -> Self {
        Self::Connection { url: url.to_owned(), reason: root_cause(cause).to_string(), attempts }
    }

    /// The call's own end: nothing came within `deadline`.
    pub(crate) fn expired(deadline: Duration, attempts: u32) -> Self {
        let message = format!("no answer within {:?}", legible(deadline));
        let status = StatusError::from(&Status::deadline_exceeded(message));
        Self::Status(Box::new(StatusError { attempts, ..status }))
    }
}

impl From<&Status> for StatusError {
    /// Details that cannot be decoded are left out: the code and the message still say what happened.
    fn from(status: &Status) -> Self {
        let details = status.get_error_details();
        let violations = details.bad_request().map(|bad| bad.field_violations.as_slice()).unwrap_or_default();
        Self {
            code: if expired_there(status) { Code::DeadlineExceeded } else { status.code() },
            message: status.message().to_owned(),
            field_violations: violations
                .iter()
                .map(|v| FieldViolation { field: v.field.clone(), description: v.description.clone() })
                .collect(),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
            reason: details.error_info().map(|info| Reason {
                reason: info.reason.clone(),
                domain: info.domain.clone(),
                metadata: info.metadata.clone().into_iter().collect(),
            }),
            attempts: 1,
        }
    }
}

impl From<RequestError> for StatusError {
    fn from(error: RequestError) -> Self {
        let status = Status::with_details(Code::from_i32(error.code), error.message, error.status_details.into());
        Self::from(&status)
    }
}

impl Error for StatusError {}

/// `INVALID_ARGUMENT: query.text: must not be empty`: refused fields where they are known, or else the message.
impl fmt::Display for StatusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", code_name(self.code))?;
        if self.field_violations.is_empty() {
            let unexplained = self.message.is_empty();
            f.write_str(if unexplained { self.code.description() } else { &self.message })?;
        }
        for (n, violation) in self.field_violations.iter().take(VIOLATIONS_SHOWN_MAX).enumerate() {
            let separator = if n == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {}", violation.field, violation.description)?;
        }
        let hidden = self.field_violations.len().saturating_sub(VIOLATIONS_SHOWN_MAX);
        if hidden > 0 {
            write!(f, "; and {hidden} more")?;
        }
        if let Some(wait) = self.retry_after {
            write!(f, " (come back in {:?})", legible(wait))?;
        }
        After(self.attempts).fmt(f)
    }
}

/// Says how many attempts were made, where it was more than one.
struct After(u32);

impl fmt::Display for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 > 1 { write!(f, " (after {} attempts)", self.0) } else { Ok(()) }
    }
}

/// Whether the status is a stand-in for a connection that is not there or broke; then, what broke it.
///
/// A status that the peer has sent has no source. The transport's own ones have, but those with a
/// more telling code are HTTP/2 resets, which the peer has chosen.
pub(crate) fn broken_connection(status: &Status) -> Option<&(dyn Error + 'static)> {
    let local = matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled);
    status.source().filter(|_| local && !expired_here(status))
}

/// Whether our own transport has ended the call at its deadline, for which it says `CANCELLED`.
pub(crate) fn expired_here(status: &Status) -> bool {
    std::iter::successors(status.source(), |&cause| cause.source()).any(<dyn Error>::is::<TimeoutExpired>)
}

/// Whether a server's transport has: one that is made as ours is says the same.
fn expired_there(status: &Status) -> bool {
    status.code() == Code::Cancelled && status.message() == TimeoutExpired(()).to_string()
}

fn root_cause<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    std::iter::successors(Some(error), |&cause| cause.source()).last().unwrap_or(error)
}

/// To the millisecond, where that leaves two digits.
fn legible(time: Duration) -> Duration {
    let milliseconds = time.as_secs_f64() * 1e3;
    if milliseconds < 10.0 { time } else { Duration::from_millis(milliseconds.round() as u64) }
}

/// The code as the gRPC specification spells it.
pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    fn read(status: &Status, attempts: u32) -> String {
        ClientError::from_status(status, "http://sluice", attempts).to_string()
    }

    #[test]
    fn readable() {
        let plain = Status::new;
        let with = Status::with_error_details;
        let fields = |n: usize| {
            let mut details = ErrorDetails::new();
            for field in 0..n {
                details.add_bad_request_violation(format!("documents[{field}].id"), "is too long");
            }
            details
        };
        let refused = ErrorDetails::with_bad_request_violation("query.text", "must not be empty");
        let busy = ErrorDetails::with_retry_info(Some(Duration::from_millis(1200)));
        let refused_connection = Status::from_error(Box::new(tonic::ConnectError(
            std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into(),
        )));
        let cases = [
            (plain(Code::NotFound, "no model `x`"), 1, "NOT_FOUND: no model `x`"),
            (plain(Code::Internal, ""), 1, "INTERNAL: Internal error"),
            (with(Code::InvalidArgument, "bad", refused), 1, "INVALID_ARGUMENT: query.text: must not be empty"),
            (
                with(Code::InvalidArgument, "bad", fields(2)),
                1,
                "INVALID_ARGUMENT: documents[0].id: is too long; documents[1].id: is too long",
            ),
            (
                with(Code::ResourceExhausted, "the queue is full", busy),
                3,
                "RESOURCE_EXHAUSTED: the queue is full (come back in 1.2s) (after 3 attempts)",
            ),
            (plain(Code::Unavailable, "draining"), 1, "UNAVAILABLE: draining"),
            (refused_connection.clone(), 1, "cannot reach http://sluice: connection refused"),
            (refused_connection, 2, "cannot reach http://sluice: connection refused (after 2 attempts)"),
        ];
        for (status, attempts, expected) in cases {
            assert_eq!(read(&status, attempts), expected);
        }
        let many = read(&with(Code::InvalidArgument, "bad", fields(11)), 1);
        assert!(many.ends_with("documents[7].id: is too long; and 3 more"), "{many}");
    }

    #[test]
    fn details_are_decoded() {
        let mut details = ErrorDetails::with_error_info("QUEUE_FULL", "sluice.dev", [("queued".into(), "9".into())]);
        details.set_retry_info(Some(Duration::from_secs(2))).add_bad_request_violation("top_n", "too large");
        let status = Status::with_error_details(Code::ResourceExhausted, "full", details);
        let expected = StatusError {
            code: Code::ResourceExhausted,
            message: "full".into(),
            field_violations: vec![FieldViolation { field: "top_n".into(), description: "too large".into() }],
            retry_after: Some(Duration::from_secs(2)),
            reason: Some(Reason {
                reason: "QUEUE_FULL".into(),
                domain: "sluice.dev".into(),
                metadata: [("queued".to_owned(), "9".to_owned())].into(),
            }),
            attempts: 1,
        };
        assert_eq!(StatusError::from(&status), expected);

        let inside_an_answer = RequestError {
            code: Code::ResourceExhausted as i32,
            message: "full".into(),
            status_details: status.details().to_vec(),
        };
        assert_eq!(StatusError::from(inside_an_answer), expected);

        let garbage = Status::with_details(Code::Internal, "oops", vec![0xff; 9].into());
        assert_eq!(StatusError::from(&garbage).to_string(), "INTERNAL: oops");
    }

    #[test]
    fn deadlines_are_told_from_broken_connections() {
        let here = Status::from_error(Box::new(TimeoutExpired(())));
        let there = Status::cancelled("Timeout expired");
        let cancelled = Status::cancelled("by an operator");
        let broken = Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)));
        let facts = [&here, &there, &cancelled, &broken].map(|s| (expired_here(s), broken_connection(s).is_some()));
        assert_eq!(facts, [(true, false), (false, false), (false, false), (false, true)]);
        assert_eq!(legible(Duration::from_nanos(99_675_777)), Duration::from_millis(100));
        assert_eq!(legible(Duration::from_micros(9_999)), Duration::from_micros(9_999));
        assert_eq!(read(&there, 1), "DEADLINE_EXCEEDED: Timeout expired");
        assert_eq!(read(&cancelled, 1), "CANCELLED: by an operator");
        assert_eq!(
            ClientError::expired(Duration::from_millis(80), 1).to_string(),
            "DEADLINE_EXCEEDED: no answer within 80ms"
        );
    }
}
