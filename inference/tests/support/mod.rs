//! What the tests of this crate share: small models, batches, and where the real one is.
#![allow(dead_code, unreachable_pub, reason = "each test binary compiles this, and uses what it needs of it")]

pub mod plain_bert;
pub mod tiny;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use sluice_core::{
    Lane, ModelIndex, Operation, RequestId, UnitId,
    backend::{Backend, BackendError, BatchOutput},
    batch::{PackedBatch, QueryVectors, Role, Sequence},
};
use sluice_inference::CpuOptions;
use sluice_kernels::{InstructionSet, Isa};

/// Room for any batch of these tests.
pub const ROOMY: CpuOptions = CpuOptions::new(32_768, 1_024);

/// A batch of `sequences`, numbered as units of one request.
pub fn batch(operation: Operation, sequences: &[Sequence]) -> Arc<PackedBatch> {
    let lane = Lane { model: ModelIndex(0), operation };
    let tokens = sequences.iter().map(|sequence| sequence.input_ids.len()).sum();
    let mut batch = PackedBatch::with_capacity(lane, sequences.len(), tokens);
    for (index, sequence) in sequences.iter().enumerate() {
        batch.push(UnitId { request: RequestId(1), index: index as u32 }, sequence);
    }
    Arc::new(batch)
}

/// Submits a batch and collects what comes out.
pub fn run(backend: &mut dyn Backend, batch: &Arc<PackedBatch>) -> Result<BatchOutput, BackendError> {
    let ticket = backend.submit(Arc::clone(batch))?;
    backend.collect(ticket)
}

pub fn scores(output: BatchOutput) -> Vec<f32> {
    match output {
        BatchOutput::Scores(scores) => scores,
        other => panic!("not scores: {other:?}"),
    }
}

pub fn dense(output: BatchOutput) -> Vec<Vec<f32>> {
    match output {
        BatchOutput::DenseVectors(vectors) => vectors,
        other => panic!("not dense vectors: {other:?}"),
    }
}

/// The token vectors of each sequence, row-major.
pub fn tokens(output: BatchOutput) -> Vec<Vec<f32>> {
    match output {
        BatchOutput::TokenMatrices(matrices) => matrices.into_iter().map(|matrix| matrix.data).collect(),
        other => panic!("not token matrices: {other:?}"),
    }
}

pub fn plain(ids: Vec<u32>) -> Sequence {
    Sequence::single(ids, Role::Plain)
}

/// A query and documents that are scored against it.
pub fn late_interaction(query: Vec<u32>, documents: impl IntoIterator<Item = Vec<u32>>) -> Vec<Sequence> {
    let slot = Arc::new(QueryVectors::default());
    let documents = documents.into_iter().map(|ids| Sequence::single(ids, Role::Document(Arc::clone(&slot))));
    std::iter::once(Sequence::single(query, Role::Query(Arc::clone(&slot)))).chain(documents).collect()
}

/// Fails unless both are as long and nowhere further apart than `tolerance`. Returns the largest distance.
#[track_caller]
pub fn assert_close<'a>(
    found: impl IntoIterator<Item = &'a f32>,
    expected: impl IntoIterator<Item = f64>,
    tolerance: f64,
    what: &str,
) -> f64 {
    let (mut found, mut expected) = (found.into_iter(), expected.into_iter());
    let (mut worst, mut index) = (0.0_f64, 0);
    loop {
        match (found.next(), expected.next()) {
            (None, None) => return worst,
            (Some(&found), Some(expected)) => {
                let distance = (f64::from(found) - expected).abs();
                assert!(distance <= tolerance, "{what}, element {index}: {found}, expected {expected}");
                worst = worst.max(distance);
            }
            (found, expected) => panic!("{what}: lengths differ at {index}: {found:?}, {expected:?}"),
        }
        index += 1;
    }
}

/// The folder of the default model, if some source has it.
pub fn default_model() -> Option<PathBuf> {
    Some(sluice_inference::testing::default_model()?.path)
}

/// The folder of the shared test collections, if there is one beside the workspace.
pub fn shared_data() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    let found = folder.is_dir().then_some(folder);
    if found.is_none() {
        eprintln!("skipped: there are no shared test collections beside the workspace");
    }
    found
}

/// The end of the label of our own engine on this machine.
pub fn isa_label() -> &'static str {
    match Isa::best().set() {
        InstructionSet::Avx512 => "avx512",
        InstructionSet::Avx2 => "avx2",
        InstructionSet::Neon => "neon",
        InstructionSet::Fallback => "portable",
    }
}
