//! Requests as the engine sees them: valid by construction, free of wire types.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use sluice_core::{
    ModelIndex, Operation, Priority,
    batch::{QueryVectors, TokenVectors},
};
use sluice_tokenstore::{ContentHash, Namespace};

use crate::vectors::OwnedVectors;

/// How documents are scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// MaxSim over token vectors.
    LateInteraction,
    /// Cosine of pooled vectors.
    Dense,
    /// Classification head over the pair.
    CrossEncoder,
}

impl Method {
    /// What a device computes for it.
    #[must_use]
    pub fn operation(self) -> Operation {
        match self {
            Self::LateInteraction => Operation::LateInteraction,
            Self::Dense => Operation::EncodeDense,
            Self::CrossEncoder => Operation::CrossEncode,
        }
    }

    /// Whether the query is a sequence of its own rather than the first half of every pair.
    #[must_use]
    pub fn encodes_query_alone(self) -> bool {
        self != Self::CrossEncoder
    }
}

/// Scale of the returned scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScoreKind {
    /// As computed.
    Raw,
    /// The logistic function of a logit.
    Sigmoid,
}

/// What happens to a document longer than what fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LongDocument {
    /// Its beginning is read.
    Cut,
    /// Every chunk is read; the largest score counts.
    ChunkMax,
    /// Every chunk is read; the mean counts.
    ChunkMean,
}

/// What documents are scored against.
#[derive(Clone, Debug)]
pub enum Query {
    /// Not empty.
    Text(String),
    /// At least one row, of the model's dimension.
    Vectors(Arc<QueryVectors>),
}

impl Query {
    fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Vectors(vectors) => vectors.get().map_or(0, |vectors| size_of_val(vectors.data.as_slice())),
        }
    }
}

/// One candidate.
#[derive(Clone, Debug)]
pub struct Document {
    /// The caller's name for it.
    pub id: String,
    /// What there is of it.
    pub content: Content,
}

/// What there is of a candidate.
#[derive(Clone, Debug)]
pub enum Content {
    /// Its text, possibly empty.
    Text(String),
    /// At least one row, of the model's dimension.
    Vectors(Arc<dyn TokenVectors>),
    /// The token store, under the document's id.
    Stored(StoredReference),
}

impl Content {
    /// Its text, where the request has it.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Vectors(_) => None,
            Self::Stored(reference) => reference.text.as_deref(),
        }
    }

    /// Whether only late interaction can score it.
    #[must_use]
    pub fn needs_late_interaction(&self) -> bool {
        !matches!(self, Self::Text(_))
    }

    fn bytes(&self) -> usize {
        let vectors = match self {
            // Those of the store lie in its files.
            Self::Text(_) | Self::Stored(_) => 0,
            Self::Vectors(vectors) => size_of_components(&**vectors),
        };
        vectors + self.text().map_or(0, str::len)
    }
}

/// A document of the token store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredReference {
    /// Where.
    pub namespace: Namespace,
    /// What its text hashes to; `None` takes whatever is stored.
    pub content_hash: Option<ContentHash>,
    /// What to encode if nothing is stored, or something else.
    pub text: Option<String>,
}

fn size_of_components(vectors: &dyn TokenVectors) -> usize {
    use sluice_core::batch::Components;

    match vectors.components() {
        Components::F32(x) => size_of_val(x),
        Components::F16(x) => size_of_val(x),
        Components::Int8 { codes, scales } => size_of_val(codes) + size_of_val(scales),
        Components::Binary(bits) => bits.len(),
    }
}

/// Whether scores that are known already are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CachePolicy {
    /// Taken and kept.
    #[default]
    Use,
    /// Neither.
    Bypass,
}

/// How much may be spent; what is not reached within it keeps its place in the order that was known before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// From the arrival of the request, or the beginning of the stage; more than zero.
    pub time: Option<Duration>,
    /// Documents that are scored, the first ones; at least 1. Of a request: counted over all its stages.
    pub pairs: Option<usize>,
}

/// One pass over the documents, or over those that the passes before it put first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageJob {
    /// Which model.
    pub model: ModelIndex,
    /// How to score; the model can.
    pub method: Method,
    /// Documents that go on to the next stage; `None` means all. Of the last stage: `None`.
    pub top_k: Option<usize>,
    /// How much it may spend.
    pub budget: Budget,
}

/// A valid rerank request.
#[derive(Clone, Debug)]
pub struct RerankJob {
    /// What is done, one after another; at least one.
    pub stages: Vec<StageJob>,
    /// Vectors where every stage is late interaction, of each stage's dimension.
    pub query: Query,
    /// At least one. Each has a text where a stage is not late interaction.
    pub documents: Vec<Document>,
    /// Results to return; `None` means all.
    pub top_n: Option<usize>,
    /// Results below are left out.
    pub min_score: Option<f32>,
    /// Send texts back.
    pub return_text: bool,
    /// Tokens of a document read at once, special tokens not counted; `None` means what fits.
    pub document_tokens_max: Option<usize>,
    /// What happens to the rest.
    pub long_document: LongDocument,
    /// Scale of the scores of cross-encoder stages.
    pub score_kind: ScoreKind,
    /// Who goes first.
    pub priority: Priority,
    /// How much may be spent on all stages together.
    pub budget: Budget,
    /// Shortly before the deadline the best order known is the answer.
    pub until_deadline: bool,
    /// Whether scores that are known already are used.
    pub cache: CachePolicy,
}

impl RerankJob {
    /// Texts of documents that are known to be encoded; those of stored ones are not needed as a rule.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.documents.iter().filter_map(|document| match &document.content {
            Content::Text(text) => Some(text.as_str()),
            Content::Vectors(_) | Content::Stored(_) => None,
        })
    }

    /// Bytes of all its texts and vectors.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let documents: usize = self.documents.iter().map(|document| document.content.bytes()).sum();
        (self.query.bytes() + documents) as u64
    }
}

/// A valid explain request.
#[derive(Clone, Debug)]
pub struct ExplainJob {
    /// Which model; it has late interaction.
    pub model: ModelIndex,
    /// What documents are scored against.
    pub query: Query,
    /// At least one.
    pub documents: Vec<Document>,
}

impl ExplainJob {
    /// Bytes of all its texts and vectors.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let documents: usize = self.documents.iter().map(|document| document.content.bytes()).sum();
        (self.query.bytes() + documents) as u64
    }
}

/// A valid put request.
#[derive(Debug)]
pub struct PutJob {
    /// Whose vectors these are.
    pub model: ModelIndex,
    /// Where to.
    pub namespace: Namespace,
    /// At least one.
    pub documents: Vec<NewDocument>,
    /// How to keep them; `None` leaves it to the store.
    pub storage: Option<StoredAs>,
}

impl PutJob {
    /// Bytes of all its texts and vectors.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let bytes = |document: &NewDocument| match &document.content {
            NewContent::Text(text) => text.len(),
            NewContent::Vectors(vectors) => size_of_components(vectors),
        };
        self.documents.iter().map(bytes).sum::<usize>() as u64
    }
}

/// A document to store.
#[derive(Debug)]
pub struct NewDocument {
    /// 1 to 512 bytes.
    pub id: String,
    /// What there is of it.
    pub content: NewContent,
    /// SHA-256 of its text.
    pub content_hash: ContentHash,
}

/// What there is of a document to store.
#[derive(Debug)]
pub enum NewContent {
    /// Its text, to be encoded.
    Text(String),
    /// Its vectors, of the model's dimension.
    Vectors(OwnedVectors),
}

/// How the token store keeps components.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoredAs {
    /// 2 bytes a component.
    #[default]
    F16,
    /// 1 byte a component and a scale a token.
    Int8,
    /// 1 bit a component.
    Binary,
}

/// A valid delete request.
#[derive(Debug)]
pub struct DeleteJob {
    /// Where from.
    pub namespace: Namespace,
    /// At least one.
    pub ids: Vec<String>,
}

/// What `Encode` returns per text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeKind {
    /// One pooled vector.
    Dense,
    /// A vector per token.
    Tokens,
}

/// Storage of vector components in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 4 bytes.
    F32,
    /// 2 bytes.
    F16,
    /// 1 byte, and a scale per row.
    I8,
}

/// A valid encode request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodeJob {
    /// Which model.
    pub model: ModelIndex,
    /// At least one.
    pub texts: Vec<String>,
    /// What to return.
    pub kind: EncodeKind,
    /// How to store it.
    pub dtype: Dtype,
    /// Tokens of a text that are read, special tokens included; within the model's maximum.
    pub tokens_max: usize,
}

impl EncodeJob {
    /// Bytes of all its texts.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.texts.iter().map(String::len).sum::<usize>() as u64
    }
}
