//! How to write a request to keep documents' token vectors.

use sha2::{Digest, Sha256};
use sluice_proto::{
    model::v1::Embedding,
    rerank::v1::{PutDocument, PutRequest, TokenStorage, put_document},
};

/// SHA-256 of a document's text, by which the token store knows what its vectors were made from.
pub type ContentHash = [u8; 32];

/// The hash of exactly these UTF-8 bytes: neither case nor white space is evened out.
#[must_use]
pub fn content_hash(text: &str) -> ContentHash {
    Sha256::digest(text.as_bytes()).into()
}

/// Writes a [`PutRequest`]: documents for a namespace of the token store.
///
/// ```
/// use sluice_client::{PutTokens, TokenStorage};
///
/// let request = PutTokens::new("wiki").storage(TokenStorage::Int8).document("a", "Fleas live for up to a year.");
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PutTokens(PutRequest);

impl PutTokens {
    /// A request to store documents in `namespace`: 1 to 128 of `A-Z a-z 0-9 . _ -`, the first of them no dot.
    #[must_use]
    pub fn new(namespace: impl Into<String>) -> Self {
        Self(PutRequest { namespace: namespace.into(), ..PutRequest::default() })
    }

    /// The model whose vectors they are; without, the server's default model.
    #[must_use]
    pub fn model(mut self, name: impl Into<String>) -> Self {
        self.0.model = name.into();
        self
    }

    /// How to keep them; without, as the namespace already does, or as the server is configured.
    #[must_use]
    pub fn storage(mut self, storage: TokenStorage) -> Self {
        self.0.set_storage(storage);
        self
    }

    /// Adds a document that the server encodes. Of two with one id the last counts.
    #[must_use]
    pub fn document(self, id: impl Into<String>, text: impl Into<String>) -> Self {
        self.with(id.into(), put_document::Content::Text(text.into()), Vec::new())
    }

    /// Adds documents that the server encodes, each an id and a text.
    #[must_use]
    pub fn documents<I, T>(self, documents: impl IntoIterator<Item = (I, T)>) -> Self
    where
        I: Into<String>,
        T: Into<String>,
    {
        documents.into_iter().fold(self, |request, (id, text)| request.document(id, text))
    }

    /// Adds a document as the vectors that the model made of the text with this [hash](content_hash), one row per token.
    #[must_use]
    pub fn embedding(self, id: impl Into<String>, vectors: Embedding, hash: ContentHash) -> Self {
        self.with(id.into(), put_document::Content::Embedding(vectors), hash.to_vec())
    }

    fn with(mut self, id: String, content: put_document::Content, hash: Vec<u8>) -> Self {
        self.0.documents.push(PutDocument { id, content: Some(content), content_hash: hash });
        self
    }
}

impl From<PutTokens> for PutRequest {
    fn from(request: PutTokens) -> Self {
        request.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_was_asked_and_nothing_else() {
        let bare = PutRequest { namespace: "n".into(), ..PutRequest::default() };
        assert_eq!(PutRequest::from(PutTokens::new("n")), bare);

        let vectors = Embedding { data: vec![0; 4].into(), dtype: 2, rows: 1, dim: 2, scales: Vec::new().into() };
        let full = PutTokens::new("n")
            .model("m")
            .storage(TokenStorage::Binary)
            .document("a", "first")
            .documents([("b", "second")])
            .embedding("c", vectors.clone(), [9; 32]);
        let text = |id: &str, text: &str| PutDocument {
            id: id.into(),
            content: Some(put_document::Content::Text(text.into())),
            content_hash: Vec::new(),
        };
        let embedded = PutDocument {
            id: "c".into(),
            content: Some(put_document::Content::Embedding(vectors)),
            content_hash: vec![9; 32],
        };
        let documents = vec![text("a", "first"), text("b", "second"), embedded];
        let storage = TokenStorage::Binary.into();
        assert_eq!(PutRequest::from(full), PutRequest { model: "m".into(), documents, storage, ..bare });
    }

    #[test]
    fn hashes_the_bytes_as_they_are() {
        let hex = |text: &str| content_hash(text).map(|byte| format!("{byte:02x}")).concat();
        // FIPS 180-2, appendix B.1.
        assert_eq!(hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_ne!(content_hash("abc"), content_hash("abc "));
    }
}
