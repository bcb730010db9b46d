//! What the engine asks of whatever computes a model.

use std::sync::Arc;

use crate::batch::{Alignment, PackedBatch, TokenMatrix};

/// How much a backend takes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendLimits {
    /// Tokens of one packed batch. Protects activation memory.
    pub batch_tokens_max: u32,
    /// Sequences of one packed batch.
    pub batch_sequences_max: u32,
    /// Batches submitted and not yet collected. 2 where copying in overlaps computing, else 1.
    pub in_flight_batches_max: u32,
}

/// What came out of a batch: one entry per sequence, in its order.
#[derive(Clone, Debug, PartialEq)]
pub enum BatchOutput {
    /// One score per sequence. The entry of a [`Role::Query`](crate::batch::Role::Query) sequence is 0 and means nothing.
    Scores(Vec<f32>),
    /// The token vectors of each sequence.
    TokenMatrices(Vec<TokenMatrix>),
    /// One pooled vector per sequence.
    DenseVectors(Vec<Vec<f32>>),
    /// The score of each sequence, taken apart.
    Alignments(Vec<Alignment>),
}

impl BatchOutput {
    /// Number of sequences answered.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Scores(scores) => scores.len(),
            Self::TokenMatrices(matrices) => matrices.len(),
            Self::DenseVectors(vectors) => vectors.len(),
            Self::Alignments(alignments) => alignments.len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Documents' vectors that a device keeps in its memory. The first three only grow while the device is not lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceCache {
    /// Comparisons whose document was there.
    pub hits: u64,
    /// Those whose document was not.
    pub misses: u64,
    /// Documents that made room for others.
    pub evictions: u64,
    /// Documents that are there.
    pub documents: u64,
    /// Bytes that they take.
    pub bytes: u64,
}

/// A batch that was submitted; collected once, in order of submission.
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket(pub u64);

/// Computes batches of one model on one device. Owned by one thread.
///
/// Two calls, so that copying batch n+1 in can overlap computing batch n. A device that overlaps
/// nothing keeps the batch in `submit` and computes in `collect`.
pub trait Backend: Send {
    /// How much it takes at once.
    fn limits(&self) -> BackendLimits;

    /// Takes a batch within the limits.
    ///
    /// # Errors
    /// As for [`collect`](Self::collect), where they are known already.
    fn submit(&mut self, batch: Arc<PackedBatch>) -> Result<Ticket, BackendError>;

    /// Waits for a submitted batch and returns what came out.
    ///
    /// # Errors
    /// A failed batch leaves the backend able to take others, unless the device is lost.
    fn collect(&mut self, ticket: Ticket) -> Result<BatchOutput, BackendError>;

    /// Whether [`collect`](Self::collect) of this batch, the first that was submitted and not collected, would return
    /// without waiting for the device. Asked again and again, so cheap; a batch that failed is ready too.
    fn is_ready(&mut self, _: &Ticket) -> bool {
        true
    }

    /// Tokens that go through the model for `batch`, padding included. A packed backend computes none.
    fn computed_tokens(&self, batch: &PackedBatch) -> usize {
        batch.total_tokens()
    }

    /// What the device has kept of documents' vectors so far; `None` if it keeps none.
    fn device_cache(&self) -> Option<DeviceCache> {
        None
    }

    /// Lets go of a lost device, with what was submitted there. A device gives whoever asks another context only when
    /// nobody has the lost one any more, so all its backends do this before any of them is rebuilt.
    fn release(&mut self) {}

    /// Rebuilds what a lost device took along, after all its backends were [released](Self::release).
    ///
    /// # Errors
    /// [`BackendError::DeviceLost`] if it stays lost.
    fn rebuild(&mut self) -> Result<(), BackendError> {
        Ok(())
    }
}

/// Why a batch has no output. Facts that the executor acts on; none of it is shown to callers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// A bug of ours: the batch is larger than [`Backend::limits`] says.
    #[error("batch of {tokens} tokens in {sequences} sequences is over the limit")]
    LimitExceeded {
        /// Tokens of the batch.
        tokens: usize,
        /// Sequences of the batch.
        sequences: usize,
    },
    /// The device had no room; a smaller batch may fit.
    #[error("out of device memory")]
    OutOfMemory,
    /// The device is gone; [`Backend::rebuild`] may bring it back.
    #[error("device lost: {0}")]
    DeviceLost(String),
    /// The computation failed; a part of the batch may succeed.
    #[error("batch failed: {0}")]
    Failed(String),
}
