//! The scripted model: scores by content, faults on time, service times slept.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "helper functions of tests, and real time is measured"
)]

mod support;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use sluice_core::{
    Operation,
    backend::BackendError,
    batch::{Role, Sequence},
};
use sluice_inference::{LoadedModel, TextEncoder, load_scripted};
use support::{batch, dense, late_interaction, plain, run, scores, tokens};
use tempfile::TempDir;

fn load(toml: &str) -> LoadedModel {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("model.toml");
    fs::write(&file, toml).unwrap();
    load_scripted(&file).unwrap()
}

fn single(text: &TextEncoder, words: &str) -> Vec<u32> {
    text.single(&text.tokens(words, None).unwrap().ids)
}

fn encode_dense(model: &mut LoadedModel, words: &str) -> Result<Vec<Vec<f32>>, BackendError> {
    let ids = single(&model.text, words);
    run(&mut *model.backend, &batch(Operation::EncodeDense, &[plain(ids)])).map(dense)
}

#[test]
fn scores_count_the_query_words_of_a_document() {
    let mut model = load("");
    let query = "black Sand beach sand";
    let cases = [
        ("a black sand beach in Iceland", 3.0 + 1.0 / 8.0),
        ("white sand", 1.0 + 1.0 / 4.0),
        ("SAND sand sand", 1.0 + 1.0 / 5.0),
        ("nothing of it", 1.0 / 5.0),
        ("", 1.0 / 2.0),
    ];
    let text = &model.text;
    let documents: Vec<Vec<u32>> = cases.iter().map(|(document, _)| single(text, document)).collect();
    let pairs: Vec<Sequence> = cases
        .iter()
        .map(|(document, _)| {
            let [query, document] = [query, document].map(|part| text.tokens(part, None).unwrap().ids);
            let (input_ids, second_segment_start) = text.pair(&query, &document);
            Sequence { input_ids, second_segment_start, role: Role::Plain }
        })
        .collect();
    let units = late_interaction(single(text, query), documents);
    let expected: Vec<f32> = cases.iter().map(|(_, score)| *score).collect();
    let logits = scores(run(&mut *model.backend, &batch(Operation::CrossEncode, &pairs)).unwrap());
    assert_eq!(logits, expected);
    let maxsim = scores(run(&mut *model.backend, &batch(Operation::LateInteraction, &units)).unwrap());
    assert_eq!((maxsim[0], &maxsim[1..]), (0.0, &expected[..]));
    // The query stays known for the batches that follow.
    let later = scores(run(&mut *model.backend, &batch(Operation::LateInteraction, &units[2..4])).unwrap());
    assert_eq!(later, expected[1..3]);
    let unknown = late_interaction(single(&model.text, query), [single(&model.text, "sand")]).split_off(1);
    let error = run(&mut *model.backend, &batch(Operation::LateInteraction, &unknown)).unwrap_err();
    assert_eq!(error, BackendError::Failed("a query is not computed".into()));
}

#[test]
fn vectors_are_functions_of_the_words() {
    let mut model = load("dim = 32");
    assert_eq!(model.info.embedding_dim, 32);
    let ids = [single(&model.text, "black sand"), single(&model.text, "Sand black")];
    let units: Vec<Sequence> = ids.iter().cloned().map(plain).collect();
    let matrices = tokens(run(&mut *model.backend, &batch(Operation::EncodeTokens, &units)).unwrap());
    assert_eq!(matrices[0].len(), 4 * 32);
    assert_eq!(matrices[0][32..64], matrices[1][64..96], "the same word has the same vector");
    for row in matrices[0].chunks(32) {
        assert!((row.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5, "rows have length 1");
    }
    let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let mut vector = |words: &str| encode_dense(&mut model, words).unwrap().remove(0);
    let query = vector("black sand beach");
    let [same, most, none, empty] = ["beach black sand", "black sand beach holiday", "income tax form", ""]
        .map(|words| cosine(&query, &vector(words)));
    assert!(same > 0.999 && most > 0.6 && most < same && none < most && empty < most, "{same} {most} {none} {empty}");
}

#[test]
fn a_file_says_what_the_model_is() {
    let model = load(
        "capabilities = [\"dense\", \"encode_dense\"]\nmax_tokens = 64\nbatch_tokens_max = 128\nin_flight_batches_max = 2",
    );
    let info = &model.info;
    assert!(info.source.starts_with("scripted:") && info.source.ends_with("model.toml"), "{}", info.source);
    assert_eq!((info.digest.len(), info.architecture.as_str(), info.backend), (64, "scripted", "scripted"));
    assert!(info.dense && info.encode_dense && !info.late_interaction && !info.cross_encoder && !info.encode_tokens);
    assert_eq!((info.max_tokens, info.parameters), (64, 0));
    let limits = model.backend.limits();
    assert_eq!((limits.batch_tokens_max, limits.batch_sequences_max, limits.in_flight_batches_max), (128, 256, 2));
    assert_ne!(info.digest, load("").info.digest);
}

#[test]
fn faults_strike_the_batches_they_name() {
    let mut model = load(
        "[[fault]]\nat_batch = 2\nkind = \"failed\"\n\
         [[fault]]\nat_batch = 4\nkind = \"out_of_memory\"\nwhen = \"submit\"\nrepeat = 2\n\
         [[fault]]\nat_batch = 7\nkind = \"panic\"",
    );
    let outcomes: Vec<Option<BackendError>> = (1..=6).map(|_| encode_dense(&mut model, "sand").err()).collect();
    let failed = BackendError::Failed("scripted fault at batch 2".into());
    let memory = BackendError::OutOfMemory;
    assert_eq!(outcomes, [None, Some(failed), None, Some(memory.clone()), Some(memory), None]);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let panicked = catch_unwind(AssertUnwindSafe(|| encode_dense(&mut model, "sand")));
    std::panic::set_hook(hook);
    assert!(panicked.is_err());
    assert!(encode_dense(&mut model, "sand").is_ok(), "the backend survives its panic");
}

#[test]
fn a_fault_may_spare_small_batches() {
    let mut model = load("[[fault]]\nat_batch = 1\nkind = \"out_of_memory\"\nrepeat = 9\nsequences_above = 1");
    assert!(encode_dense(&mut model, "sand").is_ok(), "one sequence");
    let mut model = load("[[fault]]\nat_batch = 1\nkind = \"out_of_memory\"\nrepeat = 9");
    assert_eq!(encode_dense(&mut model, "sand"), Err(BackendError::OutOfMemory));
}

#[test]
fn a_lost_device_comes_back_when_rebuilt() {
    let mut model = load("in_flight_batches_max = 2\n[[fault]]\nat_batch = 2\nkind = \"device_lost\"");
    assert!(encode_dense(&mut model, "sand").is_ok());
    let packed = batch(Operation::EncodeDense, &[plain(single(&model.text, "sand"))]);
    let [second, third] = [packed.clone(), packed].map(|batch| model.backend.submit(batch).unwrap());
    let lost = BackendError::DeviceLost("scripted".into());
    assert_eq!(model.backend.collect(second).unwrap_err(), lost);
    assert_eq!(model.backend.collect(third).unwrap_err(), lost, "what was in flight went with it");
    assert_eq!(encode_dense(&mut model, "sand").unwrap_err(), lost, "nothing comes in meanwhile");
    model.backend.rebuild().unwrap();
    assert!(encode_dense(&mut model, "sand").is_ok());
}

#[test]
fn poison_fails_the_batch_that_contains_it() {
    let mut model = load("poison = \"Hemlock\"");
    let text = |words: &str| plain(single(&model.text, words));
    let units = [text("sand"), text("a cup of hemlock"), text("beach")];
    let packed = batch(Operation::EncodeDense, &units);
    assert_eq!(run(&mut *model.backend, &packed).unwrap_err(), BackendError::Failed("poisoned input".into()));
    let (clean, rest) = packed.halves();
    assert!(run(&mut *model.backend, &clean.into()).is_ok());
    assert!(run(&mut *model.backend, &rest.into()).is_err());
}

#[test]
fn limits_hold() {
    let mut model = load("max_tokens = 8\nbatch_tokens_max = 8\nbatch_sequences_max = 2");
    for (sequences, tokens) in [(3, 1), (2, 5)] {
        let packed = batch(Operation::EncodeDense, &vec![plain(vec![9; tokens]); sequences]);
        let expected = BackendError::LimitExceeded { tokens: sequences * tokens, sequences };
        assert_eq!(run(&mut *model.backend, &packed).unwrap_err(), expected);
    }
}

#[test]
fn time_passes_as_the_file_says() {
    let start = Instant::now();
    let mut model = load(
        "[load]\ndelay = \"30ms\"\n[service_time]\nper_batch = \"20ms\"\nper_token = \"5ms\"\njitter = 0.2\nseed = 3",
    );
    assert!(start.elapsed() >= Duration::from_millis(30), "loading took {:?}", start.elapsed());
    let start = Instant::now();
    encode_dense(&mut model, "two words").unwrap();
    let (nominal, took) = (Duration::from_millis(20 + 4 * 5), start.elapsed());
    // A sleep lasts at least as long as it was told to; how much longer is the machine's affair.
    assert!(took >= nominal.mul_f64(0.8), "a batch of 4 tokens took {took:?}");
}
