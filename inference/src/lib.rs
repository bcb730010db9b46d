//! Models: resolver, tokenizers, weights and the backends that compute.
//!
//! | module | question it answers |
//! |---|---|
//! | [`model`] | what a model can do, and how it is loaded |
//! | [`text`] | which tokens a text has |
//!
//! A model is loaded whole or not at all: [`model::load_folder`] checks every file, name and shape
//! first, and its error says which file and what was expected.

pub mod model;
pub mod text;

mod bert;
mod candle_backend;
mod folder;
mod load_error;
mod scripted;
mod submitted;

pub use load_error::LoadError;
pub use model::{CpuOptions, LoadedModel, ModelInfo, load_folder, load_scripted};
pub use text::{InvalidTokenizer, TextEncoder, TextTokens, TokenizeError};
