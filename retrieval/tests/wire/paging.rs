//! Pages are cut from one list, whatever is written between them.

use std::sync::Arc;

use sluice_proto::retrieval::v1 as wire;
use sluice_retrieval::search::Undisturbed;
use tonic::Code;

use crate::common::{Client, TestShard, create, dense_leg, document, fields, ids, lexical, reason, search, upsert};

const DOCUMENTS: usize = 25;

async fn filled(kept_lists: usize) -> (TestShard, Client) {
    let shard = TestShard::start_with(Arc::new(Undisturbed), |config| config.search.kept_lists_max = kept_lists).await;
    let mut client = shard.client().await;
    create(&mut client, "docs").await;
    let documents = (0..DOCUMENTS).map(|n| {
        let angle = n as f32 / DOCUMENTS as f32;
        document(&format!("d{n:02}"), if n % 2 == 0 { "apple" } else { "pear" }, [angle.cos(), angle.sin()])
    });
    upsert(&mut client, "docs", documents.collect()).await;
    (shard, client)
}

fn request(limit: u32, cursor: Vec<u8>) -> wire::SearchRequest {
    wire::SearchRequest { limit, cursor, ..search("docs", vec![lexical("apple"), dense_leg([0.5, 0.5])]) }
}

/// All pages of this size, `between` each two.
async fn pages(client: &mut Client, limit: u32, mut between: impl AsyncFnMut(&mut Client)) -> Vec<String> {
    let (mut found, mut cursor) = (Vec::new(), Vec::new());
    loop {
        let page = client.search(request(limit, cursor)).await.expect("a page").into_inner();
        for hit in &page.hits {
            found.push(hit.id.clone());
            assert_eq!(hit.rank as usize, found.len(), "ranks go on");
        }
        if page.next_cursor.is_empty() {
            return found;
        }
        assert_eq!(page.hits.len(), limit as usize, "only the last page is short");
        cursor = page.next_cursor;
        between(client).await;
    }
}

#[tokio::test]
async fn pages_add_up_to_the_whole_list() {
    for kept_lists in [256, 0] {
        let (_shard, mut client) = filled(kept_lists).await;
        let whole = client.search(request(100, Vec::new())).await.expect("found").into_inner();
        let whole: Vec<_> = whole.hits.iter().map(|hit| hit.id.clone()).collect();
        assert_eq!(whole.len(), DOCUMENTS);
        for limit in [1, 7, 24, 25, 26] {
            assert_eq!(
                pages(&mut client, limit, async |_| ()).await,
                whole,
                "pages of {limit}, {kept_lists} lists kept"
            );
        }
    }
}

#[tokio::test]
async fn writes_between_pages_do_not_move_them() {
    let (_shard, mut client) = filled(256).await;
    let whole = client.search(request(100, Vec::new())).await.expect("found").into_inner();
    let whole: Vec<_> = whole.hits.iter().map(|hit| hit.id.clone()).collect();
    let mut written = 0;
    let found = pages(&mut client, 7, async |client| {
        written += 1;
        // Would come first.
        upsert(client, "docs", vec![document(&format!("a{written}"), "apple", [0.5, 0.5])]).await;
    });
    assert_eq!(found.await, whole);
    let now = client.search(request(100, Vec::new())).await.expect("found").into_inner();
    assert_eq!(ids(&now)[0], "a1", "a new search sees them");
}

#[tokio::test]
async fn pages_go_on_with_the_list_that_they_began_with() {
    let (shard, mut client) = filled(256).await;
    let docs = shard.memory.collection("docs");
    docs.hold_indexes(true);
    upsert(&mut client, "docs", vec![document("a1", "apple", [0.5, 0.5])]).await;
    let (mut lists, mut rest) = (Vec::new(), Vec::new());
    for hold in [true, false] {
        docs.hold_indexes(hold);
        lists.push(client.search(request(100, Vec::new())).await.expect("found").into_inner());
        let first = client.search(request(7, Vec::new())).await.expect("found").into_inner();
        rest.push(first.next_cursor);
    }
    assert_eq!(lists[0].lsn, lists[1].lsn, "two lists of one moment");
    for (list, cursor) in lists.iter().zip(rest) {
        let page = client.search(request(100, cursor)).await.expect("its list is kept").into_inner();
        assert_eq!(ids(&page), ids(list)[7..]);
    }
}

#[tokio::test]
async fn a_document_that_has_gone_is_left_out_of_its_page() {
    let (_shard, mut client) = filled(256).await;
    let first = client.search(request(20, Vec::new())).await.expect("found").into_inner();
    let second = client.search(request(20, first.next_cursor.clone())).await.expect("found").into_inner();
    let gone = second.hits[0].id.clone();
    let delete = wire::DeleteRequest { collection: "docs".into(), ids: vec![gone.clone()], filter: None };
    client.delete(delete).await.expect("deleted");
    let again = client.search(request(20, first.next_cursor)).await.expect("found").into_inner();
    let ranks = |page: &wire::SearchResponse| page.hits.iter().map(|hit| hit.rank).collect::<Vec<_>>();
    assert_eq!((ids(&again), ranks(&again)), (ids(&second)[1..].to_vec(), vec![22, 23, 24, 25]));
}

#[tokio::test]
async fn a_cursor_that_does_not_fit_is_refused() {
    let (_shard, mut client) = filled(0).await;
    let cursor = client.search(request(5, Vec::new())).await.expect("found").into_inner().next_cursor;
    let other = wire::SearchRequest { min_score: Some(0.0), ..request(5, cursor.clone()) };
    let mut bent = cursor.clone();
    bent[0] ^= 0xff;
    let cases = [("another search", other), ("bent", request(5, bent)), ("noise", request(5, vec![1, 2, 3]))];
    for (case, request) in cases {
        let status = client.search(request).await.expect_err(case);
        assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["cursor".to_owned()]), "{case}");
    }
    // What is sent of each hit, and how many, may change.
    let more = wire::SearchRequest { count: true, ..request(9, cursor.clone()) };
    client.search(more).await.expect("it fits");
    upsert(&mut client, "docs", vec![document("z", "apple", [1.0, 0.0])]).await;
    let status = client.search(request(5, cursor)).await.expect_err("its list is not kept, and another now");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "CURSOR_EXPIRED"));
}
