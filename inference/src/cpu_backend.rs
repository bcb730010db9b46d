//! Our own encoder behind the engine's seam.

use std::sync::Arc;

use sluice_core::{
    Operation,
    backend::{Backend, BackendError, BackendLimits, BatchOutput, Ticket},
    batch::PackedBatch,
};
use sluice_kernels::{
    normalize::normalize,
    pool::{Pool, Pooling, pool},
};

use crate::{
    cpu_encoder::{CpuEncoder, Wanted},
    late_interaction::{late_interaction, token_matrix},
    submitted::{Submitted, failed, no_vectors_here},
};

/// Keeps a batch in `submit` and computes it in `collect`: main memory overlaps nothing.
pub(crate) struct CpuBackend {
    encoder: CpuEncoder,
    pooling: Pooling,
    submitted: Submitted<Arc<PackedBatch>>,
}

impl CpuBackend {
    pub(crate) fn new(encoder: CpuEncoder, pooling: Pooling, limits: BackendLimits) -> Self {
        Self { encoder, pooling, submitted: Submitted::new(limits) }
    }

    fn compute(&mut self, batch: &PackedBatch) -> Result<BatchOutput, BackendError> {
        let (isa, dim) = (self.encoder.isa(), self.encoder.hidden_size());
        match batch.lane().operation {
            Operation::EncodeTokens => {
                let hidden = self.encoder.encode(batch, Wanted::Tokens).map_err(failed)?;
                normalize(isa, hidden, dim).map_err(failed)?;
                let matrices = batch.ranges().map(|range| token_matrix(hidden, dim, range)).collect();
                Ok(BatchOutput::TokenMatrices(matrices))
            }
            Operation::EncodeDense => self.dense(batch).map(BatchOutput::DenseVectors),
            Operation::LateInteraction => {
                let hidden = self.encoder.encode(batch, Wanted::Tokens).map_err(failed)?;
                normalize(isa, hidden, dim).map_err(failed)?;
                late_interaction(isa, batch, hidden, dim).map(BatchOutput::Scores)
            }
            Operation::CrossEncode => self.encoder.logits(batch).map(BatchOutput::Scores).map_err(failed),
            operation @ (Operation::MaxSim | Operation::Align) => Err(no_vectors_here(operation)),
        }
    }

    fn dense(&mut self, batch: &PackedBatch) -> Result<Vec<Vec<f32>>, BackendError> {
        let (isa, dim) = (self.encoder.isa(), self.encoder.hidden_size());
        let mut vectors = vec![0.0; batch.len() * dim];
        match self.pooling {
            Pooling::First => {
                vectors.copy_from_slice(self.encoder.encode(batch, Wanted::First).map_err(failed)?);
            }
            Pooling::Mean => {
                let hidden = self.encoder.encode(batch, Wanted::Tokens).map_err(failed)?;
                let args = Pool { x: hidden, cu_seqlens: batch.cu_seqlens(), dim, pooling: self.pooling };
                pool(args, &mut vectors).map_err(failed)?;
            }
        }
        normalize(isa, &mut vectors, dim).map_err(failed)?;
        Ok(vectors.chunks_exact(dim).map(<[f32]>::to_vec).collect())
    }
}

impl Backend for CpuBackend {
    fn limits(&self) -> BackendLimits {
        self.submitted.limits()
    }

    fn submit(&mut self, batch: Arc<PackedBatch>) -> Result<Ticket, BackendError> {
        self.submitted.submit(batch)
    }

    fn collect(&mut self, ticket: Ticket) -> Result<BatchOutput, BackendError> {
        let batch = self.submitted.pop(&ticket)?;
        self.compute(&batch)
    }
}
