//! Why a model was not loaded.

use std::{io, path::PathBuf};

use sluice_kernels::cuda::CudaError;

/// Why a model was not loaded: which file, and what was expected of it.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file that is not there or cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that is not what its name says.
    #[error("{}: {reason}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where.
        reason: String,
    },
    /// A model of another kind.
    #[error("{}: architecture {architecture} is not supported; supported: {supported}", path.display())]
    Architecture {
        /// The file that names it.
        path: PathBuf,
        /// Its name there.
        architecture: String,
        /// What could be loaded.
        supported: &'static str,
    },
    /// A setting that no backend here computes.
    #[error("{}: {field} is {found}; supported: {supported}", path.display())]
    Unsupported {
        /// The file that says so.
        path: PathBuf,
        /// The setting.
        field: &'static str,
        /// Its value there.
        found: String,
        /// Values that could be loaded.
        supported: &'static str,
    },
    /// A classification head that gives no single score.
    #[error("{}: the classification head has {found} labels; a cross-encoder has 1", path.display())]
    Labels {
        /// The file that says so.
        path: PathBuf,
        /// Its number of labels.
        found: usize,
    },
    /// Weights without a tensor that the architecture has.
    #[error("{}: has no tensor {name}", path.display())]
    MissingTensor {
        /// The weights file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
    },
    /// A tensor of another shape than `config.json` implies.
    #[error("{}: tensor {name} has shape {found:?}; expected {expected:?}", path.display())]
    TensorShape {
        /// The weights file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// Shape by `config.json`.
        expected: Vec<usize>,
        /// Its shape.
        found: Vec<usize>,
    },
    /// A tensor of a type that is not read.
    #[error("{}: tensor {name} is stored as {found}; supported: F32, F16, BF16", path.display())]
    TensorType {
        /// The weights file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// Its type.
        found: String,
    },
    /// A weight that f16 does not hold, where weights are to be kept in it.
    #[error("{}: a weight is {found:e}, and precision \"f16\" keeps at most 65504", path.display())]
    HalfRange {
        /// The weights file.
        path: PathBuf,
        /// The weight.
        found: f32,
    },
    /// A tokenizer that cannot be used with this model.
    #[error("{}: the tokenizer {reason}", path.display())]
    Tokenizer {
        /// The tokenizer's file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Batches too small for the model's longest sequence.
    #[error("{}: a sequence may have {max_tokens} tokens, and a batch {batch_tokens_max} in {batch_sequences_max} sequences", path.display())]
    Batch {
        /// The file that says so.
        path: PathBuf,
        /// Tokens of the longest sequence.
        max_tokens: u32,
        /// Tokens of a batch.
        batch_tokens_max: u32,
        /// Sequences of a batch.
        batch_sequences_max: u32,
    },
    /// A CUDA device that is not there, has failed, or has no room for the model.
    #[error("CUDA: {source}")]
    Cuda {
        /// Why.
        source: CudaError,
    },
    /// A model that no CUDA kernel computes.
    #[error("no CUDA kernel computes it: {reason}")]
    CudaUnsupported {
        /// What of it.
        reason: String,
    },
    /// The threads that compute could not be started.
    #[error("cannot start the compute threads: {source}")]
    Threads {
        /// Why.
        source: rayon::ThreadPoolBuildError,
    },
}
