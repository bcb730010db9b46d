//! How documents and vectors are written.
//!
//! A document is its head (what an index or a deletion needs) and its texts, each in postcard's encoding; the head's
//! length stands before it, so that it is read without them. Vectors are raw little-endian numbers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{StorageError, error::corrupt};
use crate::{
    document::{Document, SparseVector, StoredDocument},
    identity::{ContentHash, DocId, Lsn},
    payload::Payload,
};

/// What is known of a document without its texts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) version: Lsn,
    pub(super) content_hash: ContentHash,
    pub(super) id: String,
    pub(super) payload: Payload,
}

#[derive(Serialize)]
struct HeadRef<'a> {
    version: Lsn,
    content_hash: ContentHash,
    id: &'a str,
    payload: &'a Payload,
}

/// A document, without its vectors.
pub(super) fn document(document: &Document, version: Lsn, content_hash: ContentHash) -> Result<Vec<u8>, StorageError> {
    let head = encode(&HeadRef { version, content_hash, id: &document.id, payload: &document.payload })?;
    let length = u32::try_from(head.len()).map_err(|_| corrupt("a head below 4 GiB"))?;
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend(head);
    bytes.extend(encode(&document.texts)?);
    Ok(bytes)
}

/// The head of a stored document.
pub(super) fn head(bytes: &[u8]) -> Result<Head, StorageError> {
    decode(parts(bytes)?.0, "a document's head")
}

/// The texts of a stored document.
pub(super) fn texts(bytes: &[u8]) -> Result<BTreeMap<String, String>, StorageError> {
    decode(parts(bytes)?.1, "a document's texts")
}

/// All of a stored document.
pub(super) fn stored(doc: DocId, bytes: &[u8]) -> Result<StoredDocument, StorageError> {
    Ok(StoredDocument { texts: texts(bytes)?, ..without_texts(doc, bytes)? })
}

/// A stored document as if it had no texts.
pub(super) fn without_texts(doc: DocId, bytes: &[u8]) -> Result<StoredDocument, StorageError> {
    let Head { version, content_hash, id, payload } = head(bytes)?;
    Ok(StoredDocument { doc, version, content_hash, id, texts: BTreeMap::new(), payload })
}

fn parts(bytes: &[u8]) -> Result<(&[u8], &[u8]), StorageError> {
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(|| corrupt("a document"))?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(|| corrupt("a document"))
}

/// Components of a dense vector.
pub(super) fn dense(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|component| component.to_le_bytes()).collect()
}

/// A stored dense vector.
pub(super) fn stored_dense(bytes: &[u8]) -> Result<Vec<f32>, StorageError> {
    let (components, rest) = bytes.as_chunks::<4>();
    match rest {
        [] => Ok(components.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()),
        _ => Err(corrupt("a dense vector")),
    }
}

/// Indices, then values.
pub(super) fn sparse(vector: &SparseVector) -> Vec<u8> {
    let indices = vector.indices.iter().flat_map(|index| index.to_le_bytes());
    indices.chain(vector.values.iter().flat_map(|value| value.to_le_bytes())).collect()
}

/// A stored sparse vector.
pub(super) fn stored_sparse(bytes: &[u8]) -> Result<SparseVector, StorageError> {
    if !bytes.len().is_multiple_of(8) {
        return Err(corrupt("a sparse vector"));
    }
    let (indices, values) = bytes.split_at(bytes.len() / 2);
    let indices = indices.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
    Ok(SparseVector { indices, values: stored_dense(values)? })
}

pub(super) fn encode(value: &impl Serialize) -> Result<Vec<u8>, StorageError> {
    postcard::to_stdvec(value).map_err(|_| corrupt("a value that can be written"))
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8], expected: &'static str) -> Result<T, StorageError> {
    postcard::from_bytes(bytes).map_err(|_| corrupt(expected))
}
