//! The safetensors container: the length of a JSON header, the header, the tensors. The header is read by the
//! `safetensors` crate, which checks it; the tensors stay in the file.

use std::{
    collections::BTreeMap,
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use safetensors::tensor::{Dtype as TensorDtype, Metadata, TensorInfo};

use super::{Column, Dtype, ImportError};
use crate::{CorruptFile, DiskError};

/// Bytes of a header: ids are tensors, so it is short whatever it describes.
const HEADER_BYTES_MAX: u64 = 1 << 20;
/// Tensors begin at a multiple of this.
const ALIGNMENT: usize = 8;

/// A file whose header was read.
#[derive(Debug)]
pub(super) struct TensorFile {
    file: File,
    path: PathBuf,
    data_at: u64,
    metadata: Metadata,
}

impl TensorFile {
    pub(super) fn open(path: &Path) -> Result<Self, ImportError> {
        let failed = |action| move |source| DiskError { action, path: path.to_owned(), source };
        let corrupt = |at, expected| ImportError::File(CorruptFile::new(path, at, expected));
        let file = File::open(path).map_err(failed("open"))?;
        let length = file.metadata().map_err(failed("look at"))?.len();
        if length < 8 {
            return Err(corrupt(length, "the length of a header"));
        }
        let mut header_bytes = [0; 8];
        file.read_exact_at(&mut header_bytes, 0).map_err(failed("read"))?;
        let header_bytes = u64::from_le_bytes(header_bytes);
        if header_bytes > HEADER_BYTES_MAX.min(length - 8) {
            return Err(corrupt(0, "the length of a header, at most 1 MiB and the file's"));
        }
        let mut header = vec![0; header_bytes as usize];
        file.read_exact_at(&mut header, 8).map_err(failed("read"))?;
        let metadata: Metadata = serde_json::from_slice(&header).map_err(|_| corrupt(8, "a header of safetensors"))?;
        let data_at = 8 + header_bytes;
        if metadata.data_len() as u64 != length - data_at {
            return Err(corrupt(data_at, "as many bytes as the header says"));
        }
        Ok(Self { file, path: path.to_owned(), data_at, metadata })
    }

    /// What the metadata says under a name.
    pub(super) fn says(&self, name: &str) -> Option<&str> {
        self.metadata.metadata().as_ref()?.get(name).map(String::as_str)
    }

    /// A tensor, if there is one of this name.
    pub(super) fn tensor(&self, name: &str) -> Result<Option<Column>, ImportError> {
        let Some(TensorInfo { dtype, shape, data_offsets: (begin, end) }) = self.metadata.info(name) else {
            return Ok(None);
        };
        let at = self.data_at + *begin as u64;
        let dtype = match dtype {
            TensorDtype::F32 => Dtype::F32,
            TensorDtype::F16 => Dtype::F16,
            TensorDtype::U8 => Dtype::U8,
            TensorDtype::I64 => Dtype::I64,
            TensorDtype::U32 => Dtype::U32,
            _ => return Err(CorruptFile::new(&self.path, at, "a tensor of F32, F16, U8, I64 or U32").into()),
        };
        let failed = |source| DiskError { action: "open", path: self.path.clone(), source };
        let file = self.file.try_clone().map_err(failed)?;
        let shape = shape.iter().map(|size| *size as u64).collect();
        Ok(Some(Column::new(file, &self.path, at, (end - begin) as u64, (dtype, shape))?))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// The bytes of a file before its tensors, which follow in this order.
pub(super) fn header(metadata: &[(&str, String)], tensors: &[(&str, Dtype, Vec<u64>)]) -> Vec<u8> {
    let mut begin = 0;
    let mut entries = serde_json::Map::new();
    let metadata: BTreeMap<_, _> = metadata.iter().cloned().collect();
    entries.insert("__metadata__".into(), serde_json::json!(metadata));
    for (name, dtype, shape) in tensors {
        let dtype_name = match dtype {
            Dtype::F32 => "F32",
            Dtype::F16 => "F16",
            Dtype::U8 => "U8",
            Dtype::I64 => "I64",
            Dtype::U32 => "U32",
        };
        let end = begin + shape.iter().product::<u64>() * dtype.bytes();
        let entry = serde_json::json!({ "dtype": dtype_name, "shape": shape, "data_offsets": [begin, end] });
        entries.insert((*name).into(), entry);
        begin = end;
    }
    let mut json = serde_json::Value::Object(entries).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(ALIGNMENT), b' ');
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(&json);
    bytes
}
