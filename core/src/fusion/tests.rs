use proptest::prelude::*;

use super::*;

type Hits<'a> = &'a [(&'a str, f32)];

fn list<'a>(hits: Hits<'a>) -> RankedList<&'a str> {
    RankedList::new(hits.iter().copied(), Some(0.0))
}

/// Ids and scores, in order.
fn check(case: &str, lists: &[RankedList<&str>], method: Method, expected: &[(&str, f64)]) {
    let fused = fuse(lists, method);
    let found: Vec<_> = fused.iter().map(|hit| (hit.id, hit.score)).collect();
    assert_eq!(found.len(), expected.len(), "{case}: {found:?}");
    for ((id, score), (expected_id, expected_score)) in found.iter().zip(expected) {
        assert_eq!(id, expected_id, "{case}: {found:?}");
        assert!((score - expected_score).abs() < 1e-12, "{case}: {id} has {score}, not {expected_score}");
    }
}

const WORDS: Hits = &[("a", 8.0), ("b", 6.0), ("c", 2.0)];
const DENSE: Hits = &[("b", 0.875), ("d", 0.5), ("a", 0.125)];

#[test]
fn worked_examples() {
    let lists = [list(WORDS), list(DENSE)];
    let rrf = |rank: f64| 1.0 / (60.0 + rank);
    check(
        "RRF",
        &lists,
        Method::default(),
        &[("b", rrf(2.0) + rrf(1.0)), ("a", rrf(1.0) + rrf(3.0)), ("d", rrf(2.0)), ("c", rrf(3.0))],
    );
    check("RRF, k = 0", &lists, Method::Rrf { k: 0.0 }, &[("b", 1.5), ("a", 4.0 / 3.0), ("d", 0.5), ("c", 1.0 / 3.0)]);
    let heavy = [list(WORDS).with_weight(3.0), list(DENSE).with_weight(0.0)];
    check(
        "RRF, weighted",
        &heavy,
        Method::default(),
        &[("a", 3.0 * rrf(1.0)), ("b", 3.0 * rrf(2.0)), ("c", 3.0 * rrf(3.0)), ("d", 0.0)],
    );
    let sum = Method::CombSum(Normalization::MinMax);
    check("CombSUM", &lists, sum, &[("b", 2.0 / 3.0 + 1.0), ("a", 1.0), ("d", 0.5), ("c", 0.0)]);
    let mnz = Method::CombMnz(Normalization::MinMax);
    check("CombMNZ", &lists, mnz, &[("b", 2.0 * (2.0 / 3.0 + 1.0)), ("a", 2.0), ("d", 0.5), ("c", 0.0)]);
    let raw = Method::CombSum(Normalization::None);
    check("CombSUM of raw scores", &lists, raw, &[("a", 8.125), ("b", 6.875), ("c", 2.0), ("d", 0.5)]);
    let weighted = [list(WORDS).with_weight(1.0), list(DENSE).with_weight(3.0)];
    check(
        "TM2C2",
        &weighted,
        Method::Convex(Normalization::TheoreticalMin),
        &[
            ("b", (0.75 + 3.0) / 4.0),
            ("d", 3.0 * (0.5 / 0.875) / 4.0),
            ("a", (1.0 + 3.0 * 0.125 / 0.875) / 4.0),
            ("c", 0.25 / 4.0),
        ],
    );
    // Mean 5, sample deviation 2: 8 is at (3 + 6) / 12.
    let spread = [list(&[("x", 7.0), ("y", 5.0), ("z", 3.0)])];
    check("DBSF", &spread, Method::Dbsf, &[("x", 8.0 / 12.0), ("y", 0.5), ("z", 4.0 / 12.0)]);
}

#[test]
fn edges() {
    let none: [RankedList<&str>; 0] = [];
    check("no lists", &none, Method::default(), &[]);
    check("empty lists", &[list(&[]), list(&[])], Method::Dbsf, &[]);
    let equal = [list(&[("b", 1.0), ("a", 1.0)])];
    let methods = [
        (Method::Dbsf, 0.5),
        (Method::CombSum(Normalization::MinMax), 1.0),
        (Method::CombMnz(Normalization::MinMax), 1.0),
        (Method::Convex(Normalization::TheoreticalMin), 1.0),
        (Method::CombSum(Normalization::None), 1.0),
    ];
    for (method, score) in methods {
        check("equal scores, ties by id", &equal, method, &[("a", score), ("b", score)]);
        check("one hit", &[list(&[("a", 1.0)])], method, &[("a", score)]);
    }
    let below = [RankedList::new([("a", 0.0), ("b", -1.0)], Some(0.0))];
    check("nothing above the floor", &below, Method::Convex(Normalization::TheoreticalMin), &[("a", 0.0), ("b", 0.0)]);
    let rounded = [RankedList::new([("a", 1.0), ("b", -1.000_000_1)], Some(-1.0))];
    check("a hair below", &rounded, Method::Convex(Normalization::TheoreticalMin), &[("a", 1.0), ("b", 0.0)]);
    let floorless = [RankedList::new([("a", 3.0), ("b", 2.0), ("c", 1.0)], None)];
    check("no floor", &floorless, Method::Convex(Normalization::TheoreticalMin), &[("a", 1.0), ("b", 0.5), ("c", 0.0)]);
    let weightless = [list(WORDS).with_weight(0.0)];
    check("no weight", &weightless, Method::Convex(Normalization::MinMax), &[("a", 0.0), ("b", 0.0), ("c", 0.0)]);
    let twice = [list(&[("a", 2.0), ("b", 1.5), ("a", 1.0)])];
    check("a document twice", &twice, Method::Rrf { k: 0.0 }, &[("a", 1.0), ("b", 0.5)]);
    let wild = [RankedList::new([("n", f32::NAN), ("m", f32::NEG_INFINITY), ("i", f32::INFINITY)], None)];
    check("not finite", &wild, Method::CombSum(Normalization::MinMax), &[("i", 1.0), ("m", 0.0)]);
}

#[test]
fn the_largest_weights_give_finite_scores() {
    let lists = |weight| {
        let high = RankedList::new([("a", f32::MAX), ("b", 1.0)], Some(0.0)).with_weight(weight);
        let low = RankedList::new([("a", f32::MIN), ("c", 0.0)], None).with_weight(weight);
        [high, low]
    };
    for normalization in [Normalization::MinMax, Normalization::TheoreticalMin, Normalization::None] {
        for method in [
            Method::CombSum(normalization),
            Method::CombMnz(normalization),
            Method::Convex(normalization),
            Method::Dbsf,
        ] {
            let fused = fuse(&lists(WEIGHT_MAX * FACTOR_MAX), method);
            assert!(fused.iter().all(|hit| hit.score.is_finite()), "{method:?}: {fused:?}");
        }
    }
    // Beyond what a caller may ask for there is an order still.
    let fused = fuse(&lists(1e308), Method::CombSum(Normalization::None));
    let order: Vec<_> = fused.iter().map(|hit| (hit.id, hit.score.is_nan())).collect();
    assert_eq!(order, [("b", false), ("c", false), ("a", true)]);
}

#[test]
fn the_order_of_scores_is_total() {
    let scores = [f64::NAN, -f64::NAN, f64::INFINITY, 1.0, 0.0, -0.0, f64::NEG_INFINITY];
    for a in scores {
        for b in scores {
            assert_eq!(descending(a, b), descending(b, a).reverse(), "{a} {b}");
            for c in scores {
                let ascends = |a, b| descending(a, b).is_le();
                assert!(!(ascends(a, b) && ascends(b, c)) || ascends(a, c), "{a} {b} {c}");
            }
        }
    }
    assert_eq!(descending(0.0, -0.0), Ordering::Equal);
}

#[test]
fn every_leg_keeps_its_rank_and_score() {
    let fused = fuse(&[list(WORDS), list(DENSE)], Method::CombMnz(Normalization::MinMax));
    let place = |leg, rank, score, contribution| LegPlace { leg, rank, score, contribution };
    assert_eq!(fused[1].id, "a");
    assert_eq!(fused[1].legs, [place(0, 1, 8.0, 1.0), place(1, 3, 0.125, 0.0)]);
    assert_eq!(fused[2].legs, [place(1, 2, 0.5, fused[2].score)]);
}

fn some_list() -> impl Strategy<Value = Vec<(u8, f32)>> {
    prop::collection::btree_map(0_u8..20, (-4_i8..4).prop_map(f32::from), 0..12)
        .prop_map(|hits| hits.into_iter().collect())
}

fn some_method() -> impl Strategy<Value = Method> {
    let normalization =
        prop_oneof![Just(Normalization::MinMax), Just(Normalization::TheoreticalMin), Just(Normalization::None)];
    (0..5, normalization).prop_map(|(which, normalization)| match which {
        0 => Method::default(),
        1 => Method::Dbsf,
        2 => Method::CombSum(normalization),
        3 => Method::CombMnz(normalization),
        _ => Method::Convex(normalization),
    })
}

proptest! {
    /// Neither the order of hits in a list nor chance decides: the same lists give the same bits, in one order.
    #[test]
    fn order_is_total_and_deterministic(
        (hits, mut shuffled) in prop::collection::vec(some_list(), 0..4).prop_map(|lists| (lists.clone(), lists)),
        seed in any::<u64>(),
        method in some_method(),
    ) {
        for (nth, list) in shuffled.iter_mut().enumerate() {
            let turn = if list.is_empty() { 0 } else { (seed as usize + nth) % list.len() };
            list.rotate_left(turn);
        }
        let lists = |hits: &[Vec<(u8, f32)>]| -> Vec<_> {
            hits.iter().map(|list| RankedList::new(list.iter().copied(), Some(-4.0)).with_weight(0.5)).collect()
        };
        let fused = fuse(&lists(&hits), method);
        prop_assert_eq!(&fused, &fuse(&lists(&shuffled), method));
        prop_assert!(fused.iter().all(|hit| hit.score.is_finite()));
        let ascends = |pair: &[FusedHit<u8>]| {
            pair[0].score > pair[1].score || (pair[0].score == pair[1].score && pair[0].id < pair[1].id)
        };
        prop_assert!(fused.windows(2).all(ascends), "{:?}", fused);
        let ids: std::collections::BTreeSet<u8> = hits.iter().flatten().map(|(id, _)| *id).collect();
        prop_assert_eq!(fused.len(), ids.len());
    }

    /// What a leg is multiplied with multiplies what it adds.
    #[test]
    fn weights_scale_contributions(hits in some_list(), weight in 0.1..8.0, method in some_method()) {
        let plain = fuse(&[RankedList::new(hits.iter().copied(), Some(-4.0))], method);
        let heavy = fuse(&[RankedList::new(hits.iter().copied(), Some(-4.0)).with_weight(weight)], method);
        let factor = if matches!(method, Method::Convex(_)) { 1.0 } else { weight };
        for (plain, heavy) in plain.iter().zip(&heavy) {
            prop_assert_eq!(plain.id, heavy.id);
            prop_assert!((plain.score * factor - heavy.score).abs() < 1e-9);
        }
    }
}
