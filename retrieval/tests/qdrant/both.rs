//! The same calls against both engines, and the same answers.

use prost_types::Timestamp;
use qdrant_client::qdrant::SearchParams;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use sluice_proto::retrieval::v1 as wire;
use wire::payload_value::Kind;

use crate::{
    cluster::TestCluster,
    common::{
        Client, create, dense_leg, document, ids, integer, keyword, lexical, search, sparse_leg, upsert, value,
        with_payload,
    },
    served::{both, over},
};

/// Documents whose vectors and payload are anything, some of them without a field or a vector.
pub fn random_documents(seed: u64, count: usize) -> Vec<wire::Document> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let one = |nth: usize| {
        let angle: f32 = rng.random_range(0.0..std::f32::consts::TAU);
        let mut document = document(&format!("doc-{nth:04}"), "black sand", [angle.cos(), angle.sin()]);
        let indices: Vec<u32> = (0..12).filter(|_| rng.random_bool(0.4)).collect();
        let values = indices.iter().map(|_| rng.random_range(0.1..2.0)).collect();
        let sparse = wire::SparseVector { indices, values };
        match sparse.indices.is_empty() {
            true => document.vectors.remove("sparse"),
            false => document
                .vectors
                .insert("sparse".into(), wire::Vector { kind: Some(wire::vector::Kind::Sparse(sparse)) }),
        };
        let mut payload = Vec::new();
        if rng.random_bool(0.8) {
            payload.push(("year", integer(rng.random_range(2000..2010))));
        }
        if rng.random_bool(0.8) {
            let all = ["red", "green", "blue"].into_iter().filter(|_| rng.random_bool(0.4)).map(keyword);
            let list = wire::PayloadList { values: all.collect() };
            payload.push(("colour", value(Kind::ListValue(list))));
        }
        if rng.random_bool(0.8) {
            payload.push(("price", value(Kind::FloatValue(f64::from(rng.random_range(-4..4)) / 2.0))));
        }
        if rng.random_bool(0.8) {
            payload.push(("sold", value(Kind::BooleanValue(rng.random_bool(0.5)))));
        }
        if rng.random_bool(0.8) {
            let moment = Timestamp { seconds: rng.random_range(-2..2), nanos: 1_000 * rng.random_range(0..3) };
            payload.push(("seen", value(Kind::DatetimeValue(moment))));
        }
        if rng.random_bool(0.8) {
            let words = ["Été", "two", "Words", "don't"].into_iter().filter(|_| rng.random_bool(0.5));
            payload.push(("note", keyword(&words.collect::<Vec<_>>().join(", "))));
        }
        with_payload(document, &payload)
    };
    (0..count).map(one).collect()
}

fn places(hit: &wire::Hit) -> Vec<(String, u32)> {
    hit.legs.iter().map(|leg| (leg.leg.clone(), leg.rank)).collect()
}

/// The same but for rounding, and for what names a moment.
fn assert_same(here: &wire::SearchResponse, there: &wire::SearchResponse, what: &str) {
    assert_eq!(ids(here), ids(there), "{what}");
    for (a, b) in here.hits.iter().zip(&there.hits) {
        assert_eq!((a.rank, places(a), &a.content_hash), (b.rank, places(b), &b.content_hash), "{what} {}", a.id);
        assert!((a.score - b.score).abs() < 1e-5, "{what}: {} {} {}", a.id, a.score, b.score);
        for (x, y) in a.legs.iter().zip(&b.legs) {
            assert!((x.score - y.score).abs() < 1e-5, "{what}: {} {x:?} {y:?}", a.id);
        }
    }
    assert_eq!((here.count, &here.facets), (there.count, &there.facets), "{what}");
    let reports = |found: &wire::SearchResponse| {
        found.legs.iter().map(|leg| (leg.leg.clone(), leg.status(), leg.hits, leg.weight)).collect::<Vec<_>>()
    };
    assert_eq!(reports(here), reports(there), "{what}");
    assert_eq!(here.next_cursor.is_empty(), there.next_cursor.is_empty(), "{what}");
    assert!(!here.degraded && !there.degraded, "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_found_is_fused_to_the_same_list() {
    use wire::{FusionMethod::*, filter::Condition};

    let cluster = TestCluster::start().await;
    let [(mut here, here_lsn), (mut there, there_lsn)] = both(&cluster, &random_documents(7, 400)).await;
    let range = wire::RangeCondition { field: "year".into(), gte: Some(integer(2003)), ..Default::default() };
    let filter = wire::Filter { condition: Some(Condition::Range(range)) };
    let mut rng = SmallRng::seed_from_u64(8);
    for round in 0..30 {
        let angle: f32 = rng.random_range(0.0..std::f32::consts::TAU);
        let dense = wire::Leg { k: rng.random_range(1..120), ..dense_leg([angle.cos(), angle.sin()]) };
        let sparse = sparse_leg(&[rng.random_range(0..6), rng.random_range(6..12)]);
        let method = [Rrf, Dbsf, CombSum, CombMnz, Convex][round % 5];
        let facet = |field: &str, limit| wire::FacetRequest { field: field.to_owned(), limit };
        let mut request = wire::SearchRequest {
            filter: (round % 2 == 0).then(|| filter.clone()),
            limit: 20,
            count: round % 3 == 0,
            facets: vec![facet("year", 4), facet("colour", 0), facet("sold", 0)],
            ..search("docs", vec![wire::Leg { weight: Some(2.0), ..dense }, sparse])
        };
        request.fusion = Some(wire::Fusion {
            method: method.into(),
            weight_mode: wire::WeightMode::Fixed.into(),
            ..Default::default()
        });
        let mut asked = [request.clone(), request];
        asked[0].min_lsn = here_lsn;
        asked[1].min_lsn = there_lsn;
        for page in 0..3 {
            let [a, b] = asked.clone();
            let a = here.client.search(a).await.expect("found").into_inner();
            let b = there.client.search(b).await.expect("found").into_inner();
            assert_same(&a, &b, &format!("round {round}, page {page}, {method:?}"));
            if a.next_cursor.is_empty() {
                break;
            }
            asked[0].cursor = a.next_cursor;
            asked[1].cursor = b.next_cursor;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_is_got() {
    let cluster = TestCluster::start().await;
    let [here, there] = both(&cluster, &[]).await;
    for (mut served, _) in [here, there] {
        let client = &mut served.client;
        let list = wire::PayloadList { values: vec![keyword("red"), keyword("blue")] };
        let payload = [
            ("colour", value(Kind::ListValue(list))),
            ("year", integer(i64::MAX)),
            ("price", value(Kind::FloatValue(3.0))),
            ("sold", value(Kind::BooleanValue(false))),
            ("seen", value(Kind::DatetimeValue(Timestamp { seconds: -1, nanos: 500_000_000 }))),
            ("note", keyword("some words")),
            ("undeclared", keyword("is kept too")),
            ("moment", value(Kind::DatetimeValue(Timestamp { seconds: 5, nanos: 1_000 }))),
        ];
        // Of length 1: a cluster keeps vectors that are compared by angle at that length.
        let mut document = with_payload(document("a/ü x", "A text", [0.6, 0.8]), &payload);
        document.texts.insert("title".into(), "A title".into());
        let first = upsert(client, "docs", vec![document.clone()]).await;
        document.texts.insert("title".into(), "Another".into());
        let version = upsert(client, "docs", vec![document.clone()]).await;
        assert!(version > first, "{version} {first}");

        let star = || vec!["*".to_owned()];
        let everything = wire::Projection { texts: star(), payload: star(), vectors: star() };
        let get = |projection| wire::GetRequest {
            collection: "docs".into(),
            ids: ["b", "a/ü x"].map(str::to_owned).to_vec(),
            projection,
        };
        let got = client.get(get(Some(everything.clone()))).await.expect("got").into_inner();
        assert_eq!((got.missing.as_slice(), got.lsn >= version), (&["b".to_owned()][..], true));
        let stored = &got.documents[0];
        assert_eq!((stored.document.as_ref(), stored.version), (Some(&document), version));
        let hash = sluice_retrieval::ContentHash::of("Another. A text");
        assert_eq!(stored.content_hash, hash.0);
        let title = wire::Projection { texts: vec!["title".into()], ..wire::Projection::default() };
        let got = client.get(get(Some(title))).await.expect("got").into_inner();
        let found = got.documents[0].document.clone().expect("asked for");
        assert_eq!((found.texts.len(), found.payload.len(), found.vectors.len()), (1, 0, 0));

        let request = wire::SearchRequest {
            projection: Some(everything),
            min_lsn: version,
            ..search("docs", vec![dense_leg([1.0, 0.0]), lexical("text")])
        };
        let found = client.search(request.clone()).await.expect("found").into_inner();
        assert_eq!(found.hits[0].document.as_ref(), Some(&document));
        assert_eq!((found.hits[0].version, found.hits[0].legs.len()), (version, 2));
        let bare = wire::SearchRequest { projection: None, ..request };
        let bare = client.search(bare).await.expect("found").into_inner();
        assert_eq!((bare.hits[0].version, bare.hits[0].content_hash.as_slice()), (version, &hash.0[..]));
        assert_eq!(bare.hits[0].document, None);
    }
}

async fn count(client: &mut Client, min_lsn: u64) -> (Option<u64>, Vec<String>) {
    let request = wire::SearchRequest { count: true, min_lsn, ..search("docs", vec![dense_leg([1.0, 0.0])]) };
    let found = client.search(request).await.expect("found").into_inner();
    let mut ids: Vec<String> = ids(&found).into_iter().map(str::to_owned).collect();
    ids.sort_unstable();
    (found.count, ids)
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_go_by_id_or_by_filter() {
    let cluster = TestCluster::start().await;
    let of = |id: &str, year| with_payload(document(id, "apple", [1.0, 0.0]), &[("year", integer(year))]);
    let documents = [of("a", 1), of("b", 2), of("c", 3), of("d", 4)];
    for (mut served, _) in both(&cluster, &documents).await {
        let client = &mut served.client;
        let by_id = wire::DeleteRequest { collection: "docs".into(), ids: vec!["a".into(), "x".into()], filter: None };
        let deleted = client.delete(by_id).await.expect("deleted").into_inner();
        assert_eq!(deleted.deleted, 1);
        let range = wire::RangeCondition { field: "year".into(), gte: Some(integer(3)), ..Default::default() };
        let filter = wire::Filter { condition: Some(wire::filter::Condition::Range(range)) };
        let by_filter = wire::DeleteRequest { collection: "docs".into(), ids: Vec::new(), filter: Some(filter) };
        let last = client.delete(by_filter).await.expect("deleted").into_inner();
        assert!(last.deleted == 2 && last.lsn > deleted.lsn, "{last:?}");
        assert_eq!(count(client, last.lsn).await, (Some(1), vec!["b".to_owned()]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_has_every_leg_and_then_the_answer() {
    use wire::search_stream_response::Update;

    let cluster = TestCluster::start().await;
    for (mut served, lsn) in both(&cluster, &random_documents(9, 50)).await {
        let request = wire::SearchRequest {
            min_lsn: lsn,
            ..search("docs", vec![dense_leg([1.0, 0.0]), sparse_leg(&[3]), lexical("black")])
        };
        let mut updates = served.client.search_stream(request).await.expect("opens").into_inner();
        let (mut legs, mut last) = (Vec::new(), None);
        while let Some(update) = updates.message().await.expect("goes on") {
            match update.update.expect("set") {
                Update::Leg(leg) => legs.push(leg.report.expect("said").leg),
                Update::Response(response) => last = Some(response),
            }
        }
        legs.sort_unstable();
        assert_eq!(legs, ["dense", "lexical", "sparse"]);
        assert_eq!(last.expect("the answer").hits.len(), 10);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dense_leg_looks_as_hard_as_it_is_told() {
    let cluster = TestCluster::start().await;
    let mut served = over(&cluster).await;
    create(&mut served.client, "docs").await;
    // Of the leg: `k`, `ef_search`, `exact`; of the cluster's query: `exact`, `hnsw_ef`.
    let cases = [
        (10, 0, true, Some(true), None),
        (10, 25, false, None, Some(25)),
        (40, 25, false, None, Some(40)),
        (10, 0, false, None, Some(256)),
        (200, 0, false, None, Some(300)),
    ];
    for (k, ef_search, exact, found_exact, hnsw_ef) in cases {
        let mut leg = wire::Leg { k, ..dense_leg([1.0, 0.0]) };
        match &mut leg.query {
            Some(wire::leg::Query::Dense(dense)) => (dense.ef_search, dense.exact) = (ef_search, exact),
            other => panic!("{other:?}"),
        }
        served.client.search(search("docs", vec![leg, sparse_leg(&[1])])).await.expect("found");
        let params = std::mem::take(&mut cluster.contents().params);
        let expected = SearchParams { exact: found_exact, hnsw_ef, ..SearchParams::default() };
        assert_eq!(params, [Some(expected), None], "k {k}, ef_search {ef_search}, exact {exact}");
    }
}
