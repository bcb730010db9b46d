//! What can fail when it is first asked for, asked for while the model is loaded.
//!
//! Then whoever may compute on the CPU instead still does. Afterwards every kernel is loaded, every product planned, and
//! the library has multiplied on this device.

use std::sync::Arc;

use sluice_core::{
    Lane, ModelIndex, Operation, RequestId, UnitId,
    batch::{PackedBatch, QueryVectors, Role, Sequence},
};
use sluice_kernels::{
    cuda::{
        CudaError,
        encoder::{EncoderError, OpError},
    },
    pool::Pooling,
};

use super::{Asked, CudaEncodeError, CudaEncoder, Machine, Multiplier, SLOTS, load_failure, pass::Pass};
use crate::load_error::LoadError;

impl<M: Machine> CudaEncoder<M> {
    /// Prepares the largest batches and computes small ones, of every kind and in each slot. Where the library does not do
    /// what it was asked to, our own kernels multiply instead.
    ///
    /// # Errors
    /// As for loading: the device's, or that it cannot compute this model.
    pub(crate) fn try_out(&mut self) -> Result<(), LoadError> {
        match self.try_all() {
            Err(CudaEncodeError::Device(EncoderError::Cuda(CudaError::Launch { what, code })))
                if self.multiplier == Multiplier::CublasLt =>
            {
                tracing::info!(what, code, "cuBLASLt does not multiply on this device, our own kernels do");
                self.machine.use_own_products().map_err(load_failure)?;
                self.multiplier = Multiplier::Own;
                self.try_all().map_err(refused)
            }
            tried => tried.map_err(refused),
        }?;
        let left = self.machine.products_refused();
        if left > 0 {
            tracing::info!(
                products = left,
                "cuBLASLt has no algorithm for some products, our own kernels compute those"
            );
        }
        Ok(())
    }

    fn try_all(&mut self) -> Result<(), CudaEncodeError> {
        let mut kinds = vec![Asked::Tokens, Asked::Dense(Pooling::Mean), Asked::Dense(Pooling::First)];
        if self.regions.model.head.is_some() {
            kinds.push(Asked::Logits);
        }
        for slot in 0..SLOTS {
            for &asked in &kinds {
                self.prepare_largest(slot, asked)?;
                let plain = [Role::Plain, Role::Plain].map(short);
                self.start(&packed(Operation::EncodeTokens, &plain), slot, asked)?;
                self.collect(slot)?;
            }
            let query: Arc<QueryVectors> = Arc::default();
            let late = [Role::Query(Arc::clone(&query)), Role::Document(query)].map(short);
            let late = self.start_late(&packed(Operation::LateInteraction, &late), slot, &[])?;
            self.collect_late(slot, &late)?;
        }
        Ok(())
    }

    fn prepare_largest(&mut self, slot: usize, asked: Asked) -> Result<(), CudaEncodeError> {
        let slot = &self.regions.slots[slot];
        let pass = Pass {
            config: &self.config,
            regions: &self.regions,
            slot,
            batch: slot.batch,
            multiplier: self.multiplier,
            wide_attention: self.machine.prefers_wide_attention(),
            head_bias: self.head_bias,
        };
        let operations: Result<_, OpError> = pass.operations(asked);
        Ok(self.machine.prepare(&operations?)?)
    }
}

/// One token, which every vocabulary has.
fn short(role: Role) -> Sequence {
    Sequence::single(vec![0], role)
}

fn packed(operation: Operation, sequences: &[Sequence]) -> PackedBatch {
    let lane = Lane { model: ModelIndex(0), operation };
    let mut batch = PackedBatch::with_capacity(lane, sequences.len(), sequences.len());
    for (index, sequence) in (0..).zip(sequences) {
        batch.push(UnitId { request: RequestId(0), index }, sequence);
    }
    batch
}

fn refused(error: CudaEncodeError) -> LoadError {
    match error {
        CudaEncodeError::Device(error) => load_failure(error),
        other => LoadError::CudaUnsupported { reason: other.to_string() },
    }
}
