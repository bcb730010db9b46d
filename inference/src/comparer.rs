//! Comparing token vectors that are there already, on the CPU.
//!
//! One read of the documents' vectors is what it costs; everything else is a few microseconds per batch. Documents are
//! read where they lie, shared out among the threads in runs.

use std::sync::Arc;

use rayon::prelude::*;
use sluice_core::{
    Operation,
    backend::{Backend, BackendError, BackendLimits, BatchOutput, Ticket},
    batch::{Alignment, Comparison, Components, PackedBatch, QueryVectors, Role, TokenMatch, TokenVectors},
};
use sluice_kernels::{
    Isa,
    maxsim::{self, PackedQuery},
    tokens::Tokens,
};

use crate::{
    LoadError,
    cpu_encoder::ComputePool,
    submitted::{Submitted, failed},
};

/// Documents that a thread takes at once: some tens of microseconds of work.
const DOCUMENTS_PER_TASK: usize = 8;

/// Computes [`Operation::MaxSim`] and [`Operation::Align`] for every model of a server.
pub struct CpuComparer {
    isa: Isa,
    pool: Arc<ComputePool>,
    submitted: Submitted<Arc<PackedBatch>>,
}

impl CpuComparer {
    /// With the fastest instructions there are, for batches of at most `batch_sequences_max` documents, on as many
    /// threads as [`CpuOptions::threads`](crate::CpuOptions::threads) says: the models' own, where that is as many.
    ///
    /// # Errors
    /// [`LoadError::Threads`] if they cannot be started.
    pub fn new(batch_sequences_max: u32, threads: usize) -> Result<Self, LoadError> {
        let pool = ComputePool::shared(threads).map_err(|source| LoadError::Threads { source })?;
        // What a batch may cost is bounded by whoever shares the device: memory it needs none.
        let limits = BackendLimits { batch_tokens_max: u32::MAX, batch_sequences_max, in_flight_batches_max: 2 };
        Ok(Self { isa: Isa::best(), pool, submitted: Submitted::new(limits) })
    }

    fn compute(&self, batch: &PackedBatch) -> Result<BatchOutput, BackendError> {
        let comparisons = comparisons(batch)?;
        match batch.lane().operation {
            Operation::MaxSim => self.each_task(&comparisons, scores).map(BatchOutput::Scores),
            Operation::Align => self.each_task(&comparisons, alignments).map(BatchOutput::Alignments),
            operation => Err(failed(format!("{} is for a model's backend", operation.name()))),
        }
    }

    /// Alignments, or as many without matches.
    pub(crate) fn align_or_score(
        &self,
        comparisons: &[&Comparison],
        align: bool,
    ) -> Result<Vec<Alignment>, BackendError> {
        if align {
            return self.each_task(comparisons, alignments);
        }
        let scores = self.each_task(comparisons, scores)?;
        Ok(scores.into_iter().map(|score| Alignment { score, matches: Vec::new() }).collect())
    }

    /// `compare` for every few documents of a query, on all threads; the results in order. Documents of one request
    /// stand together and share the packed query.
    fn each_task<T: Send>(
        &self,
        comparisons: &[&Comparison],
        compare: impl Fn(&PackedQuery, &[&Comparison]) -> Result<Vec<T>, BackendError> + Sync,
    ) -> Result<Vec<T>, BackendError> {
        let mut results = Vec::with_capacity(comparisons.len());
        for run in comparisons.chunk_by(|a, b| Arc::ptr_eq(&a.query, &b.query)) {
            let query = self.pack(&run[0].query)?;
            if let Some(misfit) = run.iter().find(|comparison| comparison.document.dim() != query.dim()) {
                let (dim, found) = (query.dim(), misfit.document.dim());
                return Err(failed(format!("a query of {dim} components meets a document of {found}")));
            }
            let compared: Result<Vec<Vec<T>>, _> = self
                .pool
                .install(|| run.par_chunks(DOCUMENTS_PER_TASK).map(|documents| compare(&query, documents)).collect());
            results.extend(compared?.into_iter().flatten());
        }
        Ok(results)
    }

    fn pack(&self, query: &QueryVectors) -> Result<PackedQuery, BackendError> {
        let query = query.get().ok_or_else(|| failed("a query's vectors are not there"))?;
        PackedQuery::new(self.isa, &query.data, query.dim).map_err(failed)
    }
}

impl Backend for CpuComparer {
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

/// What a batch compares; every unit of it brings vectors.
pub(crate) fn comparisons(batch: &PackedBatch) -> Result<Vec<&Comparison>, BackendError> {
    let mut comparisons = Vec::with_capacity(batch.len());
    for (unit, role) in batch.units().iter().zip(batch.roles()) {
        match role {
            Role::Compared(comparison) => comparisons.push(comparison),
            Role::Plain | Role::Query(_) | Role::Document(_) => {
                return Err(failed(format!("{unit:?} brings no vectors")));
            }
        }
    }
    Ok(comparisons)
}

fn scores(query: &PackedQuery, documents: &[&Comparison]) -> Result<Vec<f32>, BackendError> {
    let mut scores = vec![0.0; documents.len()];
    query.score_all(documents.iter().map(|comparison| tokens(&*comparison.document)), &mut scores).map_err(failed)?;
    Ok(scores)
}

fn alignments(query: &PackedQuery, documents: &[&Comparison]) -> Result<Vec<Alignment>, BackendError> {
    let align = |comparison: &&Comparison| {
        let mut found = vec![maxsim::Alignment { token: None, similarity: 0.0 }; query.q_len()];
        let score = query.align(tokens(&*comparison.document), &mut found).map_err(failed)?;
        let matches = found
            .into_iter()
            .map(|maxsim::Alignment { token, similarity }| TokenMatch { document_token: token, similarity });
        Ok(Alignment { score, matches: matches.collect() })
    };
    documents.iter().map(align).collect()
}

/// A document's vectors as kernels take them.
pub(crate) fn tokens(document: &dyn TokenVectors) -> Tokens<'_> {
    match document.components() {
        Components::F32(data) => Tokens::F32(data),
        Components::F16(data) => Tokens::F16(data),
        Components::Int8 { codes, scales } => Tokens::Int8 { codes, scales },
        Components::Binary(bits) => Tokens::Binary(bits),
    }
}
