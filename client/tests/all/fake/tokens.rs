//! The fake server's token store: texts by namespace and id, a token a word and two special ones.

use std::collections::BTreeMap;

use sluice_client::{
    content_hash,
    proto::rerank::v1::{
        CollectionStats, CompactRequest, CompactResponse, DeleteRequest, DeleteResponse, Document, DocumentSource,
        PutDocument, PutRequest, PutResponse, RerankRequest, StatsRequest, StatsResponse, StoredTokens, TokenStorage,
        document, put_document, token_store_service_server::TokenStoreService,
    },
};
use tonic::{Request, Response, Status};

use super::{Service, lock, model_name, refused, text_of};

/// Most tokens of one put.
pub(crate) const PUT_TOKENS_MAX: usize = 100;
/// Most tokens that are read of a text.
const DOCUMENT_TOKENS_MAX: usize = 60;

#[derive(Debug, Default)]
pub(crate) struct Stored {
    texts: BTreeMap<(String, String), String>,
    replaced: u64,
}

impl Stored {
    /// The text that a document is scored by, and where it comes from.
    pub(crate) fn read(&self, document: &Document) -> (Option<String>, DocumentSource) {
        let Some(document::Content::Stored(asked)) = &document.content else {
            let text = text_of(document).map(str::to_owned);
            let source = if text.is_some() { DocumentSource::Text } else { DocumentSource::Embedding };
            return (text.or(Some(String::new())), source);
        };
        let own = asked.text.as_deref().map(|text| content_hash(text).to_vec()).unwrap_or_default();
        let expected = if asked.content_hash.is_empty() { own } else { asked.content_hash.clone() };
        let found = self.texts.get(&(asked.namespace.clone(), document.id.clone()));
        match (found, &asked.text) {
            (Some(text), _) if expected.is_empty() || content_hash(text)[..] == expected[..] => {
                (Some(text.clone()), DocumentSource::Stored)
            }
            (Some(_), Some(text)) => (Some(text.clone()), DocumentSource::TextForStale),
            (None, Some(text)) => (Some(text.clone()), DocumentSource::TextForMissing),
            (Some(_), None) => (None, DocumentSource::NoneStale),
            (None, None) => (None, DocumentSource::NoneMissing),
        }
    }
}

fn tokens_of(document: &PutDocument) -> usize {
    match &document.content {
        Some(put_document::Content::Text(text)) => (text.split_whitespace().count() + 2).min(DOCUMENT_TOKENS_MAX),
        Some(put_document::Content::Embedding(embedding)) => embedding.rows as usize,
        None => 0,
    }
}

fn stored_tokens(document: &PutDocument) -> StoredTokens {
    let tokens = tokens_of(document);
    let text = match &document.content {
        Some(put_document::Content::Text(text)) => text.as_str(),
        _ => "",
    };
    StoredTokens {
        id: document.id.clone(),
        tokens: tokens as u32,
        truncated: tokens < text.split_whitespace().count() + 2 && !text.is_empty(),
        content_hash: content_hash(text).to_vec(),
    }
}

#[tonic::async_trait]
impl TokenStoreService for Service {
    async fn put(&self, call: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let step = self.arrive(&call, RerankRequest::default());
        self.unary(step).await?;
        let request = call.into_inner();
        lock(&self.0.puts).push(request.clone());
        let tokens: usize = request.documents.iter().map(tokens_of).sum();
        if tokens > PUT_TOKENS_MAX {
            let description = format!("have {tokens} tokens together, a put takes {PUT_TOKENS_MAX} at most");
            return Err(refused("documents", &description));
        }
        if let Some(index) = request.documents.iter().position(|document| document.id.is_empty()) {
            return Err(refused(&format!("documents[{index}].id"), "must be 1 to 512 bytes"));
        }
        let mut stored = lock(&self.0.stored);
        let documents = request.documents.iter().map(stored_tokens).collect();
        for document in request.documents {
            if let Some(put_document::Content::Text(text)) = document.content {
                let replaced = stored.texts.insert((request.namespace.clone(), document.id), text);
                stored.replaced += u64::from(replaced.is_some());
            }
        }
        let (model, model_digest) = (model_name(&request.model), "c0ffee".into());
        Ok(Response::new(PutResponse { documents, computed_tokens: tokens as u64, model, model_digest }))
    }

    async fn delete(&self, call: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let step = self.arrive(&call, RerankRequest::default());
        self.unary(step).await?;
        let DeleteRequest { namespace, ids } = call.into_inner();
        let mut stored = lock(&self.0.stored);
        let deleted = ids.into_iter().filter(|id| stored.texts.remove(&(namespace.clone(), id.clone())).is_some());
        let deleted = deleted.count() as u64;
        stored.replaced += deleted;
        Ok(Response::new(DeleteResponse { deleted }))
    }

    async fn stats(&self, call: Request<StatsRequest>) -> Result<Response<StatsResponse>, Status> {
        let step = self.arrive(&call, RerankRequest::default());
        self.unary(step).await?;
        let asked = &call.get_ref().namespace;
        let stored = lock(&self.0.stored);
        let mut collections: BTreeMap<&str, CollectionStats> = BTreeMap::new();
        for ((namespace, _), text) in &stored.texts {
            if !asked.is_empty() && namespace != asked {
                continue;
            }
            let collection = collections.entry(namespace).or_insert_with(|| CollectionStats {
                namespace: namespace.clone(),
                model_digest: "0123456789abcdef".repeat(4),
                model: "counting".into(),
                storage: TokenStorage::F16.into(),
                dim: 128,
                dead_bytes: 1000 * stored.replaced,
                segments: 1,
                ..CollectionStats::default()
            });
            let tokens = text.split_whitespace().count() as u64 + 2;
            collection.documents += 1;
            collection.tokens += tokens;
            collection.live_bytes += tokens * 256;
        }
        Ok(Response::new(StatsResponse { collections: collections.into_values().collect(), corrupt_records: 0 }))
    }

    async fn compact(&self, call: Request<CompactRequest>) -> Result<Response<CompactResponse>, Status> {
        let step = self.arrive(&call, RerankRequest::default());
        self.unary(step).await?;
        let replaced = std::mem::take(&mut lock(&self.0.stored).replaced);
        Ok(Response::new(CompactResponse {
            reclaimed_bytes: 1000 * replaced,
            rewritten_segments: u32::from(replaced > 0),
        }))
    }
}
