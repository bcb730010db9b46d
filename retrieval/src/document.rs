//! A document, as it is given to a collection and as a collection gives it back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    identity::{ContentHash, DocId, Lsn},
    payload::{Payload, PayloadValue, Scalar},
};

/// What is stored under one external id.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// The caller's name for it, unique in its collection.
    pub id: String,
    /// Texts by the name of their [`TextField`](crate::schema::TextField). A field that is not there is empty.
    pub texts: BTreeMap<String, String>,
    /// Values to filter, count and return.
    pub payload: Payload,
    /// Dense vectors by the name of their [`DenseField`](crate::schema::DenseField); any may be missing.
    pub dense: BTreeMap<String, Vec<f32>>,
    /// Sparse vectors by the name of their [`SparseField`](crate::schema::SparseField); any may be missing.
    pub sparse: BTreeMap<String, SparseVector>,
}

/// A vector that is zero but for a few dimensions. `indices` ascend strictly, and are as many as `values`, which are
/// finite and not 0.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SparseVector {
    /// Dimensions, ascending.
    pub indices: Vec<u32>,
    /// Their values.
    pub values: Vec<f32>,
}

/// A document at one version, without its vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredDocument {
    /// The number of this version inside the collection.
    pub doc: DocId,
    /// The batch that wrote it. A later version of a document has a higher one, also across a deletion.
    pub version: Lsn,
    /// Hash of the text that an encoder is given.
    pub content_hash: ContentHash,
    /// The caller's name for it.
    pub id: String,
    /// Texts by field; empty ones may be missing.
    pub texts: BTreeMap<String, String>,
    /// Values by field, as they came.
    pub payload: Payload,
}

impl Document {
    /// Bytes of its texts, payload and vectors: what bounds on batches count.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let texts: usize = self.texts.values().map(String::len).sum();
        let payload: usize = self.payload.values().flat_map(PayloadValue::scalars).map(Scalar::bytes).sum();
        let dense: usize = self.dense.values().map(|vector| vector.len() * 4).sum();
        let sparse: usize = self.sparse.values().map(|vector| vector.indices.len() * 8).sum();
        self.id.len() + texts + payload + dense + sparse
    }
}
