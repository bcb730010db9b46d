//! Models: resolver, tokenizers, weights and the backends that compute.
//!
//! | module | question it answers |
//! |---|---|
//! | [`source`] | where a model comes from, as it is written |
//! | [`resolve`] | which folder that is, with which bytes |
//! | [`model`] | what a model can do, and how it is loaded |
//! | [`text`] | which tokens a text has |
//!
//! A model is loaded whole or not at all: [`model::load_folder`] checks every file, name and shape
//! first, and its error says which file and what was expected.

pub mod model;
pub mod resolve;
pub mod source;
#[doc(hidden)]
pub mod testing;
pub mod text;

mod bert;
mod bert_weights;
mod candle_backend;
mod comparer;
mod cpu_backend;
mod cpu_encoder;
mod cuda_backend;
mod cuda_comparer;
mod cuda_encoder;
mod folder;
mod late_interaction;
mod load;
mod load_error;
mod scripted;
mod submitted;

pub use comparer::CpuComparer;
pub use cuda_comparer::CudaComparer;
pub use load::{ModelError, cuda_device, cuda_devices, load, load_cuda};
pub use load_error::LoadError;
pub use model::{
    CpuEngine, CpuOptions, CudaOptions, LoadedModel, ModelInfo, Precision, load_folder, load_folder_cuda,
    load_scripted, load_scripted_on,
};
pub use resolve::{
    HubSettings, ModelFolder, PipSettings, Progress, ProgressBar, ResolveError, Resolver, SilentProgress,
    TerminalProgress,
};
pub use sluice_kernels::{cuda::CudaError, tokens::to_int8};
pub use source::{Source, SourceError};
pub use text::{InvalidTokenizer, TextEncoder, TextTokens, TokenizeError};
