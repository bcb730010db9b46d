//! What things of ours are called in a cluster.

use qdrant_client::qdrant::{PointId, point_id::PointIdOptions};
use sha2::{Digest, Sha256};

/// The sparse vector of a document's words. No vector of a schema can have this name: it has a dot.
pub(super) const WORDS_VECTOR: &str = "lexical.words";

/// Keys of a point's payload. Everything of a caller's stands below one of them, so no name is reserved.
pub(super) const ID: &str = "id";
/// Microseconds: see [`version`](super::version).
pub(super) const VERSION: &str = "version";
/// 64 hexadecimal digits.
pub(super) const CONTENT_HASH: &str = "content_hash";
/// Texts by field.
pub(super) const TEXTS: &str = "texts";
/// Values of declared payload fields.
pub(super) const PAYLOAD: &str = "payload";
/// Words of declared payload fields of kind text, each once.
pub(super) const WORDS: &str = "words";
/// Values of fields that the schema does not declare.
pub(super) const OTHER: &str = "other";

/// Keys of a collection's metadata: the schema, as JSON.
pub(super) const SCHEMA: &str = "sluice_schema";
/// What tells the collection from every other.
pub(super) const IDENTITY: &str = "sluice_identity";
/// Words that a text has on average, as its weights were made with.
pub(super) const AVERAGE_WORDS: &str = "sluice_average_words";

/// The point of a document: a UUID of version 8 (RFC 9562) from the SHA-256 of its id. Two ids share one with a
/// probability of 2⁻¹²², which is taken for never.
pub(super) fn point_id(id: &str) -> PointId {
    let digest: [u8; 32] = Sha256::digest(id).into();
    let mut bytes: [u8; 16] = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let uuid = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-");
    PointId { point_id_options: Some(PointIdOptions::Uuid(uuid)) }
}

/// The id of a point that no document has: its version is 0.
pub(super) fn no_point() -> PointId {
    PointId { point_id_options: Some(PointIdOptions::Uuid("00000000-0000-0000-0000-000000000000".to_owned())) }
}

/// Where a filter finds a payload field.
pub(super) fn payload_key(field: &str) -> String {
    format!("{PAYLOAD}.{field}")
}

/// Where a filter finds the words of a payload field.
pub(super) fn words_key(field: &str) -> String {
    format!("{WORDS}.{field}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_become_uuids_of_their_hash() {
        // SHA-256 of "abc" is ba7816bf 8f01 cfea 4141 40de5dae2223…
        let id = point_id("abc").point_id_options;
        assert_eq!(id, Some(PointIdOptions::Uuid("ba7816bf-8f01-8fea-8141-40de5dae2223".to_owned())));
        assert_ne!(point_id("abd").point_id_options, id);
    }
}
