//! Nothing, NaN, infinities, and arguments that do not fit together.

use half::f16;

use super::cases::{Case, STORAGES, Stored, check, cu_seqlens};
use crate::{
    Isa, ShapeError,
    maxsim::{Alignment, MaxSim, PackedQuery, maxsim, maxsim_batch},
    tokens::{Storage, Tokens},
};

/// Every implementation with every storage.
fn for_all(mut test: impl FnMut(Isa, Storage)) {
    for isa in Isa::available() {
        for storage in STORAGES {
            test(isa, storage);
        }
    }
}

#[test]
fn empty_query_scores_zero_and_empty_document_minus_infinity() {
    for_all(|isa, storage| {
        assert_eq!(Case::random(storage, 1, 0, &[3, 0, 1], 4).scores(isa), [0.0; 3]);
        let scores = Case::random(storage, 1, 2, &[0, 3, 0], 4).scores(isa);
        assert_eq!([scores[0], scores[2]], [f32::NEG_INFINITY; 2]);
        assert!(scores[1].is_finite());
    });
}

#[test]
fn nan_anywhere_in_a_compared_vector_is_nan() {
    // A tile, its remainders, a second panel.
    let (q_len, lengths, dim) = (34, [14, 29, 0], 5);
    for_all(|isa, storage| {
        let clean = Case::random(storage, 7, q_len, &lengths, dim);
        for component in 0..q_len * dim {
            let mut case = clean.clone();
            case.query[component] = f32::NAN;
            let scores = case.scores(isa);
            assert!(scores[0].is_nan() && scores[1].is_nan(), "{isa:?} {storage:?} {component}: {scores:?}");
            assert_eq!(scores[2], f32::NEG_INFINITY, "nothing was compared with query component {component}");
        }
        for component in 0..43 * dim {
            let mut case = clean.clone();
            match &mut case.documents {
                Stored::F32(x) => x[component] = f32::NAN,
                Stored::F16(x) => x[component] = f16::NAN,
                Stored::Int8(_, scales) => scales[component / dim] = f32::NAN,
                // Bits are numbers.
                Stored::Binary(_) => return,
            }
            let scores = case.scores(isa);
            let (with, without) = if component < 14 * dim { (0, 1) } else { (1, 0) };
            let right = scores[with].is_nan() && scores[without].is_finite();
            assert!(right, "{isa:?} {storage:?} {component}: {scores:?}");
        }
        let mut nothing_compared = Case::random(storage, 7, 0, &[2], 4);
        if let Stored::F32(x) = &mut nothing_compared.documents {
            x[3] = f32::NAN;
        }
        assert_eq!(nothing_compared.scores(isa), [0.0]);
    });
}

#[test]
fn nan_survives_whatever_comes_after_it() {
    for_all(|isa, storage| {
        let mut case = Case::random(storage, 3, 3, &[60], 8);
        match &mut case.documents {
            Stored::F32(x) => x[17 * 8] = f32::NAN,
            Stored::F16(x) => x[17 * 8] = f16::NAN,
            Stored::Int8(_, scales) => scales[17] = f32::NAN,
            Stored::Binary(_) => return,
        }
        let mut alignments = [Alignment { token: None, similarity: 0.0 }; 3];
        let query = PackedQuery::new(isa, &case.query, 8).unwrap();
        assert!(query.align(case.document(0), &mut alignments).unwrap().is_nan());
        for alignment in alignments {
            assert_eq!(alignment.token, Some(17), "{isa:?} {storage:?}");
            assert!(alignment.similarity.is_nan());
        }
    });
}

#[test]
fn infinities_follow_ieee() {
    const INF: f32 = f32::INFINITY;
    // One query row, one document of two rows.
    for (query, document, expected) in [
        ([1.0, 1.0], [INF, 1.0, 0.0, 0.0], INF),
        ([1.0, 1.0], [-INF, 1.0, 0.0, 0.0], 0.0),
        ([1.0, 1.0], [-INF, 1.0, 1.0, -INF], -INF),
        ([-1.0, 1.0], [-INF, 1.0, 2.0, 2.0], INF),
        ([0.0, 1.0], [INF, 1.0, 2.0, 2.0], f32::NAN),
        ([1.0, 1.0], [INF, -INF, 2.0, 2.0], f32::NAN),
        ([INF, 0.0], [1.0, 1.0, -1.0, 0.0], INF),
        ([INF, 0.0], [0.0, 1.0, 1.0, 1.0], f32::NAN),
        ([INF, 0.0], [-1.0, 1.0, -2.0, 1.0], -INF),
    ] {
        for isa in Isa::available() {
            for storage in [Storage::F32, Storage::F16] {
                let documents = Stored::new(storage, &document, 2);
                let case = Case { query: query.to_vec(), documents, cu_seqlens: vec![0, 2], dim: 2 };
                let score = case.scores(isa)[0];
                let same = score == expected || (score.is_nan() && expected.is_nan());
                assert!(same, "{isa:?} {storage:?}: {query:?} · {document:?} is {score}, expected {expected}");
                check(isa, &case, 0.0);
            }
        }
    }
}

#[test]
fn scales_and_queries_that_are_not_finite() {
    const INF: f32 = f32::INFINITY;
    let codes = vec![130, 128, 126, 128];
    for (query, scales, expected) in [
        ([1.0, 0.5], [1.0, 1.0], 2.0),
        ([1.0, 0.5], [INF, 1.0], INF),
        // The second row's products are −2 at most; the first row's are 0 in sum for the third query.
        ([1.0, 0.5], [1.0, INF], 2.0),
        ([0.0, 1.0], [INF, 1.0], f32::NAN),
        ([1.0, 0.5], [f32::NAN, 1.0], f32::NAN),
        ([1.0, 0.5], [1.0, f32::NAN], f32::NAN),
        ([INF, 0.5], [1.0, 1.0], f32::NAN),
        ([1.0, -INF], [1.0, 1.0], f32::NAN),
        ([0.0, 0.0], [1.0, 1.0], 0.0),
    ] {
        for isa in Isa::available() {
            let documents = Stored::Int8(codes.clone(), scales.to_vec());
            let case = Case { query: query.to_vec(), documents, cu_seqlens: vec![0, 2], dim: 2 };
            let score = case.scores(isa)[0];
            let same = score == expected || (score.is_nan() && expected.is_nan());
            assert!(same, "{isa:?}: {query:?}, scales {scales:?}: {score}, expected {expected}");
        }
    }
}

/// A code that quantising never makes is still −128.
#[test]
fn code_zero() {
    for isa in Isa::available() {
        for dim in [1, 4, 8, 100] {
            let documents = Stored::Int8(vec![0; dim], vec![0.5]);
            let case = Case { query: vec![-1.0; dim], documents, cu_seqlens: vec![0, 1], dim };
            check(isa, &case, 1e-6);
            assert!((case.scores(isa)[0] - 64.0 * dim as f32).abs() < 1e-2, "{isa:?} {dim}");
        }
    }
}

#[test]
fn the_lowest_index_of_equals_is_the_best() {
    for_all(|isa, storage| {
        // Rows 2, 16 and 30 are the same; row 16 and 30 come in other tiles.
        let row = [0.5, -0.5, 1.0];
        let mut rows: Vec<f32> = [0.1, 0.1, -0.9].repeat(31);
        for i in [2, 16, 30] {
            rows[i * 3..][..3].copy_from_slice(&row);
        }
        let documents = Stored::new(storage, &rows, 3);
        for query_rows in [1, 8, 17, 40] {
            let query = PackedQuery::new(isa, &row.repeat(query_rows), 3).unwrap();
            let mut alignments = vec![Alignment { token: None, similarity: 0.0 }; query_rows];
            query.align(documents.tokens(), &mut alignments).unwrap();
            assert!(alignments.iter().all(|a| a.token == Some(2)), "{isa:?} {storage:?}: {alignments:?}");
        }
    });
}

#[test]
fn zeros_of_both_signs_align_with_the_first() {
    for isa in Isa::available() {
        let documents = [-0.0, 0.0, -0.0];
        let query = PackedQuery::new(isa, &[1.0], 1).unwrap();
        let mut alignments = [Alignment { token: None, similarity: 1.0 }];
        let score = query.align(Tokens::F32(&documents), &mut alignments).unwrap();
        assert_eq!(alignments[0].token, Some(0));
        assert_eq!(score.to_bits(), query.score(Tokens::F32(&documents)).unwrap().to_bits());
    }
}

#[test]
fn alignments_of_nothing() {
    for_all(|isa, storage| {
        let case = Case::random(storage, 1, 2, &[0], 4);
        let query = PackedQuery::new(isa, &case.query, 4).unwrap();
        let mut alignments = [Alignment { token: Some(9), similarity: 1.0 }; 2];
        assert_eq!(query.align(case.document(0), &mut alignments), Ok(f32::NEG_INFINITY));
        assert_eq!(alignments, [Alignment { token: None, similarity: f32::NEG_INFINITY }; 2]);
        let nobody = PackedQuery::new(isa, &[], 4).unwrap();
        assert_eq!(nobody.align(Case::random(storage, 1, 0, &[3], 4).document(0), &mut []), Ok(0.0));
    });
}

#[test]
fn misfits_are_named() {
    let (query, documents) = ([0.0; 8], [0.0; 12]);
    let tokens = Tokens::F32(&documents);
    let args = MaxSim { query: &query, documents: tokens, cu_seqlens: &[0, 1, 3], dim: 4 };
    let cases = [
        (MaxSim { dim: 0, ..args }, 2, ShapeError::Zero { argument: "dim" }),
        (MaxSim { query: &query[1..], ..args }, 2, ShapeError::NotRows { argument: "query", dim: 4, found: 7 }),
        (
            MaxSim { documents: Tokens::F32(&documents[1..]), ..args },
            2,
            ShapeError::NotRows { argument: "documents", dim: 4, found: 11 },
        ),
        (
            MaxSim { documents: Tokens::Int8 { codes: &[0; 12], scales: &[0.0; 2] }, ..args },
            2,
            ShapeError::Length { argument: "scales", expected: 3, found: 2 },
        ),
        (MaxSim { cu_seqlens: &[0, 2], ..args }, 1, ShapeError::CuSeqlens { rows: 3 }),
        (args, 3, ShapeError::Length { argument: "scores", expected: 2, found: 3 }),
    ];
    for (args, scores, expected) in cases {
        assert_eq!(maxsim(args, &mut vec![0.0; scores]), Err(expected));
        assert_eq!(maxsim_batch(Isa::best(), &[args], &mut vec![0.0; scores]), Err(expected));
    }
    let packed = PackedQuery::new(Isa::best(), &query, 4).unwrap();
    let not_rows = ShapeError::NotRows { argument: "documents", dim: 4, found: 3 };
    assert_eq!(packed.score(Tokens::F32(&[0.0; 3])), Err(not_rows));
    assert_eq!(packed.align(Tokens::F32(&[0.0; 3]), &mut []), Err(not_rows));
    let one = ShapeError::Length { argument: "alignments", expected: 2, found: 0 };
    assert_eq!(packed.align(tokens, &mut []), Err(one));
    for (documents, scores) in [(2, 3), (5, 3)] {
        let expected = ShapeError::Length { argument: "scores", expected: documents, found: scores };
        assert_eq!(packed.score_all(vec![tokens; documents], &mut vec![0.0; scores]), Err(expected));
    }
    assert_eq!(cu_seqlens(&[2, 0, 1]), [0, 2, 2, 3]);
}
