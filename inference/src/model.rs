//! What a model can do, and how it is loaded.

use std::{num::NonZero, path::Path, sync::Arc};

use sluice_core::{
    DeviceIndex,
    backend::{Backend, BackendLimits},
};
use sluice_kernels::{InstructionSet, Isa};

use crate::{
    bert::Bert,
    candle_backend::CandleBackend,
    cpu_backend::CpuBackend,
    cpu_encoder::{Compute, ComputePool, CpuEncoder},
    cuda_backend,
    folder::{self, FolderConfig},
    load_error::LoadError,
    scripted,
    text::TextEncoder,
};

/// A model's description, as callers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// Where it was taken from, as configured.
    pub source: String,
    /// Hex SHA-256 of what it was made from.
    pub digest: String,
    /// Architecture named by the folder, e.g. `BertModel`; `scripted` for a scripted model.
    pub architecture: String,
    /// What computes it: `cpu-f32-avx512` and the like (precision and instructions), `cuda-f16`, `cuda-f16-cublaslt` or
    /// `cuda-f16-mixed` (who multiplies), `candle-cpu` or `scripted`.
    pub backend: &'static str,
    /// Reranks by MaxSim over token vectors.
    pub late_interaction: bool,
    /// Reranks by the cosine of pooled vectors.
    pub dense: bool,
    /// Reranks by a classification head over the pair.
    pub cross_encoder: bool,
    /// Returns token embeddings.
    pub encode_tokens: bool,
    /// Returns dense embeddings.
    pub encode_dense: bool,
    /// Longest sequence, special tokens included; a pair counts as one sequence.
    pub max_tokens: u32,
    /// Components of a token vector and of a dense vector.
    pub embedding_dim: u32,
    /// Parameters stored in the weights file; 0 for a scripted model.
    pub parameters: u64,
}

/// A model that is ready to compute.
pub struct LoadedModel {
    /// What it is.
    pub info: ModelInfo,
    /// Turns its texts into tokens; shared by the threads that tokenize.
    pub text: Arc<TextEncoder>,
    /// Computes its batches; owned by the thread of its device.
    pub backend: Box<dyn Backend>,
    /// Devices that it stands for: one, unless it is scripted to be more.
    pub devices: NonZero<u16>,
}

/// How the CPU computes, and how much it takes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuOptions {
    /// Tokens of one batch; at least the model's longest sequence.
    pub batch_tokens_max: u32,
    /// Sequences of one batch; at least 1.
    pub batch_sequences_max: u32,
    /// What computes.
    pub engine: CpuEngine,
    /// Of our own engine's weights; candle computes in f32 whatever it says.
    pub precision: Precision,
    /// Threads that compute, which all models of as many share; 0 for as many as this process may use at once. candle
    /// has threads of its own.
    pub threads: usize,
    /// Instructions of our own engine; the best that the machine has for `None`.
    pub isa: Option<Isa>,
}

/// Which CUDA device computes, in f16, and how much it takes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CudaOptions {
    /// The device, as `CUDA_VISIBLE_DEVICES` counts them.
    pub ordinal: usize,
    /// Tokens of one batch, if the memory suffices; at least the model's longest sequence. Decides how much of the
    /// device's memory is reserved: about `20·hidden` bytes a token beside the weights.
    pub batch_tokens_max: u32,
    /// Sequences of one batch; at least 1.
    pub batch_sequences_max: u32,
    /// Bytes of the device's memory for the model, its largest batch included. Where that is too little, batches are
    /// halved until they fit.
    pub memory_bytes_max: usize,
}

/// What computes on the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CpuEngine {
    /// Our own kernels.
    #[default]
    Own,
    /// candle's products: slower, and the second opinion.
    Candle,
}

/// How exactly products are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Everything in f32.
    #[default]
    F32,
    /// Weights kept in f16, which is half the memory, and everything computed in f32: the scores of a checkpoint in f16
    /// are those of [`F32`](Self::F32).
    F16,
    /// Weights and activations of linear layers in 8 bits, the rest in f32: about three times as fast, and its scores
    /// are others.
    Int8,
}

impl CpuOptions {
    /// Our own engine in f32 with all that the machine has, for batches of at most so many tokens and sequences.
    #[must_use]
    pub const fn new(batch_tokens_max: u32, batch_sequences_max: u32) -> Self {
        Self {
            batch_tokens_max,
            batch_sequences_max,
            engine: CpuEngine::Own,
            precision: Precision::F32,
            threads: 0,
            isa: None,
        }
    }
}

/// Loads a model folder in the Hugging Face layout for the CPU. `digest` and `source` are passed on in its
/// description.
///
/// A folder with a classification head also offers what the encoder below the head can do.
///
/// # Errors
/// [`LoadError`] names the file and what was expected of it; nothing is half loaded.
pub fn load_folder(
    path: &Path,
    digest: String,
    source: String,
    options: &CpuOptions,
) -> Result<LoadedModel, LoadError> {
    let limits = BackendLimits {
        batch_tokens_max: options.batch_tokens_max,
        batch_sequences_max: options.batch_sequences_max,
        in_flight_batches_max: 1,
    };
    load_with(path, (digest, source), limits, |folder| compute(folder, options, limits))
}

/// Loads a model folder as [`load_folder`] does, for a CUDA device: the same answers, but for what f16 rounds.
///
/// Not yet run on a GPU.
///
/// # Errors
/// [`LoadError::Cuda`] without a usable device or without room on it, [`LoadError::CudaUnsupported`] for a model of
/// sizes that no kernel takes; else as [`load_folder`].
pub fn load_folder_cuda(
    path: &Path,
    digest: String,
    source: String,
    options: &CudaOptions,
) -> Result<LoadedModel, LoadError> {
    let limits = cuda_backend::limits(options);
    load_with(path, (digest, source), limits, |folder| cuda_backend::load(folder, options))
}

/// Loads a folder whatever computes it.
fn load_with(
    path: &Path,
    (digest, source): (String, String),
    limits: BackendLimits,
    compute: impl FnOnce(&FolderConfig) -> Result<Computing, LoadError>,
) -> Result<LoadedModel, LoadError> {
    let folder = FolderConfig::read(path)?;
    let text = folder::read_tokenizer(&folder.tokenizer)?;
    check_tokenizer(&folder, &text)?;
    folder::check_batch(&folder.config, &limits, folder.max_tokens)?;
    let computing = compute(&folder)?;
    let info = ModelInfo {
        source,
        digest,
        architecture: folder.architecture,
        backend: computing.label,
        late_interaction: true,
        dense: true,
        cross_encoder: folder.cross_encoder,
        encode_tokens: true,
        encode_dense: true,
        max_tokens: folder.max_tokens,
        embedding_dim: folder.bert.hidden_size,
        parameters: computing.parameters,
    };
    Ok(LoadedModel { info, text: Arc::new(text), backend: computing.backend, devices: NonZero::<u16>::MIN })
}

/// What a folder's weights became.
pub(crate) struct Computing {
    pub(crate) backend: Box<dyn Backend>,
    pub(crate) label: &'static str,
    pub(crate) parameters: u64,
}

fn compute(folder: &FolderConfig, options: &CpuOptions, limits: BackendLimits) -> Result<Computing, LoadError> {
    let FolderConfig { weights, config, bert, cross_encoder, pooling, .. } = folder;
    match options.engine {
        CpuEngine::Candle => {
            let bert = Bert::load(weights, config, bert, *cross_encoder)?;
            let parameters = bert.parameters();
            let backend = Box::new(CandleBackend::new(bert, *pooling, limits));
            Ok(Computing { backend, label: "candle-cpu", parameters })
        }
        CpuEngine::Own => {
            let isa = options.isa.unwrap_or_else(Isa::best);
            let pool = ComputePool::shared(options.threads).map_err(|source| LoadError::Threads { source })?;
            let compute = Compute { isa, precision: options.precision, pool };
            let encoder = CpuEncoder::load(weights, config, bert, *cross_encoder, compute)?;
            let parameters = encoder.parameters();
            let backend = Box::new(CpuBackend::new(encoder, *pooling, limits));
            Ok(Computing { backend, label: label(options.precision, isa), parameters })
        }
    }
}

/// The name of our own engine in that precision with those instructions: scores of one name are the same bits.
fn label(precision: Precision, isa: Isa) -> &'static str {
    match (precision, isa.set()) {
        (Precision::F32, InstructionSet::Avx512) => "cpu-f32-avx512",
        (Precision::F32, InstructionSet::Avx2) => "cpu-f32-avx2",
        (Precision::F32, InstructionSet::Neon) => "cpu-f32-neon",
        (Precision::F32, InstructionSet::Fallback) => "cpu-f32-portable",
        (Precision::F16, InstructionSet::Avx512) => "cpu-f16-avx512",
        (Precision::F16, InstructionSet::Avx2) => "cpu-f16-avx2",
        (Precision::F16, InstructionSet::Neon) => "cpu-f16-neon",
        (Precision::F16, InstructionSet::Fallback) => "cpu-f16-portable",
        (Precision::Int8, InstructionSet::Avx512) => "cpu-int8-avx512",
        (Precision::Int8, InstructionSet::Avx2) => "cpu-int8-avx2",
        (Precision::Int8, InstructionSet::Neon) => "cpu-int8-neon",
        (Precision::Int8, InstructionSet::Fallback) => "cpu-int8-portable",
    }
}

/// Loads a model whose scores, service times and faults a TOML file describes. It computes nothing; it is for
/// tests and load experiments. Blocks for the load delay that the file asks for.
///
/// A script may stand for several devices; this is the first of them, and [`load_scripted_on`] loads the others.
///
/// | key | meaning | default |
/// |---|---|---|
/// | `max_tokens` | longest sequence, special tokens included | 512 |
/// | `dim` | components of its vectors | 16 |
/// | `batch_tokens_max`, `batch_sequences_max`, `in_flight_batches_max` | limits of the backend | 16384, 256, 1 |
/// | `capabilities` | of `late_interaction`, `dense`, `cross_encoder`, `encode_tokens`, `encode_dense` | all |
/// | `poison` | a word; a batch that contains it fails | none |
/// | `devices` | how many it stands for: each computes batches beside the others | 1 |
/// | `[service_time] per_batch`, `per_token` | how long a batch takes, e.g. `"2ms"`, `"1.5us"` | 0 |
/// | `[service_time] jitter`, `seed` | that time is multiplied by a number from 1 − jitter to 1 + jitter | 0 |
/// | `[[fault]] at_batch` | the batch it strikes, counting submitted ones from 1 | required |
/// | `[[fault]] device` | the device it strikes, from 0; each counts its own batches | every one |
/// | `[[fault]] kind` | `failed`, `out_of_memory`, `device_lost` or `panic` | required |
/// | `[[fault]] when` | `submit` or `collect` | `collect` |
/// | `[[fault]] repeat` | how many batches in a row it strikes | 1 |
/// | `[[fault]] sequences_above` | batches of no more sequences are spared, as memory spares them | 0 |
/// | `[load] delay` | how long loading takes | 0 |
///
/// Tokens are the words between white space, without regard to case. A pair's score, and that of late
/// interaction, is the number of the query's distinct words that the document contains, plus
/// 1 / (2 + words of the document): more matches first, then shorter documents. Token vectors are pseudo-random unit
/// vectors, one for each word; a dense vector is the normalised sum of its words' vectors, so that its cosine grows
/// with the share of common words, not with their number.
///
/// # Errors
/// [`LoadError`] if the file cannot be read or says what makes no sense.
pub fn load_scripted(file: &Path) -> Result<LoadedModel, LoadError> {
    scripted::load(file, DeviceIndex(0))
}

/// As [`load_scripted`], for one of the devices that the script stands for. Any other is like them, without faults of
/// its own.
///
/// # Errors
/// As for [`load_scripted`].
pub fn load_scripted_on(file: &Path, device: DeviceIndex) -> Result<LoadedModel, LoadError> {
    scripted::load(file, device)
}

/// The tokenizer must name no row that the weights lack, and do what the encoder was trained with.
fn check_tokenizer(folder: &FolderConfig, text: &TextEncoder) -> Result<(), LoadError> {
    let fault = |reason: String| LoadError::Tokenizer { path: folder.tokenizer.clone(), reason };
    let largest = text.largest_id();
    if largest >= folder.bert.vocab_size {
        let rows = folder.bert.vocab_size;
        return Err(fault(format!("has id {largest}, and the model's vocabulary has {rows} entries")));
    }
    if folder.lowercase && !text.lowercases() {
        return Err(fault("keeps upper case, and sentence_bert_config.json says do_lower_case".to_owned()));
    }
    let nothing = text.special_tokens_single() == 0 || (folder.cross_encoder && text.special_tokens_pair() == 0);
    if nothing {
        return Err(fault("adds no special tokens, so that a text of nothing is a sequence of nothing".to_owned()));
    }
    let special = text.special_tokens_single().max(text.special_tokens_pair());
    if special >= folder.max_tokens as usize {
        let max_tokens = folder.max_tokens;
        return Err(fault(format!("adds {special} special tokens, which leaves nothing of {max_tokens} for the text")));
    }
    if folder.cross_encoder && text.has_second_segment() && folder.bert.type_vocab_size < 2 {
        return Err(fault("gives pairs two token types, and the model has one".to_owned()));
    }
    Ok(())
}
