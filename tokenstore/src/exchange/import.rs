//! Reads files of other tools into a collection.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use half::f16;
use serde::Deserialize;
use sluice_kernels::tokens::{Storage, Tokens};

use super::{Column, Dtype, Exchanged, ImportError, ImportTarget, npy, safetensors::TensorFile};
use crate::{
    ContentHash, CorruptFile, DiskError, DocumentFault, Layout, ModelDigest, PutDocument, PutError, TokenStore,
    batch::Batch,
};

/// Bytes of a batch that is put: large enough that its syncs do not count.
const BATCH_BYTES: u64 = 16 << 20;
/// Bytes of a line of `ids.jsonl`: an id, escaped, and other tools' fields beside it.
const LINE_BYTES_MAX: u64 = 64 << 10;

impl TokenStore {
    /// Puts the documents of a safetensors file, in batches: each is all or nothing, the import is not. The layout is
    /// in the documentation of [`exchange`](crate::exchange).
    ///
    /// # Errors
    /// [`ImportError`].
    pub fn import_safetensors(&self, target: &ImportTarget, file: &Path) -> Result<Exchanged, ImportError> {
        let tensors = TensorFile::open(file)?;
        let found = tensors.says("model_digest").map(ModelDigest::from_hex);
        let corrupt = |expected| ImportError::File(CorruptFile::new(tensors.path(), 8, expected));
        match found {
            Some(None) => return Err(corrupt("a model_digest of 64 hexadecimal digits")),
            Some(Some(found)) if found != target.model => {
                return Err(ImportError::Model { expected: target.model, found });
            }
            _ => {}
        }
        let needed = |name, expected| tensors.tensor(name)?.ok_or_else(|| corrupt(expected));
        let source = Source::new(
            target.layout,
            needed("vectors", "a tensor `vectors`")?,
            tensors.tensor("scales")?,
            needed("cu_seqlens", "a tensor `cu_seqlens`")?,
        )?;
        let mut names = TensorNames {
            ids: needed("ids", "a tensor `ids`")?,
            id_cu_bytes: needed("id_cu_bytes", "a tensor `id_cu_bytes`")?,
            content_hashes: needed("content_hashes", "a tensor `content_hashes`")?,
            truncated: tensors.tensor("truncated")?,
            next: 0,
            end: 0,
        };
        names.check(source.documents)?;
        self.import(target, &source, || names.next())
    }

    /// Puts the documents of NumPy files in a folder. See [`import_safetensors`](Self::import_safetensors).
    ///
    /// # Errors
    /// [`ImportError`].
    pub fn import_numpy(&self, target: &ImportTarget, folder: &Path) -> Result<Exchanged, ImportError> {
        let needed = |name| {
            let path = folder.join(name);
            npy::open(&path)?.ok_or_else(|| ImportError::File(CorruptFile::new(&path, 0, "a file")))
        };
        let scales = npy::open(&folder.join("scales.npy"))?;
        let source = Source::new(target.layout, needed("vectors.npy")?, scales, needed("cu_seqlens.npy")?)?;
        let path = folder.join("ids.jsonl");
        let file = File::open(&path).map_err(|source| DiskError { action: "open", path: path.clone(), source })?;
        let mut names = LineNames { lines: BufReader::new(file), path, at: 0 };
        let imported = self.import(target, &source, || names.next())?;
        names.expect_end()?;
        Ok(imported)
    }

    fn import(
        &self,
        target: &ImportTarget,
        source: &Source,
        mut next_name: impl FnMut() -> Result<Name, ImportError>,
    ) -> Result<Exchanged, ImportError> {
        let max = self.batch_bytes_max();
        let mut imported = Exchanged::default();
        let mut batch: Vec<OwnDocument> = Vec::new();
        let mut batch_bytes = 0;
        let mut begin = 0;
        for document in 0..source.documents {
            let end = source.cu_seqlens.number(document + 1)?;
            let rows = source.rows_between(begin, end)?;
            let name = next_name()?;
            let bytes = Batch::bytes_of_one(target.layout, &name.id, rows);
            // What is read may be larger than what is stored.
            let held = bytes.max(u64::from(rows) * source.row_bytes());
            if batch_bytes + held > max.min(BATCH_BYTES) && !batch.is_empty() {
                self.put_batch(target, &mut batch, &mut imported)?;
                batch_bytes = 0;
            }
            if bytes > max && name.id.len() <= Self::ID_BYTES_MAX {
                let position = batch.len();
                let refused = PutError::Document { position, fault: DocumentFault::TooLarge { bytes, max } };
                return Err(ImportError::Put { stored: imported.documents, source: refused });
            }
            batch_bytes += held;
            batch.push(OwnDocument { name, vectors: source.vectors(begin, rows)? });
            begin = end;
        }
        self.put_batch(target, &mut batch, &mut imported)?;
        Ok(imported)
    }

    fn put_batch(
        &self,
        target: &ImportTarget,
        batch: &mut Vec<OwnDocument>,
        imported: &mut Exchanged,
    ) -> Result<(), ImportError> {
        let documents: Vec<_> = batch.iter().map(OwnDocument::borrowed).collect();
        let put = self.put(&target.namespace, target.model, target.layout, &documents);
        put.map_err(|source| ImportError::Put { stored: imported.documents, source })?;
        imported.documents += documents.len() as u64;
        let rows = |document: &PutDocument<'_>| document.vectors.rows(target.layout.dim()).unwrap_or(0) as u64;
        imported.rows += documents.iter().map(rows).sum::<u64>();
        batch.clear();
        Ok(())
    }
}

/// What a document is called.
struct Name {
    id: String,
    content_hash: ContentHash,
    truncated: bool,
}

struct OwnDocument {
    name: Name,
    vectors: OwnVectors,
}

enum OwnVectors {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Int8 { codes: Vec<u8>, scales: Vec<f32> },
    Binary(Vec<u8>),
}

impl OwnDocument {
    fn borrowed(&self) -> PutDocument<'_> {
        let Name { id, content_hash, truncated } = &self.name;
        let vectors = match &self.vectors {
            OwnVectors::F32(x) => Tokens::F32(x),
            OwnVectors::F16(x) => Tokens::F16(x),
            OwnVectors::Int8 { codes, scales } => Tokens::Int8 { codes, scales },
            OwnVectors::Binary(bits) => Tokens::Binary(bits),
        };
        PutDocument { id, content_hash: *content_hash, truncated: *truncated, vectors }
    }
}

/// The vectors of all documents.
struct Source {
    layout: Layout,
    /// `[rows, row_elements]`.
    components: Column,
    /// `[rows]`, for int8.
    scales: Option<Column>,
    /// `[documents + 1]`.
    cu_seqlens: Column,
    documents: u64,
    rows: u64,
    row_elements: u64,
}

impl Source {
    fn new(
        layout: Layout,
        components: Column,
        scales: Option<Column>,
        cu_seqlens: Column,
    ) -> Result<Self, ImportError> {
        let dim = layout.dim() as u64;
        let row_elements = match (components.dtype, layout.storage()) {
            (Dtype::F32 | Dtype::F16, _) | (Dtype::U8, Storage::Int8) => dim,
            (Dtype::U8, Storage::Binary) => dim.div_ceil(8),
            _ => return Err(components.corrupt("vectors of F32, F16, or what the collection stores")),
        };
        let &[rows, found] = components.shape.as_slice() else {
            return Err(components.corrupt("vectors of shape [rows, dim]"));
        };
        if found != row_elements {
            return Err(components.corrupt("vectors of the collection's dim"));
        }
        let wants_scales = components.dtype == Dtype::U8 && layout.storage() == Storage::Int8;
        match &scales {
            Some(scales) if wants_scales && (scales.dtype, &*scales.shape) == (Dtype::F32, &[rows]) => {}
            Some(scales) if wants_scales => return Err(scales.corrupt("scales of F32 and shape [rows]")),
            Some(scales) => return Err(scales.corrupt("no scales: the collection or the vectors have none")),
            None if wants_scales => return Err(components.corrupt("scales beside vectors of int8")),
            None => {}
        }
        let documents = match (cu_seqlens.dtype, &*cu_seqlens.shape) {
            (Dtype::I64 | Dtype::U32, &[entries]) if entries > 0 => entries - 1,
            _ => return Err(cu_seqlens.corrupt("cu_seqlens of I64 or U32 and shape [documents + 1]")),
        };
        if cu_seqlens.number(0)? != 0 || cu_seqlens.number(documents)? != rows {
            return Err(cu_seqlens.corrupt("cu_seqlens from 0 to the number of rows"));
        }
        Ok(Self { layout, components, scales, cu_seqlens, documents, rows, row_elements })
    }

    /// Bytes of a row as it is read.
    fn row_bytes(&self) -> u64 {
        self.row_elements * self.components.dtype.bytes() + if self.scales.is_some() { 4 } else { 0 }
    }

    fn rows_between(&self, begin: u64, end: u64) -> Result<u32, ImportError> {
        let rows = end.checked_sub(begin).filter(|_| end <= self.rows).and_then(|rows| u32::try_from(rows).ok());
        rows.ok_or_else(|| self.cu_seqlens.corrupt("cu_seqlens that ascend"))
    }

    fn vectors(&self, begin: u64, rows: u32) -> Result<OwnVectors, ImportError> {
        let bytes = self.components.read(begin * self.row_elements, u64::from(rows) * self.row_elements)?;
        Ok(match (self.components.dtype, &self.scales) {
            (Dtype::F32, _) => OwnVectors::F32(floats(&bytes)),
            (Dtype::F16, _) => {
                OwnVectors::F16(bytes.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes)).collect())
            }
            (_, Some(scales)) => OwnVectors::Int8 { codes: bytes, scales: floats(&scales.read(begin, rows.into())?) },
            _ => {
                debug_assert_eq!(self.layout.storage(), Storage::Binary, "checked when the source was made");
                OwnVectors::Binary(bytes)
            }
        })
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Names in tensors.
struct TensorNames {
    ids: Column,
    id_cu_bytes: Column,
    content_hashes: Column,
    truncated: Option<Column>,
    next: u64,
    /// Where the last id ended.
    end: u64,
}

impl TensorNames {
    fn check(&self, documents: u64) -> Result<(), ImportError> {
        let shaped = |column: &Column, dtype, shape: &[u64]| (column.dtype, column.shape.as_slice()) == (dtype, shape);
        if !shaped(&self.id_cu_bytes, Dtype::I64, &[documents + 1]) {
            return Err(self.id_cu_bytes.corrupt("id_cu_bytes of I64 and shape [documents + 1]"));
        } else if !shaped(&self.content_hashes, Dtype::U8, &[documents, 32]) {
            return Err(self.content_hashes.corrupt("content_hashes of U8 and shape [documents, 32]"));
        } else if self.ids.dtype != Dtype::U8 || self.ids.shape.len() != 1 {
            return Err(self.ids.corrupt("ids of U8 and shape [bytes]"));
        } else if self.id_cu_bytes.number(0)? != 0 || self.id_cu_bytes.number(documents)? != self.ids.shape[0] {
            return Err(self.id_cu_bytes.corrupt("id_cu_bytes from 0 to the number of bytes"));
        }
        match &self.truncated {
            Some(truncated) if !shaped(truncated, Dtype::U8, &[documents]) => {
                Err(truncated.corrupt("truncated of U8 and shape [documents]"))
            }
            _ => Ok(()),
        }
    }

    fn next(&mut self) -> Result<Name, ImportError> {
        let begin = self.end;
        self.end = self.id_cu_bytes.number(self.next + 1)?;
        let bytes = self.end.checked_sub(begin).filter(|bytes| *bytes <= TokenStore::ID_BYTES_MAX as u64);
        let bytes = bytes.filter(|_| self.end <= self.ids.shape[0]);
        let bytes = bytes.ok_or_else(|| self.id_cu_bytes.corrupt("id_cu_bytes that ascend by at most 512"))?;
        let id = String::from_utf8(self.ids.read(begin, bytes)?).map_err(|_| self.ids.corrupt("ids of UTF-8"))?;
        let mut content_hash = ContentHash([0; 32]);
        content_hash.0.copy_from_slice(&self.content_hashes.read(32 * self.next, 32)?);
        let truncated = match &self.truncated {
            Some(column) => match column.read(self.next, 1)?[0] {
                flag @ (0 | 1) => flag == 1,
                _ => return Err(column.corrupt("truncated of 0 and 1")),
            },
            None => false,
        };
        self.next += 1;
        Ok(Name { id, content_hash, truncated })
    }
}

/// Names in lines of JSON.
struct LineNames {
    lines: BufReader<File>,
    path: PathBuf,
    at: u64,
}

#[derive(Deserialize)]
struct Line {
    id: String,
    content_hash: String,
    #[serde(default)]
    truncated: bool,
}

impl LineNames {
    fn next(&mut self) -> Result<Name, ImportError> {
        let corrupt = |at| CorruptFile::new(&self.path, at, "a line {\"id\": …, \"content_hash\": 64 hex digits}");
        let mut bytes = Vec::new();
        let read = self.lines.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes);
        let read = read.map_err(|source| DiskError { action: "read", path: self.path.clone(), source })?;
        let parsed: Line = serde_json::from_slice(&bytes).map_err(|_| corrupt(self.at))?;
        let content_hash = ContentHash::from_hex(&parsed.content_hash).ok_or_else(|| corrupt(self.at))?;
        self.at += read as u64;
        Ok(Name { id: parsed.id, content_hash, truncated: parsed.truncated })
    }

    fn expect_end(&mut self) -> Result<(), ImportError> {
        let rest = self.lines.fill_buf();
        let rest = rest.map_err(|source| DiskError { action: "read", path: self.path.clone(), source })?;
        if rest.is_empty() {
            return Ok(());
        }
        Err(CorruptFile::new(&self.path, self.at, "as many lines as there are documents").into())
    }
}
