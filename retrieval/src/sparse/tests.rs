//! The index against the definition.

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng, rngs::SmallRng};
use roaring::RoaringBitmap;

use super::{SparseIndex, Weighting, segment::entries};
use crate::{
    document::SparseVector,
    identity::{DocId, Lsn},
    vector_index::{Change, IndexError, Never, VectorIndex},
};

/// Documents by number, as the index should have them.
type Model = BTreeMap<u32, SparseVector>;

/// Dimensions of the vocabulary; small ones are common, as words are.
const DIMENSIONS: f64 = 30_000.0;

fn vector(rng: &mut SmallRng, terms: usize, signed: bool) -> SparseVector {
    let mut indices: Vec<u32> = (0..terms).map(|_| DIMENSIONS.powf(rng.random::<f64>()) as u32).collect();
    indices.sort_unstable();
    indices.dedup();
    let lowest = if signed { -1.0 } else { 0.01 };
    // Few different values, so that there are ties.
    let mut value = || (rng.random_range(lowest..3.0_f32) * 16.0).round() / 16.0;
    let values = indices.iter().map(|_| value()).map(|value| if value == 0.0 { 0.0625 } else { value }).collect();
    SparseVector { indices, values }
}

/// The definition: the dot product over what both have, in f64.
fn oracle(
    weighting: Weighting,
    model: &Model,
    query: &SparseVector,
    k: usize,
    among: Option<&RoaringBitmap>,
) -> Vec<(u32, f32)> {
    let mut weights = vec![0.0; DIMENSIONS as usize];
    for (dimension, value) in entries(query) {
        weights[dimension as usize] = f64::from(value);
    }
    if weighting == Weighting::Idf {
        let mut counts = vec![0.0; DIMENSIONS as usize];
        for (dimension, _) in model.values().flat_map(entries) {
            counts[dimension as usize] += 1.0;
        }
        for (weight, n) in weights.iter_mut().zip(counts) {
            *weight *= ((model.len() as f64 - n + 0.5) / (n + 0.5)).ln_1p();
        }
    }
    let mut all = Vec::new();
    for (&document, vector) in model.iter().filter(|(document, _)| among.is_none_or(|among| among.contains(**document)))
    {
        let (mut any, mut sum) = (false, 0.0);
        for (dimension, value) in entries(vector) {
            let weight = weights[dimension as usize];
            any |= weight != 0.0;
            sum += weight * f64::from(value);
        }
        if any {
            all.push((document, sum as f32));
        }
    }
    let better = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if k < all.len() {
        all.select_nth_unstable_by(k, better);
        all.truncate(k);
    }
    all.sort_by(better);
    all
}

fn check(
    weighting: Weighting,
    index: &SparseIndex,
    model: &Model,
    query: &SparseVector,
    k: usize,
    among: Option<&RoaringBitmap>,
) {
    let found = index.search(query, k, among, &Never).unwrap();
    let found: Vec<_> = found.iter().map(|hit| (hit.document.0, hit.score)).collect();
    assert_eq!(found, oracle(weighting, model, query, k, among), "k {k}, {query:?}");
}

fn apply(index: &SparseIndex, model: &mut Model, new: Vec<(u32, SparseVector)>, gone: &[u32], lsn: u64) {
    let mut changes: Vec<_> = gone.iter().map(|document| Change::Remove(DocId(*document))).collect();
    changes.extend(new.iter().map(|(document, vector)| Change::Insert(DocId(*document), vector)));
    index.apply(&changes, Lsn(lsn)).unwrap();
    for document in gone {
        model.remove(document);
    }
    model.extend(new);
    assert_eq!((index.len(), index.applied()), (model.len(), Lsn(lsn)));
}

#[test]
fn a_thousand_queries_over_fifty_thousand_documents_equal_brute_force() {
    let mut rng = SmallRng::seed_from_u64(7);
    let (index, mut model) = (SparseIndex::new(Weighting::None), Model::new());
    let mut next = 0;
    let mut lsn = 0;
    let mut batch = |rng: &mut SmallRng, count: u32| {
        let new = (next..next + count).map(|document| (document, vector(rng, 24, false))).collect::<Vec<_>>();
        next += count;
        new
    };
    for _ in 0..50 {
        let new = batch(&mut rng, 1_000);
        lsn += 1;
        apply(&index, &mut model, new, &[], lsn);
    }
    for query in 0..1_000 {
        if query % 20 == 0 {
            // An update: the old number goes, a new one comes; and some go for good.
            let numbers: Vec<u32> = model.keys().copied().collect();
            let gone: Vec<u32> = (0..500).map(|_| numbers[rng.random_range(0..numbers.len())]).collect();
            let new = batch(&mut rng, 480);
            lsn += 1;
            apply(&index, &mut model, new, &gone, lsn);
        }
        let terms = rng.random_range(1..30);
        let asked = vector(&mut rng, terms, false);
        let share = [0.001, 0.05, 0.5][query % 3];
        let few: Option<RoaringBitmap> =
            (query % 4 == 3).then(|| model.keys().copied().filter(|_| rng.random_bool(share)).collect());
        check(Weighting::None, &index, &model, &asked, [1, 10, 100, 1_000][query % 4], few.as_ref());
    }
    assert!(index.bytes() < 64 << 20, "{}", index.bytes());
}

#[test]
fn any_signs_and_weights_equal_brute_force_while_documents_come_and_go() {
    for (seed, weighting) in [(1, Weighting::None), (2, Weighting::Idf)] {
        let mut rng = SmallRng::seed_from_u64(seed);
        let (index, mut model) = (SparseIndex::new(weighting), Model::new());
        for step in 1..80 {
            let new =
                (0..60).map(|_| (rng.random_range(0..3_000), vector(&mut rng, 12, true))).collect::<BTreeMap<_, _>>();
            // Numbers are given again here, which the index must bear: a log is replayed.
            let gone: Vec<u32> = (0..50).map(|_| rng.random_range(0..3_000)).collect();
            apply(&index, &mut model, new.into_iter().collect(), &gone, step);
            for k in [1, 7, 5_000] {
                check(weighting, &index, &model, &vector(&mut rng, 9, true), k, None);
                let few: RoaringBitmap = (0..rng.random_range(0..900)).map(|_| rng.random_range(0..3_000)).collect();
                check(weighting, &index, &model, &vector(&mut rng, 9, true), k, Some(&few));
            }
        }
        let all: Vec<u32> = model.keys().copied().collect();
        apply(&index, &mut model, Vec::new(), &all, 80);
        check(weighting, &index, &model, &vector(&mut rng, 9, true), 10, None);
    }
}

#[test]
fn what_is_gone_takes_no_room_for_long() {
    let mut rng = SmallRng::seed_from_u64(3);
    let (index, mut model) = (SparseIndex::new(Weighting::None), Model::new());
    let first = (0..4_000).map(|document| (document, vector(&mut rng, 30, false))).collect();
    apply(&index, &mut model, first, &[], 1);
    let full = index.bytes();
    for round in 1..40 {
        let (from, to) = (round * 4_000, round * 4_000 + 4_000);
        let new = (from..to).map(|document| (document, vector(&mut rng, 30, false))).collect();
        let gone: Vec<u32> = (from - 4_000..from).collect();
        apply(&index, &mut model, new, &gone, u64::from(round) + 1);
    }
    assert!(index.bytes() < 3 * full, "{} after {full}", index.bytes());
}

#[test]
fn what_is_no_vector_is_refused_whole() {
    let index = SparseIndex::new(Weighting::None);
    let vector = |indices: &[u32], values: &[f32]| SparseVector { indices: indices.to_vec(), values: values.to_vec() };
    let good = vector(&[1], &[1.0]);
    for bad in
        [vector(&[1, 2], &[1.0]), vector(&[2, 1], &[1.0, 1.0]), vector(&[1, 1], &[1.0, 1.0]), vector(&[1], &[f32::NAN])]
    {
        let changes = [Change::Insert(DocId(1), &good), Change::Insert(DocId(2), &bad)];
        assert!(matches!(index.apply(&changes, Lsn(1)), Err(IndexError::Vector(_))), "{bad:?}");
        assert!(matches!(index.search(&bad, 1, None, &Never), Err(IndexError::Vector(_))), "{bad:?}");
    }
    assert!(index.is_empty());
    index.apply(&[Change::Insert(DocId(1), &good)], Lsn(1)).unwrap();
    assert!(matches!(index.search(&good, 1, None, &|| true), Err(IndexError::Stopped)));
}
