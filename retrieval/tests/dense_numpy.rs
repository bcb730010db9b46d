//! The exact scan agrees with NumPy.
//!
//! The scores in `dense_numpy/expected.json` were written by `dense_numpy/make_golden.py`, which says how; nothing of
//! Python runs here. `just bench shard` compares the two over vectors of real texts.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helper functions too")]

use serde::Deserialize;
use sluice_retrieval::{
    dense::ExactDense,
    identity::{DocId, Lsn},
    schema::Metric,
    vector_index::{Change, Never, VectorIndex},
};

const EXPECTED: &str = include_str!("dense_numpy/expected.json");
const SEED: u64 = 384;
const ROWS: usize = 1_500;
const QUERIES: usize = 6;
const DIM: usize = 384;
const CENTRES: usize = 25;
const K: usize = 100;
/// Of the size of a score, or of 1 if that is more: what 384 products of f32 may be off.
const TOLERANCE: f64 = 384.0 / (1 << 24) as f64;

#[derive(Deserialize)]
struct Case {
    query: usize,
    metric: Metric,
    hits: Vec<(u32, f64)>,
}

/// Components as the script draws them.
struct Drawn(u64);

impl Drawn {
    /// splitmix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn vector(&mut self) -> Vec<i32> {
        (0..DIM).map(|_| (self.next() >> 51) as i32 - 4096).collect()
    }
}

fn rows_and_queries() -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let mut drawn = Drawn(SEED);
    let centres: Vec<Vec<i32>> = (0..CENTRES).map(|_| drawn.vector()).collect();
    let mut near = |nth: usize| {
        let components = centres[nth % CENTRES].iter().zip(drawn.vector());
        components.map(|(a, b)| (a + b) as f32 / 4096.0).collect::<Vec<f32>>()
    };
    let rows = (0..ROWS).map(&mut near).collect();
    (rows, (0..QUERIES).map(near).collect())
}

#[test]
fn scores_and_order_agree() {
    let (rows, queries) = rows_and_queries();
    let cases: Vec<Case> = serde_json::from_str(EXPECTED).unwrap();
    assert_eq!(cases.len(), QUERIES * 3, "every query by every metric");
    for Case { query, metric, hits } in cases {
        let index = ExactDense::new(metric, DIM as u32);
        let changes: Vec<_> =
            (0..).zip(&rows).map(|(row, vector)| Change::Insert(DocId(row), vector.as_slice())).collect();
        index.apply(&changes, Lsn(1)).unwrap();
        let found = index.search(&queries[query], K, None, &Never).unwrap();
        assert_eq!((found.len(), hits.len()), (K, K));
        for (hit, (row, score)) in found.iter().zip(&hits) {
            let context = format!("query {query}, {metric:?}: {hit:?}, expected {row} with {score}");
            let off = TOLERANCE * score.abs().max(1.0);
            assert!((f64::from(hit.score) - score).abs() <= off, "{context}");
            // Where it is another row, both have the same score, as far as f32 can tell.
            if hit.document.0 != *row {
                let (_, other) = hits.iter().find(|(row, _)| *row == hit.document.0).copied().unwrap_or_default();
                let last = (hits[K - 1].1 - score).abs() <= off;
                assert!((other - score).abs() <= off || last, "{context}");
            }
        }
    }
}
