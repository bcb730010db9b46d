//! Our encoder on a CUDA device behind the engine's seam.

use std::{path::PathBuf, sync::Arc};

use sluice_core::{
    Operation,
    backend::{Backend, BackendError, BackendLimits, BatchOutput, Ticket},
    batch::{PackedBatch, TokenMatrix},
};
use sluice_kernels::{
    cuda::{
        CudaDevice, CudaError,
        encoder::{Capacity, EncoderDevice},
    },
    pool::Pooling,
};

use crate::{
    cuda_encoder::{
        Asked, CudaEncoder, EarlierQuery, LateBatch, Machine, Multiplier, PlanError, Regions, SLOTS, Weights, halves,
        load_failure,
    },
    folder::{BertConfig, FolderConfig},
    load_error::LoadError,
    model::{Computing, CudaOptions},
    submitted::{Submitted, no_vectors_here},
};

/// Queues a batch on the device in `submit`, and waits for it alone in `collect`: meanwhile the next is copied in.
pub(crate) struct CudaBackend<M> {
    /// `None` after the device was lost, until it is rebuilt.
    encoder: Option<CudaEncoder<M>>,
    pooling: Pooling,
    submitted: Submitted<InFlight>,
    /// The slot of the next batch.
    slot: usize,
    /// Queries of the batch that was submitted last, if it is under way.
    queries: Vec<EarlierQuery>,
    /// Opens the device and loads the model again.
    reload: Reload<M>,
}

type Reload<M> = Box<dyn FnMut() -> Result<CudaEncoder<M>, LoadError> + Send>;

/// A batch on the device.
struct InFlight {
    batch: Arc<PackedBatch>,
    slot: usize,
    late: Option<LateBatch>,
}

impl<M: Machine> CudaBackend<M> {
    /// `limits` are what the encoder's memory was planned for, and at most [`SLOTS`] batches in flight.
    pub(crate) fn new(encoder: CudaEncoder<M>, pooling: Pooling, limits: BackendLimits, reload: Reload<M>) -> Self {
        debug_assert!(limits.in_flight_batches_max as usize <= SLOTS);
        let submitted = Submitted::new(limits);
        Self { encoder: Some(encoder), pooling, submitted, slot: 0, queries: Vec::new(), reload }
    }

    #[cfg(test)]
    pub(crate) fn encoder(&self) -> &CudaEncoder<M> {
        self.encoder.as_ref().expect("a test asks before anything is lost")
    }

    fn start(&mut self, batch: &PackedBatch) -> Result<Option<LateBatch>, BackendError> {
        let (slot, pooling) = (self.slot, self.pooling);
        let encoder = self.encoder.as_mut().ok_or_else(lost)?;
        let asked = match batch.lane().operation {
            Operation::EncodeTokens => Asked::Tokens,
            Operation::EncodeDense => Asked::Dense(pooling),
            Operation::CrossEncode => Asked::Logits,
            Operation::LateInteraction => {
                let earlier = if self.submitted.is_empty() { &[] } else { &self.queries[..] };
                return Ok(Some(encoder.start_late(batch, slot, earlier)?));
            }
            operation @ (Operation::MaxSim | Operation::Align) => return Err(no_vectors_here(operation)),
        };
        encoder.start(batch, slot, asked)?;
        Ok(None)
    }

    fn output(&mut self, in_flight: &InFlight) -> Result<BatchOutput, BackendError> {
        let InFlight { batch, slot, late } = in_flight;
        let encoder = self.encoder.as_mut().ok_or_else(lost)?;
        if let Some(late) = late {
            return Ok(BatchOutput::Scores(encoder.collect_late(*slot, late)?));
        }
        let dim = encoder.hidden_size();
        let words = encoder.collect(*slot)?;
        Ok(match batch.lane().operation {
            Operation::EncodeTokens => {
                let words_of = |rows: std::ops::Range<usize>| &words[rows.start * dim / 2..rows.end * dim / 2];
                let matrix = |rows| TokenMatrix { data: halves(words_of(rows)).collect(), dim };
                BatchOutput::TokenMatrices(batch.ranges().map(matrix).collect())
            }
            Operation::EncodeDense if self.pooling == Pooling::First => {
                let vectors = words[..batch.len() * dim / 2].chunks_exact(dim / 2);
                BatchOutput::DenseVectors(vectors.map(|words| halves(words).collect()).collect())
            }
            Operation::EncodeDense => {
                let vectors = words[..batch.len() * dim].chunks_exact(dim);
                BatchOutput::DenseVectors(vectors.map(floats).collect())
            }
            _ => BatchOutput::Scores(floats(&words[..batch.len()])),
        })
    }
}

impl<M: Machine> Backend for CudaBackend<M> {
    fn limits(&self) -> BackendLimits {
        self.submitted.limits()
    }

    fn submit(&mut self, batch: Arc<PackedBatch>) -> Result<Ticket, BackendError> {
        self.submitted.check(&batch)?;
        self.submitted.check_room()?;
        let late = self.start(&batch)?;
        self.queries = late.as_ref().map(|late| late.queries.clone()).unwrap_or_default();
        let slot = self.slot;
        self.slot = (slot + 1) % SLOTS;
        self.submitted.push(InFlight { batch, slot, late })
    }

    fn collect(&mut self, ticket: Ticket) -> Result<BatchOutput, BackendError> {
        let in_flight = self.submitted.pop(&ticket)?;
        self.output(&in_flight)
    }

    fn is_ready(&mut self, ticket: &Ticket) -> bool {
        match (self.submitted.first(ticket), self.encoder.as_mut()) {
            (Some(in_flight), Some(encoder)) => encoder.is_done(in_flight.slot),
            // There is nothing to wait for.
            _ => true,
        }
    }

    fn release(&mut self) {
        self.submitted.clear();
        self.queries.clear();
        self.encoder = None;
    }

    fn rebuild(&mut self) -> Result<(), BackendError> {
        self.release();
        let reloaded = (self.reload)().map_err(|error| BackendError::DeviceLost(error.to_string()))?;
        self.encoder = Some(reloaded);
        Ok(())
    }
}

/// How much a device is to take at once.
pub(crate) fn limits(options: &CudaOptions) -> BackendLimits {
    BackendLimits {
        batch_tokens_max: options.batch_tokens_max,
        batch_sequences_max: options.batch_sequences_max,
        in_flight_batches_max: SLOTS as u32,
    }
}

/// Loads a folder's weights onto a device, and again whenever that was lost.
pub(crate) fn load(folder: &FolderConfig, options: &CudaOptions) -> Result<Computing, LoadError> {
    let model = OnDevice {
        weights: folder.weights.clone(),
        config_path: folder.config.clone(),
        config: folder.bert.clone(),
        with_head: folder.cross_encoder,
        tokens_min: folder.max_tokens as usize,
        options: *options,
    };
    let encoder = model.load()?;
    let (label, parameters) = (encoder.label(), encoder.parameters());
    // What is planned depends on the model and the options alone: it is the same when it is loaded again.
    let batch_tokens_max = encoder.capacity().tokens as u32;
    let limits = BackendLimits { batch_tokens_max, ..limits(options) };
    let reload = Box::new(move || model.load());
    let backend = Box::new(CudaBackend::new(encoder, folder.pooling, limits, reload));
    Ok(Computing { backend, label, parameters })
}

/// A model and the device that it is for.
struct OnDevice {
    weights: PathBuf,
    config_path: PathBuf,
    config: BertConfig,
    with_head: bool,
    /// The longest sequence.
    tokens_min: usize,
    options: CudaOptions,
}

impl OnDevice {
    fn load(&self) -> Result<CudaEncoder<EncoderDevice>, LoadError> {
        let failure = |source: CudaError| LoadError::Cuda { source };
        let device = CudaDevice::open(self.options.ordinal).map_err(failure)?;
        let capacity = Capacity {
            tokens: self.options.batch_tokens_max as usize,
            sequences: self.options.batch_sequences_max as usize,
        };
        let bytes_max = self.options.memory_bytes_max;
        let regions = Regions::fit(&self.config, self.with_head, capacity, self.tokens_min, bytes_max);
        let regions = regions.map_err(|error| LoadError::CudaUnsupported {
            reason: match error {
                PlanError::Operation(error) => error.to_string(),
                PlanError::Room { bytes } => {
                    format!("it needs {bytes} bytes of device memory, and may take {bytes_max}")
                }
            },
        })?;
        let (name, bytes, tokens) = (device.name().to_owned(), regions.memory.arena_bytes, regions.capacity().tokens);
        let mut device = EncoderDevice::new(device, regions.memory).map_err(load_failure)?;
        let multiplier = match device.use_cublaslt() {
            Ok(version) => {
                tracing::info!(device = name, bytes, tokens, cublaslt = version, "the model is on the CUDA device");
                Multiplier::CublasLt
            }
            Err(reason) => {
                tracing::info!(device = name, bytes, tokens, %reason, "the model is on the CUDA device, with products of our own");
                Multiplier::Own
            }
        };
        let weights = Weights { path: &self.weights, config_path: &self.config_path, config: &self.config };
        let mut encoder = CudaEncoder::load(&weights, regions, multiplier, device)?;
        encoder.try_out()?;
        Ok(encoder)
    }
}

fn lost() -> BackendError {
    BackendError::DeviceLost("the device is not there any more".to_owned())
}

fn floats(words: &[u32]) -> Vec<f32> {
    words.iter().map(|&word| f32::from_bits(word)).collect()
}
