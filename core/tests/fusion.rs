//! Agreement with `ranx` 0.3.21, to 1e-11.
//!
//! The lists and figures in `fusion/expected.json` were written by `fusion/make_golden.py`, which says how; nothing of
//! Python runs here.

use serde_json::Value;
use sluice_core::fusion::{Method, Normalization, RankedList, fuse};

const EXPECTED: &str = include_str!("fusion/expected.json");
/// The values were rounded to 12 digits.
const TOLERANCE: f64 = 1e-11;

/// Our method for each of theirs, and whether it takes the weights.
const METHODS: [(&str, Method, bool); 11] = [
    ("rrf", Method::Rrf { k: 60.0 }, false),
    ("rrf_2", Method::Rrf { k: 2.0 }, false),
    ("rrf_weighted", Method::Rrf { k: 60.0 }, true),
    ("dbsf", Method::Dbsf, false),
    ("comb_sum", Method::CombSum(Normalization::MinMax), false),
    ("comb_sum_weighted", Method::CombSum(Normalization::MinMax), true),
    ("comb_mnz", Method::CombMnz(Normalization::MinMax), false),
    ("comb_mnz_weighted", Method::CombMnz(Normalization::MinMax), true),
    ("comb_sum_raw", Method::CombSum(Normalization::None), false),
    ("convex_min_max", Method::Convex(Normalization::MinMax), true),
    ("convex_theoretical_min", Method::Convex(Normalization::TheoreticalMin), true),
];

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

fn list(leg: &Value, weighted: bool) -> RankedList<String> {
    let scores = leg["scores"].as_object().expect("scores by document");
    let hits = scores.iter().map(|(id, score)| (id.clone(), number(score) as f32));
    RankedList::new(hits, Some(number(&leg["floor"]))).with_weight(if weighted { number(&leg["weight"]) } else { 1.0 })
}

#[test]
fn fused_scores_agree() {
    let cases: Value = serde_json::from_str(EXPECTED).expect("JSON");
    let cases = cases.as_array().expect("a list of cases");
    assert_eq!(cases.len(), 12);
    for (nth, case) in cases.iter().enumerate() {
        let expected = case["fused"].as_object().expect("scores by method");
        assert_eq!(expected.len(), METHODS.len(), "every method");
        for (name, method, weighted) in METHODS {
            let legs = case["legs"].as_array().expect("legs").iter();
            let fused = fuse(&legs.map(|leg| list(leg, weighted)).collect::<Vec<_>>(), method);
            let expected = expected[name].as_object().expect("scores by document");
            assert_eq!(fused.len(), expected.len(), "{nth}, {name}");
            for hit in &fused {
                let score = number(&expected[&hit.id]);
                assert!((hit.score - score).abs() < TOLERANCE, "{nth}, {name}, {}: {} not {score}", hit.id, hit.score);
            }
        }
    }
}
