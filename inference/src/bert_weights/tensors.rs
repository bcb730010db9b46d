//! Tensors by name from a safetensors file.

use std::path::Path;

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::load_error::LoadError;

/// How the encoder's names begin when something stands on top of it.
const PREFIXES: [&str; 2] = ["bert.", "roberta."];

/// A weights file in memory.
pub(in crate::bert_weights) struct Weights<'a> {
    path: &'a Path,
    tensors: SafeTensors<'a>,
    prefix: &'static str,
}

/// Reads the header of a safetensors file.
pub(in crate::bert_weights) fn read_weights<'a>(path: &'a Path, bytes: &'a [u8]) -> Result<Weights<'a>, LoadError> {
    let tensors = SafeTensors::deserialize(bytes)
        .map_err(|error| LoadError::Parse { path: path.into(), reason: format!("not a safetensors file: {error}") })?;
    let names = tensors.names();
    let prefix = PREFIXES.into_iter().find(|prefix| names.iter().any(|name| name.starts_with(prefix)));
    Ok(Weights { path, tensors, prefix: prefix.unwrap_or("") })
}

impl Weights<'_> {
    /// A tensor of the encoder, by its name without prefix.
    pub(in crate::bert_weights) fn encoder(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        self.top(&format!("{}{name}", self.prefix), shape)
    }

    /// A tensor by its whole name.
    pub(in crate::bert_weights) fn top(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        let (path, name) = (self.path.to_owned(), name.to_owned());
        let Ok(tensor) = self.tensors.tensor(&name) else {
            return Err(LoadError::MissingTensor { path, name });
        };
        if tensor.shape() != shape {
            let found = tensor.shape().to_vec();
            return Err(LoadError::TensorShape { path, name, expected: shape.to_vec(), found });
        }
        to_f32(&tensor).ok_or_else(|| LoadError::TensorType { path, name, found: format!("{:?}", tensor.dtype()) })
    }

    /// Whether the encoder has a tensor, by its name without prefix.
    pub(in crate::bert_weights) fn has(&self, name: &str) -> bool {
        self.tensors.tensor(&format!("{}{name}", self.prefix)).is_ok()
    }

    /// The shape of a tensor by its whole name.
    pub(in crate::bert_weights) fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.tensor(name).ok().map(|tensor| tensor.shape().to_vec())
    }

    /// Numbers in the file, not counting buffers of integers.
    pub(in crate::bert_weights) fn parameters(&self) -> u64 {
        self.tensors
            .iter()
            .filter(|(_, tensor)| matches!(tensor.dtype(), Dtype::F32 | Dtype::F16 | Dtype::BF16))
            .map(|(_, tensor)| tensor.shape().iter().product::<usize>() as u64)
            .sum()
    }

    /// Every finite number is within f16.
    pub(in crate::bert_weights) fn check_halves(&self) -> Result<(), LoadError> {
        let beyond = |x: &f32| x.is_finite() && f16::from_f32(*x).is_infinite();
        let all = self.tensors.iter().filter_map(|(_, tensor)| to_f32(&tensor)?.into_iter().find(beyond)).next();
        all.map_or(Ok(()), |found| Err(LoadError::HalfRange { path: self.path.into(), found }))
    }

    /// A fault of the file as a whole.
    pub(in crate::bert_weights) fn parse_error(&self, reason: String) -> LoadError {
        LoadError::Parse { path: self.path.into(), reason }
    }
}

/// The values, if they are floating point; stored little-endian.
fn to_f32(tensor: &TensorView<'_>) -> Option<Vec<f32>> {
    let (halves, _) = tensor.data().as_chunks::<2>();
    match tensor.dtype() {
        Dtype::F32 => Some(tensor.data().as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()),
        Dtype::F16 => Some(halves.iter().map(|&bytes| f16::from_le_bytes(bytes).to_f32()).collect()),
        Dtype::BF16 => Some(halves.iter().map(|&bytes| bf16::from_le_bytes(bytes).to_f32()).collect()),
        _ => None,
    }
}
