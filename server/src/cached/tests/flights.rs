//! Requests that compute the same at the same time.

use std::time::Duration;

use futures_util::future::join_all;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use sluice_core::{Operation, Priority};

use super::fixture::{Ask, FAILS, Fixture, OPERATIONS, TIMEOUT, bits, expected, finish};
use crate::{
    cached::{Answer, Tokens},
    engine::EngineError,
    job::CachePolicy,
};

/// Takes the slot until the gate opens.
async fn blocker(fixture: &Fixture) -> Answer {
    let ask = Ask { policy: CachePolicy::Bypass, ..Ask::new(Operation::CrossEncode, 900, [901]) };
    fixture.ask(&ask).await
}

#[tokio::test]
async fn a_hundred_identical_requests_compute_once() {
    for operation in OPERATIONS {
        let fixture = Fixture::start(true);
        let ask = Ask::new(operation, 1, 2..32);
        let mut answers = Vec::new();
        for _ in 0..100 {
            answers.push(fixture.ask(&ask).await);
        }
        fixture.open(100);
        let all = ask.query_tokens() + 30 * ask.document_tokens();
        let mut computed = 0;
        for answer in join_all(answers.into_iter().map(|answer| finish(&ask, answer))).await {
            let (scores, tokens) = answer.expect("it is computed");
            assert_eq!(bits(&scores), bits(&expected(&ask)));
            assert_eq!(tokens.computed + tokens.cached, all);
            computed += tokens.computed;
        }
        assert_eq!(computed, all, "{operation:?}");
        assert_eq!(fixture.sequences(), 30 + usize::from(ask.query_tokens() > 0), "{operation:?}");
        fixture.drained().await;
    }
}

/// How an owner ends before its units are computed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ending {
    Cancelled,
    Expired,
}

#[tokio::test]
async fn the_most_urgent_follower_takes_over_at_once() {
    for (operation, ending) in
        OPERATIONS.into_iter().flat_map(|operation| [(operation, Ending::Cancelled), (operation, Ending::Expired)])
    {
        let fixture = Fixture::start(true);
        let blocker = blocker(&fixture).await;
        let owners = Ask {
            timeout: if ending == Ending::Expired { Duration::from_millis(40) } else { TIMEOUT / 2 },
            ..Ask::new(operation, 1, 2..12)
        };
        let owner = fixture.ask(&owners).await;
        let bulk = Ask { priority: Priority::Bulk, timeout: TIMEOUT / 2, ..owners.clone() };
        let standard = Ask { timeout: TIMEOUT, ..owners.clone() };
        let asks = [&bulk, &standard, &bulk];
        let mut followers = Vec::new();
        for ask in asks {
            followers.push(fixture.ask(ask).await);
        }
        match ending {
            Ending::Cancelled => drop(owner),
            Ending::Expired => assert_eq!(finish(&owners, owner).await.map(|_| ()), Err(EngineError::Expired)),
        }
        // The engine hears of the successor before anything else is computed.
        while followers.iter().all(|follower| follower.tokens().computed == 0) {
            tokio::task::yield_now().await;
        }
        fixture.open(100);
        let answers = join_all(asks.into_iter().zip(followers).map(|(ask, answer)| finish(ask, answer))).await;
        let all = owners.query_tokens() + 10 * owners.document_tokens();
        for (index, answer) in answers.into_iter().enumerate() {
            let (scores, tokens) = answer.expect("it is computed");
            let computed = if index == 1 { all } else { 0 };
            let expected = (bits(&expected(&owners)), Tokens { computed, cached: all - computed });
            assert_eq!((bits(&scores), tokens), expected, "{operation:?}, {ending:?}, {index}");
        }
        drop(blocker);
        fixture.drained().await;
    }
}

#[tokio::test]
async fn an_heir_that_leaves_has_an_heir() {
    let fixture = Fixture::start(true);
    let blocker = blocker(&fixture).await;
    let ask = Ask::new(Operation::EncodeDense, 1, 2..12);
    let mut answers = Vec::new();
    for _ in 0..5 {
        answers.push(fixture.ask(&ask).await);
    }
    let last = answers.pop().expect("five");
    for answer in answers {
        drop(answer);
        tokio::task::yield_now().await;
    }
    fixture.open(100);
    let (scores, _) = finish(&ask, last).await.expect("it is computed");
    assert_eq!(bits(&scores), bits(&expected(&ask)));
    drop(blocker);
    fixture.drained().await;
}

#[tokio::test]
async fn a_failed_owner_leaves_each_follower_to_itself() {
    for operation in OPERATIONS {
        let fixture = Fixture::start(true);
        let blocker = blocker(&fixture).await;
        let poisoned = Ask::new(operation, 1, [2, 3, FAILS]);
        let healthy = Ask::new(operation, 1, [3, 2, 4]);
        let owner = fixture.ask(&poisoned).await;
        let mut followers = Vec::new();
        for ask in [&healthy, &poisoned, &healthy] {
            followers.push((ask, fixture.ask(ask).await));
        }
        fixture.open(1000);
        assert_eq!(finish(&poisoned, owner).await.map(|_| ()), Err(EngineError::Failed));
        for (ask, answer) in followers {
            match finish(ask, answer).await {
                Ok((scores, _)) => assert_eq!(bits(&scores), bits(&expected(&healthy)), "{operation:?}"),
                Err(error) => {
                    assert_eq!(error, EngineError::Failed);
                    assert!(ask.documents.contains(&FAILS), "{operation:?}: a neighbour failed");
                }
            }
        }
        drop(blocker);
        fixture.drained().await;
    }
}

/// A second request whose documents another one is computing: it follows, unless it would wait longer so.
#[tokio::test]
async fn nobody_waits_longer_than_for_its_own_computation() {
    let owner = Ask { timeout: TIMEOUT / 2, ..Ask::new(Operation::CrossEncode, 1, 100..140) };
    let of = |documents: std::ops::Range<u32>, priority, timeout| {
        (owner.clone(), Ask { documents: documents.collect(), priority, timeout, ..owner.clone() })
    };
    let half = TIMEOUT / 2;
    let by = |priority, (owner, follower): (Ask, Ask)| (Ask { priority, ..owner }, follower);
    let cases = [
        (of(100..110, Priority::Standard, half), true, "as many ahead there as here"),
        (of(105..110, Priority::Standard, half), true, "a few more ahead there"),
        (of(130..140, Priority::Standard, half), false, "many more ahead there"),
        (of(130..140, Priority::Bulk, half), true, "all of a more urgent class goes first"),
        (of(100..110, Priority::Interactive, half), false, "a less urgent class goes last"),
        (of(100..110, Priority::Standard, TIMEOUT), true, "that deadline is earlier"),
        (of(100..110, Priority::Standard, TIMEOUT / 4), false, "that deadline is later"),
        (by(Priority::Bulk, of(100..110, Priority::Standard, TIMEOUT)), false, "bulk goes last"),
        (by(Priority::Interactive, of(139..140, Priority::Standard, half)), true, "interactive goes first"),
    ];
    for ((owner, follower), follows, why) in cases {
        let fixture = Fixture::start(true);
        let first = fixture.ask(&owner).await;
        let second = fixture.ask(&follower).await;
        // A third follows whoever owns the flight now.
        let third = fixture.ask(&follower).await;
        fixture.open(1000);
        let (first, second, third) =
            tokio::join!(finish(&owner, first), finish(&follower, second), finish(&follower, third));
        for (ask, answer) in [(&owner, first), (&follower, third)] {
            assert_eq!(bits(&answer.expect("it is computed").0), bits(&expected(ask)), "{why}");
        }
        let (scores, tokens) = second.expect("it is computed");
        let computed = if follows { 0 } else { 4 * follower.documents.len() as u64 };
        assert_eq!((bits(&scores), tokens.computed), (bits(&expected(&follower)), computed), "{why}");
        let owned = owner.documents.len() + if follows { 0 } else { follower.documents.len() };
        assert_eq!(fixture.sequences(), owned, "{why}");
        fixture.drained().await;
    }
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_up_nobody() {
    let fixture = Fixture::start(true);
    let ask = Ask::new(Operation::LateInteraction, 1, 2..32);
    let unread = fixture.ask(&ask).await;
    let follower = fixture.ask(&ask).await;
    fixture.open(100);
    let (scores, tokens) = finish(&ask, follower).await.expect("it is computed");
    assert_eq!((bits(&scores), tokens.computed), (bits(&expected(&ask)), 0));
    assert_eq!(bits(&finish(&ask, unread).await.expect("it was kept for it").0), bits(&expected(&ask)));
    fixture.drained().await;
}

/// A follower has no work of its own in the engine, which could expire.
#[tokio::test]
async fn a_followers_own_deadline_ends_it() {
    let fixture = Fixture::start(true);
    let blocker = blocker(&fixture).await;
    let ask = Ask { priority: Priority::Interactive, ..Ask::new(Operation::EncodeDense, 1, 2..6) };
    let owner = fixture.ask(&ask).await;
    let late = Ask { priority: Priority::Bulk, timeout: Duration::from_millis(30), ..ask.clone() };
    assert_eq!(finish(&late, fixture.ask(&late).await).await.map(|_| ()), Err(EngineError::Expired));
    fixture.open(100);
    assert_eq!(bits(&finish(&ask, owner).await.expect("it is computed").0), bits(&expected(&ask)));
    drop(blocker);
    fixture.drained().await;
}

/// Requests over few documents, of every class, some of which leave, some of which fail: whoever stays has the right
/// scores, or the failure that is its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storms_pass() {
    for seed in 0..12 {
        let fixture = Fixture::start(false);
        let mut rng = StdRng::seed_from_u64(seed);
        let mut running = Vec::new();
        for _ in 0..150 {
            let operation = *OPERATIONS.choose(&mut rng).expect("three");
            let poisoned = rng.random_bool(0.05);
            let count = rng.random_range(1..25);
            let documents = (0..count).map(|_| rng.random_range(10..50)).chain(poisoned.then_some(FAILS));
            let documents: Vec<u32> = documents.collect();
            let ask = Ask {
                priority: *[Priority::Interactive, Priority::Standard, Priority::Bulk].choose(&mut rng).expect("three"),
                timeout: TIMEOUT - Duration::from_millis(rng.random_range(0..5000)),
                ..Ask::new(operation, rng.random_range(1..3), documents)
            };
            let answer = fixture.ask(&ask).await;
            let leaves = rng.random_bool(0.3);
            let patience = rng.random_range(0..4);
            running.push(tokio::spawn(async move {
                if leaves {
                    for _ in 0..patience {
                        tokio::task::yield_now().await;
                    }
                    return drop(answer);
                }
                match finish(&ask, answer).await {
                    Ok((scores, _)) => assert_eq!(bits(&scores), bits(&expected(&ask)), "{ask:?}"),
                    Err(error) => assert!(poisoned && error == EngineError::Failed, "{error:?}: {ask:?}"),
                }
            }));
            if rng.random_bool(0.2) {
                tokio::task::yield_now().await;
            }
        }
        for (index, request) in running.into_iter().enumerate() {
            request.await.unwrap_or_else(|error| unreachable!("seed {seed}, request {index}: {error}"));
        }
        fixture.drained().await;
    }
}
