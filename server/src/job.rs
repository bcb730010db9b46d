//! Requests as the engine sees them: valid by construction, free of wire types.

use sluice_core::{ModelIndex, Operation};

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

/// One candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The caller's name for it.
    pub id: String,
    /// Its text, possibly empty.
    pub text: String,
}

/// A valid rerank request.
#[derive(Clone, Debug, PartialEq)]
pub struct RerankJob {
    /// Which model.
    pub model: ModelIndex,
    /// How to score; the model can.
    pub method: Method,
    /// Not empty.
    pub query: String,
    /// At least one.
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
    /// Scale of the scores.
    pub score_kind: ScoreKind,
}

impl RerankJob {
    /// Bytes of all its texts.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let documents: usize = self.documents.iter().map(|document| document.text.len()).sum();
        (self.query.len() + documents) as u64
    }
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
