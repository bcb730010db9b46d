//! Judged collections and the vectors of their texts.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, ensure};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use sluice_core::evaluate::Qrels;
use sluice_inference::{CpuOptions, Resolver, SilentProgress, Source};
use sluice_retrieval::{
    document::Document,
    schema::{Language, Schema},
};

use super::{DENSE, JUDGED};
use crate::{encoder::InProcess, machine::Machine, report::Report};

/// Components of all-MiniLM-L6-v2's vectors.
pub(super) const DIM: usize = 384;
/// Texts that are encoded between two words about it.
const PART: usize = 512;

/// A judged collection.
pub(super) struct Judged {
    pub(super) name: String,
    /// With their vectors.
    pub(super) documents: Vec<Document>,
    pub(super) queries: Vec<Query>,
    pub(super) qrels: Qrels,
}

/// A query and its vector.
pub(super) struct Query {
    pub(super) id: String,
    pub(super) text: String,
    pub(super) vector: Vec<f32>,
}

#[derive(Deserialize)]
struct Line {
    id: String,
    #[serde(default)]
    title: String,
    text: String,
}

/// The collections that there are, encoded by all-MiniLM-L6-v2; vectors are kept in the cache folder.
///
/// # Errors
/// If the model is not to be had, or a collection that is there cannot be read.
pub(super) fn sets(folders: &[PathBuf], machine: &Machine, report: &mut Report) -> anyhow::Result<Vec<Judged>> {
    let folders = if folders.is_empty() {
        JUDGED.map(|folder| machine.workspace.join(folder)).to_vec()
    } else {
        folders.to_vec()
    };
    let mut sets = Vec::new();
    for folder in folders {
        let name = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned();
        if !folder.is_dir() {
            report.notes.push(format!("{name}: skipped, there is no such folder"));
            continue;
        }
        sets.push(read(&folder, name, machine).with_context(|| folder.display().to_string())?);
    }
    Ok(sets)
}

fn read(folder: &Path, name: String, machine: &Machine) -> anyhow::Result<Judged> {
    let (corpus, queries) = (lines(&folder.join("corpus.jsonl"))?, lines(&folder.join("queries.jsonl"))?);
    let qrels = Qrels::parse(&fs::read_to_string(folder.join("qrels.txt"))?)?;
    let content = Schema::title_and_text(Language::English).content;
    let documents = corpus.into_iter().map(|line| Document {
        id: line.id,
        texts: [("title".to_owned(), line.title), ("text".to_owned(), line.text)].into(),
        ..Document::default()
    });
    let mut documents: Vec<Document> = documents.collect();
    let texts: Vec<String> = documents.iter().map(|document| content.join(document)).collect();
    let texts = texts.into_iter().chain(queries.iter().map(|line| line.text.clone())).collect::<Vec<_>>();
    let mut vectors = encoded(&name, &texts, machine)?;
    let of_queries = vectors.split_off(documents.len());
    for (document, vector) in documents.iter_mut().zip(vectors) {
        document.dense.insert(DENSE.to_owned(), vector);
    }
    let queries = queries.into_iter().zip(of_queries);
    let queries = queries.map(|(line, vector)| Query { id: line.id, text: line.text, vector }).collect();
    Ok(Judged { name, documents, queries, qrels })
}

fn lines(path: &Path) -> anyhow::Result<Vec<Line>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let line = |(nth, line): (usize, &str)| {
        serde_json::from_str(line).with_context(|| format!("{}: line {}", path.display(), nth + 1))
    };
    text.lines().enumerate().map(line).collect()
}

/// The vectors of texts: from the cache, if these texts were encoded by this model before.
fn encoded(name: &str, texts: &[String], machine: &Machine) -> anyhow::Result<Vec<Vec<f32>>> {
    let resolver = Resolver::new(machine.cache.join("models"), Arc::new(SilentProgress));
    let model = resolver.with_hub(machine.hub.clone()).resolve(&Source::Default)?;
    let mut digest = Sha256::new();
    digest.update(fs::read(model.path.join("model.safetensors"))?);
    for text in texts {
        digest.update((text.len() as u64).to_le_bytes());
        digest.update(text);
    }
    let digest = digest.finalize();
    let key: String = digest.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    let file = machine.cache.join("bench-vectors").join(format!("{name}-{key}.f32"));
    if let Ok(bytes) = fs::read(&file) {
        ensure!(bytes.len() == texts.len() * DIM * 4, "{} has another length", file.display());
        let components: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        return Ok(components.chunks(DIM).map(<[f32]>::to_vec).collect());
    }
    let options = CpuOptions { threads: machine.processors.get(), ..CpuOptions::new(1024, 256) };
    let mut model = InProcess::load("sluice", &model.path, &options, machine.clock)?;
    let mut vectors = Vec::with_capacity(texts.len());
    for part in texts.chunks(PART) {
        (machine.progress)(&format!("{name}: {} of {} texts are encoded", vectors.len(), texts.len()));
        vectors.extend(model.encode(part)?);
    }
    ensure!(vectors.iter().all(|vector| vector.len() == DIM), "the model has other vectors");
    let bytes: Vec<u8> = vectors.iter().flatten().flat_map(|component| component.to_le_bytes()).collect();
    fs::create_dir_all(machine.cache.join("bench-vectors"))?;
    // Whole or not at all, whoever else runs this.
    let unfinished = file.with_extension(format!("{}.new", std::process::id()));
    fs::write(&unfinished, bytes)?;
    fs::rename(unfinished, file)?;
    Ok(vectors)
}
