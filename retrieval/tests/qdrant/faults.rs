//! One call for a search, and what happens where it goes wrong.

use std::time::{Duration, Instant};

use sluice_proto::retrieval::v1 as wire;
use tonic::{Code, Request};
use tonic_types::StatusExt;
use wire::LegStatus;

use crate::{
    both::random_documents,
    cluster::{Faults, TestCluster},
    common::{Client, create, dense_leg, document, ids, lexical, reason, search, sparse_leg, upsert},
    served::{KEY, Served, over},
};

async fn filled(cluster: &TestCluster) -> Served {
    let mut served = over(cluster).await;
    create(&mut served.client, "docs").await;
    upsert(&mut served.client, "docs", random_documents(3, 30)).await;
    // The collection is known from now on.
    cluster.take_calls();
    served
}

fn all_legs() -> wire::SearchRequest {
    search("docs", vec![lexical("black"), dense_leg([0.0, 1.0]), sparse_leg(&[1, 2, 3])])
}

async fn ask(
    client: &mut Client,
    request: wire::SearchRequest,
    deadline: Duration,
) -> (Result<wire::SearchResponse, tonic::Status>, Duration) {
    let mut request = Request::new(request);
    request.set_timeout(deadline);
    let begin = Instant::now();
    let answer = client.search(request).await.map(tonic::Response::into_inner);
    (answer, begin.elapsed())
}

fn states(found: &wire::SearchResponse) -> Vec<LegStatus> {
    found.legs.iter().map(wire::LegReport::status).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_is_one_call() {
    let cluster = TestCluster::start().await;
    let mut served = filled(&cluster).await;
    let found = served.client.search(all_legs()).await.expect("found").into_inner();
    assert_eq!(found.hits.len(), 10);
    let calls = cluster.take_calls();
    assert_eq!(calls.into_iter().collect::<Vec<_>>(), [("query_batch", 1), ("query_batch_done", 1)]);
    assert_eq!(cluster.contents().queries, [3]);
    assert_eq!(cluster.contents().key.as_deref(), Some(KEY));

    // What is sent of documents is read for those of the page, in one call more; counts have calls of their own.
    let projection = Some(wire::Projection { texts: vec!["*".into()], ..wire::Projection::default() });
    let facets = vec![wire::FacetRequest { field: "year".into(), limit: 0 }];
    let request = wire::SearchRequest { projection, facets, count: true, ..all_legs() };
    served.client.search(request).await.expect("found");
    let calls: Vec<_> = cluster.take_calls().into_iter().collect();
    assert_eq!(calls, [("count", 1), ("facet", 1), ("get", 1), ("query_batch", 1), ("query_batch_done", 1)]);

    // A page of the same list asks no leg again.
    let next = wire::SearchRequest { cursor: found.next_cursor, ..all_legs() };
    let page = served.client.search(next).await.expect("found").into_inner();
    assert_eq!(page.hits[0].rank, 11);
    assert_eq!(cluster.take_calls().into_iter().collect::<Vec<_>>(), [("get", 1)]);

    // A text without a word that counts finds nothing, and is no reason to ask.
    let nothing = search("docs", vec![lexical("of the"), dense_leg([0.0, 1.0])]);
    let found = served.client.search(nothing).await.expect("found").into_inner();
    assert_eq!((states(&found), found.legs[0].hits), (vec![LegStatus::Ok; 2], 0));
    assert_eq!(cluster.contents().queries.last(), Some(&1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leg_that_fails_leaves_the_answer_flagged() {
    let cluster = TestCluster::start().await;
    let mut served = filled(&cluster).await;
    cluster.set_faults(Faults { failing: Some("sparse".into()), ..Faults::default() });
    let (answer, _) = ask(&mut served.client, all_legs(), Duration::from_secs(5)).await;
    let answer = answer.expect("two legs are there");
    assert_eq!(states(&answer), [LegStatus::Ok, LegStatus::Ok, LegStatus::Failed]);
    assert!(answer.degraded && answer.hits.len() == 10 && answer.legs[2].weight == 0.0);
    // Together first, and then each alone.
    assert_eq!(cluster.contents().queries, [3, 1, 1, 1]);

    let alone = search("docs", vec![sparse_leg(&[1])]);
    let (answer, _) = ask(&mut served.client, alone, Duration::from_secs(5)).await;
    let status = answer.expect_err("no leg is there");
    assert_eq!((status.code(), reason(&status)), (Code::Unavailable, "ALL_LEGS_FAILED".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_cluster_is_not_waited_for_beyond_the_deadline() {
    let cluster = TestCluster::start().await;
    let mut served = filled(&cluster).await;
    cluster.set_faults(Faults { delay: Duration::from_secs(30), ..Faults::default() });
    let (answer, took) = ask(&mut served.client, all_legs(), Duration::from_secs(2)).await;
    let code = answer.expect_err("too slow").code();
    assert_eq!(code, Code::DeadlineExceeded);
    assert!(took < Duration::from_secs(10), "{took:?}");

    // A leg with a time of its own has a call of its own: it is left out, and takes no other with it.
    let slow = Some(("sparse".to_owned(), Duration::from_secs(30)));
    cluster.set_faults(Faults { slow, ..Faults::default() });
    let mut request = all_legs();
    request.legs[2].timeout = Some(prost_types::Duration { seconds: 0, nanos: 200_000_000 });
    let (answer, took) = ask(&mut served.client, request, Duration::from_secs(20)).await;
    let answer = answer.expect("two legs are there");
    assert_eq!(states(&answer), [LegStatus::Ok, LegStatus::Ok, LegStatus::TimedOut]);
    assert!(answer.degraded && took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_down_is_said_to_be_and_comes_back() {
    let cluster = TestCluster::start().await;
    let mut served = filled(&cluster).await;
    let asleep = cluster.stop().await;
    let (answer, took) = ask(&mut served.client, all_legs(), Duration::from_secs(20)).await;
    let status = answer.expect_err("there is no cluster");
    assert_eq!((status.code(), reason(&status)), (Code::Unavailable, "CLUSTER_UNREACHABLE".to_owned()), "{status:?}");
    assert!(status.get_error_details().retry_info().is_some_and(|retry| retry.retry_delay.is_some()));
    assert!(took < Duration::from_secs(10), "{took:?}");
    let create = wire::CreateCollectionRequest { name: "more".into(), schema: Some(crate::common::schema()) };
    assert_eq!(reason(&served.client.create_collection(create).await.expect_err("nowhere")), "CLUSTER_UNREACHABLE");
    let delete = wire::DeleteRequest { collection: "docs".into(), ids: vec!["a".into()], filter: None };
    assert_eq!(reason(&served.client.delete(delete).await.expect_err("nowhere")), "CLUSTER_UNREACHABLE");
    let request = wire::UpsertRequest {
        collection: "docs".into(),
        batch_id: 1,
        documents: vec![document("z", "apple", [1.0, 0.0])],
    };
    let mut answers = served.client.upsert(tokio_stream::iter([request])).await.expect("opens").into_inner();
    match answers.message().await.expect("goes on").expect("an answer").outcome {
        Some(wire::upsert_response::Outcome::Error(error)) => assert_eq!(error.code, Code::Unavailable as i32),
        other => panic!("{other:?}"),
    }

    let _cluster = TestCluster::resume(asleep).await;
    let (answer, _) = ask(&mut served.client, all_legs(), Duration::from_secs(20)).await;
    assert_eq!(answer.expect("it is back").hits.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_starts_without_its_cluster_finds_it_later() {
    let cluster = TestCluster::start().await;
    let asleep = cluster.stop().await;
    let mut served = crate::served::over_with(asleep.0, |_| ()).await;
    let found = served.client.list_collections(wire::ListCollectionsRequest {}).await;
    assert_eq!(reason(&found.expect_err("nowhere")), "CLUSTER_UNREACHABLE");
    let cluster = TestCluster::resume(asleep).await;
    create(&mut served.client, "docs").await;
    let lsn = upsert(&mut served.client, "docs", vec![document("a", "apple", [1.0, 0.0])]).await;
    let request = wire::SearchRequest { min_lsn: lsn, ..search("docs", vec![lexical("apples")]) };
    assert_eq!(ids(&served.client.search(request).await.expect("found").into_inner()), ["a"]);
    drop(cluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_comes_late_replaces_nothing_newer() {
    let cluster = TestCluster::start().await;
    let mut served = over(&cluster).await;
    create(&mut served.client, "docs").await;
    let now = upsert(&mut served.client, "docs", vec![document("a", "first", [1.0, 0.0])]).await;
    // Seconds by which the document that is there is newer, as if what is written now had been sent before it; and
    // whether that stays.
    for (seconds, stays) in [(-5, false), (30, true), (7_200, false)] {
        let there = i64::try_from(now).expect("this century") + 1_000_000 * seconds;
        for point in cluster.contents().collections.get_mut("docs").expect("created").points.values_mut() {
            point.payload.insert("version".to_owned(), there.into());
        }
        let other = format!("beside {seconds}");
        let documents = vec![document("a", "late", [0.0, 1.0]), document(&other, "late", [0.0, 1.0])];
        let version = upsert(&mut served.client, "docs", documents).await;
        let get = wire::GetRequest { collection: "docs".into(), ids: vec!["a".into(), other], projection: None };
        let got = served.client.get(get).await.expect("read").into_inner();
        let versions: Vec<u64> = got.documents.iter().map(|document| document.version).collect();
        let expected = if stays { there.cast_unsigned() } else { version };
        assert_eq!(versions, [expected, version], "newer by {seconds} s");
    }
}
