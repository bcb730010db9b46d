//! What a caller is told when the token store does not do what was asked.

use sluice_service::status::{FieldFault, Refusal};
use sluice_tokenstore::{DiskError, PutError};

pub(super) fn refusal(error: PutError) -> Refusal {
    match error {
        PutError::ReadOnly => read_only(),
        PutError::Layout { .. } => {
            Refusal::FailedPrecondition { reason: "STORED_OTHERWISE", message: error.to_string() }
        }
        PutError::Document { position, fault } => {
            Refusal::InvalidArgument(vec![FieldFault::new(format!("documents[{position}]"), fault.to_string())])
        }
        PutError::BatchTooLarge { max, .. } => {
            Refusal::invalid("documents", format!("are more than {max} bytes together, as they would be kept"))
        }
        PutError::TooManyCollections { max } => Refusal::FailedPrecondition {
            reason: "TOO_MANY_COLLECTIONS",
            message: format!("the token store has {max} collections already"),
        },
        PutError::Disk(error) => disk(&error),
    }
}

pub(super) fn read_only() -> Refusal {
    Refusal::FailedPrecondition { reason: "READ_ONLY", message: "this server only reads its token store".to_owned() }
}

/// What a disk says is for the log.
pub(super) fn disk(error: &DiskError) -> Refusal {
    tracing::error!(%error, "the token store's disk refused");
    let message = if error.is_full() { "the token store's disk is full" } else { "the token store's disk failed" };
    Refusal::Unavailable { reason: "TOKEN_STORE_DISK", message, retry_after: None }
}
