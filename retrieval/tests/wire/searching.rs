//! Searches that go well.

use std::sync::Arc;

use sluice_proto::retrieval::v1 as wire;
use sluice_retrieval::search::Undisturbed;
use tonic::{Code, Request};
use wire::search_stream_response::Update;

use crate::common::{
    Client, TestShard, create, dense_leg, document, fields, ids, integer, keyword, lexical, search, sparse_leg, upsert,
    with_payload,
};

/// Four documents whose legs disagree.
async fn filled(shard: &TestShard) -> Client {
    let mut client = shard.client().await;
    create(&mut client, "docs").await;
    let of = |id: &str, text: &str, vector, colour: &str, year| {
        with_payload(document(id, text, vector), &[("colour", keyword(colour)), ("year", integer(year))])
    };
    let documents = vec![
        of("a", "red apple pie", [1.0, 0.0], "red", 1),
        of("bb", "green apple", [0.8, 0.6], "green", 2),
        of("cc", "red car", [0.6, 0.8], "red", 3),
        of("ddd", "blue sky", [0.0, 1.0], "blue", 3),
    ];
    upsert(&mut client, "docs", documents).await;
    client
}

#[tokio::test]
async fn every_hit_says_where_its_rank_came_from() {
    let shard = TestShard::start().await;
    let mut client = filled(&shard).await;
    let request = search("docs", vec![lexical("red apple"), dense_leg([0.0, 1.0]), sparse_leg(&[2])]);
    let found = client.search(request).await.expect("found").into_inner();
    // Words: a (2), bb (1), cc (1). Dense: ddd, cc, bb, a. Sparse, ids of two letters: bb, cc.
    let rrf = |ranks: &[f64]| ranks.iter().map(|rank| 1.0 / (60.0 + rank)).sum::<f64>();
    let expected =
        [("bb", rrf(&[2.0, 3.0, 1.0])), ("cc", rrf(&[3.0, 2.0, 2.0])), ("a", rrf(&[1.0, 4.0])), ("ddd", rrf(&[1.0]))];
    let mut expected = expected.to_vec();
    expected.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(b.0)));
    let hits: Vec<_> = found.hits.iter().map(|hit| (hit.id.as_str(), hit.score)).collect();
    assert_eq!(hits, expected);
    assert_eq!(found.hits.iter().map(|hit| hit.rank).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let bb = found.hits.iter().find(|hit| hit.id == "bb").expect("it is there");
    let places: Vec<_> = bb.legs.iter().map(|leg| (leg.leg.as_str(), leg.rank, leg.score)).collect();
    assert_eq!((places[0], places[2]), (("lexical", 2, 1.0), ("sparse", 1, 1.0)));
    assert!(places[1].0 == "dense" && places[1].1 == 3 && (places[1].2 - 0.6).abs() < 1e-6, "{places:?}");
    assert!(bb.legs.iter().all(|leg| leg.contribution == 1.0 / (60.0 + f64::from(leg.rank))));
    assert_eq!((bb.version, bb.content_hash.len(), bb.document.is_none()), (1, 32, true));
    assert!(!found.degraded && found.next_cursor.is_empty() && found.lsn == 1);
    let report = |leg: &wire::LegReport| (leg.leg.clone(), leg.status(), leg.hits, leg.weight, leg.applied_lsn);
    let reports: Vec<_> = found.legs.iter().map(report).collect();
    let ok = |name: &str, hits| (name.to_owned(), wire::LegStatus::Ok, hits, 1.0, 1);
    assert_eq!(reports, [ok("lexical", 3), ok("dense", 4), ok("sparse", 2)]);
    assert_eq!(found.fusion.expect("said").method(), wire::FusionMethod::Rrf);
    assert!(found.timing.expect("said").total.is_some());
}

#[tokio::test]
async fn filters_facets_and_counts_are_of_the_same_documents() {
    use wire::{filter::Condition, payload_value::Kind};

    let shard = TestShard::start().await;
    let mut client = filled(&shard).await;
    let red = wire::MatchCondition { field: "colour".into(), values: vec![keyword("red"), keyword("blue")] };
    let filter = wire::Filter { condition: Some(Condition::Match(red)) };
    let facet = |field: &str, limit| wire::FacetRequest { field: field.to_owned(), limit };
    let request = wire::SearchRequest {
        filter: Some(filter),
        facets: vec![facet("year", 1), facet("colour", 0)],
        count: true,
        ..search("docs", vec![dense_leg([1.0, 0.0])])
    };
    let found = client.search(request).await.expect("found").into_inner();
    assert_eq!((ids(&found), found.count), (vec!["a", "cc", "ddd"], Some(3)));
    let facets: Vec<_> = found
        .facets
        .iter()
        .map(|facet| {
            let values =
                facet.values.iter().map(|value| (value.value.clone().and_then(|value| value.kind), value.count));
            (facet.field.as_str(), facet.distinct, values.collect::<Vec<_>>())
        })
        .collect();
    let keyword = |text: &str, count| (Some(Kind::StringValue(text.to_owned())), count);
    let expected = [
        ("year", 2, vec![(Some(Kind::IntegerValue(3)), 2)]),
        ("colour", 2, vec![keyword("red", 2), keyword("blue", 1)]),
    ];
    assert_eq!(facets, expected);
}

#[tokio::test]
async fn a_hit_carries_what_was_asked_for() {
    let shard = TestShard::start().await;
    let mut client = filled(&shard).await;
    let request = wire::SearchRequest {
        projection: Some(wire::Projection { payload: vec!["year".into()], ..wire::Projection::default() }),
        snippets: Some(wire::Snippets { fields: vec!["text".into()], characters_max: 0 }),
        ..search("docs", vec![lexical("apple"), dense_leg([0.0, 1.0])])
    };
    let found = client.search(request).await.expect("found").into_inner();
    let hit = |id: &str| found.hits.iter().find(|hit| hit.id == id).expect("it is there");
    let document = hit("a").document.clone().expect("asked for");
    assert_eq!((document.texts.len(), document.payload.len(), document.payload["year"].clone()), (0, 1, integer(1)));
    let highlight = wire::Highlight { byte_start: 4, byte_end: 9 };
    let snippet = wire::Snippet { field: "text".into(), text: "red apple pie".into(), highlights: vec![highlight] };
    assert_eq!((&hit("a").snippets, hit("ddd").snippets.len()), (&vec![snippet], 0));
}

#[tokio::test]
async fn weights_are_the_requests_or_follow_the_query() {
    let shard = TestShard::start().await;
    let mut client = filled(&shard).await;
    let weighted = |weight| vec![wire::Leg { weight: Some(weight), ..lexical("red apple") }, dense_leg([0.0, 1.0])];
    let found = client.search(search("docs", weighted(0.0))).await.expect("found").into_inner();
    assert_eq!(ids(&found)[0], "ddd", "words do not count");
    let found = client.search(search("docs", weighted(50.0))).await.expect("found").into_inner();
    assert_eq!(ids(&found)[0], "a", "words count most");

    // Of the dense leg the nearest alone, which has none of the words: legs that agree need no weights.
    let legs = |text: &str| vec![lexical(text), wire::Leg { k: 1, ..dense_leg([0.0, 1.0]) }];
    // Text, mode of weights, weights of legs, adaptive.
    let cases = [
        ("What is a red apple?", wire::WeightMode::Fixed, None, false),
        ("What is a red apple?", wire::WeightMode::Unspecified, Some(false), true),
        ("red_apple", wire::WeightMode::Adaptive, Some(true), true),
    ];
    for (text, mode, words_count_more, adaptive) in cases {
        let mut request = search("docs", legs(text));
        request.fusion = Some(wire::Fusion { weight_mode: mode.into(), ..wire::Fusion::default() });
        let found = client.search(request).await.expect("found").into_inner();
        let (words, dense) = (found.legs[0].weight, found.legs[1].weight);
        let more = (words != dense).then_some(words > dense);
        assert_eq!((more, found.fusion.expect("said").adaptive), (words_count_more, adaptive), "{text}");
        assert!((0.5..=2.0).contains(&words) && (0.5..=2.0).contains(&dense), "{words} {dense}");
    }
    let mut request = search("docs", weighted(1.0));
    request.fusion = None;
    let found = client.search(request).await.expect("found").into_inner();
    assert!(!found.fusion.expect("said").adaptive, "whoever sets a weight means it");
}

#[tokio::test]
async fn every_method_and_a_least_score() {
    let shard = TestShard::start().await;
    let mut client = filled(&shard).await;
    let legs = || vec![lexical("red apple"), dense_leg([0.0, 1.0])];
    let fused = |method: wire::FusionMethod, normalization: wire::Normalization| wire::Fusion {
        method: method.into(),
        normalization: normalization.into(),
        weight_mode: wire::WeightMode::Fixed.into(),
        ..wire::Fusion::default()
    };
    let none = wire::Normalization::Unspecified;
    let theoretical = wire::Normalization::TheoreticalMin;
    let min_max = wire::Normalization::MinMax;
    // Method, normalisation asked for, the one used, best score: words 2 and dense 0 of a; dense 1 and no words of ddd.
    let cases = [
        (wire::FusionMethod::CombSum, none, min_max, 1.0),
        (wire::FusionMethod::CombMnz, none, min_max, 2.0),
        (wire::FusionMethod::Convex, none, theoretical, 0.75),
        (wire::FusionMethod::Convex, min_max, min_max, 0.5),
        (wire::FusionMethod::CombSum, wire::Normalization::None, wire::Normalization::None, 2.0),
    ];
    for (method, asked, used, best) in cases {
        let request = wire::SearchRequest { fusion: Some(fused(method, asked)), ..search("docs", legs()) };
        let found = client.search(request).await.expect("found").into_inner();
        let report = found.fusion.expect("said");
        assert_eq!((report.method(), report.normalization()), (method, used));
        assert!((found.hits[0].score - best).abs() < 1e-6, "{method:?}: {}", found.hits[0].score);
    }
    let all = client.search(search("docs", legs())).await.expect("found").into_inner();
    let least = all.hits[1].score;
    let request = wire::SearchRequest { min_score: Some(least), ..search("docs", legs()) };
    let found = client.search(request).await.expect("found").into_inner();
    assert!(found.hits.iter().all(|hit| hit.score >= least) && found.hits.len() < 4, "{:?}", ids(&found));
    assert_eq!(ids(&found)[..2], ids(&all)[..2]);
}

#[tokio::test]
async fn a_stream_brings_each_legs_list_and_then_the_answer() {
    let shard = TestShard::start().await;
    let mut client = filled(&shard).await;
    let request = search("docs", vec![lexical("red apple"), dense_leg([0.0, 1.0])]);
    let whole = client.search(request.clone()).await.expect("found").into_inner();
    let mut stream = client.search_stream(request).await.expect("opens").into_inner();
    let (mut legs, mut answer) = (Vec::new(), None);
    while let Some(message) = stream.message().await.expect("goes on") {
        assert!(answer.is_none(), "nothing comes after the answer");
        match message.update.expect("set") {
            Update::Leg(leg) => {
                let list: Vec<_> = leg.documents.iter().map(|found| (found.rank, found.id.clone())).collect();
                legs.push((leg.report.expect("said").leg, list));
            }
            Update::Response(response) => answer = Some(response),
        }
    }
    let answer = answer.expect("a stream ends with its answer");
    assert_eq!(answer.hits, whole.hits);
    legs.sort();
    let list = |ids: &[&str]| (1..).zip(ids.iter().map(ToString::to_string)).collect::<Vec<(u32, String)>>();
    let expected =
        [("dense".to_owned(), list(&["ddd", "cc", "bb", "a"])), ("lexical".to_owned(), list(&["a", "bb", "cc"]))];
    assert_eq!(legs, expected);
    let mut stream = client.search_stream(search("docs", Vec::new())).await.expect("opens").into_inner();
    assert_eq!(fields(&stream.message().await.expect_err("no legs")), ["legs"]);
}

#[tokio::test]
async fn a_search_waits_for_the_write_that_it_names() {
    let shard = TestShard::start().await;
    let mut client = filled(&shard).await;
    let docs = shard.memory.collection("docs");
    docs.hold_indexes(true);
    let lsn = upsert(&mut client, "docs", vec![document("new", "red apple", [1.0, 0.0])]).await;
    let request = |min_lsn| wire::SearchRequest { min_lsn, ..search("docs", vec![lexical("red apple")]) };
    let behind = client.search(request(0)).await.expect("answered").into_inner();
    assert!(!ids(&behind).contains(&"new") && behind.legs[0].applied_lsn < lsn, "the index has not come to it");

    let mut late = request(lsn);
    late.legs[0].timeout = Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 });
    let status = client.search(late).await.expect_err("the only leg is behind");
    assert_eq!(status.code(), Code::DeadlineExceeded);

    let waiting = tokio::spawn({
        let mut client = client.clone();
        async move { client.search(request(lsn)).await.expect("answered").into_inner() }
    });
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    assert!(!waiting.is_finished(), "it waits");
    docs.hold_indexes(false);
    let found = waiting.await.expect("no panic");
    assert!(ids(&found).contains(&"new") && found.legs[0].applied_lsn >= lsn);
    let ahead = client.search(request(lsn + 1)).await.expect_err("nothing was written");
    assert_eq!((ahead.code(), fields(&ahead)), (Code::InvalidArgument, vec!["min_lsn".to_owned()]));
}

#[tokio::test]
async fn searches_that_wait_for_a_write_take_no_places() {
    let shard = TestShard::start_with(Arc::new(Undisturbed), |config| config.search.threads = 1).await;
    let mut client = filled(&shard).await;
    let docs = shard.memory.collection("docs");
    docs.hold_indexes(true);
    let lsn = upsert(&mut client, "docs", vec![document("new", "red apple", [1.0, 0.0])]).await;
    let request = |min_lsn| wire::SearchRequest { min_lsn, ..search("docs", vec![lexical("red apple")]) };
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let (mut client, request) = (client.clone(), request(lsn));
            tokio::spawn(async move { client.search(request).await.expect("answered").into_inner() })
        })
        .collect();
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    let mut other = Request::new(request(0));
    other.set_timeout(std::time::Duration::from_secs(10));
    let found = client.search(other).await.expect("there is a place for it").into_inner();
    assert!(!found.degraded && waiting.iter().all(|waiting| !waiting.is_finished()));
    docs.hold_indexes(false);
    for waiting in waiting {
        assert!(ids(&waiting.await.expect("no panic")).contains(&"new"));
    }
}

#[tokio::test]
async fn an_index_that_is_behind_finds_what_was_replaced() {
    let shard = TestShard::start().await;
    let mut client = filled(&shard).await;
    let docs = shard.memory.collection("docs");
    docs.hold_indexes(true);
    let red = |id: &str| with_payload(document(id, "red apple", [1.0, 0.0]), &[("colour", keyword("red"))]);
    upsert(&mut client, "docs", vec![red("a"), red("new")]).await;
    let delete = wire::DeleteRequest { collection: "docs".into(), ids: vec!["bb".into()], filter: None };
    let lsn = client.delete(delete).await.expect("deleted").into_inner().lsn;
    let is_red = wire::MatchCondition { field: "colour".into(), values: vec![keyword("red")] };
    let is_red = wire::Filter { condition: Some(wire::filter::Condition::Match(is_red)) };
    for filter in [None, Some(is_red)] {
        let leg = wire::Leg { k: 4, ..dense_leg([1.0, 0.0]) };
        let request = wire::SearchRequest { filter, ..search("docs", vec![leg]) };
        let found = client.search(request).await.expect("answered").into_inner();
        assert!(ids(&found).contains(&"a") && !ids(&found).contains(&"bb"), "{:?}", ids(&found));
        let hit = found.hits.iter().find(|hit| hit.id == "a").expect("it is there");
        assert!(!found.degraded && found.legs[0].applied_lsn < hit.version && hit.version < lsn, "its present version");
    }
}

#[tokio::test]
async fn a_place_is_explained() {
    let shard = TestShard::start().await;
    let mut client = filled(&shard).await;
    let green = wire::MatchCondition { field: "colour".into(), values: vec![keyword("green")] };
    let green = wire::Filter { condition: Some(wire::filter::Condition::Match(green)) };
    let filter = Some(wire::Filter { condition: Some(wire::filter::Condition::Not(Box::new(green))) });
    let first = wire::Leg { k: 1, ..lexical("red apple") };
    let search = wire::SearchRequest { filter, ..search("docs", vec![first, dense_leg([0.0, 1.0])]) };
    let ids = ["a", "bb", "cc", "none"].map(str::to_owned).to_vec();
    let explained =
        client.explain(wire::ExplainRequest { search: Some(search), ids }).await.expect("said").into_inner();
    let facts: Vec<_> = explained
        .documents
        .iter()
        .map(|found| {
            (found.id.as_str(), found.found, found.matches_filter, found.rank, found.legs[0].rank, found.legs[0].score)
        })
        .collect();
    // Of words alone a is brought, cc has a score all the same; bb is filtered out.
    let expected = [
        ("a", true, true, Some(1), Some(1), Some(2.0)),
        ("bb", true, false, None, None, Some(1.0)),
        ("cc", true, true, Some(3), None, Some(1.0)),
        ("none", false, false, None, None, None),
    ];
    assert_eq!(facts, expected);
    let a = &explained.documents[0];
    let sum: f64 = a.legs.iter().filter_map(|leg| leg.contribution).sum();
    assert_eq!(a.score, Some(sum));
}
