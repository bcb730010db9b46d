//! The BERT encoder over packed sequences on a CUDA device, in f16 with sums in f32.
//!
//! Not yet run on a GPU: tests run its kernels, in its order, on a CPU.
//!
//! What is computed is what [`crate::cpu_encoder`] computes: one matrix `[total_tokens, hidden]` without padding, and of
//! the last layer only each sequence's first row where no other is wanted. A batch is
//!
//! | step | what |
//! |---|---|
//! | staged | ids, types, positions and boundaries, checked, into pinned memory of one of two slots |
//! | copied in | beside the batch before it, which is still computed |
//! | computed | [operations](pass) queued one behind another, none of which the host waits for |
//! | copied out | scores or vectors, into pinned memory of the slot |
//!
//! Late interaction leaves its token vectors on the device, and MaxSim reads them there ([`late`]).
//!
//! A batch is computed as one of its [`bucket`]. A small one's is recorded: asking for it once is quicker than asking for
//! its fifty operations.
//!
//! All device memory is planned when the model is loaded ([`regions`]); a batch allocates none. Nothing that is
//! computed for a row depends on other rows than its own sequence's.
//!
//! Cost of a token: `2·layers·(4·hidden² + 2·hidden·intermediate)` FLOPs in products: 21 MFLOP for MiniLM-L6, 27 ns of an
//! H100's peak. Its activations go through memory about 24 times a layer, `2·hidden` bytes each.

mod bucket;
mod late;
mod machine;
mod pass;
mod regions;
#[cfg(test)]
mod tests;
mod try_out;
mod weights;

use half::f16;
use sluice_core::{
    backend::BackendError,
    batch::{PackedBatch, TokenMatrix},
};
use sluice_kernels::{
    cuda::{
        encoder::{self, BatchError, Capacity, EncoderError, HostBatch, OpError, Vocabulary},
        late_interaction::CompareError,
    },
    pool::Pooling,
};

use crate::{cuda_comparer::failure, folder::BertConfig, submitted::failed};
pub(crate) use late::{EarlierQuery, LateBatch};
pub(crate) use machine::Machine;
pub(crate) use pass::{Asked, Multiplier};
pub(crate) use regions::{PlanError, Regions, SLOTS};
pub(crate) use weights::{Weights, load_failure};

use bucket::Bucket;
use pass::Pass;

/// Why a batch was not computed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CudaEncodeError {
    /// A token that the model lacks, or a batch that is none.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Asked of a model without a head.
    #[error("the model has no classification head")]
    NoHead,
    /// Roles that are no late interaction, or vectors of another model.
    #[error("{0}")]
    Roles(String),
    /// Queries that were computed elsewhere and do not fit beside the batch.
    #[error("queries of {rows} rows do not fit beside a batch")]
    Queries {
        /// Their rows.
        rows: usize,
    },
    /// A bug of ours.
    #[error(transparent)]
    Operation(#[from] OpError),
    /// The device, or what it was asked to do.
    #[error(transparent)]
    Device(#[from] EncoderError),
}

impl From<CudaEncodeError> for BackendError {
    fn from(error: CudaEncodeError) -> Self {
        match error {
            CudaEncodeError::Device(EncoderError::Cuda(error)) => failure(error),
            // A smaller batch needs less.
            CudaEncodeError::Device(EncoderError::Compare(CompareError::Room { .. }))
            | CudaEncodeError::Queries { .. } => Self::OutOfMemory,
            other => failed(other),
        }
    }
}

/// An encoder and perhaps its classification head, on a device.
pub(crate) struct CudaEncoder<M> {
    machine: M,
    config: BertConfig,
    regions: Regions,
    multiplier: Multiplier,
    /// The head's, where there is one.
    head_bias: f32,
    parameters: u64,
}

impl<M: Machine> CudaEncoder<M> {
    /// Numbers stored in the weights file.
    pub(crate) fn parameters(&self) -> u64 {
        self.parameters
    }

    /// The engine's name, with who computes products.
    pub(crate) fn label(&self) -> &'static str {
        self.multiplier.label(self.machine.products_refused())
    }

    /// Of the largest batch.
    pub(crate) fn capacity(&self) -> Capacity {
        self.regions.capacity()
    }

    /// Components of a token vector.
    pub(crate) fn hidden_size(&self) -> usize {
        self.config.hidden_size as usize
    }

    /// Has a batch computed in a slot that is free, and its results copied out. `Tokens` gives each token's vector, in
    /// the batch's order.
    pub(crate) fn start(&mut self, batch: &PackedBatch, slot: usize, asked: Asked) -> Result<(), CudaEncodeError> {
        self.encode(batch, slot, asked, &[])?;
        let (sequences, hidden) = (batch.len(), self.hidden_size());
        let here = &self.regions.slots[slot];
        let results = match asked {
            Asked::Tokens => here.vectors.words(0..batch.total_tokens())?,
            Asked::Dense(Pooling::First) => here.vectors.words(0..sequences)?,
            Asked::Dense(Pooling::Mean) => here.dense.slice(0..sequences * hidden)?.cast()?,
            Asked::Logits => here.scores.slice(0..sequences)?.cast()?,
        };
        self.machine.copy_out(slot, 0, results)?;
        Ok(self.machine.finish(slot)?)
    }

    /// Whether the batch of a slot is done, or failed.
    pub(crate) fn is_done(&mut self, slot: usize) -> bool {
        self.machine.is_done(slot)
    }

    /// Waits for the batch of a slot; its results as words.
    pub(crate) fn collect(&mut self, slot: usize) -> Result<&[u32], CudaEncodeError> {
        Ok(self.machine.fetched(slot)?)
    }

    /// Stages a batch, and queries that other batches have computed, and has it computed.
    fn encode(
        &mut self,
        batch: &PackedBatch,
        slot: usize,
        asked: Asked,
        foreign: &[&TokenMatrix],
    ) -> Result<(), CudaEncodeError> {
        if asked == Asked::Logits && self.regions.model.head.is_none() {
            return Err(CudaEncodeError::NoHead);
        }
        let here = &self.regions.slots[slot];
        let vocabulary = Vocabulary {
            ids: self.config.vocab_size,
            token_types: self.config.type_vocab_size,
            positions: self.config.max_positions,
        };
        let host = HostBatch {
            input_ids: batch.input_ids(),
            token_types: batch.token_type_ids(),
            cu_seqlens: batch.cu_seqlens(),
            first_position: 0,
        };
        let exact = Capacity { tokens: batch.total_tokens(), sequences: batch.len() };
        let bucket = Bucket::of(exact, here.batch.capacity);
        let regions = here.batch.within(bucket.capacity)?;
        let (words, mut rest) = self.machine.staging(slot)?.split_at_mut(regions.whole.len());
        encoder::fill(&regions, vocabulary, host, words)?;
        let mut rows = 0;
        for matrix in foreign {
            let (own, behind) = rest.split_at_mut(matrix.data.len() / 2);
            write_halves(&matrix.data, own);
            rows += matrix.rows();
            rest = behind;
        }
        let pass = Pass {
            config: &self.config,
            regions: &self.regions,
            slot: here,
            batch: regions,
            multiplier: self.multiplier,
            wide_attention: self.machine.prefers_wide_attention(),
            head_bias: self.head_bias,
        };
        self.machine.copy_in(slot, 0, regions.whole)?;
        if rows > 0 {
            self.machine.copy_in(slot, regions.whole.len(), here.queries.words(0..rows)?)?;
        }
        let Some(key) = bucket.key(slot, asked) else { return Ok(self.machine.run(&pass.operations(asked)?)?) };
        if !self.machine.replay(key)? {
            self.machine.run_recorded(key, &pass.operations(asked)?)?;
        }
        Ok(())
    }
}

/// Halves that lie two to a word, the first in the lower half.
pub(crate) fn halves(words: &[u32]) -> impl Iterator<Item = f32> + '_ {
    words.iter().flat_map(|word| [*word as u16, (word >> 16) as u16]).map(|bits| f16::from_bits(bits).to_f32())
}

/// The words of halves.
fn write_halves(values: &[f32], words: &mut [u32]) {
    for (pair, word) in values.chunks_exact(2).zip(words) {
        let [low, high] = [pair[0], pair[1]].map(|x| u32::from(f16::from_f32(x).to_bits()));
        *word = low | high << 16;
    }
}
