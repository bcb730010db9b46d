//! The CUDA sources, run on the CPU: every step of the ladder against the formula in f64.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helper functions too")]

#[path = "cuda/case.rs"]
mod case;
#[path = "cuda/emulated.rs"]
mod emulated;
#[path = "cuda/encoder/mod.rs"]
mod encoder;
#[path = "cuda/encoder/on_shim.rs"]
mod runner;
#[path = "cuda/served.rs"]
mod served;

use std::collections::BTreeSet;

use sluice_kernels::{cuda::maxsim::plan::Step, tokens::Storage};

use case::{Case, assert_conforms, table};
use emulated::{Emulated, LARGE, SMALL};

/// Runs one storage's half of the table through a step, and returns which kernels that took.
fn conform(step: Step, storage: Storage) -> BTreeSet<&'static str> {
    let mut kernels = BTreeSet::new();
    for (seed, (_, dim, queries)) in (0_u64..).zip(table().into_iter().filter(|(of, ..)| *of == storage)) {
        let case = Case::random(seed, storage, dim, &queries);
        for device in [LARGE, SMALL] {
            let device = Emulated { seed: device.seed + seed, ..device };
            let (found, kernel) = device.run(&case, step);
            assert_conforms(&case, &found, &format!("{kernel}, dim {dim}, {queries:?}"));
            kernels.insert(kernel);
        }
    }
    kernels
}

#[test]
fn naive_conforms() {
    for storage in [Storage::F16, Storage::Int8] {
        assert_eq!(conform(Step::Naive, storage).len(), 1);
    }
    for (dim, queries) in [(128, &[(32, &[180, 0, 1][..])][..]), (17, &[(130, &[9]), (0, &[2]), (1, &[0, 3])])] {
        let case = Case::random(9, Storage::F32, dim, queries);
        let (found, kernel) = LARGE.run(&case, Step::Stream);
        assert_conforms(&case, &found, kernel);
    }
}

#[test]
fn mma_f16_conforms() {
    let kernels = conform(Step::Mma, Storage::F16);
    assert!(kernels.is_superset(&["maxsim_mma_f16_q32", "maxsim_mma_f16_q64"].into()), "{kernels:?}");
}

#[test]
fn mma_int8_conforms() {
    let kernels = conform(Step::Mma, Storage::Int8);
    assert!(kernels.is_superset(&["maxsim_mma_int8_q32", "maxsim_mma_int8_q64"].into()), "{kernels:?}");
}

#[test]
fn stream_f16_conforms() {
    let kernels = conform(Step::Stream, Storage::F16);
    for suffix in ["q32_d128", "q32", "q32_gaps", "q64_d128", "q64", "q64_gaps"] {
        assert!(kernels.contains(format!("maxsim_stream_f16_{suffix}").as_str()), "{suffix} was not run: {kernels:?}");
    }
}

#[test]
fn stream_int8_conforms() {
    let kernels = conform(Step::Stream, Storage::Int8);
    for suffix in ["q32_d128", "q32", "q32_gaps", "q64_d128", "q64", "q64_gaps"] {
        assert!(kernels.contains(format!("maxsim_stream_int8_{suffix}").as_str()), "{suffix} was not run: {kernels:?}");
    }
}

/// A mix of lengths that a small device cuts inside blocks, and over them.
fn mixed(storage: Storage) -> Case {
    Case::random(11, storage, 128, &[(20, &[300, 2, 0, 41, 17, 900]), (70, &[64, 5, 130]), (32, &[33])])
}

#[test]
fn bits_depend_neither_on_batch_mates_nor_on_order_nor_on_the_device() {
    for storage in [Storage::F16, Storage::Int8] {
        let case = mixed(storage);
        for step in [Step::Mma, Step::Stream] {
            let expected = LARGE.run(&case, step).0.bits();
            for seed in 0..4 {
                let found = Emulated { seed, ..LARGE }.run(&case, step).0.bits();
                assert_eq!(found, expected, "{step:?}, seed {seed}");
            }
            assert_eq!(SMALL.run(&case, step).0.bits(), expected, "{step:?} on one multiprocessor");
            for document in 0..case.documents.len() {
                let alone = LARGE.run(&case.alone(document), step).0.bits();
                assert_eq!(alone, expected[document..=document], "{step:?}, document {document} alone");
            }
        }
    }
}

#[test]
fn alignments_conform() {
    for storage in [Storage::F16, Storage::Int8] {
        for (seed, dim, queries) in [
            (1, 128, &[(32, &[180, 0, 1, 9][..]), (70, &[65, 8])][..]),
            (2, 40, &[(5, &[33, 2]), (0, &[4])]),
            (3, 384, &[(17, &[26])]),
        ] {
            for step in [Step::Naive, Step::Stream] {
                let case = Case { alignment: true, ..Case::random(seed, storage, dim, queries) };
                let (found, kernel) = LARGE.run(&case, step);
                assert_conforms(&case, &found, kernel);
            }
        }
    }
    // Of equal tokens the first is named, whichever lane, tile or piece has it.
    let mut case = Case { alignment: true, ..Case::random(4, Storage::F16, 128, &[(3, &[400])]) };
    let row: Vec<f32> = case.documents[0][..128].to_vec();
    case.documents[0] = row.repeat(400);
    for device in [LARGE, SMALL] {
        let (found, _) = device.run(&case, Step::Stream);
        assert_eq!(found.tokens, [0; 3]);
    }
}

#[test]
fn negative_similarities_are_kept() {
    for storage in [Storage::F16, Storage::Int8] {
        let mut case = Case::random(5, storage, 128, &[(32, &[9, 33]), (3, &[1, 25])]);
        case.queries.iter_mut().flatten().for_each(|x| *x = x.abs() + 0.1);
        case.documents.iter_mut().flatten().for_each(|x| *x = -x.abs() - 0.1);
        for step in Step::ALL {
            let (found, kernel) = LARGE.run(&case, step);
            assert!(found.scores.iter().all(|&score| score < 0.0), "{kernel}: {:?}", found.scores);
            assert_conforms(&case, &found, kernel);
        }
    }
}

#[test]
fn nan_and_infinity_are_what_the_formula_makes_of_them() {
    let sound = Case::random(6, Storage::F16, 128, &[(9, &[33, 0, 7]), (2, &[5])]);
    for step in Step::ALL {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for row in [0, 6, 8, 31, 32] {
                let mut case = sound.clone();
                case.documents[0][row * 128 + 77] = value;
                let (found, kernel) = LARGE.run(&case, step);
                assert_eq!(found.scores[0].is_nan(), value.is_nan(), "{kernel}, {value} in row {row}");
                assert_conforms(&case, &found, kernel);
            }
            let mut case = sound.clone();
            case.queries[0][8 * 128 + 5] = value;
            let (found, kernel) = LARGE.run(&case, step);
            assert_conforms(&case, &found, kernel);
            assert_eq!(found.scores[1], f32::NEG_INFINITY, "{kernel}: nothing was compared");
        }
        let mut case = Case { storage: Storage::Int8, ..sound.clone() };
        case.queries[0][3] = f32::NAN;
        let (found, kernel) = LARGE.run(&case, step);
        assert!(found.scores[0].is_nan() && found.scores[3].is_finite(), "{kernel}: {:?}", found.scores);
    }
}
