//! A filter means the same on both engines, whatever it is made of.

use prost_types::Timestamp;
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use sluice_proto::retrieval::v1 as wire;
use wire::{filter::Condition, payload_value::Kind};

use crate::{
    both::random_documents,
    cluster::TestCluster,
    common::{dense_leg, integer, keyword, search, value},
    served::both,
};

const ROUNDS: usize = 300;

fn moment(rng: &mut SmallRng) -> wire::PayloadValue {
    let moment = Timestamp { seconds: rng.random_range(-2..2), nanos: 1_000 * rng.random_range(0..3) };
    value(Kind::DatetimeValue(moment))
}

fn one(field: &str, rng: &mut SmallRng) -> wire::PayloadValue {
    match field {
        "year" => integer(rng.random_range(1999..2011)),
        "price" => value(Kind::FloatValue(f64::from(rng.random_range(-4..4)) / 2.0)),
        "sold" => value(Kind::BooleanValue(rng.random_bool(0.5))),
        "seen" => moment(rng),
        _ => keyword(["red", "green", "blue", "black"].choose(rng).expect("some")),
    }
}

fn random(rng: &mut SmallRng, depth: usize) -> wire::Filter {
    let list = |rng: &mut SmallRng| wire::FilterList {
        filters: (0..rng.random_range(1..4)).map(|_| random(rng, depth - 1)).collect(),
    };
    let field = |rng: &mut SmallRng, of: &[&str]| (*of.choose(rng).expect("some")).to_owned();
    let condition = match rng.random_range(0..if depth == 0 { 5 } else { 8 }) {
        0 => {
            let field = field(rng, &["year", "price", "sold", "seen", "colour"]);
            let values = (0..rng.random_range(1..4)).map(|_| one(&field, rng)).collect();
            Condition::Match(wire::MatchCondition { field, values })
        }
        1 => {
            let field = field(rng, &["year", "price", "seen"]);
            let mut range = wire::RangeCondition { field: field.clone(), ..Default::default() };
            match rng.random_range(0..4) {
                0 => range.gte = Some(one(&field, rng)),
                1 => range.lt = Some(one(&field, rng)),
                2 => (range.gt, range.lte) = (Some(one(&field, rng)), Some(one(&field, rng))),
                _ => (range.gte, range.lt) = (Some(one(&field, rng)), Some(one(&field, rng))),
            }
            Condition::Range(range)
        }
        2 => {
            // Of a text field: each of the value's words.
            let text = ["été", "TWO words", "don", "t; words", "three"].choose(rng).expect("some");
            Condition::Match(wire::MatchCondition { field: "note".into(), values: vec![keyword(text)] })
        }
        3 => Condition::Exists(wire::ExistsCondition {
            field: field(rng, &["year", "price", "sold", "seen", "colour", "note"]),
        }),
        4 => {
            let ids = (0..rng.random_range(1..40)).map(|_| format!("doc-{:04}", rng.random_range(0..250))).collect();
            Condition::Ids(wire::IdsCondition { ids })
        }
        5 => Condition::AllOf(list(rng)),
        6 => Condition::AnyOf(list(rng)),
        _ => Condition::Not(Box::new(random(rng, depth - 1))),
    };
    wire::Filter { condition: Some(condition) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_means_the_same_on_both() {
    let cluster = TestCluster::start().await;
    let [(mut here, here_lsn), (mut there, there_lsn)] = both(&cluster, &random_documents(21, 200)).await;
    let mut rng = SmallRng::seed_from_u64(22);
    let mut some = 0;
    for round in 0..ROUNDS {
        let filter = random(&mut rng, 3);
        let leg = wire::Leg { k: 200, ..dense_leg([0.0, 1.0]) };
        let request = |min_lsn| wire::SearchRequest {
            filter: Some(filter.clone()),
            limit: 200,
            count: true,
            min_lsn,
            ..search("docs", vec![leg.clone()])
        };
        let a = here.client.search(request(here_lsn)).await.expect("found").into_inner();
        let b = there.client.search(request(there_lsn)).await.expect("found").into_inner();
        let ids = |found: &wire::SearchResponse| {
            let mut ids: Vec<_> = found.hits.iter().map(|hit| hit.id.clone()).collect();
            ids.sort_unstable();
            ids
        };
        assert_eq!((a.count, ids(&a)), (b.count, ids(&b)), "round {round}: {filter:?}");
        assert_eq!(a.count, Some(a.hits.len() as u64), "round {round}: every document has a dense vector");
        some += usize::from((1..200).contains(&a.hits.len()));
    }
    assert!(some > ROUNDS / 2, "most filters tell documents apart: {some}");
}
