//! Collections as files of other tools: safetensors and NumPy.
//!
//! Both hold a collection's documents by ascending id, their vectors end to end. What was exported is imported to the
//! bit. Files of other tools may also hold f32 or f16 vectors, which are quantised to what the collection stores.
//!
//! | content | safetensors: one file, a tensor each | NumPy: a folder |
//! |---|---|---|
//! | where documents begin, in rows, and end | `cu_seqlens` I64 or U32 `[documents + 1]` | `cu_seqlens.npy` `<i8`, `<u4` |
//! | vectors, f16 (or f32) | `vectors` F16, F32 `[rows, dim]` | `vectors.npy` `<f2`, `<f4` |
//! | int8: codes offset by 128 | `vectors` U8 `[rows, dim]` | `vectors.npy` `\|u1` |
//! | int8: scales | `scales` F32 `[rows]` | `scales.npy` `<f4` |
//! | binary | `vectors` U8 `[rows, ⌈dim / 8⌉]` | `vectors.npy` `\|u1` |
//! | ids | `ids` U8: UTF-8 end to end; `id_cu_bytes` I64 `[documents + 1]` | `ids.jsonl`: a line for each document, |
//! | content hashes | `content_hashes` U8 `[documents, 32]` | `{"id": …, "content_hash": 64 hex digits,` |
//! | truncated | `truncated` U8 `[documents]`, 0 or 1; may be missing | `"truncated": …}`; may be missing |
//! | of which model | metadata `model_digest`, 64 hex digits; may be missing | |
//!
//! The metadata of a safetensors file also says `format` (`sluice-tokens/1`), `namespace`, `storage` and `dim`.
//!
//! An import believes nothing: every length is compared with the file's own before anything is allocated, and at most a
//! batch of 16 MiB, or one document, is in memory. The NumPy format is read and written here: its header is a line of
//! text, and what crates there are for it read whole arrays or bring a parser for all of Python's literals.

mod export;
mod import;
mod npy;
mod safetensors;

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::{CorruptFile, DiskError, Layout, ModelDigest, Namespace, PutError};

/// Where an import puts its documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportTarget {
    /// The namespace, whatever the file says.
    pub namespace: Namespace,
    /// The model that made the vectors. A file that names another is refused.
    pub model: ModelDigest,
    /// What the collection stores.
    pub layout: Layout,
}

/// What was copied out of a store, or into it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exchanged {
    /// Documents.
    pub documents: u64,
    /// Their token vectors.
    pub rows: u64,
}

/// An export did not finish.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// There is no such collection.
    #[error("nothing is stored under {namespace} for model {model}")]
    NoCollection {
        /// The namespace asked for.
        namespace: Namespace,
        /// The model asked for.
        model: ModelDigest,
    },
    /// The system refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// An import did not finish.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The system refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A file is not what it must be.
    #[error(transparent)]
    File(#[from] CorruptFile),
    /// The vectors are of another model.
    #[error("the vectors are of model {found}, not {expected}")]
    Model {
        /// The target's.
        expected: ModelDigest,
        /// The file's.
        found: ModelDigest,
    },
    /// Documents could not be stored; those before them were.
    #[error("after {stored} documents: {source}")]
    Put {
        /// Documents stored before; positions in `source` count from here.
        stored: u64,
        /// Why.
        source: PutError,
    },
}

/// How components are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dtype {
    F32,
    F16,
    U8,
    I64,
    U32,
}

impl Dtype {
    fn bytes(self) -> u64 {
        match self {
            Self::I64 => 8,
            Self::F32 | Self::U32 => 4,
            Self::F16 => 2,
            Self::U8 => 1,
        }
    }
}

/// An array in a file, whose bytes are there.
#[derive(Debug)]
struct Column {
    file: File,
    path: PathBuf,
    /// Its first byte.
    at: u64,
    dtype: Dtype,
    shape: Vec<u64>,
}

impl Column {
    /// Checks that an array of this type and shape takes exactly `bytes` bytes.
    fn new(
        file: File,
        path: &Path,
        at: u64,
        bytes: u64,
        (dtype, shape): (Dtype, Vec<u64>),
    ) -> Result<Self, CorruptFile> {
        let claimed = shape.iter().try_fold(dtype.bytes(), |bytes, size| bytes.checked_mul(*size));
        if claimed != Some(bytes) {
            return Err(CorruptFile::new(path, at, "as many bytes as its shape says"));
        }
        Ok(Self { file, path: path.to_owned(), at, dtype, shape })
    }

    fn corrupt(&self, expected: &'static str) -> ImportError {
        ImportError::File(CorruptFile::new(&self.path, self.at, expected))
    }

    /// `count` elements from element `from` on. Both were compared with the shape.
    fn read(&self, from: u64, count: u64) -> Result<Vec<u8>, ImportError> {
        let mut bytes = vec![0; (count * self.dtype.bytes()) as usize];
        let read = self.file.read_exact_at(&mut bytes, self.at + from * self.dtype.bytes());
        read.map_err(|source| DiskError { action: "read", path: self.path.clone(), source })?;
        Ok(bytes)
    }

    /// Element `index` of a column of whole numbers.
    fn number(&self, index: u64) -> Result<u64, ImportError> {
        let bytes = self.read(index, 1)?;
        let number = match self.dtype {
            Dtype::I64 => bytes.try_into().ok().map(i64::from_le_bytes).and_then(|number| u64::try_from(number).ok()),
            Dtype::U32 => bytes.try_into().ok().map(u32::from_le_bytes).map(u64::from),
            _ => None,
        };
        number.ok_or_else(|| self.corrupt("numbers that are not negative"))
    }
}
