//! What holds for any shape.

use proptest::prelude::*;

use super::cases::{Case, STORAGES, check, tolerance};
use crate::{
    Isa,
    maxsim::{Alignment, PackedQuery, maxsim_batch, reference},
    tokens::Storage,
};

fn implementation() -> impl Strategy<Value = Isa> {
    prop::sample::select(Isa::available().collect::<Vec<_>>())
}

fn storage() -> impl Strategy<Value = Storage> {
    prop::sample::select(STORAGES.to_vec())
}

fn lengths() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0_usize..40, 1..10)
}

proptest! {
    #[test]
    fn any_shape_equals_the_reference(
        (isa, storage, seed) in (implementation(), storage(), any::<u64>()),
        (q_len, lengths, dim) in (0_usize..70, lengths(), 1_usize..70),
    ) {
        check(isa, &Case::random(storage, seed, q_len, &lengths, dim), tolerance(storage));
    }

    #[test]
    fn a_score_is_the_same_bits_in_any_company(
        (isa, storage, seed) in (implementation(), storage(), any::<u64>()),
        (q_len, lengths, dim) in (1_usize..70, lengths(), 1_usize..70),
    ) {
        let case = Case::random(storage, seed, q_len, &lengths, dim);
        let bits = |scores: &[f32]| scores.iter().map(|score| score.to_bits()).collect::<Vec<_>>();
        let together = bits(&case.scores(isa));
        let query = PackedQuery::new(isa, &case.query, dim).unwrap();

        let alone: Vec<f32> = (0..lengths.len()).map(|i| query.score(case.document(i)).unwrap()).collect();
        prop_assert_eq!(bits(&alone), &together[..]);

        let mut scattered = vec![0.0; lengths.len()];
        query.score_all((0..lengths.len()).rev().map(|i| case.document(i)), &mut scattered).unwrap();
        scattered.reverse();
        prop_assert_eq!(bits(&scattered), &together[..]);

        let mut batch = vec![0.0; 2 * lengths.len()];
        maxsim_batch(isa, &[case.args(), case.args()], &mut batch).unwrap();
        prop_assert_eq!(bits(&batch), together.repeat(2));
    }

    #[test]
    fn alignments_are_where_the_score_comes_from(
        (isa, storage, seed) in (implementation(), storage(), any::<u64>()),
        (q_len, rows, dim) in (1_usize..300, 1_usize..40, 1_usize..40),
    ) {
        let case = Case::random(storage, seed, q_len, &[rows], dim);
        let query = PackedQuery::new(isa, &case.query, dim).unwrap();
        let mut alignments = vec![Alignment { token: None, similarity: 0.0 }; q_len];
        let score = query.align(case.document(0), &mut alignments).unwrap();
        prop_assert_eq!(score.to_bits(), query.score(case.document(0)).unwrap().to_bits());

        let seen = case.seen_query();
        for (q, alignment) in seen.chunks_exact(dim).zip(&alignments) {
            let similarity = |row| reference::similarity(q, case.documents.tokens(), dim, row);
            let allowed = tolerance(storage) * dim as f64 + alignment.similarity.abs() as f64 * 1e-7;
            let of_token = similarity(alignment.token.unwrap() as usize);
            let largest = (0..rows).map(similarity).fold(f64::NEG_INFINITY, f64::max);
            prop_assert!((f64::from(alignment.similarity) - of_token).abs() <= allowed);
            prop_assert!(largest - of_token <= 2.0 * allowed, "{} and {}", largest, of_token);
        }
    }
}
