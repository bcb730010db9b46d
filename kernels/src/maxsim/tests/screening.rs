//! Documents that are screened with codes where the machine does so: what comes out is what floats give.

use super::cases::{Case, Stored, check, tolerance};
use crate::{
    Isa,
    maxsim::{Alignment, PackedQuery, maxsim_batch},
    tokens::Storage,
};

const FLOATS: [Storage; 2] = [Storage::F32, Storage::F16];

fn for_all(mut test: impl FnMut(Isa, Storage)) {
    for isa in Isa::available() {
        FLOATS.into_iter().for_each(|storage| test(isa, storage));
    }
}

fn random(seed: u64, len: usize) -> Vec<f32> {
    let Stored::F32(x) = Case::random(Storage::F32, seed, 0, &[len], 1).documents else { unreachable!() };
    x
}

/// One document.
fn case(storage: Storage, query: &[f32], rows: &[f32], dim: usize) -> Case {
    let cu_seqlens = vec![0, (rows.len() / dim) as u32];
    Case { query: query.to_vec(), documents: Stored::new(storage, rows, dim), cu_seqlens, dim }
}

fn aligned(isa: Isa, case: &Case) -> (f32, Vec<Alignment>) {
    let query = PackedQuery::new(isa, &case.query, case.dim).unwrap();
    let mut alignments = vec![Alignment { token: None, similarity: 0.0 }; query.q_len()];
    let score = query.align(case.document(0), &mut alignments).unwrap();
    assert_eq!(score.to_bits(), case.scores(isa)[0].to_bits(), "{isa:?}");
    (score, alignments)
}

#[test]
fn shapes() {
    for_all(|isa, storage| {
        for q_len in [9, 16, 17, 24, 25, 32, 33, 48, 100, 300] {
            check(isa, &Case::random(storage, q_len as u64, q_len, &[24, 23, 100], 64), tolerance(storage));
        }
        for rows in [24, 25, 95, 96, 97, 180, 193, 400] {
            check(isa, &Case::random(storage, rows as u64, 32, &[rows, 30], 128), tolerance(storage));
        }
        for dim in [64, 80, 112, 128, 384, 768, 1024, 2048, 2736] {
            check(isa, &Case::random(storage, dim as u64, 20, &[50], dim), tolerance(storage));
        }
    });
}

#[test]
fn a_score_is_the_same_bits_in_any_company() {
    for_all(|isa, storage| {
        let case = Case::random(storage, 3, 40, &[180, 7, 60, 100], 128);
        let together = case.scores(isa);
        let query = PackedQuery::new(isa, &case.query, 128).unwrap();
        for (i, score) in together.iter().enumerate() {
            assert_eq!(query.score(case.document(i)).unwrap().to_bits(), score.to_bits(), "{isa:?} {storage:?}");
            let mut alignments = [Alignment { token: None, similarity: 0.0 }; 40];
            let aligned = query.align(case.document(i), &mut alignments).unwrap();
            assert_eq!(aligned.to_bits(), score.to_bits(), "{isa:?} {storage:?}");
        }
        let mut batch = [0.0; 8];
        maxsim_batch(isa, &[case.args(), case.args()], &mut batch).unwrap();
        assert_eq!(batch[..], together.repeat(2));
    });
}

#[test]
fn rows_that_hardly_differ() {
    let (query, base) = (random(1, 32 * 128), random(2, 128));
    for_all(|isa, storage| {
        for difference in [0.0, 1e-6, 1e-4, 1e-3, 1e-2, 0.1] {
            let rows: Vec<f32> =
                random(3, 150 * 128).iter().enumerate().map(|(i, x)| base[i % 128] + difference * x).collect();
            let case = case(storage, &query, &rows, 128);
            check(isa, &case, tolerance(storage));
            let (_, alignments) = aligned(isa, &case);
            if difference == 0.0 {
                assert!(alignments.iter().all(|alignment| alignment.token == Some(0)), "{isa:?} {alignments:?}");
            }
        }
    });
}

#[test]
fn the_lowest_index_of_equals_is_the_best() {
    let query = random(4, 128).repeat(20);
    for_all(|isa, storage| {
        let mut rows = random(5, 200 * 128);
        // In the first chunk twice, and in the last.
        for row in [50, 70, 190] {
            rows[row * 128..][..128].copy_from_slice(&query[..128]);
        }
        let (_, alignments) = aligned(isa, &case(storage, &query, &rows, 128));
        assert!(alignments.iter().all(|alignment| alignment.token == Some(50)), "{isa:?} {storage:?} {alignments:?}");
    });
}

#[test]
fn zeros() {
    for_all(|isa, storage| {
        let (mut query, mut rows) = (random(6, 16 * 64), random(7, 100 * 64));
        query[64..128].fill(0.0);
        query[15 * 64..].fill(-0.0);
        rows[30 * 64..40 * 64].fill(0.0);
        let some = case(storage, &query, &rows, 64);
        check(isa, &some, tolerance(storage));
        let (_, alignments) = aligned(isa, &some);
        for token in [1, 15] {
            assert_eq!(alignments[token], Alignment { token: Some(0), similarity: 0.0 }, "{isa:?} {storage:?}");
        }
        assert_eq!(case(storage, &query, &[0.0; 30 * 64], 64).scores(isa), [0.0]);
        assert_eq!(case(storage, &[0.0; 16 * 64], &rows, 64).scores(isa), [0.0]);
    });
}

/// Where products of norms overflow or vanish, and where one row's are far from another's.
#[test]
fn magnitudes() {
    for isa in Isa::available() {
        for (of_query, of_rows) in [
            (1e-30, 1.0),
            (1e-14, 1e-14),
            (1e10, 1e10),
            (1e17, 1e17),
            (1.0, 1e-38),
            (1.0, 1e-13),
            (1.0, 1e13),
            (1e30, 1e-30),
        ] {
            let query: Vec<f32> = random(8, 16 * 64).iter().map(|x| x * of_query).collect();
            for spread in [0, 1, 3] {
                let scaled = |(i, x): (usize, &f32)| x * of_rows * 10_f32.powi((i / 64) as i32 % 5 * -spread);
                let rows: Vec<f32> = random(9, 100 * 64).iter().enumerate().map(scaled).collect();
                let largest = f64::from(of_query) * f64::from(of_rows);
                // Where f32 itself has few digits left.
                let tolerance = tolerance(Storage::F32) * largest + 1e-40;
                check(isa, &case(Storage::F32, &query, &rows, 64), tolerance);
            }
        }
    }
}

#[test]
fn what_is_not_finite() {
    for_all(|isa, storage| {
        let clean = case(storage, &random(10, 17 * 64), &random(11, 110 * 64), 64);
        for row in 0..110 {
            for (value, nan) in [(f32::NAN, true), (f32::INFINITY, false)] {
                let mut case = clean.clone();
                match &mut case.documents {
                    Stored::F32(x) => x[row * 64 + row % 64] = value,
                    Stored::F16(x) => x[row * 64 + row % 64] = half::f16::from_f32(value),
                    Stored::Int8(..) | Stored::Binary(_) => unreachable!(),
                }
                let (score, alignments) = aligned(isa, &case);
                assert_eq!(score.is_nan(), nan, "{isa:?} {storage:?}, row {row}: {score}");
                assert!(nan || score == f32::INFINITY, "{isa:?} {storage:?}, row {row}: {score}");
                if nan {
                    assert!(alignments.iter().all(|alignment| alignment.token == Some(row as u32)));
                }
            }
        }
        for component in (0..17 * 64).step_by(7) {
            let mut case = clean.clone();
            case.query[component] = f32::NAN;
            assert!(case.scores(isa)[0].is_nan(), "{isa:?} {storage:?}, query component {component}");
        }
        let mut zero_and_infinity = clean.clone();
        zero_and_infinity.query[..64].fill(0.0);
        if let Stored::F32(x) = &mut zero_and_infinity.documents {
            x[0] = f32::INFINITY;
            assert!(zero_and_infinity.scores(isa)[0].is_nan(), "{isa:?}: 0 · ∞ in the first chunk");
        }
    });
}
