//! The packed encoder against a plain one in f64, on a small random model.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "helper functions of tests")]

mod support;

use rand::{Rng, SeedableRng, rngs::SmallRng};
use safetensors::Dtype;
use sluice_core::{
    Operation,
    backend::BackendError,
    batch::{Role, Sequence},
};
use sluice_inference::{CpuOptions, LoadedModel, load_folder};
use support::{
    ROOMY, assert_close, batch, dense, late_interaction, plain,
    plain_bert::{PlainBert, maxsim, unit},
    run, scores, tiny, tokens,
};
use tempfile::TempDir;

const LENGTHS: [usize; 9] = [1, 2, 3, 7, 8, 9, 31, 60, 16];

fn load(architecture: &str, tensors: &tiny::Tensors) -> LoadedModel {
    let folder = TempDir::new().unwrap();
    tiny::write_model(folder.path(), architecture, tensors);
    load_folder(folder.path(), "digest".into(), "source".into(), &ROOMY).unwrap()
}

fn random_ids(rng: &mut SmallRng, length: usize) -> Vec<u32> {
    (0..length).map(|_| rng.random_range(0..tiny::vocabulary().len() as u32)).collect()
}

fn random_sequences(seed: u64) -> Vec<Vec<u32>> {
    let mut rng = SmallRng::seed_from_u64(seed);
    LENGTHS.iter().map(|&length| random_ids(&mut rng, length)).collect()
}

fn hidden(tensors: &tiny::Tensors, ids: &[u32]) -> Vec<Vec<f64>> {
    PlainBert(tensors).hidden(ids, &vec![0; ids.len()])
}

#[test]
fn token_vectors_equal_the_plain_encoder() {
    let tensors = tiny::tensors(1, 1);
    for stored in [tensors.clone(), tiny::prefixed(&tensors)] {
        let mut model = load("BertModel", &stored);
        let sequences = random_sequences(2);
        let packed = batch(Operation::EncodeTokens, &sequences.iter().cloned().map(plain).collect::<Vec<_>>());
        let found = tokens(run(&mut *model.backend, &packed).unwrap());
        for (ids, found) in sequences.iter().zip(&found) {
            let expected = hidden(&tensors, ids).iter().flat_map(|row| unit(row)).collect::<Vec<_>>();
            assert_close(found, expected, 1e-4, &format!("{} tokens", ids.len()));
        }
    }
}

#[test]
fn dense_vectors_are_pooled_as_the_folder_says() {
    let tensors = tiny::tensors(3, 1);
    let pooling =
        |mode: &str| serde_json::json!({"word_embedding_dimension": 24, mode: true, "pooling_mode_max_tokens": false});
    for (mode, first) in [("pooling_mode_mean_tokens", false), ("pooling_mode_cls_token", true)] {
        let folder = TempDir::new().unwrap();
        tiny::write_model(folder.path(), "BertModel", &tensors);
        tiny::write_json(folder.path(), "1_Pooling/config.json", &pooling(mode));
        let mut model = load_folder(folder.path(), String::new(), String::new(), &ROOMY).unwrap();
        let sequences = random_sequences(4);
        let packed = batch(Operation::EncodeDense, &sequences.iter().cloned().map(plain).collect::<Vec<_>>());
        let found = dense(run(&mut *model.backend, &packed).unwrap());
        for (ids, found) in sequences.iter().zip(&found) {
            let rows = hidden(&tensors, ids);
            let pooled: Vec<f64> = match first {
                true => rows[0].clone(),
                false => (0..24).map(|k| rows.iter().map(|row| row[k]).sum()).collect(),
            };
            assert_close(found, unit(&pooled), 1e-4, &format!("{mode}, {} tokens", ids.len()));
        }
    }
}

#[test]
fn late_interaction_is_the_plain_sum_of_maxima() {
    let tensors = tiny::tensors(5, 1);
    let mut model = load("BertModel", &tensors);
    let sequences = random_sequences(6);
    let expected = |query: &[u32], document: &[u32]| maxsim(&hidden(&tensors, query), &hidden(&tensors, document));

    // Two requests in one batch, one query after its own documents' neighbours.
    let (first, second) = (&sequences[3], &sequences[2]);
    let mut units = late_interaction(first.clone(), sequences[..5].to_vec());
    units.extend(late_interaction(second.clone(), sequences[5..].to_vec()));
    let found = scores(run(&mut *model.backend, &batch(Operation::LateInteraction, &units)).unwrap());
    assert_eq!((found[0], found[6]), (0.0, 0.0), "a query's own entry means nothing");
    let expected: Vec<f64> = sequences[..5]
        .iter()
        .map(|document| expected(first, document))
        .chain(sequences[5..].iter().map(|document| expected(second, document)))
        .collect();
    let documents: Vec<f32> = found[1..6].iter().chain(&found[7..]).copied().collect();
    assert_close(&documents, expected.clone(), 1e-4, "one batch");

    // The query in an earlier batch than its documents, and documents of both requests in turn.
    let (queries, documents): (Vec<Sequence>, Vec<Sequence>) =
        units.into_iter().partition(|unit| matches!(unit.role, Role::Query(_)));
    run(&mut *model.backend, &batch(Operation::LateInteraction, &queries)).unwrap();
    let order = [0, 5, 1, 6, 2, 7, 3, 8, 4];
    let interleaved: Vec<Sequence> = order.iter().map(|&i| documents[i].clone()).collect();
    let found = scores(run(&mut *model.backend, &batch(Operation::LateInteraction, &interleaved)).unwrap());
    assert_close(&found, order.map(|i| expected[i]), 1e-4, "two batches");
}

#[test]
fn logits_equal_the_plain_head() {
    let tensors = tiny::tensors(7, 1);
    for stored in [tensors.clone(), tiny::prefixed(&tensors)] {
        let mut model = load("BertForSequenceClassification", &stored);
        assert!(model.info.cross_encoder && model.info.late_interaction && model.info.encode_dense);
        let mut rng = SmallRng::seed_from_u64(8);
        let pairs: Vec<Sequence> = [(1, 1), (3, 20), (20, 3), (7, 0), (0, 9), (10, 47)]
            .into_iter()
            .map(|(query, document)| {
                let (query, document) = (random_ids(&mut rng, query), random_ids(&mut rng, document));
                let (input_ids, second_segment_start) = model.text.pair(&query, &document);
                Sequence { input_ids, second_segment_start, role: Role::Plain }
            })
            .collect();
        let found = scores(run(&mut *model.backend, &batch(Operation::CrossEncode, &pairs)).unwrap());
        let expected = pairs.iter().map(|pair| {
            let types: Vec<u32> =
                (0..pair.input_ids.len()).map(|i| u32::from(i >= pair.second_segment_start as usize)).collect();
            PlainBert(&tensors).logit(&pair.input_ids, &types)
        });
        assert_close(&found, expected, 1e-4, "logits");
    }
}

#[test]
fn a_sequence_alone_has_the_vectors_it_has_among_others() {
    let tensors = tiny::tensors(9, 1);
    let mut model = load("BertForSequenceClassification", &tensors);
    // Enough sequences for several parts on every machine.
    let sequences: Vec<Vec<u32>> = (0..40).flat_map(|seed| random_sequences(100 + seed)).collect();
    let units: Vec<Sequence> = sequences.iter().cloned().map(plain).collect();
    for operation in [Operation::EncodeTokens, Operation::EncodeDense, Operation::CrossEncode] {
        let mut rows = |units: &[Sequence]| -> Vec<Vec<f32>> {
            let output = run(&mut *model.backend, &batch(operation, units)).unwrap();
            match operation {
                Operation::EncodeTokens => tokens(output),
                Operation::EncodeDense => dense(output),
                _ => scores(output).into_iter().map(|score| vec![score]).collect(),
            }
        };
        let together = rows(&units);
        for i in (0..units.len()).step_by(7) {
            let alone = rows(&units[i..=i]);
            let what = format!("{operation:?} of {} tokens", sequences[i].len());
            assert_close(&alone[0], together[i].iter().map(|&x| f64::from(x)), 1e-5, &what);
        }
    }
}

#[test]
fn half_precision_files_are_read() {
    let exact = tiny::tensors(10, 1);
    type Format = (Dtype, fn(f32) -> f32, fn(f32) -> Vec<u8>);
    let formats: [Format; 2] = [
        (Dtype::F16, |x| half::f16::from_f32(x).to_f32(), |x| half::f16::from_f32(x).to_le_bytes().to_vec()),
        (Dtype::BF16, |x| half::bf16::from_f32(x).to_f32(), |x| half::bf16::from_f32(x).to_le_bytes().to_vec()),
    ];
    for (dtype, round, bytes) in formats {
        let mut rounded = exact.clone();
        for (_, values) in rounded.values_mut() {
            values.iter_mut().for_each(|x| *x = round(*x));
        }
        let folder = TempDir::new().unwrap();
        tiny::write_model(folder.path(), "BertModel", &exact);
        tiny::write_tensors_as(folder.path(), &exact, dtype, bytes);
        let mut model = load_folder(folder.path(), String::new(), String::new(), &ROOMY).unwrap();
        let ids = random_sequences(11).remove(6);
        let packed = batch(Operation::EncodeTokens, &[plain(ids.clone())]);
        let found = tokens(run(&mut *model.backend, &packed).unwrap());
        let expected = hidden(&rounded, &ids).iter().flat_map(|row| unit(row)).collect::<Vec<_>>();
        assert_close(&found[0], expected, 1e-4, &format!("{dtype:?}"));
    }
}

#[test]
fn tensorflow_names_of_norms_are_read() {
    let tensors = tiny::tensors(12, 1);
    let renamed: tiny::Tensors = tensors
        .iter()
        .map(|(name, tensor)| {
            let name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
            (name, tensor.clone())
        })
        .collect();
    assert_ne!(tensors.keys().collect::<Vec<_>>(), renamed.keys().collect::<Vec<_>>());
    let packed = batch(Operation::EncodeTokens, &[plain(random_sequences(13).remove(5))]);
    let [first, second] =
        [tensors, renamed].map(|tensors| run(&mut *load("BertModel", &tensors).backend, &packed).unwrap());
    assert_eq!(first, second);
}

#[test]
fn a_model_says_what_it_is() {
    let tensors = tiny::tensors(14, 1);
    let info = load("BertModel", &tensors).info;
    let label = format!("cpu-f32-{}", support::isa_label());
    assert_eq!((info.source.as_str(), info.digest.as_str()), ("source", "digest"));
    assert_eq!((info.architecture.as_str(), info.backend), ("BertModel", label.as_str()));
    assert!(info.late_interaction && info.dense && info.encode_tokens && info.encode_dense && !info.cross_encoder);
    assert_eq!((info.max_tokens, info.embedding_dim), (60, 24));
    assert_eq!(info.parameters, tensors.values().map(|(_, values)| values.len() as u64).sum::<u64>());
}

#[test]
fn what_cannot_be_computed_is_refused_and_leaves_the_backend_usable() {
    let tensors = tiny::tensors(15, 1);
    let folder = TempDir::new().unwrap();
    tiny::write_model(folder.path(), "BertModel", &tensors);
    let options = CpuOptions::new(64, 3);
    let mut model = load_folder(folder.path(), String::new(), String::new(), &options).unwrap();
    assert_eq!(model.backend.limits().in_flight_batches_max, 1);

    let failed = |part: &'static str| move |error: &BackendError| matches!(error, BackendError::Failed(why) if why.contains(part));
    let over =
        |tokens, sequences| move |error: &BackendError| *error == BackendError::LimitExceeded { tokens, sequences };
    let document = late_interaction(vec![2, 3], [vec![2, 5, 3]]).remove(1);
    let vocabulary = tiny::vocabulary().len() as u32;
    let typed = Sequence { input_ids: vec![2, 3], second_segment_start: 1, role: Role::Plain };
    type Expected = Box<dyn Fn(&BackendError) -> bool>;
    let cases: [(Operation, Vec<Sequence>, Expected); 7] = [
        (Operation::EncodeTokens, vec![plain(vec![2; 33]), plain(vec![2; 32])], Box::new(over(65, 2))),
        (Operation::EncodeTokens, vec![plain(vec![2]); 4], Box::new(over(4, 4))),
        (Operation::EncodeDense, vec![plain(vec![vocabulary])], Box::new(failed("id"))),
        (Operation::EncodeDense, vec![plain(vec![2; 61])], Box::new(failed("position 60"))),
        (Operation::CrossEncode, vec![typed], Box::new(failed("no classification head"))),
        (Operation::LateInteraction, vec![document], Box::new(failed("is not computed"))),
        (Operation::LateInteraction, vec![plain(vec![2])], Box::new(failed("neither query nor document"))),
    ];
    for (operation, sequences, expected) in cases {
        let error = run(&mut *model.backend, &batch(operation, &sequences)).unwrap_err();
        assert!(expected(&error), "{operation:?}: {error}");
        let after = run(&mut *model.backend, &batch(Operation::EncodeDense, &[plain(vec![2, 3])])).unwrap();
        assert_eq!(after.len(), 1, "the next batch is computed");
    }

    let packed = batch(Operation::EncodeDense, &[plain(vec![2])]);
    let ticket = model.backend.submit(packed.clone()).unwrap();
    assert!(matches!(model.backend.submit(packed), Err(BackendError::Failed(_))), "one batch is in flight at most");
    model.backend.collect(ticket).unwrap();
    let nothing = batch(Operation::EncodeDense, &[]);
    assert!(run(&mut *model.backend, &nothing).unwrap().is_empty(), "a batch of nothing gives nothing");
}
