//! The graph on disk.
//!
//! Two files: `graph-CRC.bin`, as usearch writes it, and `graph.txt`, one line that says what it is of and
//! how long it is, its CRC-32, and the documents that are in it. The second is replaced by renaming, after the first is
//! on disk: there is always one whole graph, or none. What reads the first does not defend itself, so its length and
//! CRC are compared before; a file that is not as the line says is as good as none.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use roaring::RoaringBitmap;

use super::{GraphOptions, Shared, engine::Engine};
use crate::{schema::Metric, vector_index::IndexError};

/// The format of both files; another is not read.
const FORMAT: &str = "sluice-graph-1";
/// The file that names the other.
const DESCRIPTION: &str = "graph.txt";

/// What a graph must be of to be used.
fn settings(metric: Metric, dim: u32, options: &GraphOptions) -> String {
    let GraphOptions { connectivity, ef_construction, generation, .. } = options;
    format!("{FORMAT} bf16 {metric:?} {dim} {connectivity} {ef_construction} {generation}")
}

/// The graph that was kept, and the documents in it.
pub(crate) fn load(
    metric: Metric,
    dim: u32,
    options: &GraphOptions,
) -> Result<Option<(Engine, RoaringBitmap)>, IndexError> {
    let Some(folder) = &options.folder else { return Ok(None) };
    let description = match fs::read(folder.join(DESCRIPTION)) {
        Ok(description) => description,
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(fault) => return Err(IndexError::storage("reading what the graph is of")(fault)),
    };
    let Some((file, documents)) = understand(folder, &description, &settings(metric, dim, options)) else {
        return Ok(None);
    };
    let mut engine = Engine::new(metric, dim, options)?;
    if let Err(error) = engine.load(&file) {
        tracing::warn!(%error, "a graph that was kept cannot be loaded; it is linked again");
        return Ok(None);
    }
    Ok(Some((engine, documents)))
}

/// The file and its documents, if both are whole and of these settings.
fn understand(folder: &Path, description: &[u8], settings: &str) -> Option<(PathBuf, RoaringBitmap)> {
    let line_end = description.iter().position(|&byte| byte == b'\n')?;
    let line = std::str::from_utf8(&description[..line_end]).ok()?;
    let mut of_file = line.strip_prefix(settings)?.split_ascii_whitespace();
    let bytes: u64 = of_file.next()?.parse().ok()?;
    let crc = u32::from_str_radix(of_file.next()?, 16).ok()?;
    let documents_crc = u32::from_str_radix(of_file.next()?, 16).ok()?;
    let documents = &description[line_end + 1..];
    if of_file.next().is_some() || crc32fast::hash(documents) != documents_crc {
        return None;
    }
    let documents = RoaringBitmap::deserialize_from(documents).ok()?;
    let file = folder.join(name(crc));
    (checksum(&file).ok()? == (bytes, crc)).then_some((file, documents))
}

/// Writes the graph, if there is a folder for it. Searches go on, linking waits.
pub(crate) fn keep(shared: &Shared) -> Result<(), IndexError> {
    let Some(folder) = &shared.options.folder else { return Ok(()) };
    let failed = |cause: io::Error| IndexError::storage("keeping the graph")(cause);
    fs::create_dir_all(folder).map_err(failed)?;
    let unnamed = folder.join("graph.new");
    let kept = keep_as(shared, folder, &unnamed);
    if kept.is_err() {
        // It may be as large as the room that was left. Not there is as good as removed.
        let _ = fs::remove_file(&unnamed);
    }
    kept
}

fn keep_as(shared: &Shared, folder: &Path, unnamed: &Path) -> Result<(), IndexError> {
    let failed = |cause: io::Error| IndexError::storage("keeping the graph")(cause);
    let documents = {
        // Held together: what is in the graph is what is said to be, and nothing is added while it is written.
        let _linking = shared.linking.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let documents = {
            let state = shared.read();
            &state.linked | &state.gone
        };
        shared.engine().save(unnamed)?;
        documents
    };
    let (bytes, crc) = checksum(unnamed).map_err(failed)?;
    File::open(unnamed).and_then(|file| file.sync_all()).map_err(failed)?;
    fs::rename(unnamed, folder.join(name(crc))).map_err(failed)?;
    let mut list = Vec::new();
    documents.serialize_into(&mut list).map_err(failed)?;
    let settings = settings(shared.metric, shared.dim, &shared.options);
    let mut description = format!("{settings} {bytes} {crc:08x} {:08x}\n", crc32fast::hash(&list)).into_bytes();
    description.append(&mut list);
    replace(folder, &description).map_err(failed)?;
    remove_others(folder, &name(crc)).map_err(failed)
}

fn replace(folder: &Path, description: &[u8]) -> io::Result<()> {
    let new = folder.join("graph.txt.new");
    let mut file = File::create(&new)?;
    file.write_all(description)?;
    file.sync_all()?;
    fs::rename(new, folder.join(DESCRIPTION))?;
    File::open(folder)?.sync_all()
}

/// Graphs that no description names any more.
fn remove_others(folder: &Path, named: &str) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if let Some(name) = name.to_str()
            && name.starts_with("graph-")
            && name != named
        {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn name(crc: u32) -> String {
    format!("graph-{crc:08x}.bin")
}

/// Length and CRC-32 of a file.
fn checksum(file: &Path) -> io::Result<(u64, u32)> {
    let mut file = File::open(file)?;
    let mut buffer = vec![0; 1 << 20];
    let (mut bytes, mut crc) = (0, crc32fast::Hasher::new());
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((bytes, crc.finalize())),
            read => {
                bytes += read as u64;
                crc.update(&buffer[..read]);
            }
        }
    }
}
