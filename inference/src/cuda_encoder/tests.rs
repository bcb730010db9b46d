//! The engine on the CPU shim, beside the engine of the CPU.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helper functions of tests")]

mod emulated;
mod faults;
mod late;
#[path = "../../tests/support/tiny.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the tests of the crate, and used in part")]
mod tiny;

use std::{collections::BTreeSet, sync::Arc};

use rand::{Rng, SeedableRng, rngs::SmallRng, seq::SliceRandom};
use sluice_core::{
    Lane, ModelIndex, Operation, RequestId, UnitId,
    backend::{Backend, BackendError, BackendLimits, BatchOutput, Ticket},
    batch::{PackedBatch, QueryVectors, Role, Sequence},
};
use sluice_kernels::cuda::encoder::Capacity;
use tempfile::TempDir;

use super::{CudaEncoder, Multiplier, Regions, Weights};
use crate::{CpuOptions, cuda_backend::CudaBackend, folder::FolderConfig, load_folder};
use emulated::Emulated;
use tiny::Sizes;

/// Heads of the size that most small models have, and an intermediate size that is no multiple of a tile.
const SIZES: Sizes = Sizes { hidden: 64, num_heads: 2, num_layers: 2, intermediate: 136, max_positions: 512 };
/// What f16 may change.
const TOLERANCE: f32 = 2e-3;
const TOKENS_MAX: usize = 1200;
const SEQUENCES_MAX: usize = 24;

const OPERATIONS: [Operation; 4] =
    [Operation::EncodeTokens, Operation::EncodeDense, Operation::LateInteraction, Operation::CrossEncode];

/// A small model's folder, and how it is to be computed.
struct Model {
    folder: TempDir,
    multiplier: Multiplier,
    seed: u64,
    capacity: Capacity,
}

impl Model {
    fn new(sizes: Sizes, pooling: &str, activation: &str, multiplier: Multiplier) -> Self {
        let folder = TempDir::new().unwrap();
        // As layers are initialised: what comes out of a product is about as large as what goes in, whatever its width.
        let mut tensors = tiny::tensors_of(sizes, 7, 1);
        let factor = 4.0 / (sizes.hidden as f32).sqrt();
        for (name, (_, values)) in &mut tensors {
            let is_linear =
                ["dense.weight", "self.query.weight", "self.key.weight", "self.value.weight", "classifier.weight"];
            if is_linear.iter().any(|end| name.ends_with(end)) {
                values.iter_mut().for_each(|x| *x *= factor);
            }
        }
        tiny::write_model_of(sizes, folder.path(), "BertForSequenceClassification", &tensors);
        let mut config = tiny::config_json_of(sizes, "BertForSequenceClassification");
        config["hidden_act"] = activation.into();
        tiny::write_json(folder.path(), "config.json", &config);
        tiny::write_json(folder.path(), "1_Pooling/config.json", &serde_json::json!({pooling: true}));
        Self { folder, multiplier, seed: 1, capacity: Capacity { tokens: TOKENS_MAX, sequences: SEQUENCES_MAX } }
    }

    fn small() -> Self {
        Self::new(SIZES, "pooling_mode_mean_tokens", "gelu", Multiplier::Own)
    }

    /// The engine of the CPU.
    fn cpu(&self) -> Box<dyn Backend> {
        let options = CpuOptions::new(TOKENS_MAX as u32, SEQUENCES_MAX as u32);
        load_folder(self.folder.path(), String::new(), String::new(), &options).unwrap().backend
    }

    /// The engine of a device, emulated.
    fn cuda(&self) -> CudaBackend<Emulated> {
        self.cuda_with(|_| ())
    }

    /// The same, changed when it is made.
    fn cuda_with(&self, change: impl Fn(&mut Emulated) + Send + 'static) -> CudaBackend<Emulated> {
        let folder = FolderConfig::read(self.folder.path()).unwrap();
        let (multiplier, seed, pooling, capacity) = (self.multiplier, self.seed, folder.pooling, self.capacity);
        let limits = BackendLimits {
            batch_tokens_max: capacity.tokens as u32,
            batch_sequences_max: capacity.sequences as u32,
            in_flight_batches_max: 2,
        };
        let mut loads = 0;
        let mut load = move || {
            let regions = Regions::plan(&folder.bert, folder.cross_encoder, capacity).unwrap();
            let mut machine = Emulated::new(regions.memory, seed);
            if loads == 0 {
                change(&mut machine);
            }
            loads += 1;
            let weights = Weights { path: &folder.weights, config_path: &folder.config, config: &folder.bert };
            CudaEncoder::load(&weights, regions, multiplier, machine)
        };
        let encoder = load().unwrap();
        CudaBackend::new(encoder, pooling, limits, Box::new(load))
    }
}

fn batch(operation: Operation, sequences: &[Sequence]) -> Arc<PackedBatch> {
    let lane = Lane { model: ModelIndex(0), operation };
    let mut batch = PackedBatch::with_capacity(lane, sequences.len(), 0);
    for (index, sequence) in (0..).zip(sequences) {
        batch.push(UnitId { request: RequestId(1), index }, sequence);
    }
    Arc::new(batch)
}

fn run(backend: &mut dyn Backend, batch: &Arc<PackedBatch>) -> Result<BatchOutput, BackendError> {
    let ticket = backend.submit(Arc::clone(batch))?;
    backend.collect(ticket)
}

/// What came out of each sequence.
fn rows(output: BatchOutput) -> Vec<Vec<f32>> {
    match output {
        BatchOutput::Scores(scores) => scores.into_iter().map(|score| vec![score]).collect(),
        BatchOutput::DenseVectors(vectors) => vectors,
        BatchOutput::TokenMatrices(matrices) => matrices.into_iter().map(|matrix| matrix.data).collect(),
        BatchOutput::Alignments(_) => panic!("nobody asked for alignments"),
    }
}

fn bits(rows: &[Vec<f32>]) -> Vec<Vec<u32>> {
    rows.iter().map(|row| row.iter().map(|x| x.to_bits()).collect()).collect()
}

/// Texts of those lengths.
fn texts(seed: u64, lengths: &[usize]) -> Vec<Vec<u32>> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let vocabulary = tiny::vocabulary().len() as u32;
    lengths.iter().map(|&length| (0..length).map(|_| rng.random_range(0..vocabulary)).collect()).collect()
}

/// Sequences as an operation has them; a query comes before the documents of late interaction.
fn sequences(operation: Operation, texts: &[Vec<u32>]) -> Vec<Sequence> {
    match operation {
        Operation::LateInteraction => {
            let slot = Arc::new(QueryVectors::default());
            let query = Sequence::single(vec![2, 7, 11, 9, 3], Role::Query(Arc::clone(&slot)));
            let document = |ids: &Vec<u32>| Sequence::single(ids.clone(), Role::Document(Arc::clone(&slot)));
            std::iter::once(query).chain(texts.iter().map(document)).collect()
        }
        Operation::CrossEncode => {
            let pair = |ids: &Vec<u32>| Sequence {
                input_ids: ids.clone(),
                second_segment_start: ids.len() as u32 / 3,
                role: Role::Plain,
            };
            texts.iter().map(pair).collect()
        }
        _ => texts.iter().map(|ids| Sequence::single(ids.clone(), Role::Plain)).collect(),
    }
}

/// Results of the texts alone.
fn compute(backend: &mut dyn Backend, operation: Operation, texts: &[Vec<u32>]) -> Vec<Vec<f32>> {
    let mut found = rows(run(backend, &batch(operation, &sequences(operation, texts))).unwrap());
    if operation == Operation::LateInteraction {
        found.remove(0);
    }
    found
}

fn assert_close(found: &[Vec<f32>], expected: &[Vec<f32>], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (sequence, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.len(), expected.len(), "{what}, sequence {sequence}");
        for (found, expected) in found.iter().zip(expected) {
            let distance = (found - expected).abs();
            assert!(distance <= TOLERANCE, "{what}, sequence {sequence}: {found}, expected {expected}");
        }
    }
}

fn conforms(model: &Model, lengths: &[usize], what: &str) {
    let (mut cpu, mut cuda) = (model.cpu(), model.cuda());
    let texts = texts(3, lengths);
    for operation in OPERATIONS {
        let expected = compute(&mut *cpu, operation, &texts);
        let found = compute(&mut cuda, operation, &texts);
        assert_close(&found, &expected, &format!("{what}, {operation:?}"));
        // f32 does not come out of f16.
        assert_ne!(found, expected, "{what}, {operation:?}: who computed this?");
    }
}

#[test]
fn it_computes_what_the_cpu_computes() {
    let lengths = [1, 2, 17, 64, 65, 128, 200, 3];
    for (pooling, activation, multiplier) in [
        ("pooling_mode_mean_tokens", "gelu", Multiplier::Own),
        ("pooling_mode_cls_token", "gelu", Multiplier::CublasLt),
        ("pooling_mode_cls_token", "gelu_new", Multiplier::Own),
        ("pooling_mode_mean_tokens", "gelu_new", Multiplier::CublasLt),
        ("pooling_mode_mean_tokens", "relu", Multiplier::CublasLt),
    ] {
        let model = Model::new(SIZES, pooling, activation, multiplier);
        conforms(&model, &lengths, &format!("{pooling}, {activation}, {multiplier:?}"));
    }
}

#[test]
fn wide_attention_gives_the_same_bits() {
    let model = Model::small();
    let texts = texts(5, &[70, 3, 33]);
    for operation in [Operation::EncodeDense, Operation::CrossEncode] {
        let narrow = compute(&mut model.cuda(), operation, &texts);
        let mut wide = model.cuda_with(|machine| machine.wide_attention = true);
        assert_eq!(bits(&compute(&mut wide, operation, &texts)), bits(&narrow), "{operation:?}");
        assert!(wide.encoder().machine.started.contains(&"encoder_attention_wide_d32"));
    }
}

#[test]
fn long_sequences_and_wide_heads() {
    conforms(&Model::small(), &[512, 1, 129, 513 - 64], "long");
    let wide = Sizes { hidden: 128, num_heads: 2, num_layers: 3, intermediate: 256, max_positions: 80 };
    conforms(&Model::new(wide, "pooling_mode_mean_tokens", "gelu", Multiplier::Own), &[80, 5, 33], "heads of 64");
}

#[test]
fn a_model_of_one_layer_and_of_none() {
    for num_layers in [0, 1] {
        let model = Model::new(Sizes { num_layers, ..SIZES }, "pooling_mode_cls_token", "gelu", Multiplier::Own);
        conforms(&model, &[4, 1, 70], &format!("{num_layers} layers"));
    }
}

#[test]
fn bits_do_not_depend_on_who_shares_the_batch() {
    let (own, strangers) = (texts(5, &[1, 16, 63, 64, 65, 130]), texts(6, &[5, 300, 31, 2, 47, 64]));
    let mut rng = SmallRng::seed_from_u64(8);
    let mut model = Model::small();
    let mut cuda = model.cuda();
    for operation in OPERATIONS {
        let together = bits(&compute(&mut cuda, operation, &own));
        for (index, text) in own.iter().enumerate() {
            let alone = bits(&compute(&mut cuda, operation, std::slice::from_ref(text)));
            assert_eq!(alone[0], together[index], "{operation:?}: {index} alone");
        }
        let mut crowd: Vec<(Option<usize>, &Vec<u32>)> =
            own.iter().enumerate().map(|(i, text)| (Some(i), text)).collect();
        crowd.extend(strangers.iter().map(|text| (None, text)));
        for seed in [1, 2] {
            crowd.shuffle(&mut rng);
            // Threads run in another order, too.
            model.seed = seed;
            let texts: Vec<Vec<u32>> = crowd.iter().map(|(_, text)| (*text).clone()).collect();
            let found = bits(&compute(&mut model.cuda(), operation, &texts));
            for ((owner, _), found) in crowd.iter().zip(found) {
                if let Some(index) = owner {
                    assert_eq!(found, together[*index], "{operation:?}: {index} among strangers");
                }
            }
        }
    }
}

#[test]
fn two_batches_are_under_way_at_once() {
    let mut cuda = Model::small().cuda();
    let (first, second) = (texts(1, &[5, 80]), texts(2, &[33]));
    let alone: Vec<_> = [&first, &second]
        .map(|texts| OPERATIONS.map(|operation| bits(&compute(&mut cuda, operation, texts))))
        .into_iter()
        .collect();
    for (a, operation) in OPERATIONS.into_iter().enumerate() {
        let batches = [&first, &second].map(|texts| batch(operation, &sequences(operation, texts)));
        let tickets: Vec<Ticket> = batches.iter().map(|batch| cuda.submit(Arc::clone(batch)).unwrap()).collect();
        let refused = cuda.submit(Arc::clone(&batches[0]));
        assert!(matches!(refused, Err(BackendError::Failed(_))), "a third: {refused:?}");
        for (ticket, expected) in tickets.into_iter().zip(&alone) {
            let mut found = bits(&rows(cuda.collect(ticket).unwrap()));
            if operation == Operation::LateInteraction {
                found.remove(0);
            }
            assert_eq!(found, expected[a], "{operation:?}");
        }
    }
}

#[test]
fn first_tokens_alone_are_computed_where_no_others_are_wanted() {
    let model = Model::small();
    let kernels = |operation| {
        let mut cuda = model.cuda();
        let texts = texts(1, &[9, 4]);
        compute(&mut cuda, operation, &texts);
        cuda.encoder().machine.started.iter().copied().collect::<BTreeSet<_>>()
    };
    let (pairs, tokens) = (kernels(Operation::CrossEncode), kernels(Operation::EncodeTokens));
    assert!(pairs.contains("encoder_attention_first_d32") && pairs.contains("encoder_attention_d32"), "{pairs:?}");
    assert!(!tokens.contains("encoder_attention_first_d32"), "{tokens:?}");
}

#[test]
fn small_batches_are_recorded_and_large_ones_are_not() {
    let large = Capacity { tokens: 3000, sequences: SEQUENCES_MAX };
    let model = Model { capacity: large, ..Model::small() };
    let mut cuda = model.cuda();
    let replays = |cuda: &CudaBackend<Emulated>| cuda.encoder().machine.replays;
    let [few, more, many] = [texts(1, &[30, 7]), texts(2, &[20, 40]), texts(3, &[400; 6])];
    let expected = [&few, &more].map(|texts| compute(&mut cuda, Operation::CrossEncode, texts));
    // Both slots have seen a batch of that bucket: 64 tokens, 2 sequences.
    assert_eq!(replays(&cuda), 0);
    for (texts, expected) in [(&more, &expected[1]), (&few, &expected[0]), (&more, &expected[1])] {
        assert_eq!(bits(&compute(&mut cuda, Operation::CrossEncode, texts)), bits(expected));
    }
    assert_eq!(replays(&cuda), 3);
    let first = bits(&compute(&mut cuda, Operation::CrossEncode, &many));
    assert_eq!(bits(&compute(&mut cuda, Operation::CrossEncode, &many)), first);
    assert_eq!(replays(&cuda), 3, "2400 tokens are asked for one by one");
    let alone = bits(&compute(&mut cuda, Operation::CrossEncode, &many[..1]));
    assert_eq!(alone[0], first[0], "recorded or not");
}
