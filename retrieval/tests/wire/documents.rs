//! Documents in, out and away.

use std::collections::HashMap;

use prost_types::Timestamp;
use sluice_proto::retrieval::v1 as wire;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use wire::{payload_value::Kind, upsert_response::Outcome};

use crate::common::{TestShard, create, document, ids, integer, keyword, lexical, search, upsert, value, with_payload};

fn batch(id: u64, documents: Vec<wire::Document>) -> wire::UpsertRequest {
    wire::UpsertRequest { collection: String::new(), batch_id: id, documents }
}

#[tokio::test]
async fn batches_are_acknowledged_in_order_and_a_bad_one_harms_no_other() {
    let shard = TestShard::start().await;
    let mut client = shard.client().await;
    create(&mut client, "docs").await;
    let good = |id: &str| document(id, "apple", [1.0, 0.0]);
    let mut bad = good("c");
    bad.texts.insert("body".into(), "no such field".into());
    let first = wire::UpsertRequest { collection: "docs".into(), ..batch(7, vec![good("a"), good("b")]) };
    let nowhere = wire::UpsertRequest { collection: "elsewhere".into(), ..batch(9, vec![good("x")]) };
    let back = wire::UpsertRequest { collection: "docs".into(), ..batch(10, vec![good("e")]) };
    let batches = vec![first, batch(8, vec![good("d"), bad]), nowhere, back, batch(11, Vec::new())];
    let mut answers = client.upsert(tokio_stream::iter(batches)).await.expect("opens").into_inner();
    let mut outcomes = Vec::new();
    while let Some(answer) = answers.message().await.expect("goes on") {
        outcomes.push(match answer.outcome.expect("set") {
            Outcome::Written(written) => (answer.batch_id, Ok((written.lsn, written.content_hashes.len()))),
            Outcome::Error(error) => (answer.batch_id, Err(Code::from_i32(error.code))),
        });
    }
    let invalid = Err(Code::InvalidArgument);
    let expected = [(7, Ok((1, 2))), (8, invalid), (9, Err(Code::NotFound)), (10, Ok((2, 1))), (11, invalid)];
    assert_eq!(outcomes, expected);
    let found = client.search(search("docs", vec![lexical("apple")])).await.expect("found").into_inner();
    assert_eq!(ids(&found), ["a", "b", "e"], "nothing of the bad batch");
}

#[tokio::test]
async fn an_acknowledgement_comes_while_the_call_goes_on() {
    let shard = TestShard::start().await;
    let mut client = shard.client().await;
    create(&mut client, "docs").await;
    let (send, batches) = mpsc::channel(1);
    let mut answers = client.upsert(ReceiverStream::new(batches)).await.expect("opens").into_inner();
    for id in 1..=3 {
        let document = document(&format!("d{id}"), "apple", [1.0, 0.0]);
        let request = wire::UpsertRequest { collection: "docs".into(), ..batch(id, vec![document]) };
        send.send(request).await.expect("it reads");
        let answer = answers.message().await.expect("goes on").expect("an acknowledgement");
        let written = matches!(answer.outcome, Some(Outcome::Written(ref written)) if written.lsn == id);
        assert!(answer.batch_id == id && written, "{answer:?}");
    }
    drop(send);
    assert_eq!(answers.message().await.expect("ends well"), None);
}

#[tokio::test]
async fn what_is_put_is_got() {
    let shard = TestShard::start().await;
    let mut client = shard.client().await;
    create(&mut client, "docs").await;
    let list = wire::PayloadList { values: vec![keyword("red"), keyword("blue")] };
    let moment = Timestamp { seconds: -1, nanos: 500_000_000 };
    let payload = [
        ("colour", value(Kind::ListValue(list))),
        ("year", integer(1969)),
        ("price", value(Kind::FloatValue(1.5))),
        ("sold", value(Kind::BooleanValue(false))),
        ("seen", value(Kind::DatetimeValue(moment))),
        ("note", keyword("some words")),
        ("undeclared", keyword("is kept too")),
    ];
    let mut document = with_payload(document("a", "A text", [3.0, 4.0]), &payload);
    document.texts.insert("title".into(), "A title".into());
    let version = upsert(&mut client, "docs", vec![document.clone()]).await;

    let star = || vec!["*".to_owned()];
    let everything = wire::Projection { texts: star(), payload: star(), vectors: star() };
    let get = |ids: &[&str], projection: Option<wire::Projection>| wire::GetRequest {
        collection: "docs".into(),
        ids: ids.iter().map(ToString::to_string).collect(),
        projection,
    };
    let got = client.get(get(&["b", "a"], Some(everything))).await.expect("got").into_inner();
    assert_eq!((got.missing.as_slice(), got.lsn), (&["b".to_owned()][..], version));
    let stored = &got.documents[0];
    assert_eq!(stored.document.as_ref(), Some(&document));
    assert_eq!(stored.version, version);
    // SHA-256 of "A title. A text".
    let hash: String = stored.content_hash.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hash, sha256_hex("A title. A text"));

    let got = client.get(get(&["a"], None)).await.expect("got").into_inner();
    let without = wire::Document { vectors: HashMap::new(), ..document.clone() };
    assert_eq!(got.documents[0].document.as_ref(), Some(&without), "everything but vectors");
    let title = wire::Projection { texts: vec!["title".into()], ..wire::Projection::default() };
    let got = client.get(get(&["a"], Some(title))).await.expect("got").into_inner();
    let found = got.documents[0].document.clone().expect("asked for");
    assert_eq!((found.texts.len(), found.payload.len(), found.vectors.len()), (1, 0, 0));
}

fn sha256_hex(text: &str) -> String {
    sluice_retrieval::identity::ContentHash::of(text).to_string()
}

#[tokio::test]
async fn documents_go_by_id_or_by_filter() {
    let shard = TestShard::start().await;
    let mut client = shard.client().await;
    create(&mut client, "docs").await;
    let of = |id: &str, year| with_payload(document(id, "apple", [1.0, 0.0]), &[("year", integer(year))]);
    upsert(&mut client, "docs", vec![of("a", 1), of("b", 2), of("c", 3), of("d", 4)]).await;
    let by_id = wire::DeleteRequest { collection: "docs".into(), ids: vec!["a".into(), "x".into()], filter: None };
    let deleted = client.delete(by_id).await.expect("deleted").into_inner();
    assert_eq!((deleted.deleted, deleted.lsn), (1, 2));
    let range = wire::RangeCondition { field: "year".into(), gte: Some(integer(3)), ..Default::default() };
    let filter = wire::Filter { condition: Some(wire::filter::Condition::Range(range)) };
    let by_filter = wire::DeleteRequest { collection: "docs".into(), ids: Vec::new(), filter: Some(filter) };
    assert_eq!(client.delete(by_filter).await.expect("deleted").into_inner().deleted, 2);
    let found = client.search(search("docs", vec![lexical("apple")])).await.expect("found").into_inner();
    assert_eq!(ids(&found), ["b"]);
}
