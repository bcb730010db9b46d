//! What a cluster does not do is refused, by name and before anything is asked.

use prost_types::Timestamp;
use sluice_proto::retrieval::v1 as wire;
use tonic::{Code, Status};
use wire::payload_value::Kind;

use crate::{
    cluster::TestCluster,
    common::{create, dense_leg, document, integer, lexical, reason, schema, search, value, with_payload},
    served::over,
};

fn assert_lacks(status: &Status, field: &str) {
    assert_eq!(
        (status.code(), reason(status)),
        (Code::FailedPrecondition, "NOT_ON_THIS_ENGINE".to_owned()),
        "{status:?}"
    );
    assert!(status.message().starts_with(&format!("{field}: ")), "{field}: {}", status.message());
}

fn words(change: impl FnOnce(&mut wire::LexicalQuery)) -> wire::SearchRequest {
    let mut query = wire::LexicalQuery { text: "black sand".into(), ..wire::LexicalQuery::default() };
    change(&mut query);
    let leg = wire::Leg { query: Some(wire::leg::Query::Lexical(query)), ..wire::Leg::default() };
    search("docs", vec![dense_leg([1.0, 0.0]), leg])
}

#[tokio::test(flavor = "multi_thread")]
async fn searches_for_what_there_is_none_of() {
    let cluster = TestCluster::start().await;
    let mut served = over(&cluster).await;
    create(&mut served.client, "docs").await;
    let plain = || search("docs", vec![dense_leg([1.0, 0.0]), lexical("black")]);
    served.client.search(plain()).await.expect("found, and known from now on");
    cluster.take_calls();
    let facet = |field: &str| wire::SearchRequest {
        facets: vec![wire::FacetRequest { field: field.to_owned(), limit: 0 }],
        ..plain()
    };
    let bound = |field: &str, bound| wire::SearchRequest {
        filter: Some(wire::Filter {
            condition: Some(wire::filter::Condition::Range(wire::RangeCondition {
                field: field.to_owned(),
                gte: Some(bound),
                ..Default::default()
            })),
        }),
        ..plain()
    };
    let far = value(Kind::DatetimeValue(Timestamp { seconds: 253_402_300_800, nanos: 0 }));
    let cases = [
        (words(|query| query.require_all = true), "legs[1].lexical.require_all"),
        (words(|query| query.fuzzy_edits = 1), "legs[1].lexical.fuzzy_edits"),
        (words(|query| query.prefix = true), "legs[1].lexical.prefix"),
        (words(|query| query.phrase = Some(wire::Phrase { slop: 0 })), "legs[1].lexical.phrase"),
        (words(|query| query.proximity = Some(wire::Proximity { slop: 1, boost: None })), "legs[1].lexical.proximity"),
        (
            wire::SearchRequest {
                snippets: Some(wire::Snippets { fields: vec!["text".into()], characters_max: 0 }),
                ..plain()
            },
            "snippets",
        ),
        (facet("price"), "facets[0].field"),
        (facet("seen"), "facets[0].field"),
        (bound("year", integer(i64::MAX)), "filter"),
        (bound("year", integer((1 << 53) + 1)), "filter"),
        (bound("seen", far), "filter"),
    ];
    for (request, field) in cases {
        assert_lacks(&served.client.search(request).await.expect_err(field), field);
    }
    let search = Some(plain());
    let explain = wire::ExplainRequest { search, ids: vec!["a".into()] };
    assert_lacks(&served.client.explain(explain).await.expect_err("none"), "search.collection");
    let snapshot = wire::SnapshotRequest { collection: "docs".into(), name: "copy".into() };
    assert_lacks(&served.client.snapshot(snapshot).await.expect_err("none"), "collection");
    let restore = wire::RestoreRequest { snapshot: "copy".into(), collection: "other".into() };
    assert_lacks(&served.client.restore(restore).await.expect_err("none"), "snapshot");
    assert!(cluster.take_calls().is_empty(), "nobody was asked");
    let bound = bound("year", integer(1 << 53));
    assert!(served.client.search(bound).await.is_ok(), "what a float can be is no fault");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_cannot_be_kept_is_refused_with_its_batch() {
    let cluster = TestCluster::start().await;
    let mut served = over(&cluster).await;
    create(&mut served.client, "docs").await;
    let far = value(Kind::DatetimeValue(Timestamp { seconds: -62_135_596_801, nanos: 0 }));
    let bad = with_payload(document("b", "text", [1.0, 0.0]), &[("seen", far)]);
    let documents = vec![document("a", "text", [1.0, 0.0]), bad];
    let request = wire::UpsertRequest { collection: "docs".into(), batch_id: 1, documents };
    let mut answers = served.client.upsert(tokio_stream::iter([request])).await.expect("opens").into_inner();
    match answers.message().await.expect("goes on").expect("an answer").outcome {
        Some(wire::upsert_response::Outcome::Error(error)) => assert_eq!(error.code, Code::InvalidArgument as i32),
        other => panic!("{other:?}"),
    }
    let get = wire::GetRequest { collection: "docs".into(), ids: vec!["a".into()], projection: None };
    assert_eq!(served.client.get(get).await.expect("read").into_inner().missing, ["a"], "nor its neighbour");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_payload_field_has_an_index() {
    let cluster = TestCluster::start().await;
    let mut served = over(&cluster).await;
    create(&mut served.client, "docs").await;
    let indexed: Vec<_> = cluster.contents().collections["docs"].indexed.keys().cloned().collect();
    let expected =
        ["payload.colour", "payload.price", "payload.seen", "payload.sold", "payload.year", "version", "words.note"];
    assert_eq!(indexed, expected);
    assert_eq!(schema().payload.len() + 1, expected.len(), "and the version");
}
