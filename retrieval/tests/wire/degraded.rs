//! Legs that fail or hang leave the answer flagged and on time; without any leg there is none.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sluice_proto::retrieval::v1 as wire;
use tonic::{Code, Request, transport::Endpoint};
use wire::LegStatus;

use crate::common::{
    Client, Kept, TestShard, create, dense_leg, document,
    faults::{Fate, Faults},
    ids, lexical, reason, search, sparse_leg, timerless, upsert,
};

async fn shard(faults: Arc<Faults>, threads: usize, queued: usize) -> (TestShard, Client) {
    shard_over(Kept::InMemory, faults, threads, queued).await
}

async fn shard_over(kept: Kept, faults: Arc<Faults>, threads: usize, queued: usize) -> (TestShard, Client) {
    let shard = TestShard::start_over(kept, faults, |config| {
        config.search.threads = threads;
        config.search.queued_legs_max = queued;
    })
    .await;
    let mut client = shard.client().await;
    create(&mut client, "docs").await;
    let written = vec![document("a", "apple", [1.0, 0.0]), document("b", "pear", [0.0, 1.0])];
    assert_eq!(upsert(&mut client, "docs", written).await, WRITTEN);
    (shard, client)
}

/// The write that every shard here begins with.
const WRITTEN: u64 = 1;

/// Long enough for all that a slow machine does; what is to be late is given less.
const DEADLINE: Duration = Duration::from_secs(10);

/// Little time for a leg: one that is to use it up.
fn little() -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 })
}

fn all_legs() -> wire::SearchRequest {
    let legs = vec![lexical("apple"), dense_leg([0.0, 1.0]), sparse_leg(&[1])];
    wire::SearchRequest { min_lsn: WRITTEN, ..search("docs", legs) }
}

/// How the answer to a search with this deadline fared, and how long that took.
async fn ask(
    client: &mut Client,
    request: wire::SearchRequest,
    deadline: Duration,
) -> (wire::SearchResponse, Duration) {
    let mut request = Request::new(request);
    request.set_timeout(deadline);
    let begin = Instant::now();
    let answer = client.search(request).await.expect("an answer, whatever one leg does").into_inner();
    (answer, begin.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leg_that_fails_leaves_the_answer_flagged_and_on_time() {
    let cases = [
        (Fate::Fails, None, LegStatus::Failed),
        (Fate::Panics, None, LegStatus::Failed),
        (Fate::Stalls, little(), LegStatus::TimedOut),
        (Fate::Hangs, little(), LegStatus::TimedOut),
    ];
    let everywhere = [Kept::InMemory, Kept::OnDisk].into_iter();
    for (kept, (fate, timeout, expected)) in everywhere.flat_map(|kept| cases.map(|case| (kept, case))) {
        let faults = Faults::of(&[("dense", fate)]);
        let (_shard, mut client) = shard_over(kept, Arc::clone(&faults), 4, 16).await;
        let mut request = all_legs();
        request.legs[1].timeout = timeout;
        let (answer, took) = ask(&mut client, request, DEADLINE).await;
        let states: Vec<_> = answer.legs.iter().map(wire::LegReport::status).collect();
        assert_eq!(states, [LegStatus::Ok, expected, LegStatus::Ok], "{fate:?}");
        assert!(answer.degraded && !answer.legs[1].message.is_empty(), "{fate:?}");
        assert_eq!((ids(&answer), answer.legs[1].hits, answer.legs[1].weight), (vec!["a", "b"], 0, 0.0), "{fate:?}");
        assert!(answer.hits[0].legs.iter().all(|leg| leg.leg != "dense"), "{fate:?}");
        assert!(took < DEADLINE, "{fate:?} took {took:?}");
        faults.release();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn legs_have_a_share_of_the_deadline() {
    let faults = Faults::of(&[("dense", Fate::Hangs)]);
    let configure = |config: &mut sluice_retrieval::config::ShardConfig| config.search.leg_share = 0.2;
    let shard = TestShard::start_with(Arc::clone(&faults) as _, configure).await;
    let mut client = shard.client().await;
    create(&mut client, "docs").await;
    upsert(&mut client, "docs", vec![document("a", "apple", [1.0, 0.0])]).await;
    let (answer, took) = ask(&mut client, all_legs(), DEADLINE).await;
    assert_eq!((answer.legs[1].status(), ids(&answer)), (LegStatus::TimedOut, vec!["a"]));
    assert!(took < DEADLINE, "{took:?}");
    faults.release();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leg_has_its_own_time_if_it_asks_for_less() {
    let (_shard, mut client) = shard(Faults::of(&[("dense", Fate::Stalls)]), 4, 16).await;
    let mut request = all_legs();
    request.legs[1].timeout = little();
    let (answer, took) = ask(&mut client, request, Duration::from_secs(20)).await;
    assert_eq!(answer.legs[1].status(), LegStatus::TimedOut);
    assert!(took < Duration::from_secs(15), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_leg_there_is_no_answer() {
    let failing = [("lexical", Fate::Fails), ("dense", Fate::Fails), ("sparse", Fate::Fails)];
    let mixed = [("lexical", Fate::Fails), ("dense", Fate::Stalls), ("sparse", Fate::Stalls)];
    let stalling = [("lexical", Fate::Stalls), ("dense", Fate::Stalls), ("sparse", Fate::Hangs)];
    let cases = [
        (failing, Code::Unavailable, "ALL_LEGS_FAILED"),
        (mixed, Code::Unavailable, "ALL_LEGS_FAILED"),
        (stalling, Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
    ];
    let everywhere = [Kept::InMemory, Kept::OnDisk].into_iter();
    for (kept, (fates, code, expected)) in everywhere.flat_map(|kept| cases.map(|case| (kept, case))) {
        let faults = Faults::of(&fates);
        let (_shard, mut client) = shard_over(kept, Arc::clone(&faults), 4, 16).await;
        let mut request = all_legs();
        let late = |fate: Fate| matches!(fate, Fate::Stalls | Fate::Hangs);
        for (leg, (_, fate)) in request.legs.iter_mut().zip(fates) {
            leg.timeout = late(fate).then(little).flatten();
        }
        let mut request = Request::new(request);
        request.set_timeout(DEADLINE);
        let begin = Instant::now();
        let status = client.search(request).await.expect_err("nothing to answer with");
        assert_eq!((status.code(), reason(&status).as_str()), (code, expected), "{fates:?}");
        assert!(begin.elapsed() < DEADLINE, "{fates:?} took {:?}", begin.elapsed());
        faults.release();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn legs_that_hang_take_up_places_and_others_are_told() {
    let faults = Faults::of(&[("dense", Fate::Hangs)]);
    let (shard, mut client) = shard(Arc::clone(&faults), 2, 8).await;
    let mut only_dense = search("docs", vec![dense_leg([0.0, 1.0])]);
    only_dense.legs[0].timeout = little();
    for _ in 0..2 {
        let status = client.search(only_dense.clone()).await.expect_err("it hangs");
        assert_eq!(status.code(), Code::DeadlineExceeded);
    }
    // Both places are taken by legs that nobody waits for any more.
    let status = timerless::refusal(shard.address, &search("docs", vec![lexical("apple")]), "1S").await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    faults.release();
    let (answer, _) = ask(&mut client, all_legs(), Duration::from_secs(20)).await;
    assert!(!answer.degraded, "places come back");
}

#[tokio::test(flavor = "multi_thread")]
async fn legs_that_hang_keep_nobody_from_reading() {
    let faults = Faults::of(&[("dense", Fate::Hangs)]);
    let (_shard, mut client) = shard(Arc::clone(&faults), 1, 8).await;
    let both = wire::SearchRequest { limit: 1, ..search("docs", vec![lexical("apple pear")]) };
    let (first, _) = ask(&mut client, both.clone(), Duration::from_secs(20)).await;
    let mut hangs = Request::new(search("docs", vec![dense_leg([0.0, 1.0])]));
    hangs.set_timeout(Duration::from_millis(300));
    client.search(hangs).await.expect_err("it hangs");
    let next = wire::SearchRequest { cursor: first.next_cursor.clone(), ..both };
    let (second, _) = ask(&mut client, next, Duration::from_secs(20)).await;
    assert_eq!((ids(&first), ids(&second)), (vec!["a"], vec!["b"]), "a page of a list that is kept needs no leg");
    faults.release();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_brings_quick_legs_before_slow_ones() {
    use wire::search_stream_response::Update;

    let faults = Faults::of(&[("lexical", Fate::Waits)]);
    let (_shard, mut client) = shard(Arc::clone(&faults), 4, 16).await;
    let request = search("docs", vec![lexical("apple"), dense_leg([0.0, 1.0])]);
    let mut stream = client.search_stream(request).await.expect("opens").into_inner();
    let mut order = Vec::new();
    while let Some(message) = stream.message().await.expect("goes on") {
        match message.update.expect("set") {
            Update::Leg(leg) => {
                order.push(leg.report.expect("said").leg);
                faults.release();
            }
            Update::Response(answer) => assert!(!answer.degraded),
        }
    }
    assert_eq!(order, ["dense", "lexical"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_holds_no_places() {
    let (shard, mut other) = shard(Faults::of(&[]), 1, 32).await;
    // Of a stream that is not read, one byte is taken.
    let endpoint = Endpoint::from_shared(format!("http://{}", shard.address)).expect("an address");
    let channel = endpoint.initial_stream_window_size(1).connect().await.expect("it listens");
    let named = |nth: usize| wire::Leg { name: format!("leg {nth}"), ..lexical("apple") };
    let mut request = Request::new(search("docs", (0..8).map(named).collect()));
    request.set_timeout(Duration::from_secs(300));
    let unread = Client::new(channel).search_stream(request).await.expect("opens");
    for _ in 0..3 {
        let (answer, _) = ask(&mut other, all_legs(), Duration::from_secs(20)).await;
        assert!(!answer.degraded, "the only place comes free");
    }
    drop(unread);
}
