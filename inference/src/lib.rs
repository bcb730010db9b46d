//! Models: resolver, tokenizers, weights and the backends that compute.

pub mod source;

pub use source::{Source, SourceError};
