//! Models: resolver, tokenizers, weights and the backends that compute.

pub mod resolve;
pub mod source;
#[doc(hidden)]
pub mod testing;

pub use resolve::{ModelFolder, ResolveError, Resolver};
pub use source::{Source, SourceError};
