//! Our own engine's promise: what it makes of a sequence is the same bits whoever shares the batch, and however many
//! threads compute it; in both precisions, with every instruction set that the machine has.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "helper functions of tests")]

mod support;

use rand::{Rng, SeedableRng, rngs::SmallRng, seq::SliceRandom};
use sluice_core::{
    Operation,
    batch::{Role, Sequence},
};
use sluice_inference::{CpuOptions, LoadedModel, Precision, load_folder};
use sluice_kernels::Isa;
use support::{
    ROOMY, batch, dense, late_interaction, plain, run, scores,
    tiny::{self, LONG, SMALL, Sizes},
    tokens,
};
use tempfile::TempDir;

const OPERATIONS: [Operation; 4] =
    [Operation::EncodeTokens, Operation::EncodeDense, Operation::LateInteraction, Operation::CrossEncode];

/// What came out of each sequence, as bits.
type Bits = Vec<Vec<u32>>;

fn folder(sizes: Sizes, pooling: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    let tensors = tiny::tensors_of(sizes, 1, 1);
    tiny::write_model_of(sizes, folder.path(), "BertForSequenceClassification", &tensors);
    tiny::write_json(folder.path(), "1_Pooling/config.json", &serde_json::json!({pooling: true}));
    folder
}

fn load(folder: &TempDir, options: &CpuOptions) -> LoadedModel {
    load_folder(folder.path(), String::new(), String::new(), options).unwrap()
}

/// Documents of those lengths; their types change somewhere, and one query is before them for late interaction.
fn compute(model: &mut LoadedModel, operation: Operation, documents: &[Vec<u32>]) -> Bits {
    let bits = |vector: Vec<f32>| vector.into_iter().map(f32::to_bits).collect::<Vec<u32>>();
    let units = match operation {
        Operation::LateInteraction => late_interaction(vec![2, 7, 11, 3], documents.iter().cloned()),
        Operation::CrossEncode => documents.iter().map(|ids| pair(ids)).collect(),
        _ => documents.iter().cloned().map(plain).collect(),
    };
    let output = run(&mut *model.backend, &batch(operation, &units)).unwrap();
    match operation {
        Operation::EncodeTokens => tokens(output).into_iter().map(bits).collect(),
        Operation::EncodeDense => dense(output).into_iter().map(bits).collect(),
        Operation::LateInteraction => scores(output).into_iter().skip(1).map(|score| bits(vec![score])).collect(),
        _ => scores(output).into_iter().map(|score| bits(vec![score])).collect(),
    }
}

fn pair(ids: &[u32]) -> Sequence {
    Sequence { input_ids: ids.to_vec(), second_segment_start: ids.len() as u32 / 3, role: Role::Plain }
}

fn documents(rng: &mut SmallRng, lengths: &[usize]) -> Vec<Vec<u32>> {
    let vocabulary = tiny::vocabulary().len() as u32;
    lengths.iter().map(|&length| (0..length).map(|_| rng.random_range(0..vocabulary)).collect()).collect()
}

fn check(sizes: Sizes, lengths: &[usize]) {
    let mut rng = SmallRng::seed_from_u64(3);
    let own = documents(&mut rng, lengths);
    let strangers = documents(&mut rng, &[5, 60, 1, 31, 12, 2, 47]);
    for pooling in ["pooling_mode_mean_tokens", "pooling_mode_cls_token"] {
        let folder = folder(sizes, pooling);
        for (isa, precision) in Isa::available().flat_map(|isa| [(isa, Precision::F32), (isa, Precision::Int8)]) {
            let options = |threads| CpuOptions { isa: Some(isa), precision, threads, ..ROOMY };
            let mut one = load(&folder, &options(1));
            let what = format!("{}, {pooling}", one.info.backend);
            for operation in OPERATIONS {
                let together = compute(&mut one, operation, &own);
                for (index, document) in own.iter().enumerate() {
                    let alone = compute(&mut one, operation, std::slice::from_ref(document));
                    assert_eq!(alone[0], together[index], "{what}, {operation:?}: document {index} alone");
                }
                for threads in [1, 2, 3] {
                    let mut model = load(&folder, &options(threads));
                    // So few rows are divided among the threads in another way.
                    for (index, document) in own.iter().enumerate() {
                        let alone = compute(&mut model, operation, std::slice::from_ref(document));
                        let what = format!("{what}, {operation:?}: document {index} alone, {threads} threads");
                        assert_eq!(alone[0], together[index], "{what}");
                    }
                    let mut crowd: Vec<(Option<usize>, &Vec<u32>)> =
                        own.iter().enumerate().map(|(i, document)| (Some(i), document)).collect();
                    crowd.extend(strangers.iter().map(|stranger| (None, stranger)));
                    crowd.shuffle(&mut rng);
                    let texts: Vec<Vec<u32>> = crowd.iter().map(|(_, text)| (*text).clone()).collect();
                    let found = compute(&mut model, operation, &texts);
                    for ((owner, _), found) in crowd.iter().zip(found) {
                        let Some(index) = owner else { continue };
                        let what =
                            format!("{what}, {operation:?}: document {index} among strangers, {threads} threads");
                        assert_eq!(found, together[*index], "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn short_sequences_of_odd_sizes() {
    check(SMALL, &[1, 2, 11, 12, 13, 25, 48, 49, 60]);
}

#[test]
fn long_sequences() {
    check(LONG, &[512, 1, 129, 257, 40]);
}

#[test]
fn int8_is_close_to_f32_and_not_the_same() {
    let folder = folder(LONG, "pooling_mode_mean_tokens");
    let mut rng = SmallRng::seed_from_u64(4);
    let own = documents(&mut rng, &[3, 20, 100, 400]);
    for isa in Isa::available() {
        let vectors = |precision| {
            let mut model = load(&folder, &CpuOptions { isa: Some(isa), precision, ..ROOMY });
            compute(&mut model, Operation::EncodeDense, &own)
        };
        for (exact, coded) in vectors(Precision::F32).iter().zip(vectors(Precision::Int8)) {
            assert_ne!(exact, &coded);
            let cosine: f32 = exact.iter().zip(coded).map(|(&a, b)| f32::from_bits(a) * f32::from_bits(b)).sum();
            // Random weights have no structure that would make up for the codes: trained ones are closer.
            assert!(cosine > 0.98, "{}: {cosine}", isa.name());
        }
    }
}
