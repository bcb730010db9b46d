//! Late interaction within a batch: its queries' token vectors meet its documents'.

use std::{ops::Range, sync::Arc};

use sluice_core::{
    backend::BackendError,
    batch::{PackedBatch, QueryVectors, Role, TokenMatrix},
};
use sluice_kernels::{
    Isa,
    maxsim::{MaxSim, maxsim_on},
    tokens::Tokens,
};

use crate::submitted::failed;

/// Fills the slot of every query, and scores every document against its slot.
pub(crate) fn late_interaction(
    isa: Isa,
    batch: &PackedBatch,
    vectors: &[f32],
    dim: usize,
) -> Result<Vec<f32>, BackendError> {
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
                return Err(failed(format!("sequence {start} is neither query nor document")));
            }
            Role::Document(slot) => {
                // Documents of one request stand together and share the packed query.
                next += batch.roles()[next..].iter().take_while(|role| is_document_of(role, slot)).count();
                let documents = Documents { sequences: start..next, vectors, dim };
                documents.score(isa, batch, slot, &mut scores[start..next])?;
            }
        }
    }
    Ok(scores)
}

fn is_document_of(role: &Role, slot: &Arc<QueryVectors>) -> bool {
    matches!(role, Role::Document(other) if Arc::ptr_eq(other, slot))
}

/// Some sequences of a batch.
struct Documents<'a> {
    sequences: Range<usize>,
    /// The token vectors of the whole batch.
    vectors: &'a [f32],
    dim: usize,
}

impl Documents<'_> {
    /// MaxSim of each against one query.
    fn score(
        &self,
        isa: Isa,
        batch: &PackedBatch,
        slot: &QueryVectors,
        scores: &mut [f32],
    ) -> Result<(), BackendError> {
        let Self { sequences, vectors, dim } = self;
        let query =
            slot.get().ok_or_else(|| failed(format!("the query of document {} is not computed", sequences.start)))?;
        if query.dim != *dim {
            return Err(failed(format!("a query of {} components meets documents of {dim}", query.dim)));
        }
        let cu_seqlens = &batch.cu_seqlens()[sequences.start..=sequences.end];
        let rows = cu_seqlens[0] as usize..cu_seqlens[cu_seqlens.len() - 1] as usize;
        let cu_seqlens: Vec<u32> = cu_seqlens.iter().map(|end| end - cu_seqlens[0]).collect();
        let documents = Tokens::F32(&vectors[rows.start * dim..rows.end * dim]);
        maxsim_on(isa, MaxSim { query: &query.data, documents, cu_seqlens: &cu_seqlens, dim: *dim }, scores)
            .map_err(failed)
    }
}

/// The vectors of some rows.
pub(crate) fn token_matrix(vectors: &[f32], dim: usize, rows: Range<usize>) -> TokenMatrix {
    TokenMatrix { data: vectors[rows.start * dim..rows.end * dim].to_vec(), dim }
}
