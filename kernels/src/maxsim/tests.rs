use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::*;

/// A query of `q_len` rows and documents of the given lengths, components in [−1, 1).
struct Case {
    query: Vec<f32>,
    documents: Vec<f32>,
    cu_seqlens: Vec<u32>,
    dim: usize,
}

impl Case {
    fn random(seed: u64, q_len: usize, lengths: &[usize], dim: usize) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut rows = |rows: usize| (0..rows * dim).map(|_| rng.random_range(-1.0..1.0)).collect::<Vec<f32>>();
        let query = rows(q_len);
        let documents = rows(lengths.iter().sum());
        let cu_seqlens = std::iter::once(0)
            .chain(lengths.iter().scan(0, |end, &length| {
                *end += length as u32;
                Some(*end)
            }))
            .collect();
        Self { query, documents, cu_seqlens, dim }
    }

    fn args(&self) -> MaxSim<'_> {
        MaxSim { query: &self.query, documents: &self.documents, cu_seqlens: &self.cu_seqlens, dim: self.dim }
    }

    fn scores(&self) -> Vec<f32> {
        let mut scores = vec![f32::NAN; self.cu_seqlens.len() - 1];
        maxsim(self.args(), &mut scores).unwrap();
        scores
    }
}

fn check(case: &Case) {
    let tolerance = case.query.len() as f64 * 2_f64.powi(-22);
    for (i, (&score, expected)) in case.scores().iter().zip(reference::maxsim(case.args())).enumerate() {
        let score = f64::from(score);
        let same = score == expected || (score.is_nan() && expected.is_nan());
        assert!(same || (score - expected).abs() <= tolerance, "document {i}: {score}, expected {expected}");
    }
}

#[test]
fn equals_the_reference() {
    for (seed, q_len, lengths, dim) in [
        (1, 1, &[1][..], 1),
        (2, 32, &[180, 1, 300, 7], 128),
        (3, 9, &[3, 4, 5, 8, 9], 384),
        (4, 7, &[2, 0, 2], 17),
        (5, 0, &[3, 0], 8),
        (6, 40, &[], 8),
    ] {
        check(&Case::random(seed, q_len, lengths, dim));
    }
}

#[test]
fn empty_query_scores_zero_and_empty_document_minus_infinity() {
    assert_eq!(Case::random(1, 0, &[3, 0, 1], 4).scores(), [0.0; 3]);
    let scores = Case::random(1, 2, &[0, 3, 0], 4).scores();
    assert_eq!([scores[0], scores[2]], [f32::NEG_INFINITY; 2]);
    assert!(scores[1].is_finite());
}

#[test]
fn nan_anywhere_in_a_compared_vector_is_nan() {
    let (q_len, lengths, dim) = (9, [5, 6, 0], 11);
    for component in 0..q_len * dim {
        let mut case = Case::random(7, q_len, &lengths, dim);
        case.query[component] = f32::NAN;
        let scores = case.scores();
        assert!(scores[0].is_nan() && scores[1].is_nan(), "query component {component}: {scores:?}");
        assert_eq!(scores[2], f32::NEG_INFINITY, "nothing was compared with query component {component}");
    }
    for component in 0..11 * dim {
        let mut case = Case::random(7, q_len, &lengths, dim);
        case.documents[component] = f32::NAN;
        let scores = case.scores();
        let (with, without) = if component < 5 * dim { (0, 1) } else { (1, 0) };
        assert!(scores[with].is_nan() && scores[without].is_finite(), "component {component}: {scores:?}");
    }
    let mut nothing_compared = Case::random(7, 0, &[2], 4);
    nothing_compared.documents[3] = f32::NAN;
    assert_eq!(nothing_compared.scores(), [0.0]);
}

#[test]
fn infinities_follow_ieee() {
    for (query, document, expected) in
        [([1.0, 1.0], [f32::INFINITY, 1.0], f32::INFINITY), ([1.0, 1.0], [f32::NEG_INFINITY, 1.0], f32::NEG_INFINITY)]
    {
        let case = Case { query: query.to_vec(), documents: document.to_vec(), cu_seqlens: vec![0, 1], dim: 2 };
        assert_eq!(case.scores(), [expected], "{query:?} · {document:?}");
        check(&case);
    }
    let zero_times_infinity =
        Case { query: vec![0.0, 1.0], documents: vec![f32::INFINITY, 1.0], cu_seqlens: vec![0, 1], dim: 2 };
    assert!(zero_times_infinity.scores()[0].is_nan());
}

#[test]
fn misfits_are_named() {
    let (query, documents) = ([0.0; 8], [0.0; 12]);
    let args = MaxSim { query: &query, documents: &documents, cu_seqlens: &[0, 1, 3], dim: 4 };
    let cases = [
        (MaxSim { dim: 0, ..args }, 2, ShapeError::Zero { argument: "dim" }),
        (MaxSim { query: &query[1..], ..args }, 2, ShapeError::NotRows { argument: "query", dim: 4, found: 7 }),
        (
            MaxSim { documents: &documents[1..], ..args },
            2,
            ShapeError::NotRows { argument: "documents", dim: 4, found: 11 },
        ),
        (MaxSim { cu_seqlens: &[0, 2], ..args }, 1, ShapeError::CuSeqlens { rows: 3 }),
        (args, 3, ShapeError::Length { argument: "scores", expected: 2, found: 3 }),
    ];
    for (args, scores, expected) in cases {
        assert_eq!(maxsim(args, &mut vec![0.0; scores]), Err(expected));
    }
}

proptest! {
    #[test]
    fn any_shape_equals_the_reference(
        seed in any::<u64>(),
        q_len in 0_usize..40,
        lengths in prop::collection::vec(0_usize..30, 0..12),
        dim in 1_usize..70,
    ) {
        check(&Case::random(seed, q_len, &lengths, dim));
    }

    #[test]
    fn a_score_is_the_same_bits_alone(
        seed in any::<u64>(),
        q_len in 1_usize..20,
        lengths in prop::collection::vec(0_usize..30, 1..12),
        dim in 1_usize..70,
    ) {
        let together = Case::random(seed, q_len, &lengths, dim);
        for (i, &score) in together.scores().iter().enumerate() {
            let rows = together.cu_seqlens[i] as usize..together.cu_seqlens[i + 1] as usize;
            let alone = Case {
                query: together.query.clone(),
                documents: together.documents[rows.start * dim..rows.end * dim].to_vec(),
                cu_seqlens: vec![0, rows.len() as u32],
                dim,
            };
            prop_assert_eq!(alone.scores()[0].to_bits(), score.to_bits());
        }
    }
}
