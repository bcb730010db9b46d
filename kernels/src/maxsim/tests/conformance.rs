//! Shapes at which something changes: lanes, tiles, panels, blocks, groups, chunks.
#![allow(clippy::disallowed_methods, reason = "the environment says which instruction sets must be tested")]

use super::cases::{Case, STORAGES, check, implementations, tolerance};
use crate::{Isa, tokens::Storage};

/// Every implementation of this machine; SLUICE_REQUIRE_ISA=avx512,avx2 makes a missing one a failure.
fn all() -> Vec<Isa> {
    implementations(std::env::var("SLUICE_REQUIRE_ISA").ok().as_deref())
}

fn check_all(seed: u64, q_len: usize, lengths: &[usize], dim: usize) {
    for isa in all() {
        for storage in STORAGES {
            check(isa, &Case::random(storage, seed, q_len, lengths, dim), tolerance(storage));
        }
    }
}

#[test]
fn every_number_of_query_tokens() {
    for q_len in (0..=67).chain([96, 127, 128, 129, 255, 256, 257, 300, 512, 1023, 1024]) {
        check_all(q_len as u64, q_len, &[1, 13], 24);
    }
}

#[test]
fn every_number_of_document_tokens() {
    let lengths: Vec<usize> = (0..=50).chain([180, 1]).collect();
    for q_len in [1, 8, 16, 32] {
        check_all(q_len as u64, q_len, &lengths, 16);
    }
}

#[test]
fn every_dimension() {
    let dims = (1..=34).chain([63, 64, 65, 96, 127, 128, 129, 255, 256, 257, 384, 512, 768, 1000, 1024]);
    for dim in dims {
        check_all(dim as u64, 9, &[12, 5, 0, 30], dim);
        check_all(dim as u64, 32, &[12, 5], dim);
    }
}

#[test]
fn documents_larger_than_caches_keep() {
    // Beyond a group of query tokens and a chunk of rows.
    check_all(1, 300, &[3, 700], 128);
    check_all(2, 40, &[300, 2], 1024);
}

#[test]
fn negative_similarities() {
    for isa in all() {
        for storage in STORAGES {
            let shape = (33, &[1, 12, 29, 180][..], 128);
            let case = Case::within(storage, 5, shape, [0.1..1.0, -1.0..-0.1]);
            check(isa, &case, tolerance(storage));
            assert!(case.scores(isa).iter().all(|&score| score < 0.0), "{} {storage:?}", isa.name());
        }
    }
}

/// What the documentation says of the query's codes, beside the reference over the query itself.
#[test]
fn codes_cost_what_is_promised() {
    for isa in all() {
        for (storage, dim) in [(Storage::Int8, 128), (Storage::Int8, 1024), (Storage::Binary, 128)] {
            let case = Case::random(storage, 7, 32, &[1, 180], dim);
            let expected = crate::maxsim::reference::maxsim(case.args());
            // Each component of the query is off by at most half a step of 1/127, each document component at most 1.
            let allowed = 32.0 * dim as f64 / 254.0;
            for (score, expected) in case.scores(isa).into_iter().zip(expected) {
                let difference = (f64::from(score) - expected).abs();
                assert!(difference <= allowed, "{} {storage:?}: {score}, {expected}", isa.name());
                // Errors of either sign add up to far less.
                assert!(difference <= allowed / 20.0, "{} {storage:?}: {score}, {expected}", isa.name());
            }
        }
    }
}

#[test]
fn codes_have_the_same_scores_on_every_instruction_set() {
    for storage in [Storage::Int8, Storage::Binary] {
        for (q_len, dim) in [(1, 7), (9, 128), (32, 384), (40, 1000)] {
            let case = Case::random(storage, 11, q_len, &[1, 17, 180, 0], dim);
            let expected = case.scores(Isa::fallback());
            for isa in all() {
                assert_eq!(case.scores(isa), expected, "{} {storage:?} {q_len} × {dim}", isa.name());
            }
        }
    }
}

#[test]
fn a_required_instruction_set_must_be_there() {
    for isa in Isa::available() {
        assert!(implementations(Some(isa.name())).contains(&isa));
    }
    for missing in crate::InstructionSet::ALL.into_iter().filter(|&set| Isa::of(set).is_none()) {
        let asked = format!("fallback, {}", missing.name());
        assert!(std::panic::catch_unwind(|| implementations(Some(&asked))).is_err(), "{asked}");
    }
}
