//! Collections and aliases.

use std::sync::Arc;

use sluice_proto::retrieval::v1 as wire;
use tokio::sync::Notify;
use tonic::Code;

use crate::{
    cluster::{Faults, Kept, TestCluster},
    common::{create, dense_leg, document, ids, reason, schema, search, upsert},
    served::{local, over, over_with},
};

fn named(name: &str) -> wire::CreateCollectionRequest {
    wire::CreateCollectionRequest { name: name.to_owned(), schema: Some(schema()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_and_aliases_come_and_go() {
    let cluster = TestCluster::start().await;
    for mut served in [local().await, over(&cluster).await] {
        let client = &mut served.client;
        for (collection, id) in [("one", "a"), ("two", "b")] {
            let created = create(client, collection).await;
            assert_eq!((created.name.as_str(), created.documents), (collection, 0));
            upsert(client, collection, vec![document(id, "apple", [1.0, 0.0])]).await;
        }
        let taken = client.create_collection(named("one")).await.expect_err("taken");
        assert_eq!((taken.code(), reason(&taken)), (Code::FailedPrecondition, "NAME_TAKEN".to_owned()));

        let set = |alias: &str, collection: &str| wire::SetAliasRequest {
            alias: alias.to_owned(),
            collection: collection.to_owned(),
        };
        assert_eq!(client.set_alias(set("live", "one")).await.expect("set").into_inner().previous, "");
        let lsn = upsert(client, "live", vec![document("c", "apple", [0.0, 1.0])]).await;
        let live = || wire::SearchRequest { min_lsn: lsn, ..search("live", vec![dense_leg([1.0, 0.0])]) };
        assert_eq!(ids(&client.search(live()).await.expect("found").into_inner()), ["a", "c"]);
        assert_eq!(client.set_alias(set("live", "two")).await.expect("moved").into_inner().previous, "one");
        let moved = wire::SearchRequest { min_lsn: 1, ..live() };
        assert_eq!(ids(&client.search(moved).await.expect("found").into_inner()), ["b"]);

        let listed = client.list_collections(wire::ListCollectionsRequest {}).await.expect("listed").into_inner();
        let described: Vec<_> = listed
            .collections
            .iter()
            .map(|found| (found.name.as_str(), found.aliases.len(), found.documents, found.schema.is_some()))
            .collect();
        assert_eq!(described, [("one", 0, 2, true), ("two", 1, 1, true)]);
        let expected = schema();
        let found = listed.collections[0].schema.clone().expect("said");
        assert_eq!((found.vectors, found.payload), (expected.vectors, expected.payload));

        let refused = client.create_collection(named("live")).await.expect_err("an alias has it");
        assert_eq!((refused.code(), reason(&refused)), (Code::FailedPrecondition, "NAME_TAKEN".to_owned()));
        let refused = client.set_alias(set("one", "two")).await.expect_err("a collection has it");
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert_eq!(client.set_alias(set("other", "three")).await.expect_err("nothing").code(), Code::NotFound);
        let drop = |name: &str| wire::DropCollectionRequest { name: name.to_owned() };
        assert_eq!(client.drop_collection(drop("live")).await.expect_err("an alias").code(), Code::NotFound);
        let delete = |alias: &str| wire::DeleteAliasRequest { alias: alias.to_owned() };
        assert_eq!(client.delete_alias(delete("live")).await.expect("gone").into_inner().collection, "two");
        assert_eq!(client.delete_alias(delete("live")).await.expect_err("gone").code(), Code::NotFound);

        client.set_alias(set("live", "one")).await.expect("set");
        assert_eq!(client.drop_collection(drop("one")).await.expect("dropped").into_inner().documents, 2);
        for name in ["one", "live"] {
            let gone = client.search(search(name, vec![dense_leg([1.0, 0.0])])).await.expect_err("gone");
            assert_eq!(gone.code(), Code::NotFound, "{name}");
        }
        let listed = client.list_collections(wire::ListCollectionsRequest {}).await.expect("listed").into_inner();
        assert_eq!(listed.collections.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_somebody_elses_is_let_be() {
    let cluster = TestCluster::start().await;
    let theirs = qdrant_client::qdrant::CreateCollection {
        collection_name: "theirs".to_owned(),
        ..qdrant_client::qdrant::CreateCollection::default()
    };
    cluster.contents().collections.insert("theirs".to_owned(), Kept::new(theirs));
    let mut served = over(&cluster).await;
    let listed = served.client.list_collections(wire::ListCollectionsRequest {}).await.expect("listed").into_inner();
    assert!(listed.collections.is_empty(), "{listed:?}");
    let drop = wire::DropCollectionRequest { name: "theirs".to_owned() };
    assert_eq!(served.client.drop_collection(drop).await.expect_err("not ours").code(), Code::NotFound);
    let found = served.client.search(search("theirs", vec![dense_leg([1.0, 0.0])])).await;
    assert_eq!(found.expect_err("not ours").code(), Code::NotFound);
    assert_eq!(reason(&served.client.create_collection(named("theirs")).await.expect_err("taken")), "NAME_TAKEN");
    assert!(cluster.contents().collections.contains_key("theirs"));
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_of_a_cluster_see_each_others_names_and_documents() {
    let cluster = TestCluster::start().await;
    let mut one = over(&cluster).await;
    let mut other = over_with(cluster.address, |config| {
        config.qdrant.names_age_max = std::time::Duration::ZERO;
    })
    .await;
    create(&mut one.client, "docs").await;
    let lsn = upsert(&mut one.client, "docs", vec![document("a", "apple", [1.0, 0.0])]).await;
    // One clock for both, as they are on one machine.
    let request = wire::SearchRequest { min_lsn: lsn, ..search("docs", vec![dense_leg([1.0, 0.0])]) };
    let found = other.client.search(request.clone()).await.expect("found").into_inner();
    assert_eq!((ids(&found), found.hits[0].version), (vec!["a"], lsn));
    let ahead = wire::SearchRequest { min_lsn: u64::MAX / 4, ..request };
    assert_eq!(other.client.search(ahead).await.expect_err("not yet").code(), Code::InvalidArgument);

    // What another shard drops is gone at once for whoever asks the cluster, whatever is still known of its name.
    other.client.drop_collection(wire::DropCollectionRequest { name: "docs".into() }).await.expect("dropped");
    let gone = one.client.search(search("docs", vec![dense_leg([1.0, 0.0])])).await.expect_err("gone");
    assert_eq!(gone.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_say_what_they_have() {
    let cluster = TestCluster::start().await;
    let mut served = over(&cluster).await;
    create(&mut served.client, "docs").await;
    let mut without = document("b", "", [1.0, 0.0]);
    without.texts.clear();
    let lsn = upsert(&mut served.client, "docs", vec![document("a", "x", [1.0, 0.0]), without]).await;
    let of = |collection: &str| wire::StatsRequest { collection: collection.to_owned() };
    let one = served.client.stats(of("docs")).await.expect("counted").into_inner().collections;
    let indexes: Vec<_> =
        one[0].indexes.iter().map(|index| (index.name.as_str(), index.engine.as_str(), index.documents)).collect();
    assert_eq!(indexes, [("lexical", "qdrant", 1), ("dense", "qdrant", 2), ("sparse", "qdrant", 2)]);
    assert!(one[0].documents == 2 && one[0].lsn >= lsn);
    assert_eq!(served.client.stats(of("other")).await.expect_err("nothing").code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_before_a_name_changed_is_not_known_after_it() {
    let cluster = TestCluster::start().await;
    let mut served = over(&cluster).await;
    let client = &mut served.client;
    for (collection, id) in [("one", "a"), ("two", "b")] {
        create(client, collection).await;
        upsert(client, collection, vec![document(id, "apple", [1.0, 0.0])]).await;
    }
    let set = |collection: &str| wire::SetAliasRequest { alias: "live".into(), collection: collection.to_owned() };
    client.set_alias(set("one")).await.expect("set");
    let held = Arc::new(Notify::new());
    cluster.set_faults(Faults { held_aliases: Some(Arc::clone(&held)), ..Faults::default() });
    let live = || search("live", vec![dense_leg([1.0, 0.0])]);
    let asking = tokio::spawn({
        let mut client = client.clone();
        async move { client.search(live()).await }
    });
    while cluster.contents().faults.held_aliases.is_some() {
        tokio::task::yield_now().await;
    }
    client.set_alias(set("two")).await.expect("moved");
    held.notify_one();
    asking.await.expect("no panic").expect("one of them is found");
    assert_eq!(ids(&client.search(live()).await.expect("found").into_inner()), ["b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_nobody_was_told_of_is_taken_away() {
    let cluster = TestCluster::start().await;
    let mut served = over(&cluster).await;
    cluster.set_faults(Faults { silent_creation: true, ..Faults::default() });
    let status = served.client.create_collection(named("one")).await.expect_err("not in time");
    assert_eq!((status.code(), reason(&status)), (Code::Unavailable, "CLUSTER_UNREACHABLE".to_owned()));
    assert!(cluster.contents().collections.is_empty(), "it would have no indexes");
    cluster.set_faults(Faults::default());
    create(&mut served.client, "one").await;
}
