//! From a source to a model that is ready to compute.

use sluice_kernels::cuda::{CudaDevice, CudaError};

use crate::{
    CpuOptions, CudaOptions, LoadError, LoadedModel, ResolveError, Resolver, Source, load_folder, load_folder_cuda,
    load_scripted,
};

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

/// As [`load`], for a CUDA device; what is scripted is no different there.
///
/// # Errors
/// [`ModelError`]; [`LoadError::Cuda`] and [`LoadError::CudaUnsupported`] say that the CPU may do what the device does
/// not.
pub fn load_cuda(source: &Source, resolver: &Resolver, options: &CudaOptions) -> Result<LoadedModel, ModelError> {
    if let Source::Scripted(file) = source {
        return Ok(load_scripted(file)?);
    }
    let folder = resolver.resolve(source)?;
    Ok(load_folder_cuda(&folder.path, folder.digest, folder.source, options)?)
}

/// What each CUDA device of the machine calls itself, by number; at least one.
///
/// # Errors
/// [`CudaError`] says why the first cannot be used, or another that is there.
pub fn cuda_devices() -> Result<Vec<String>, CudaError> {
    let mut names = vec![cuda_device(0)?];
    loop {
        match cuda_device(names.len()) {
            Ok(name) => names.push(name),
            Err(CudaError::NoDevice { .. }) => return Ok(names),
            Err(error) => return Err(error),
        }
    }
}

/// What the CUDA device of that number calls itself.
///
/// # Errors
/// [`CudaError`] says why it cannot be used: known in milliseconds, without a panic.
pub fn cuda_device(ordinal: usize) -> Result<String, CudaError> {
    Ok(CudaDevice::open(ordinal)?.name().to_owned())
}
