//! A BERT on the CPU behind the engine's seam.

use std::{fmt::Display, sync::Arc};

use sluice_core::{
    Operation,
    backend::{Backend, BackendError, BackendLimits, BatchOutput, Ticket},
    batch::{PackedBatch, QueryVectors, Role, TokenMatrix},
};
use sluice_kernels::{
    Isa,
    maxsim::{MaxSim, maxsim},
    normalize::normalize,
    pool::{Pool, Pooling, pool},
    tokens::Tokens,
};

use crate::{
    bert::Bert,
    submitted::{Submitted, check_limits, no_vectors_here},
};

/// Keeps a batch in `submit` and computes it in `collect`: main memory overlaps nothing.
pub(crate) struct CandleBackend {
    bert: Bert,
    pooling: Pooling,
    limits: BackendLimits,
    submitted: Submitted<Arc<PackedBatch>>,
}

impl CandleBackend {
    pub(crate) fn new(bert: Bert, pooling: Pooling, limits: BackendLimits) -> Self {
        Self { bert, pooling, limits, submitted: Submitted::new() }
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
                late_interaction(batch, &hidden, dim).map(BatchOutput::Scores)
            }
            Operation::CrossEncode => self.bert.logits(batch, &hidden).map(BatchOutput::Scores).map_err(failed),
            operation @ (Operation::MaxSim | Operation::Align) => Err(no_vectors_here(operation)),
        }
    }
}

impl Backend for CandleBackend {
    fn limits(&self) -> BackendLimits {
        self.limits
    }

    fn submit(&mut self, batch: Arc<PackedBatch>) -> Result<Ticket, BackendError> {
        check_limits(&self.limits, &batch)?;
        self.submitted.push(&self.limits, batch)
    }

    fn collect(&mut self, ticket: Ticket) -> Result<BatchOutput, BackendError> {
        let batch = self.submitted.pop(&ticket)?;
        self.compute(&batch)
    }
}

/// Fills the slot of every query, and scores every document against its slot.
pub(crate) fn late_interaction(batch: &PackedBatch, vectors: &[f32], dim: usize) -> Result<Vec<f32>, BackendError> {
    for (range, role) in batch.ranges().zip(batch.roles()) {
        if let Role::Query(slot) = role {
            slot.fill(token_matrix(vectors, dim, range));
        }
    }
    let mut scores = vec![0.0; batch.len()];
    let mut next = 0;
    while let Some(role) = batch.roles().get(next) {
        let start = next;
        next += 1;
        match role {
            Role::Query(_) => {}
            Role::Plain | Role::Compared(_) => {
                return Err(BackendError::Failed(format!("sequence {start} is neither query nor document")));
            }
            Role::Document(slot) => {
                // Documents of one request stand together and share the packed query.
                next += batch.roles()[next..].iter().take_while(|role| is_document_of(role, slot)).count();
                score(batch, start..next, slot, vectors, &mut scores[start..next], dim)?;
            }
        }
    }
    Ok(scores)
}

fn is_document_of(role: &Role, slot: &Arc<QueryVectors>) -> bool {
    matches!(role, Role::Document(other) if Arc::ptr_eq(other, slot))
}

/// MaxSim of some sequences of the batch against one query.
fn score(
    batch: &PackedBatch,
    sequences: std::ops::Range<usize>,
    slot: &QueryVectors,
    vectors: &[f32],
    scores: &mut [f32],
    dim: usize,
) -> Result<(), BackendError> {
    let query =
        slot.get().ok_or_else(|| failed(format!("the query of document {} is not computed", sequences.start)))?;
    if query.dim != dim {
        return Err(failed(format!("a query of {} components meets documents of {dim}", query.dim)));
    }
    let cu_seqlens = &batch.cu_seqlens()[sequences.start..=sequences.end];
    let rows = cu_seqlens[0] as usize..cu_seqlens[cu_seqlens.len() - 1] as usize;
    let cu_seqlens: Vec<u32> = cu_seqlens.iter().map(|end| end - cu_seqlens[0]).collect();
    let documents = Tokens::F32(&vectors[rows.start * dim..rows.end * dim]);
    maxsim(MaxSim { query: &query.data, documents, cu_seqlens: &cu_seqlens, dim }, scores).map_err(failed)
}

pub(crate) fn token_matrix(vectors: &[f32], dim: usize, rows: std::ops::Range<usize>) -> TokenMatrix {
    TokenMatrix { data: vectors[rows.start * dim..rows.end * dim].to_vec(), dim }
}

pub(crate) fn failed(error: impl Display) -> BackendError {
    BackendError::Failed(error.to_string())
}
