//! What is kept, and what it is worth.

use sluice_core::Operation;

use super::fixture::{Ask, FAILS, Fixture, NO_NUMBER, OPERATIONS, bits, expected, finish};
use crate::{
    cached::{Tokens, scores::ENTRY_BYTES},
    engine::EngineError,
    job::CachePolicy,
};

#[tokio::test]
async fn a_hit_is_the_same_bits_in_any_company() {
    for operation in OPERATIONS {
        let fixture = Fixture::start(false);
        let first = Ask::new(operation, 11, 20..50);
        let other_query = Ask { query: 12, ..first.clone() };
        // Some known, some not, in another order; then all known.
        let overlapping = Ask { documents: (10..60).rev().step_by(3).collect(), ..first.clone() };
        let again = Ask { documents: (10..60).rev().step_by(3).chain(20..50).collect(), ..first.clone() };
        let new = overlapping.documents.iter().filter(|id| !(20..50).contains(*id)).count() as u64;
        for (ask, computed) in [(first, 30), (other_query, 30), (overlapping, new), (again, 0)] {
            let (scores, tokens) = fixture.scores(&ask).await;
            assert_eq!(bits(&scores), bits(&expected(&ask)), "{ask:?}");
            let query = if computed > 0 { ask.query_tokens() } else { 0 };
            let all = ask.query_tokens() + ask.documents.len() as u64 * ask.document_tokens();
            let computed = query + computed * ask.document_tokens();
            assert_eq!(tokens, Tokens { computed, cached: all - computed }, "{ask:?}");
        }
        fixture.drained().await;
    }
}

#[tokio::test]
async fn bypass_computes_everything_and_keeps_nothing() {
    for operation in OPERATIONS {
        let fixture = Fixture::start(false);
        let ask = Ask::new(operation, 1, 2..12);
        let bypass = Ask { policy: CachePolicy::Bypass, ..ask.clone() };
        let all = ask.query_tokens() + 10 * ask.document_tokens();
        let cases = [(&bypass, all, 0), (&bypass, all, 0), (&ask, all, 0), (&bypass, all, 0), (&ask, 0, all)];
        for (ask, computed, cached) in cases {
            let (scores, tokens) = fixture.scores(ask).await;
            assert_eq!((bits(&scores), tokens), (bits(&expected(ask)), Tokens { computed, cached }), "{ask:?}");
        }
        fixture.drained().await;
    }
}

#[tokio::test]
async fn without_room_nothing_is_kept() {
    let fixture = Fixture::with_bytes(false, 0);
    let ask = Ask::new(Operation::LateInteraction, 1, [2, 2, 3]);
    for _ in 0..2 {
        let (scores, tokens) = fixture.scores(&ask).await;
        assert_eq!((bits(&scores), tokens), (bits(&expected(&ask)), Tokens { computed: 11, cached: 0 }));
    }
    fixture.drained().await;
}

#[tokio::test]
async fn comparisons_are_computed_and_so_is_their_query() {
    let fixture = Fixture::start(false);
    let texts = Ask::new(Operation::LateInteraction, 1, 2..6);
    let mixed = Ask { documents: vec![3, 9, 4], compared: vec![8, 1, 6], ..texts.clone() };
    let known = Ask { documents: vec![5, 2], compared: vec![7], ..texts.clone() };
    let compared = Ask { documents: Vec::new(), compared: vec![3, 4], ..texts.clone() };
    for (ask, computed) in [(texts, 2 + 4 * 3), (mixed, 2 + 3), (known, 2), (compared, 2)] {
        let (scores, tokens) = fixture.scores(&ask).await;
        assert_eq!((bits(&scores), tokens.computed), (bits(&expected(&ask)), computed), "{ask:?}");
    }
    fixture.drained().await;
}

#[tokio::test]
async fn the_same_document_twice_is_computed_once() {
    for operation in OPERATIONS {
        let fixture = Fixture::start(false);
        let ask = Ask::new(operation, 1, [7, 8, 7, 7, 9, 8]);
        let (scores, tokens) = fixture.scores(&ask).await;
        assert_eq!(bits(&scores), bits(&expected(&ask)), "{operation:?}");
        assert_eq!(tokens.computed, ask.query_tokens() + 3 * ask.document_tokens());
        fixture.drained().await;
    }
}

#[tokio::test]
async fn neither_failures_nor_what_is_no_number_are_kept() {
    for operation in OPERATIONS {
        let fixture = Fixture::start(false);
        for turn in 1..=2 {
            let fails = Ask::new(operation, 1, [3, FAILS]);
            let failed = finish(&fails, fixture.ask(&fails).await).await;
            assert_eq!(failed.map(|(scores, _)| scores), Err(EngineError::Failed), "{operation:?}, turn {turn}");
            let before = fixture.sequences();
            let (scores, _) = fixture.scores(&Ask::new(operation, 1, [NO_NUMBER])).await;
            assert!(scores[0].is_nan(), "{scores:?}");
            assert!(fixture.sequences() > before, "{operation:?}: computed in turn {turn}");
        }
        fixture.drained().await;
    }
}

#[tokio::test]
async fn nothing_is_charged_for_what_is_known() {
    let fixture = Fixture::start(true);
    let ask = Ask::new(Operation::LateInteraction, 1, 2..7);
    fixture.open(100);
    fixture.scores(&ask).await;
    fixture.drained().await;
    let known = fixture.ask(&ask).await;
    let held = fixture.permits.held();
    assert_eq!((held.documents, held.tokens), (5, 0));
    drop(known);
    fixture.drained().await;
}

#[tokio::test]
async fn the_bound_in_bytes_holds_under_load() {
    const BYTES_MAX: u64 = 64 << 10;
    let fixture = Fixture::with_bytes(false, BYTES_MAX);
    let kept = || fixture.cached.cache.as_ref().map_or(0, |cache| cache.flights.bytes());
    for turn in 0..8 {
        let asks: Vec<Ask> =
            (0..4).map(|query| Ask::new(Operation::CrossEncode, query + 1, turn * 100..turn * 100 + 300)).collect();
        let answers = futures_util::future::join_all(asks.iter().map(|ask| fixture.scores(ask))).await;
        for (ask, (scores, _)) in asks.iter().zip(answers) {
            assert_eq!(bits(&scores), bits(&expected(ask)), "{turn}");
        }
        assert!(kept() <= BYTES_MAX, "{}", kept());
    }
    assert!(kept() > BYTES_MAX / 2 && kept().is_multiple_of(ENTRY_BYTES), "{}", kept());
    fixture.drained().await;
}
