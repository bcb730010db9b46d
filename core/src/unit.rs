//! What is scheduled: units of work, known by id and cost alone.

use crate::Time;

/// A request inside the engine. Never reused while the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// One unit of a request. Units of a request leave the scheduler in order of `index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitId {
    /// The request it belongs to.
    pub request: RequestId,
    /// Its place in the request, from 0.
    pub index: u32,
}

/// A loaded model, by its place in the server's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelIndex(pub u16);

/// What a device computes for a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// A normalised vector per token.
    EncodeTokens,
    /// A normalised pooled vector per sequence.
    EncodeDense,
    /// Token vectors of query and documents, and each document's MaxSim against its query.
    LateInteraction,
    /// The classification head's logit of a pair.
    CrossEncode,
    /// Each document's MaxSim against its query, from token vectors that are there already.
    MaxSim,
    /// The same, and which document token each query token matched.
    Align,
}

impl Operation {
    /// Name used as a metric label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::EncodeTokens => "encode_tokens",
            Self::EncodeDense => "encode_dense",
            Self::LateInteraction => "late_interaction",
            Self::CrossEncode => "cross_encode",
            Self::MaxSim => "maxsim",
            Self::Align => "align",
        }
    }
}

/// Work that can share a batch: one model, one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    /// Whose weights.
    pub model: ModelIndex,
    /// Which computation.
    pub operation: Operation,
}

/// One sequence waiting for a batch, as the scheduler sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Which one.
    pub id: UnitId,
    /// Whom it can share a batch with.
    pub lane: Lane,
    /// Its cost: tokens of the sequence, special ones included, or what takes as long as so many; at least 1.
    pub tokens: u32,
    /// From then on nobody wants the result.
    pub deadline: Time,
}
