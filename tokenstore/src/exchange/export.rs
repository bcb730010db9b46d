//! Writes a collection into files of other tools.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Serialize;
use sluice_kernels::tokens::Storage;

use super::{Dtype, Exchanged, ExportError, npy, safetensors};
use crate::{DiskError, Layout, ModelDigest, Namespace, Stored, TokenStore, collection::CollectionKey};

/// A collection at one moment.
struct Snapshot {
    key: CollectionKey,
    layout: Layout,
    documents: Vec<(Arc<str>, Stored)>,
}

/// A line of `ids.jsonl`.
#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    content_hash: String,
    truncated: bool,
}

impl TokenStore {
    /// Writes a collection, as it is at this moment, into a safetensors file, replacing it as a whole. The layout is in
    /// the documentation of [`exchange`](crate::exchange). Damaged documents are left out, and reported as by a lookup.
    ///
    /// # Errors
    /// [`ExportError`].
    pub fn export_safetensors(
        &self,
        namespace: &Namespace,
        model: ModelDigest,
        file: &Path,
    ) -> Result<Exchanged, ExportError> {
        let snapshot = self.snapshot(namespace, model)?;
        let mut partial = file.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        write_file(&partial, |out| {
            out.write_all(&snapshot.safetensors_header())?;
            snapshot.write_cu_seqlens(out)?;
            snapshot.write_id_cu_bytes(out)?;
            snapshot.write_scales(out)?;
            snapshot.write_vectors(out)?;
            snapshot.documents.iter().try_for_each(|(_, stored)| out.write_all(&stored.content_hash().0))?;
            snapshot.documents.iter().try_for_each(|(_, stored)| out.write_all(&[stored.truncated().into()]))?;
            snapshot.documents.iter().try_for_each(|(id, _)| out.write_all(id.as_bytes()))
        })?;
        let renamed = fs::rename(&partial, file);
        renamed.map_err(|source| DiskError { action: "rename", path: partial, source })?;
        Ok(snapshot.exchanged())
    }

    /// Writes a collection, as it is at this moment, into NumPy files of a folder, which is created if need be. See
    /// [`export_safetensors`](Self::export_safetensors).
    ///
    /// # Errors
    /// [`ExportError`]; some of the files may be written.
    pub fn export_numpy(
        &self,
        namespace: &Namespace,
        model: ModelDigest,
        folder: &Path,
    ) -> Result<Exchanged, ExportError> {
        let snapshot = self.snapshot(namespace, model)?;
        let created = fs::create_dir_all(folder);
        created.map_err(|source| DiskError { action: "create", path: folder.to_owned(), source })?;
        let (dtype, shape) = snapshot.vectors();
        let rows = snapshot.exchanged().rows;
        write_file(&folder.join("vectors.npy"), |out| {
            out.write_all(&npy::header(dtype, &shape))?;
            snapshot.write_vectors(out)
        })?;
        if snapshot.layout.storage() == Storage::Int8 {
            write_file(&folder.join("scales.npy"), |out| {
                out.write_all(&npy::header(Dtype::F32, &[rows]))?;
                snapshot.write_scales(out)
            })?;
        }
        write_file(&folder.join("cu_seqlens.npy"), |out| {
            out.write_all(&npy::header(Dtype::I64, &[snapshot.documents.len() as u64 + 1]))?;
            snapshot.write_cu_seqlens(out)
        })?;
        write_file(&folder.join("ids.jsonl"), |out| {
            snapshot.documents.iter().try_for_each(|(id, stored)| {
                let content_hash = stored.content_hash().to_string();
                serde_json::to_writer(&mut *out, &Line { id, content_hash, truncated: stored.truncated() })?;
                out.write_all(b"\n")
            })
        })?;
        Ok(snapshot.exchanged())
    }

    fn snapshot(&self, namespace: &Namespace, model: ModelDigest) -> Result<Snapshot, ExportError> {
        let key = CollectionKey { namespace: namespace.clone(), model };
        let missing = || ExportError::NoCollection { namespace: namespace.clone(), model };
        let collection = self.collection(&key).ok_or_else(missing)?;
        let ids: Vec<Arc<str>> = collection.documents().into_iter().map(|(id, _)| id).collect();
        // Looked up, so that only what is intact is copied.
        let stored = self.lookup(namespace, model, &ids);
        let documents = ids.into_iter().zip(stored).filter_map(|(id, stored)| Some((id, stored?))).collect();
        Ok(Snapshot { key, layout: collection.layout, documents })
    }
}

impl Snapshot {
    fn exchanged(&self) -> Exchanged {
        let rows = self.documents.iter().map(|(_, stored)| stored.rows() as u64).sum();
        Exchanged { documents: self.documents.len() as u64, rows }
    }

    /// Type and shape of the vectors.
    fn vectors(&self) -> (Dtype, Vec<u64>) {
        let (dtype, bytes) = match self.layout.storage() {
            Storage::F16 => (Dtype::F16, 2),
            _ => (Dtype::U8, 1),
        };
        let row_bytes = self.layout.storage().row_bytes(self.layout.dim()) as u64;
        (dtype, vec![self.exchanged().rows, row_bytes / bytes])
    }

    fn safetensors_header(&self) -> Vec<u8> {
        let Exchanged { documents, rows } = self.exchanged();
        let id_bytes = self.documents.iter().map(|(id, _)| id.len() as u64).sum();
        let (dtype, shape) = self.vectors();
        let mut tensors =
            vec![("cu_seqlens", Dtype::I64, vec![documents + 1]), ("id_cu_bytes", Dtype::I64, vec![documents + 1])];
        if self.layout.storage() == Storage::Int8 {
            tensors.push(("scales", Dtype::F32, vec![rows]));
        }
        tensors.push(("vectors", dtype, shape));
        tensors.push(("content_hashes", Dtype::U8, vec![documents, 32]));
        tensors.push(("truncated", Dtype::U8, vec![documents]));
        tensors.push(("ids", Dtype::U8, vec![id_bytes]));
        let metadata = [
            ("format", "sluice-tokens/1".to_owned()),
            ("namespace", self.key.namespace.to_string()),
            ("model_digest", self.key.model.to_string()),
            ("storage", self.layout.storage().name().to_owned()),
            ("dim", self.layout.dim().to_string()),
        ];
        safetensors::header(&metadata, &tensors)
    }

    fn write_cu_seqlens(&self, out: &mut impl Write) -> io::Result<()> {
        write_sums(out, self.documents.iter().map(|(_, stored)| stored.rows()))
    }

    fn write_id_cu_bytes(&self, out: &mut impl Write) -> io::Result<()> {
        write_sums(out, self.documents.iter().map(|(id, _)| id.len()))
    }

    fn write_vectors(&self, out: &mut impl Write) -> io::Result<()> {
        self.documents.iter().try_for_each(|(_, stored)| {
            let bytes = self.layout.component_bytes(stored.rows() as u32) as usize;
            out.write_all(&stored.bytes()[..bytes])
        })
    }

    /// Nothing where there are no scales.
    fn write_scales(&self, out: &mut impl Write) -> io::Result<()> {
        self.documents.iter().try_for_each(|(_, stored)| match self.layout.scales_at(stored.rows() as u32) {
            Some(at) => out.write_all(&stored.bytes()[at as usize..]),
            None => Ok(()),
        })
    }
}

fn write_sums(out: &mut impl Write, lengths: impl Iterator<Item = usize>) -> io::Result<()> {
    let mut sum = 0_i64;
    out.write_all(&sum.to_le_bytes())?;
    for length in lengths {
        sum += length as i64;
        out.write_all(&sum.to_le_bytes())?;
    }
    Ok(())
}

fn write_file(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<(), DiskError> {
    let written = File::create(path).and_then(|file| {
        let mut out = BufWriter::new(file);
        write(&mut out)?;
        out.into_inner()?.sync_all()
    });
    written.map_err(|source| DiskError { action: "write", path: path.to_owned(), source })
}
