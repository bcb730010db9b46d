//! A BERT on the CPU behind the engine's seam.

use std::sync::Arc;

use sluice_core::{
    Operation,
    backend::{Backend, BackendError, BackendLimits, BatchOutput, Ticket},
    batch::PackedBatch,
};
use sluice_kernels::{
    Isa,
    normalize::normalize,
    pool::{Pool, Pooling, pool},
};

use crate::{
    bert::Bert,
    late_interaction::{late_interaction, token_matrix},
    submitted::{Submitted, failed, no_vectors_here},
};

/// Keeps a batch in `submit` and computes it in `collect`: main memory overlaps nothing.
pub(crate) struct CandleBackend {
    bert: Bert,
    pooling: Pooling,
    submitted: Submitted<Arc<PackedBatch>>,
}

impl CandleBackend {
    pub(crate) fn new(bert: Bert, pooling: Pooling, limits: BackendLimits) -> Self {
        Self { bert, pooling, submitted: Submitted::new(limits) }
    }

    fn compute(&self, batch: &PackedBatch) -> Result<BatchOutput, BackendError> {
        let mut hidden = self.bert.encode(batch).map_err(failed)?;
        let dim = self.bert.hidden_size();
        match batch.lane().operation {
            Operation::EncodeTokens => {
                normalize(Isa::best(), &mut hidden, dim).map_err(failed)?;
                let matrices = batch.ranges().map(|range| token_matrix(&hidden, dim, range)).collect();
                Ok(BatchOutput::TokenMatrices(matrices))
            }
            Operation::EncodeDense => {
                let mut vectors = vec![0.0; batch.len() * dim];
                let args = Pool { x: &hidden, cu_seqlens: batch.cu_seqlens(), dim, pooling: self.pooling };
                pool(args, &mut vectors).map_err(failed)?;
                normalize(Isa::best(), &mut vectors, dim).map_err(failed)?;
                Ok(BatchOutput::DenseVectors(vectors.chunks_exact(dim).map(<[f32]>::to_vec).collect()))
            }
            Operation::LateInteraction => {
                normalize(Isa::best(), &mut hidden, dim).map_err(failed)?;
                late_interaction(Isa::best(), batch, &hidden, dim).map(BatchOutput::Scores)
            }
            Operation::CrossEncode => self.bert.logits(batch, &hidden).map(BatchOutput::Scores).map_err(failed),
            operation @ (Operation::MaxSim | Operation::Align) => Err(no_vectors_here(operation)),
        }
    }
}

impl Backend for CandleBackend {
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
