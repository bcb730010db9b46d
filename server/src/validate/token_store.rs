//! Requests to the token store.

use sluice_proto::rerank::v1 as wire;
use sluice_service::status::Refusal;
use sluice_tokenstore::{ContentHash, Namespace};

use super::{DOCUMENT_ID_BYTES_MAX, Expected, Faults, find};
use crate::{
    config::Limits,
    job::{DeleteJob, NewContent, NewDocument, PutJob, StoredAs},
    models::Models,
};

/// Turns a put request into a job.
///
/// # Errors
/// [`Refusal::NotFound`] for an unknown model, else [`Refusal::InvalidArgument`] with every fault.
pub fn put(request: wire::PutRequest, models: &Models, limits: &Limits) -> Result<PutJob, Refusal> {
    let mut faults = Faults::default();
    faults.model_name("model", &request.model);
    let namespace = faults.namespace(|| "namespace".to_owned(), &request.namespace);
    let storage = faults.storage(request.storage);
    faults.count("documents", request.documents.len(), limits.documents_per_request_max);
    let (model, entry) = find(models, &request.model, &faults)?;
    if !entry.info.encode_tokens {
        faults.add("model", format!("{:?} makes no token vectors", entry.name));
    }
    let expected = Expected { dim: entry.info.embedding_dim as usize, rows_max: limits.document_vectors_max };
    let documents = request.documents.into_iter().enumerate();
    let documents =
        documents.filter_map(|(index, document)| faults.new_document(index, document, expected, limits)).collect();
    Ok(PutJob { model, namespace: faults.finish_with(namespace)?, documents, storage })
}

/// Turns a delete request into a job.
///
/// # Errors
/// [`Refusal::InvalidArgument`] with every fault.
pub fn delete(request: wire::DeleteRequest, limits: &Limits) -> Result<DeleteJob, Refusal> {
    let mut faults = Faults::default();
    let namespace = faults.namespace(|| "namespace".to_owned(), &request.namespace);
    faults.count("ids", request.ids.len(), limits.documents_per_request_max);
    for (index, id) in request.ids.iter().enumerate() {
        faults.id(|| format!("ids[{index}]"), id);
    }
    Ok(DeleteJob { namespace: faults.finish_with(namespace)?, ids: request.ids })
}

/// A namespace, or `None` for all of them.
///
/// # Errors
/// [`Refusal::InvalidArgument`] for what cannot be one.
pub fn namespace_or_all(namespace: &str) -> Result<Option<Namespace>, Refusal> {
    if namespace.is_empty() {
        return Ok(None);
    }
    let mut faults = Faults::default();
    let namespace = faults.namespace(|| "namespace".to_owned(), namespace);
    faults.finish_with(namespace).map(Some)
}

impl Faults {
    /// What was parsed without a fault.
    fn finish_with<T>(self, parsed: Option<T>) -> Result<T, Refusal> {
        self.finish()?;
        parsed.ok_or(Refusal::Internal)
    }

    fn id(&mut self, field: impl FnOnce() -> String, id: &str) {
        if !(1..=DOCUMENT_ID_BYTES_MAX).contains(&id.len()) {
            self.add(field(), format!("must be 1 to {DOCUMENT_ID_BYTES_MAX} bytes"));
        }
    }

    fn storage(&mut self, value: i32) -> Option<StoredAs> {
        match wire::TokenStorage::try_from(value) {
            Ok(wire::TokenStorage::Unspecified) => None,
            Ok(wire::TokenStorage::F16) => Some(StoredAs::F16),
            Ok(wire::TokenStorage::Int8) => Some(StoredAs::Int8),
            Ok(wire::TokenStorage::Binary) => Some(StoredAs::Binary),
            Err(_) => self.unknown_value("storage", value, None),
        }
    }

    fn new_document(
        &mut self,
        index: usize,
        document: wire::PutDocument,
        expected: Expected,
        limits: &Limits,
    ) -> Option<NewDocument> {
        let path = |field: &str| format!("documents[{index}].{field}");
        self.id(|| path("id"), &document.id);
        let said = self.content_hash(|| path("content_hash"), &document.content_hash);
        let (content, content_hash) = match document.content {
            Some(wire::put_document::Content::Text(text)) => {
                self.text_bytes(|| path("text"), &text, limits);
                let hash = ContentHash::of_text(&text);
                if said.is_some_and(|said| said != hash) {
                    self.add(path("content_hash"), "is not the SHA-256 of the text");
                }
                (NewContent::Text(text), Some(hash))
            }
            Some(wire::put_document::Content::Embedding(embedding)) => {
                if document.content_hash.is_empty() {
                    self.add(path("content_hash"), "is required with an embedding");
                }
                (NewContent::Vectors(self.vectors(&path("embedding"), &embedding, expected)?), said)
            }
            None => {
                self.add(format!("documents[{index}]"), "must have a text or an embedding");
                return None;
            }
        };
        Some(NewDocument { id: document.id, content, content_hash: content_hash? })
    }
}
