//! The boundary: wire messages in, valid jobs out. Nothing behind it checks again.
//!
//! Every fault of a message is reported, each with the path of its field.

use std::sync::Arc;

use sluice_core::{ModelIndex, batch::QueryVectors};
use sluice_proto::{model::v1 as model_wire, rerank::v1 as wire};
use sluice_service::status::{FieldFault, Refusal};
use sluice_tokenstore::{ContentHash, Namespace};

use crate::{
    config::Limits,
    job::{
        Content, Document, Dtype, EncodeJob, EncodeKind, ExplainJob, LongDocument, Method, Query, RerankJob, ScoreKind,
        StoredReference,
    },
    models::{Model, Models},
};

mod stages;
mod token_store;
mod vectors;

pub(crate) use stages::duration;
pub use token_store::{delete, namespace_or_all, put};
use vectors::Expected;

/// Bytes of a document's id.
const DOCUMENT_ID_BYTES_MAX: usize = 512;
/// Documents of a request that asks for explanations: they are for people.
const EXPLAINED_DOCUMENTS_MAX: usize = 100;
/// Bytes of a model's name.
const MODEL_NAME_BYTES_MAX: usize = 256;
/// Faults listed in one answer: a request of nothing but faults must not be answered with a book.
const FAULTS_MAX: usize = 32;

/// Turns a rerank request into a job.
///
/// # Errors
/// [`Refusal::NotFound`] for an unknown model, else [`Refusal::InvalidArgument`] with every fault.
pub fn rerank(request: wire::RerankRequest, models: &Models, limits: &Limits) -> Result<RerankJob, Refusal> {
    let mut faults = Faults::default();
    faults.model_name("model", &request.model);
    faults.top(&request);
    let mut of_stages = Faults::default();
    let wanted = of_stages.wanted_stages(&request);
    // Faults of a request for an unknown model come before its name, as far as they can be found without the model.
    let dim = stages::dim_of_vectors(&wanted, models);
    let query = faults.query(request.query, dim, limits);
    faults.count("documents", request.documents.len(), limits.documents_per_request_max);
    let documents = faults.documents(request.documents, dim, limits);
    faults.extend(of_stages);
    let score_kind = faults.score_kind(request.score_kind);
    let truncation = request.truncation.unwrap_or_default();
    let long_document = faults.long_document(truncation.long_document);
    let priority = faults.priority(request.priority);
    let cache = faults.cache(request.cache);
    let until_deadline = request.budget.as_ref().is_some_and(|budget| budget.until_deadline);
    let budget = faults.budget("budget", request.budget.as_ref());
    find(models, &request.model, &faults)?;
    let stages = faults.stages(wanted, models, score_kind)?;
    faults.vectors_fit(&stages, models, &query, &documents);
    faults.finish()?;
    Ok(RerankJob {
        stages,
        query,
        documents,
        top_n: (request.top_n > 0).then_some(request.top_n as usize),
        min_score: request.min_score,
        return_text: request.return_text,
        document_tokens_max: (truncation.max_tokens_per_document > 0)
            .then_some(truncation.max_tokens_per_document as usize),
        long_document,
        score_kind,
        priority,
        budget,
        until_deadline,
        cache,
    })
}

/// Turns an encode request into a job.
///
/// # Errors
/// As for [`rerank`].
pub fn encode(request: model_wire::EncodeRequest, models: &Models, limits: &Limits) -> Result<EncodeJob, Refusal> {
    use model_wire::{DataType, EmbeddingKind};

    let mut faults = Faults::default();
    faults.model_name("model", &request.model);
    faults.texts(&request.texts, limits);
    let kind = match EmbeddingKind::try_from(request.kind) {
        Ok(EmbeddingKind::Unspecified | EmbeddingKind::Dense) => EncodeKind::Dense,
        Ok(EmbeddingKind::Token) => EncodeKind::Tokens,
        Err(_) => faults.unknown_value("kind", request.kind, EncodeKind::Dense),
    };
    let dtype = match DataType::try_from(request.dtype) {
        Ok(DataType::Unspecified | DataType::F32) => Dtype::F32,
        Ok(DataType::F16) => Dtype::F16,
        Ok(DataType::I8) => Dtype::I8,
        Err(_) => faults.unknown_value("dtype", request.dtype, Dtype::F32),
    };
    let (model, entry) = find(models, &request.model, &faults)?;
    let supported = match kind {
        EncodeKind::Dense => entry.info.encode_dense,
        EncodeKind::Tokens => entry.info.encode_tokens,
    };
    if !supported {
        faults.add("kind", format!("model {:?} does not offer this kind of embedding", entry.name));
    }
    let special_tokens = entry.text.special_tokens_single();
    let tokens_max = match request.max_tokens as usize {
        0 => entry.tokens_max(),
        max => max.min(entry.tokens_max()),
    };
    if tokens_max < special_tokens {
        faults.add("max_tokens", format!("must leave room for {special_tokens} special tokens"));
    }
    faults.finish()?;
    Ok(EncodeJob { model, texts: request.texts, kind, dtype, tokens_max })
}

/// Turns an explain request into a job.
///
/// # Errors
/// As for [`rerank`].
pub fn explain(request: wire::ExplainRequest, models: &Models, limits: &Limits) -> Result<ExplainJob, Refusal> {
    let mut faults = Faults::default();
    faults.model_name("model", &request.model);
    let dim = models.find(&request.model).map(|(_, entry)| entry.info.embedding_dim as usize);
    let query = faults.query(request.query, dim, limits);
    faults.count("documents", request.documents.len(), EXPLAINED_DOCUMENTS_MAX.min(limits.documents_per_request_max));
    let documents = faults.documents(request.documents, dim, limits);
    let (model, entry) = find(models, &request.model, &faults)?;
    if !entry.info.late_interaction || !entry.info.encode_tokens {
        faults.add("model", format!("{:?} has no late interaction to explain", entry.name));
    }
    faults.finish()?;
    Ok(ExplainJob { model, query, documents })
}

/// A tokenize request that may be answered.
#[derive(Debug)]
pub struct TokenizeJob {
    /// Which model's tokenizer.
    pub model: ModelIndex,
    /// At least one.
    pub texts: Vec<String>,
    /// Add special tokens.
    pub add_special_tokens: bool,
}

/// Checks a tokenize request.
///
/// # Errors
/// As for [`rerank`].
pub fn tokenize(
    request: model_wire::TokenizeRequest,
    models: &Models,
    limits: &Limits,
) -> Result<TokenizeJob, Refusal> {
    let mut faults = Faults::default();
    faults.model_name("model", &request.model);
    faults.texts(&request.texts, limits);
    let (model, _) = find(models, &request.model, &faults)?;
    faults.finish()?;
    let model_wire::TokenizeRequest { texts, add_special_tokens, .. } = request;
    Ok(TokenizeJob { model, texts, add_special_tokens })
}

/// Looks a model up. Faults found so far come before an unknown name.
fn find<'a>(models: &'a Models, name: &str, faults: &Faults) -> Result<(ModelIndex, &'a Model), Refusal> {
    models.find(name).ok_or_else(|| match faults.clone().finish() {
        Err(refusal) => refusal,
        Ok(()) => Refusal::NotFound { resource_type: "model", name: name.to_owned() },
    })
}

/// Faults so far.
#[derive(Clone, Default)]
struct Faults(Vec<FieldFault>);

impl Faults {
    fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        if self.0.len() < FAULTS_MAX {
            self.0.push(FieldFault { field: field.into(), description: description.into() });
        }
    }

    fn extend(&mut self, others: Self) {
        let room = FAULTS_MAX.saturating_sub(self.0.len());
        self.0.extend(others.0.into_iter().take(room));
    }

    fn unknown_value<T>(&mut self, field: &str, value: i32, otherwise: T) -> T {
        self.add(field, format!("{value} is not a value of this enum"));
        otherwise
    }

    fn finish(self) -> Result<(), Refusal> {
        if self.0.is_empty() { Ok(()) } else { Err(Refusal::InvalidArgument(self.0)) }
    }

    fn model_name(&mut self, field: &str, name: &str) {
        if name.len() > MODEL_NAME_BYTES_MAX {
            self.add(field, format!("must be at most {MODEL_NAME_BYTES_MAX} bytes"));
        }
    }

    fn top(&mut self, request: &wire::RerankRequest) {
        if request.min_score.is_some_and(f32::is_nan) {
            self.add("min_score", "must not be NaN");
        }
    }

    /// `dim` is `None` for a model that is not known: vectors are then not looked at.
    fn query(&mut self, query: Option<wire::Query>, dim: Option<usize>, limits: &Limits) -> Query {
        let nothing = Query::Text(String::new());
        match query.and_then(|query| query.content) {
            Some(wire::query::Content::Text(text)) => {
                if text.trim().is_empty() {
                    self.add("query.text", "must not be empty");
                }
                if text.len() as u64 > limits.query_bytes_max {
                    self.add("query.text", format!("must be at most {} bytes", limits.query_bytes_max));
                }
                Query::Text(text)
            }
            Some(wire::query::Content::Embedding(embedding)) => {
                let Some(dim) = dim else { return nothing };
                let expected = Expected { dim, rows_max: limits.query_vectors_max };
                self.vectors("query.embedding", &embedding, expected)
                    .map_or(nothing, |vectors| Query::Vectors(Arc::new(QueryVectors::known(vectors.into_matrix()))))
            }
            None => {
                self.add("query", "is required");
                nothing
            }
        }
    }

    /// Those that are valid; all of them, if no fault was found.
    fn documents(&mut self, documents: Vec<wire::Document>, dim: Option<usize>, limits: &Limits) -> Vec<Document> {
        let mut jobs = Vec::with_capacity(documents.len());
        for (index, document) in documents.into_iter().enumerate() {
            if document.id.len() > DOCUMENT_ID_BYTES_MAX {
                self.add(format!("documents[{index}].id"), format!("must be at most {DOCUMENT_ID_BYTES_MAX} bytes"));
            }
            let Some(content) = document.content else {
                self.add(format!("documents[{index}]"), "must have a text, an embedding or a stored document");
                continue;
            };
            if let Some(content) = self.content(index, &document.id, content, dim, limits) {
                jobs.push(Document { id: document.id, content });
            }
        }
        jobs
    }

    fn content(
        &mut self,
        index: usize,
        id: &str,
        content: wire::document::Content,
        dim: Option<usize>,
        limits: &Limits,
    ) -> Option<Content> {
        match content {
            wire::document::Content::Text(text) => {
                self.text_bytes(|| format!("documents[{index}].text"), &text, limits);
                Some(Content::Text(text))
            }
            wire::document::Content::Embedding(embedding) => {
                let expected = Expected { dim: dim?, rows_max: limits.document_vectors_max };
                let vectors = self.vectors(&format!("documents[{index}].embedding"), &embedding, expected)?;
                Some(Content::Vectors(Arc::new(vectors)))
            }
            wire::document::Content::Stored(stored) => {
                if id.is_empty() {
                    self.add(format!("documents[{index}].id"), "must name the stored document");
                }
                let namespace = self.namespace(|| format!("documents[{index}].stored.namespace"), &stored.namespace);
                if let Some(text) = &stored.text {
                    self.text_bytes(|| format!("documents[{index}].stored.text"), text, limits);
                }
                let path = || format!("documents[{index}].stored.content_hash");
                let said = self.content_hash(path, &stored.content_hash);
                // What is stored must be what this text was encoded to.
                let content_hash = said.or_else(|| stored.text.as_deref().map(ContentHash::of_text));
                Some(Content::Stored(StoredReference { namespace: namespace?, content_hash, text: stored.text }))
            }
        }
    }

    /// `None` for none.
    fn content_hash(&mut self, field: impl FnOnce() -> String, bytes: &[u8]) -> Option<ContentHash> {
        if bytes.is_empty() {
            return None;
        }
        let hash = <[u8; 32]>::try_from(bytes).ok().map(ContentHash);
        if hash.is_none() {
            self.add(field(), format!("must be the 32 bytes of a SHA-256, got {}", bytes.len()));
        }
        hash
    }

    fn namespace(&mut self, field: impl FnOnce() -> String, name: &str) -> Option<Namespace> {
        Namespace::new(name).map_err(|error| self.add(field(), error.to_string())).ok()
    }

    fn texts(&mut self, texts: &[String], limits: &Limits) {
        self.count("texts", texts.len(), limits.documents_per_request_max);
        for (index, text) in texts.iter().enumerate() {
            self.text_bytes(|| format!("texts[{index}]"), text, limits);
        }
    }

    fn count(&mut self, field: &str, count: usize, max: usize) {
        if count == 0 {
            self.add(field, "must not be empty");
        } else if count > max {
            self.add(field, format!("must be at most {max}, got {count}"));
        }
    }

    fn text_bytes(&mut self, field: impl FnOnce() -> String, text: &str, limits: &Limits) {
        if text.len() as u64 > limits.document_bytes_max {
            self.add(field(), format!("must be at most {} bytes", limits.document_bytes_max));
        }
    }

    fn method(&mut self, field: &str, value: i32) -> Option<Method> {
        match wire::Method::try_from(value) {
            Ok(wire::Method::Unspecified) => None,
            Ok(wire::Method::LateInteraction) => Some(Method::LateInteraction),
            Ok(wire::Method::Dense) => Some(Method::Dense),
            Ok(wire::Method::CrossEncoder) => Some(Method::CrossEncoder),
            Err(_) => self.unknown_value(field, value, None),
        }
    }

    fn score_kind(&mut self, value: i32) -> ScoreKind {
        match wire::ScoreKind::try_from(value) {
            Ok(wire::ScoreKind::Unspecified | wire::ScoreKind::Raw) => ScoreKind::Raw,
            Ok(wire::ScoreKind::Sigmoid) => ScoreKind::Sigmoid,
            Err(_) => self.unknown_value("score_kind", value, ScoreKind::Raw),
        }
    }

    fn long_document(&mut self, value: i32) -> LongDocument {
        match wire::LongDocument::try_from(value) {
            Ok(wire::LongDocument::Unspecified | wire::LongDocument::Cut) => LongDocument::Cut,
            Ok(wire::LongDocument::ChunkMax) => LongDocument::ChunkMax,
            Ok(wire::LongDocument::ChunkMean) => LongDocument::ChunkMean,
            Err(_) => self.unknown_value("truncation.long_document", value, LongDocument::Cut),
        }
    }
}
