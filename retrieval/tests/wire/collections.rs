//! Collections, aliases, copies, statistics.

use sluice_proto::retrieval::v1 as wire;
use tonic::Code;

use crate::common::{TestShard, create, document, ids, lexical, reason, schema, search, upsert};

fn named(name: &str) -> wire::CreateCollectionRequest {
    wire::CreateCollectionRequest { name: name.to_owned(), schema: Some(schema()) }
}

#[tokio::test]
async fn collections_come_and_go() {
    let shard = TestShard::start().await;
    let mut client = shard.client().await;
    let created = create(&mut client, "docs").await;
    assert_eq!((created.name.as_str(), created.documents), ("docs", 0));
    let described = created.schema.expect("its schema");
    let expected = wire::Content { fields: vec!["title".into(), "text".into()], separator: Some(". ".into()) };
    assert_eq!(described.content, Some(expected), "defaults are filled in");
    assert_eq!(described.texts[0].language, "english");
    assert_eq!(described.texts[0].boost, Some(1.0));
    assert_eq!((described.vectors, described.payload), (schema().vectors, schema().payload));
    let taken = client.create_collection(named("docs")).await.expect_err("taken");
    assert_eq!((taken.code(), reason(&taken)), (Code::FailedPrecondition, "NAME_TAKEN".to_owned()));

    create(&mut client, "archive").await;
    upsert(&mut client, "docs", vec![document("a", "x", [1.0, 0.0])]).await;
    let listed = client.list_collections(wire::ListCollectionsRequest {}).await.expect("listed").into_inner();
    let names: Vec<_> = listed.collections.iter().map(|found| (found.name.as_str(), found.documents)).collect();
    assert_eq!(names, [("archive", 0), ("docs", 1)]);

    let drop = |name: &str| wire::DropCollectionRequest { name: name.to_owned() };
    assert_eq!(client.drop_collection(drop("docs")).await.expect("dropped").into_inner().documents, 1);
    let gone = client.drop_collection(drop("docs")).await.expect_err("gone");
    assert_eq!(gone.code(), Code::NotFound);
    let gone = client.search(search("docs", vec![lexical("x")])).await.expect_err("gone");
    assert_eq!(gone.code(), Code::NotFound);
}

#[tokio::test]
async fn an_alias_moves_in_one_step() {
    let shard = TestShard::start().await;
    let mut client = shard.client().await;
    for (collection, id) in [("one", "a"), ("two", "b")] {
        create(&mut client, collection).await;
        upsert(&mut client, collection, vec![document(id, "apple", [1.0, 0.0])]).await;
    }
    let set = |alias: &str, collection: &str| wire::SetAliasRequest {
        alias: alias.to_owned(),
        collection: collection.to_owned(),
    };
    assert_eq!(client.set_alias(set("live", "one")).await.expect("set").into_inner().previous, "");
    let found = client.search(search("live", vec![lexical("apple")])).await.expect("found").into_inner();
    assert_eq!(ids(&found), ["a"]);
    assert_eq!(client.set_alias(set("live", "two")).await.expect("moved").into_inner().previous, "one");
    let found = client.search(search("live", vec![lexical("apple")])).await.expect("found").into_inner();
    assert_eq!(ids(&found), ["b"]);
    upsert(&mut client, "live", vec![document("c", "apple", [1.0, 0.0])]).await;
    let listed = client.list_collections(wire::ListCollectionsRequest {}).await.expect("listed").into_inner();
    assert_eq!(
        (listed.collections[1].aliases.as_slice(), listed.collections[1].documents),
        (&["live".to_owned()][..], 2)
    );

    assert_eq!(client.create_collection(named("live")).await.expect_err("taken").code(), Code::FailedPrecondition);
    assert_eq!(client.set_alias(set("one", "two")).await.expect_err("taken").code(), Code::FailedPrecondition);
    assert_eq!(client.set_alias(set("other", "three")).await.expect_err("nothing").code(), Code::NotFound);
    let drop = wire::DropCollectionRequest { name: "live".into() };
    assert_eq!(client.drop_collection(drop).await.expect_err("an alias").code(), Code::NotFound);
    let delete = || wire::DeleteAliasRequest { alias: "live".into() };
    assert_eq!(client.delete_alias(delete()).await.expect("deleted").into_inner().collection, "two");
    assert_eq!(client.delete_alias(delete()).await.expect_err("gone").code(), Code::NotFound);
}

#[tokio::test]
async fn a_copy_becomes_a_collection() {
    let shard = TestShard::start().await;
    let mut client = shard.client().await;
    create(&mut client, "docs").await;
    let lsn = upsert(&mut client, "docs", vec![document("a", "apple", [1.0, 0.0])]).await;
    let copy = |name: &str| wire::SnapshotRequest { collection: "docs".into(), name: name.to_owned() };
    let copied = client.snapshot(copy("monday")).await.expect("copied").into_inner();
    assert_eq!((copied.lsn, copied.documents), (lsn, 1));
    upsert(&mut client, "docs", vec![document("b", "apple", [1.0, 0.0])]).await;
    assert_eq!(client.snapshot(copy("monday")).await.expect_err("taken").code(), Code::FailedPrecondition);

    let restore = |snapshot: &str, collection: &str| wire::RestoreRequest {
        snapshot: snapshot.to_owned(),
        collection: collection.to_owned(),
    };
    let restored = client.restore(restore("monday", "old")).await.expect("restored").into_inner();
    assert_eq!((restored.lsn, restored.documents), (lsn, 1));
    let found = client.search(search("old", vec![lexical("apple")])).await.expect("found").into_inner();
    assert_eq!(ids(&found), ["a"], "as it was when it was copied");
    assert_eq!(client.restore(restore("tuesday", "x")).await.expect_err("nothing").code(), Code::NotFound);
    assert_eq!(client.restore(restore("monday", "docs")).await.expect_err("taken").code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn collections_say_what_they_weigh() {
    let shard = TestShard::start().await;
    let mut client = shard.client().await;
    create(&mut client, "docs").await;
    create(&mut client, "empty").await;
    let lsn = upsert(&mut client, "docs", vec![document("a", "x", [1.0, 0.0])]).await;
    let of = |collection: &str| wire::StatsRequest { collection: collection.to_owned() };
    let all = client.stats(of("")).await.expect("counted").into_inner().collections;
    let counted: Vec<_> = all.iter().map(|found| (found.name.as_str(), found.documents, found.lsn)).collect();
    assert_eq!(counted, [("docs", 1, lsn), ("empty", 0, 0)]);
    let one = client.stats(of("docs")).await.expect("counted").into_inner().collections;
    assert_eq!(one, all[..1]);
    assert_eq!(one[0].indexes[0].applied_lsn, lsn);
    assert_eq!(client.stats(of("other")).await.expect_err("nothing").code(), Code::NotFound);
}
