//! From a source to a model that is ready to compute.

use crate::{CpuOptions, LoadError, LoadedModel, ResolveError, Resolver, Source, load_folder, load_scripted};

/// Why a source did not become a model.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// No folder with the right bytes.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The folder, or the script, is not a model that can be served.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// Fetches what `source` names, if need be, verifies it and loads it for the CPU. Blocks.
///
/// # Errors
/// [`ModelError`]; nothing is half loaded.
pub fn load(source: &Source, resolver: &Resolver, options: &CpuOptions) -> Result<LoadedModel, ModelError> {
    if let Source::Scripted(file) = source {
        return Ok(load_scripted(file)?);
    }
    let folder = resolver.resolve(source)?;
    Ok(load_folder(&folder.path, folder.digest, folder.source, options)?)
}
