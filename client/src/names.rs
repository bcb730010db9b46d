//! What enum values are called on a command line and in JSON: `late_interaction`, `raw`, `encode_dense`.
//!
//! The names follow from the wire's own by one rule: `METHOD_LATE_INTERACTION` without its prefix, in lower case. gRPC's
//! codes are spelt as its specification does.

use sluice_proto::{
    model::v1::Capability,
    rerank::v1::{DocumentSource, Method, PartialReason, ScoreKind, TokenStorage},
};
use tonic::Code;

use crate::error::code_name;

/// A gRPC code as the specification spells it: `DEADLINE_EXCEEDED`.
#[must_use]
pub fn code(code: Code) -> &'static str {
    code_name(code)
}

/// A method as a message carries it. A number that this client does not know is shown as it is.
#[must_use]
pub fn method(value: i32) -> String {
    name(value, "METHOD_", Method::try_from(value).ok().map(|method| method.as_str_name()))
}

/// A scale of scores as a message carries it.
#[must_use]
pub fn score_kind(value: i32) -> String {
    name(value, "SCORE_KIND_", ScoreKind::try_from(value).ok().map(|kind| kind.as_str_name()))
}

/// What a document was scored by, as a message carries it.
#[must_use]
pub fn document_source(value: i32) -> String {
    name(value, "DOCUMENT_SOURCE_", DocumentSource::try_from(value).ok().map(|source| source.as_str_name()))
}

/// Why an answer is partial, as a message carries it.
#[must_use]
pub fn partial_reason(value: i32) -> String {
    name(value, "PARTIAL_REASON_", PartialReason::try_from(value).ok().map(|reason| reason.as_str_name()))
}

/// A storage of token vectors as a message carries it.
#[must_use]
pub fn token_storage(value: i32) -> String {
    name(value, "TOKEN_STORAGE_", TokenStorage::try_from(value).ok().map(|storage| storage.as_str_name()))
}

/// A capability as a message carries it.
#[must_use]
pub fn capability(value: i32) -> String {
    name(value, "CAPABILITY_", Capability::try_from(value).ok().map(|capability| capability.as_str_name()))
}

fn name(value: i32, prefix: &str, wire: Option<&'static str>) -> String {
    match wire {
        Some(wire) => wire.strip_prefix(prefix).unwrap_or(wire).to_ascii_lowercase(),
        None => format!("unknown_{value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follow_from_the_wire() {
        let cases = [
            (method(Method::LateInteraction as i32), "late_interaction"),
            (method(Method::Dense as i32), "dense"),
            (method(Method::CrossEncoder as i32), "cross_encoder"),
            (method(0), "unspecified"),
            (method(77), "unknown_77"),
            (score_kind(ScoreKind::Sigmoid as i32), "sigmoid"),
            (capability(Capability::EncodeTokens as i32), "encode_tokens"),
            (capability(-1), "unknown_-1"),
            (document_source(DocumentSource::TextForStale as i32), "text_for_stale"),
            (partial_reason(PartialReason::StoredDocumentUnavailable as i32), "stored_document_unavailable"),
            (partial_reason(PartialReason::Overloaded as i32), "overloaded"),
            (token_storage(TokenStorage::Int8 as i32), "int8"),
        ];
        for (found, expected) in cases {
            assert_eq!(found, expected);
        }
    }
}
