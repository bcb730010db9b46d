//! A device, if there is one: conformance, residency, faults. Without one, tests say that they were skipped; where
//! `SLUICE_REQUIRE_GPU=1` is set they fail instead.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helper functions too")]
#![allow(clippy::disallowed_methods, reason = "a test hears through the environment whether a device is required")]
#![allow(clippy::print_stdout, reason = "a skipped test says so")]

#[path = "cuda/case.rs"]
mod case;
#[path = "cuda/encoder_device.rs"]
mod encoder_device;
#[path = "cuda/encoder/mod.rs"]
mod gpu_encoder;
#[path = "cuda/encoder/on_device.rs"]
mod runner;

use std::{env, time::Instant};

use sluice_kernels::{
    cuda::{
        CudaDevice, CudaError,
        maxsim::{Alignment, Document, Layout, MaxSimDevice, Query, Request, RequestError, ScoreError, plan::Step},
    },
    tokens::{self, Storage, Tokens},
};

use case::{Case, Found, assert_conforms, table};

/// A device for documents of that layout, or why there is none.
fn device(layout: Layout, arena_bytes: usize) -> Option<MaxSimDevice> {
    match CudaDevice::open(0) {
        Ok(device) => Some(MaxSimDevice::new(device, layout, arena_bytes).unwrap()),
        Err(error) => {
            assert!(
                env::var_os("SLUICE_REQUIRE_GPU").is_none_or(|value| value != "1"),
                "a device is required: {error}"
            );
            println!("skipped: no usable CUDA device ({error})");
            None
        }
    }
}

#[test]
fn gpu_a_device_is_there() {
    device(Layout { storage: Storage::F16, dim: 8 }, 0);
}

fn layout_of(case: &Case) -> Layout {
    Layout { storage: case.storage, dim: case.dim }
}

fn queries(case: &Case) -> Vec<Query<'_>> {
    let shapes = case.queries.iter().zip(&case.shapes);
    shapes.map(|(rows, shape)| Query { rows, documents: shape.documents }).collect()
}

/// Calls back with the case's documents as vectors.
fn with_tokens<T>(case: &Case, call: impl FnOnce(&[Tokens<'_>]) -> T) -> T {
    match case.storage {
        Storage::F16 => {
            let owned: Vec<_> = case.documents.iter().map(|x| tokens::to_f16(x)).collect();
            call(&owned.iter().map(|x| Tokens::F16(x)).collect::<Vec<_>>())
        }
        Storage::Int8 => {
            let owned: Vec<_> = case.documents.iter().map(|x| tokens::to_int8(x, case.dim).unwrap()).collect();
            call(&owned.iter().map(|(codes, scales)| Tokens::Int8 { codes, scales }).collect::<Vec<_>>())
        }
        _ => call(&case.documents.iter().map(|x| Tokens::F32(x)).collect::<Vec<_>>()),
    }
}

/// Scores a case with every step of the ladder through prepared requests, and with the best as a server does.
fn score(device: &mut MaxSimDevice, case: &Case) -> Vec<(Step, Vec<f32>)> {
    let queries = queries(case);
    with_tokens(case, |tokens| {
        let documents: Vec<_> = tokens.iter().map(|&tokens| Document::Host(tokens)).collect();
        let request = Request { queries: &queries, documents: &documents };
        let mut found = Vec::new();
        for step in Step::ALL {
            let mut scores = vec![f32::NAN; documents.len()];
            let prepared = device.prepare(&request, step).unwrap();
            device.read(&prepared, &mut scores).unwrap();
            found.push((step, scores));
        }
        let mut served = vec![f32::NAN; documents.len()];
        device.score(&request, &mut served).unwrap();
        let bits = |scores: &[f32]| scores.iter().map(|score| score.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&served), bits(&found[2].1));
        found
    })
}

fn check(device: &mut MaxSimDevice, case: &Case) {
    for (step, scores) in score(device, case) {
        let found = Found { scores, values: Vec::new(), tokens: Vec::new() };
        assert_conforms(case, &found, &format!("{}, dim {}, {:?}", step.name(), case.dim, case.shapes));
    }
}

fn conforms(storage: Storage) {
    let mut rows: Vec<_> = table().into_iter().filter(|(of, ..)| *of == storage).collect();
    rows.sort_by_key(|(_, dim, _)| *dim);
    let mut open: Option<MaxSimDevice> = None;
    let mut dim_open = 0;
    for (seed, (_, dim, queries)) in (0_u64..).zip(rows) {
        let case = Case::random(seed, storage, dim, &queries);
        if dim_open != dim {
            open = device(layout_of(&case), 0);
            dim_open = dim;
        }
        let Some(device) = &mut open else { return };
        check(device, &case);
    }
}

#[test]
fn gpu_f16_conforms() {
    conforms(Storage::F16);
}

#[test]
fn gpu_int8_conforms() {
    conforms(Storage::Int8);
}

#[test]
fn gpu_f32_conforms() {
    let case = Case::random(9, Storage::F32, 17, &[(130, &[9, 0, 180]), (0, &[2]), (1, &[3])]);
    if let Some(mut device) = device(layout_of(&case), 0) {
        check(&mut device, &case);
    }
}

/// Many documents, so that every multiprocessor has some, and some long ones, so that several share one.
fn mixed(storage: Storage) -> Case {
    let lengths: Vec<u32> = (0..700).map(|i| if i % 97 == 5 { 4000 } else { i * 37 % 300 }).collect();
    Case::random(11, storage, 128, &[(32, &lengths[..400]), (70, &lengths[400..]), (5, &[8192])])
}

#[test]
fn gpu_large_batches_conform_and_bits_do_not_depend_on_batch_mates() {
    for storage in [Storage::F16, Storage::Int8] {
        let case = mixed(storage);
        let Some(mut device) = device(layout_of(&case), 0) else { return };
        check(&mut device, &case);
        let together = score(&mut device, &case);
        for document in (0..case.documents.len()).step_by(29) {
            for ((step, alone), (_, together)) in score(&mut device, &case.alone(document)).iter().zip(&together) {
                let (alone, together) = (alone[0].to_bits(), together[document].to_bits());
                assert_eq!(alone, together, "{}, document {document}", step.name());
            }
        }
    }
}

#[test]
fn gpu_alignments_conform() {
    for storage in [Storage::F16, Storage::Int8] {
        let lengths: Vec<u32> = (0..200).map(|i| i * 31 % 270).collect();
        let case = Case { alignment: true, ..Case::random(12, storage, 128, &[(32, &lengths), (70, &[5000, 0, 9])]) };
        let Some(mut device) = device(layout_of(&case), 0) else { return };
        let queries = queries(&case);
        let mut scores = vec![f32::NAN; case.documents.len()];
        let mut alignment = Alignment::default();
        with_tokens(&case, |tokens| {
            let documents: Vec<_> = tokens.iter().map(|&tokens| Document::Host(tokens)).collect();
            device.align(&Request { queries: &queries, documents: &documents }, &mut scores, &mut alignment).unwrap();
        });
        // In f32 two tokens may be equal that f64 tells apart, in 270 draws not.
        let found = Found { scores, values: alignment.values, tokens: alignment.tokens };
        assert_conforms(&case, &found, "alignment");
    }
}

#[test]
fn gpu_nan_and_infinity_are_what_the_formula_makes_of_them() {
    let sound = Case::random(6, Storage::F16, 128, &[(9, &[33, 0, 7]), (2, &[5])]);
    let Some(mut device) = device(layout_of(&sound), 0) else { return };
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for row in [0, 6, 8, 31, 32] {
            let mut case = sound.clone();
            case.documents[0][row * 128 + 77] = value;
            check(&mut device, &case);
        }
        let mut case = sound.clone();
        case.queries[0][8 * 128 + 5] = value;
        check(&mut device, &case);
    }
}

#[test]
fn gpu_documents_stay_and_make_room() {
    let case = Case::random(13, Storage::F16, 128, &[(32, &[40; 100])]);
    // Room for 60 of 100 documents of 10 KiB.
    let Some(mut device) = device(layout_of(&case), 60 * 10_240) else { return };
    let queries = queries(&case);
    let expected: Vec<u32> = score(&mut device, &case)[2].1.iter().map(|score| score.to_bits()).collect();
    with_tokens(&case, |tokens| {
        let keep: Vec<_> = (0..).zip(tokens).map(|(key, &tokens)| Document::Keep(key, tokens)).collect();
        let mut scores = vec![f32::NAN; 100];
        for round in 0..3 {
            device.score(&Request { queries: &queries, documents: &keep }, &mut scores).unwrap();
            let bits: Vec<u32> = scores.iter().map(|score| score.to_bits()).collect();
            assert_eq!((bits, device.counters().documents), (expected.clone(), 60), "round {round}");
        }
        let resident: Vec<u64> = (0..100).filter(|&key| device.is_resident(key)).collect();
        let named: Vec<_> = resident.iter().map(|&key| Document::Resident(key)).collect();
        let queries = [Query { documents: 60, ..queries[0] }];
        device.score(&Request { queries: &queries, documents: &named }, &mut scores[..60]).unwrap();
        let found: Vec<u32> = scores[..60].iter().map(|score| score.to_bits()).collect();
        assert_eq!(found, resident.iter().map(|&key| expected[key as usize]).collect::<Vec<_>>());
        device.forget(resident[0]);
        let missing = device.score(&Request { queries: &queries, documents: &named }, &mut scores[..60]);
        assert_eq!(missing, Err(ScoreError::Request(RequestError::Missing { document: 0 })));
    });
}

#[test]
fn gpu_a_request_of_a_known_size_allocates_nothing() {
    let case = mixed(Storage::Int8);
    let Some(mut device) = device(layout_of(&case), 1 << 20) else { return };
    score(&mut device, &case);
    let before = device.device().memory().unwrap();
    let queries = queries(&case);
    with_tokens(&case, |tokens| {
        let documents: Vec<_> = tokens.iter().map(|&tokens| Document::Host(tokens)).collect();
        let mut scores = vec![0.0; documents.len()];
        for _ in 0..20 {
            device.score(&Request { queries: &queries, documents: &documents }, &mut scores).unwrap();
        }
    });
    assert_eq!(device.device().memory().unwrap(), before);
}

#[test]
fn gpu_too_large_an_arena_is_out_of_memory() {
    let layout = Layout { storage: Storage::F16, dim: 128 };
    let Some(working) = device(layout, 0) else { return };
    let bytes = working.device().memory().unwrap().1 * 2;
    let refused = MaxSimDevice::new(CudaDevice::open(0).unwrap(), layout, bytes).unwrap_err();
    assert_eq!(refused, CudaError::OutOfMemory { bytes });
    assert!(matches!(CudaDevice::open(1000), Err(CudaError::NoDevice { ordinal: 1000 })));
}

#[test]
fn opening_answers_quickly_and_with_a_fact() {
    let begin = Instant::now();
    match CudaDevice::open(0) {
        Ok(device) => println!("{} {:?}", device.name(), device.shape()),
        Err(error) => {
            assert!(begin.elapsed().as_secs() < 5, "{error} took {:?}", begin.elapsed());
            assert!(!matches!(error, CudaError::Launch { .. } | CudaError::OutOfMemory { .. }), "{error:?}");
        }
    }
}

#[test]
fn a_device_moves_between_threads() {
    fn moves<T: Send>() {}
    moves::<MaxSimDevice>();
}
