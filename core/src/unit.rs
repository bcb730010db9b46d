//! What is scheduled: units of work, known by id and cost alone.

use serde::{Deserialize, Serialize};

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

/// A device that computes batches, by its place among those of the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceIndex(pub u16);

/// How urgent a caller says its request is. Which share of a device a class gets is the scheduler's policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Somebody looks at a screen.
    Interactive,
    /// What says nothing.
    #[default]
    Standard,
    /// Nobody waits for it now.
    Bulk,
}

impl Priority {
    /// Every class, the most urgent first.
    pub const ALL: [Self; 3] = [Self::Interactive, Self::Standard, Self::Bulk];

    /// Name used in configuration and as a metric label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Standard => "standard",
            Self::Bulk => "bulk",
        }
    }

    /// Its place in [`ALL`](Self::ALL) and in every array that has an entry per class.
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }
}

/// On whose account a request runs, by its place in the server's table of tenants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TenantId(pub u16);

/// What a request that is only partly computed by its deadline is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Worth {
    /// Nothing: one that cannot be complete in time is not begun.
    #[default]
    Whole,
    /// As much as was computed: its units run for as long as a unit can be in time.
    Parts,
}

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

/// One sequence waiting for a batch, as the scheduler sees it. All units of a request have one class,
/// tenant, deadline and worth; those of the first are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Which one.
    pub id: UnitId,
    /// Whom it can share a batch with.
    pub lane: Lane,
    /// How urgent it is.
    pub class: Priority,
    /// On whose account.
    pub tenant: TenantId,
    /// Of what use it is without the rest of its request.
    pub worth: Worth,
    /// Its cost: tokens of the sequence, special ones included, or what takes as long as so many; at least 1.
    pub tokens: u32,
    /// From then on nobody wants the result.
    pub deadline: Time,
    /// Whether the units of its request behind it need its result, which is where it was computed until its batch is
    /// complete: until then they run on the same device, after it or in its batch.
    pub leads: bool,
}
