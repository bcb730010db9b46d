//! Our own engine's promise: what it makes of a sequence is the same bits whoever shares the batch, and however many
//! threads compute it; in every precision, with every instruction set that the machine has.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "helper functions of tests")]

mod support;

use half::f16;
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::SliceRandom};
use safetensors::Dtype;
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
        let precisions = [Precision::F32, Precision::F16, Precision::Int8];
        for (isa, precision) in Isa::available().flat_map(|isa| precisions.map(|precision| (isa, precision))) {
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
fn a_checkpoint_in_f16_has_the_same_scores_with_its_weights_in_f16() {
    let folder = folder(LONG, "pooling_mode_mean_tokens");
    let tensors = tiny::tensors_of(LONG, 2, 1);
    tiny::write_tensors_as(folder.path(), &tensors, Dtype::F16, |x| f16::from_f32(x).to_le_bytes().to_vec());
    let own = documents(&mut SmallRng::seed_from_u64(5), &[1, 3, 20, 100, 400]);
    for isa in Isa::available() {
        let vectors = |precision| {
            let mut model = load(&folder, &CpuOptions { isa: Some(isa), precision, ..ROOMY });
            compute(&mut model, Operation::EncodeTokens, &own)
        };
        assert_eq!(vectors(Precision::F32), vectors(Precision::F16), "{}", isa.name());
    }
    // Of one in f32 they are rounded.
    tiny::write_tensors(folder.path(), &tensors);
    let vectors = |precision| {
        let mut model = load(&folder, &CpuOptions { precision, ..ROOMY });
        compute(&mut model, Operation::EncodeDense, &own)
    };
    for (exact, rounded) in vectors(Precision::F32).iter().zip(vectors(Precision::F16)) {
        assert_ne!(exact, &rounded);
        let cosine: f32 = exact.iter().zip(rounded).map(|(&a, b)| f32::from_bits(a) * f32::from_bits(b)).sum();
        assert!(cosine > 0.9999, "{cosine}");
    }
}

#[test]
fn weights_beyond_f16_are_refused_in_it() {
    let folder = folder(SMALL, "pooling_mode_mean_tokens");
    let mut tensors = tiny::tensors_of(SMALL, 2, 1);
    tensors.get_mut("encoder.layer.1.output.dense.weight").unwrap().1[5] = -65_520.0;
    tiny::write_tensors(folder.path(), &tensors);
    let load = |precision| {
        load_folder(folder.path(), String::new(), String::new(), &CpuOptions { precision, ..ROOMY })
            .map(drop)
            .map_err(|error| error.to_string())
    };
    assert_eq!(load(Precision::F32), Ok(()));
    let refused = load(Precision::F16).unwrap_err();
    assert!(
        refused.ends_with("model.safetensors: a weight is -6.552e4, and precision \"f16\" keeps at most 65504"),
        "{refused}"
    );
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
