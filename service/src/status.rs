//! The one place that turns a refusal into a [`tonic::Status`].
//!
//! A status carries what a program can act on as google.rpc details: `ErrorInfo` always, with a stable
//! reason; `BadRequest` where fields are at fault; `ResourceInfo` where something was not found;
//! `RetryInfo` where trying again makes sense, and then also the trailer [`RETRY_PUSHBACK`], which gRPC's
//! own retry policies obey.
//!
//! | refusal | code | reason | details |
//! |---|---|---|---|
//! | [`Refusal::InvalidArgument`] | `INVALID_ARGUMENT` | `INVALID_REQUEST` | `BadRequest` |
//! | [`Refusal::NotFound`] | `NOT_FOUND` | `NOT_FOUND` | `ResourceInfo` |
//! | [`Refusal::FailedPrecondition`] | `FAILED_PRECONDITION` | its own | |
//! | [`Refusal::Unauthenticated`] | `UNAUTHENTICATED` | `UNAUTHENTICATED` | |
//! | [`Refusal::ResourceExhausted`] | `RESOURCE_EXHAUSTED` | `OVERLOADED` | `RetryInfo` |
//! | [`Refusal::QuotaExceeded`] | `RESOURCE_EXHAUSTED` | `QUOTA_EXCEEDED` | `RetryInfo` |
//! | [`Refusal::QueueTooLong`] | `RESOURCE_EXHAUSTED` | `QUEUE_TOO_LONG` | `RetryInfo` |
//! | [`Refusal::DeadlineExceeded`] | `DEADLINE_EXCEEDED` | `DEADLINE_EXCEEDED` | |
//! | [`Refusal::Unavailable`] | `UNAVAILABLE` | its own | `RetryInfo` where known |
//! | [`Refusal::Cancelled`] | `CANCELLED` | `CANCELLED` | |
//! | [`Refusal::Internal`] | `INTERNAL` | `INTERNAL` | |

use std::{collections::HashMap, time::Duration};

use tonic::{
    Code, Status,
    metadata::{MetadataMap, MetadataValue},
};
use tonic_types::{ErrorDetails, StatusExt};

/// Domain of every [`ErrorInfo`](tonic_types::ErrorInfo) of ours.
pub const ERROR_DOMAIN: &str = "sluice.dev";

/// Trailer with the milliseconds after which a client's retry policy may try again.
pub const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Field faults that a status names; the rest is counted. Protects the trailers, which carry them and which
/// clients commonly limit to 8 KiB.
const FIELD_FAULTS_MAX: usize = 8;

/// Longest text of a caller's that a status repeats, in bytes. Protects the trailers as well.
const TEXT_BYTES_MAX: usize = 160;

/// One thing that is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldFault {
    /// Path in the request message, such as `documents[3].text`, or a header's name.
    pub field: String,
    /// What is wrong, and what was expected.
    pub description: String,
}

impl FieldFault {
    /// A fault of `field`.
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self { field: field.into(), description: description.into() }
    }
}

/// Why a request is not answered. Nothing here reveals internals, and neither does its message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The request cannot be understood, whatever the server's state.
    #[error("{}", invalid_message(.0))]
    InvalidArgument(
        /// What is wrong; the first eight are named.
        Vec<FieldFault>,
    ),
    /// The request names something that does not exist.
    #[error("{resource_type} {:?} not found", cut(name))]
    NotFound {
        /// What kind of thing, such as `model`.
        resource_type: &'static str,
        /// Its name, as the caller gave it.
        name: String,
    },
    /// The request is right, and the server is not in a state for it; trying again does not help.
    #[error("{message}")]
    FailedPrecondition {
        /// Stable reason in upper snake case, such as `NO_TOKEN_STORE`.
        reason: &'static str,
        /// What is said to people.
        message: String,
    },
    /// There is too much work at once.
    #[error("too much work at once: the limit of {limit} {what} is reached")]
    ResourceExhausted {
        /// What ran out, in the plural, such as `documents`.
        what: String,
        /// How much there is of it.
        limit: u64,
        /// When trying again makes sense.
        retry_after: Duration,
    },
    /// The caller did not say who it is, or is not known.
    #[error("no tenant has the credentials of this call")]
    Unauthenticated,
    /// The caller has had its share.
    #[error("the caller's quota is spent: {what}")]
    QuotaExceeded {
        /// What it is of, such as `requests`.
        what: &'static str,
        /// When trying again makes sense.
        retry_after: Duration,
    },
    /// What is queued already keeps the request from being answered by its deadline.
    #[error("the queue is too long: an answer is expected after {} ms, the deadline is in {} ms",
        expected.as_millis(), available.as_millis())]
    QueueTooLong {
        /// When the answer would be there.
        expected: Duration,
        /// How long the caller waits.
        available: Duration,
        /// When trying again makes sense.
        retry_after: Duration,
    },
    /// The caller's deadline has passed, or cannot be met.
    #[error("deadline exceeded ({phase})")]
    DeadlineExceeded {
        /// What was being done, such as `queue`.
        phase: &'static str,
    },
    /// The server cannot serve this now.
    #[error("{message}")]
    Unavailable {
        /// Stable reason in upper snake case, such as `DRAINING`.
        reason: &'static str,
        /// What is said to people.
        message: &'static str,
        /// When trying again makes sense, where known.
        retry_after: Option<Duration>,
    },
    /// The caller went away.
    #[error("cancelled")]
    Cancelled,
    /// A fault of ours. What it was belongs in the log.
    #[error("internal error")]
    Internal,
}

impl Refusal {
    /// One field is at fault.
    pub fn invalid(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::InvalidArgument(vec![FieldFault::new(field, description)])
    }

    /// The status code.
    pub fn code(&self) -> Code {
        match self {
            Self::InvalidArgument(_) => Code::InvalidArgument,
            Self::NotFound { .. } => Code::NotFound,
            Self::FailedPrecondition { .. } => Code::FailedPrecondition,
            Self::Unauthenticated => Code::Unauthenticated,
            Self::ResourceExhausted { .. } | Self::QuotaExceeded { .. } | Self::QueueTooLong { .. } => {
                Code::ResourceExhausted
            }
            Self::DeadlineExceeded { .. } => Code::DeadlineExceeded,
            Self::Unavailable { .. } => Code::Unavailable,
            Self::Cancelled => Code::Cancelled,
            Self::Internal => Code::Internal,
        }
    }

    /// The stable reason that `ErrorInfo` carries, in upper snake case.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidArgument(_) => "INVALID_REQUEST",
            Self::NotFound { .. } => "NOT_FOUND",
            Self::FailedPrecondition { reason, .. } => reason,
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::ResourceExhausted { .. } => "OVERLOADED",
            Self::QuotaExceeded { .. } => "QUOTA_EXCEEDED",
            Self::QueueTooLong { .. } => "QUEUE_TOO_LONG",
            Self::DeadlineExceeded { .. } => "DEADLINE_EXCEEDED",
            Self::Unavailable { reason, .. } => reason,
            Self::Cancelled => "CANCELLED",
            Self::Internal => "INTERNAL",
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::ResourceExhausted { retry_after, .. }
            | Self::QuotaExceeded { retry_after, .. }
            | Self::QueueTooLong { retry_after, .. } => Some(*retry_after),
            Self::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    fn details(&self) -> ErrorDetails {
        let mut details = ErrorDetails::new();
        let mut facts = HashMap::new();
        match self {
            Self::InvalidArgument(faults) => {
                for fault in faults.iter().take(FIELD_FAULTS_MAX) {
                    details.add_bad_request_violation(cut(&fault.field), cut(&fault.description));
                }
                if faults.len() > FIELD_FAULTS_MAX {
                    facts.insert("faults".into(), faults.len().to_string());
                }
            }
            Self::NotFound { resource_type, name } => {
                details.set_resource_info(*resource_type, cut(name), "", "not found");
            }
            Self::ResourceExhausted { what, limit, .. } => {
                facts.insert("what".into(), what.clone());
                facts.insert("limit".into(), limit.to_string());
            }
            Self::QuotaExceeded { what, .. } => {
                facts.insert("what".into(), (*what).into());
            }
            Self::QueueTooLong { expected, available, .. } => {
                facts.insert("expected_ms".into(), expected.as_millis().to_string());
                facts.insert("available_ms".into(), available.as_millis().to_string());
            }
            Self::DeadlineExceeded { phase } => {
                facts.insert("phase".into(), (*phase).into());
            }
            Self::Unauthenticated
            | Self::FailedPrecondition { .. }
            | Self::Unavailable { .. }
            | Self::Cancelled
            | Self::Internal => {}
        }
        details.set_error_info(self.reason(), ERROR_DOMAIN, facts);
        if let Some(delay) = self.retry_after() {
            details.set_retry_info(Some(delay));
        }
        details
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let mut metadata = MetadataMap::new();
        if let Some(delay) = refusal.retry_after() {
            // gRPC reads it as a signed 32-bit number; a fraction of a millisecond still is a wait.
            let millis = delay.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i32;
            metadata.insert(RETRY_PUSHBACK, MetadataValue::from(millis));
        }
        Self::with_error_details_and_metadata(refusal.code(), refusal.to_string(), refusal.details(), metadata)
    }
}

impl From<FieldFault> for Refusal {
    fn from(fault: FieldFault) -> Self {
        Self::InvalidArgument(vec![fault])
    }
}

impl From<FieldFault> for Status {
    fn from(fault: FieldFault) -> Self {
        Refusal::from(fault).into()
    }
}

/// The name of a status code as gRPC writes it, for metric labels and logs.
pub fn code_name(code: Code) -> &'static str {
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

fn invalid_message(faults: &[FieldFault]) -> String {
    match faults {
        [] => "invalid request".into(),
        [fault] => format!("{}: {}", cut(&fault.field), cut(&fault.description)),
        [fault, rest @ ..] => {
            format!("{}: {} (and {} more)", cut(&fault.field), cut(&fault.description), rest.len())
        }
    }
}

/// The start of a text that may be a caller's, and thus of any length.
fn cut(text: &str) -> String {
    if text.len() <= TEXT_BYTES_MAX {
        return text.into();
    }
    format!("{}…", &text[..text.floor_char_boundary(TEXT_BYTES_MAX)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_carries_what_a_program_can_act_on() {
        struct Expected {
            code: Code,
            reason: &'static str,
            message: &'static str,
            pushback: Option<&'static str>,
        }
        let check = |refusal: Refusal, expected: &Expected| {
            let status = Status::from(refusal.clone());
            assert_eq!((status.code(), status.message()), (expected.code, expected.message));
            assert!(!status.details().is_empty());
            let info = status.get_details_error_info().unwrap();
            assert_eq!((info.reason.as_str(), info.domain.as_str()), (expected.reason, "sluice.dev"));
            assert_eq!(status.metadata().get(RETRY_PUSHBACK).map(|value| value.to_str().unwrap()), expected.pushback);
            let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
            assert_eq!(delay, refusal.retry_after());
        };
        let expected = |code, reason, message, pushback| Expected { code, reason, message, pushback };
        check(
            Refusal::invalid("query", "must not be empty"),
            &expected(Code::InvalidArgument, "INVALID_REQUEST", "query: must not be empty", None),
        );
        check(
            Refusal::NotFound { resource_type: "model", name: "x".into() },
            &expected(Code::NotFound, "NOT_FOUND", "model \"x\" not found", None),
        );
        check(
            Refusal::ResourceExhausted {
                what: "documents".into(),
                limit: 4096,
                retry_after: Duration::from_micros(1_500),
            },
            &expected(
                Code::ResourceExhausted,
                "OVERLOADED",
                "too much work at once: the limit of 4096 documents is reached",
                Some("2"),
            ),
        );
        check(
            Refusal::QuotaExceeded { what: "requests", retry_after: Duration::from_millis(200) },
            &expected(Code::ResourceExhausted, "QUOTA_EXCEEDED", "the caller's quota is spent: requests", Some("200")),
        );
        check(
            Refusal::QueueTooLong {
                expected: Duration::from_millis(90),
                available: Duration::from_millis(50),
                retry_after: Duration::from_millis(40),
            },
            &expected(
                Code::ResourceExhausted,
                "QUEUE_TOO_LONG",
                "the queue is too long: an answer is expected after 90 ms, the deadline is in 50 ms",
                Some("40"),
            ),
        );
        let unknown = "no tenant has the credentials of this call";
        check(Refusal::Unauthenticated, &expected(Code::Unauthenticated, "UNAUTHENTICATED", unknown, None));
        check(
            Refusal::DeadlineExceeded { phase: "queue" },
            &expected(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", "deadline exceeded (queue)", None),
        );
        let draining = |retry_after| Refusal::Unavailable { reason: "DRAINING", message: "shutting down", retry_after };
        check(
            draining(Some(Duration::from_secs(1 << 30))),
            &expected(Code::Unavailable, "DRAINING", "shutting down", Some("2147483647")),
        );
        check(draining(None), &expected(Code::Unavailable, "DRAINING", "shutting down", None));
        check(Refusal::Cancelled, &expected(Code::Cancelled, "CANCELLED", "cancelled", None));
        check(Refusal::Internal, &expected(Code::Internal, "INTERNAL", "internal error", None));
    }

    #[test]
    fn details_name_fields_resources_and_limits() {
        let faults = vec![FieldFault::new("query", "empty"), FieldFault::new("documents[3].text", "too long")];
        let status = Status::from(Refusal::InvalidArgument(faults));
        assert_eq!(status.message(), "query: empty (and 1 more)");
        let fields: Vec<_> = status.get_details_bad_request().unwrap().field_violations;
        let fields: Vec<_> = fields.iter().map(|field| (field.field.as_str(), field.description.as_str())).collect();
        assert_eq!(fields, [("query", "empty"), ("documents[3].text", "too long")]);

        let status = Status::from(Refusal::NotFound { resource_type: "model", name: "x".into() });
        let resource = status.get_details_resource_info().unwrap();
        assert_eq!((resource.resource_type.as_str(), resource.resource_name.as_str()), ("model", "x"));

        let retry_after = Duration::from_secs(1);
        let status = Status::from(Refusal::ResourceExhausted { what: "bytes".into(), limit: 7, retry_after });
        let facts = status.get_details_error_info().unwrap().metadata;
        assert_eq!((facts["what"].as_str(), facts["limit"].as_str()), ("bytes", "7"));
    }

    #[test]
    fn a_status_fits_into_trailers_whatever_was_sent() {
        let long = "é".repeat(1 << 14);
        let faults = (0..100).map(|index| FieldFault::new(format!("documents[{index}].{long}"), long.as_str()));
        for refusal in [
            Refusal::InvalidArgument(faults.collect()),
            Refusal::InvalidArgument(Vec::new()),
            Refusal::NotFound { resource_type: "model", name: long.clone() },
        ] {
            let response = Status::from(refusal).into_http::<()>();
            let bytes: usize =
                response.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
            assert!(bytes < 8 << 10, "{bytes}");
        }
    }

    #[test]
    fn codes_have_grpc_names() {
        for number in 0..=16 {
            let name = code_name(Code::from_i32(number));
            assert_eq!(name.to_lowercase().replace('_', ""), format!("{:?}", Code::from_i32(number)).to_lowercase());
        }
    }
}
