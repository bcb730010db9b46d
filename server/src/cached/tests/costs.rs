//! What the cache costs and saves, in nanoseconds: printed, not judged, since a busy machine says nothing.
//!
//! `cargo test --workspace --lib --config 'profile.dev.package.sluice-server.opt-level=3' -- --ignored --nocapture
//! what_a_document_costs`: the least of 40 runs of 1,000 documents of 180 tokens each, with a query of 12.

use std::{sync::Arc, time::Instant};

use sluice_core::{
    Operation, Priority, TenantId, Worth,
    batch::{QueryVectors, Role, Sequence},
};
use sluice_tokenstore::ModelDigest;

use super::fixture::{Ask, Fixture};
use crate::{
    cached::{
        flights::{Claims, Flights},
        key::{Key, Keys, Profile},
        waiting::{Rank, Waiting},
    },
    engine::permit::Terms,
    job::CachePolicy,
    metrics::ScoreCacheMetrics,
};

const DOCUMENTS: u32 = 1000;
const TOKENS: u32 = 180;
const RUNS: u32 = 40;

/// Documents that no other run has.
fn sequences(run: u32) -> Vec<Sequence> {
    let vectors: Arc<QueryVectors> = Arc::default();
    let query = Sequence::single((0..12).collect(), Role::Query(Arc::clone(&vectors)));
    let document = |index| {
        let ids = (0..TOKENS).map(|token| token * 31 + index + run * DOCUMENTS).collect();
        Sequence::single(ids, Role::Document(Arc::clone(&vectors)))
    };
    std::iter::once(query).chain((0..DOCUMENTS).map(document)).collect()
}

struct Least(f64);

impl Least {
    #[allow(clippy::disallowed_methods, reason = "it measures")]
    fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let result = work();
        self.0 = self.0.min(begin.elapsed().as_nanos() as f64 / f64::from(DOCUMENTS));
        result
    }
}

#[tokio::test]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout, clippy::disallowed_methods, reason = "it measures")]
async fn what_a_document_costs() {
    let fixture = Fixture::with_bytes(false, 64 << 20);
    let flights = Arc::new(Flights::new(64 << 20, ScoreCacheMetrics::new()));
    let profile = Profile::new(ModelDigest([0; 32]), "cpu-f32-avx512");
    let mut least: [Least; 5] = std::array::from_fn(|_| Least(f64::INFINITY));
    let [keys, miss, claim, publish, hit] = &mut least;
    for run in 0..RUNS {
        let sequences = sequences(run);
        let made: Vec<(u32, Key)> = keys.time(|| {
            let keys = Keys::new(&profile, Operation::LateInteraction, &sequences[0].input_ids);
            (1..).zip(&sequences[1..]).map(|(unit, sequence)| (unit, keys.key(sequence))).collect()
        });
        assert!(miss.time(|| made.iter().all(|(_, key)| flights.known(key).is_none())));
        let now = fixture.cached.engine.clock().now();
        let rank = Rank { priority: Priority::Standard, deadline: now, tenant: TenantId(0) };
        let waiting = Arc::new(Waiting::new(0, rank, (sequences.len(), true), 0));
        let claims = Claims { flights: Arc::clone(&flights), waiting: Arc::clone(&waiting), keys: made.clone() };
        claim.time(|| flights.claim(&waiting, &made, 0, now));
        let scores: Vec<(Key, f32)> = made.iter().map(|(unit, key)| (*key, *unit as f32)).collect();
        publish.time(|| scores.chunks(8).for_each(|scores| flights.publish(scores)));
        assert!(hit.time(|| made.iter().all(|(_, key)| flights.known(key).is_some())));
        drop(claims);
    }
    for (name, Least(nanoseconds)) in
        ["its key", "a look that misses", "its claim", "its score kept", "a look that hits"].iter().zip(&least)
    {
        println!("{nanoseconds:8.0} ns/document  {name}");
    }
    // The whole of a request whose documents are all known, from its sequences to its last score.
    let ask = Ask::new(Operation::LateInteraction, 1, 0..DOCUMENTS);
    fixture.scores(&ask).await;
    let mut answered = f64::INFINITY;
    for _ in 0..RUNS {
        let sequences = ask.sequences();
        let begin = Instant::now();
        let looked_up = fixture.cached.look_up(ask.lane(), sequences, CachePolicy::Use).await;
        let terms = Terms {
            class: Priority::Standard,
            tenant: TenantId(0),
            deadline: fixture.cached.engine.clock().now() + super::fixture::TIMEOUT,
            worth: Worth::Whole,
        };
        let permit = fixture.permits.borrowed(terms);
        let mut answer = looked_up.submit(permit).await.expect("running");
        while answer.next().await.expect("known") != crate::engine::Progress::Done {}
        answered = answered.min(begin.elapsed().as_nanos() as f64 / f64::from(DOCUMENTS));
    }
    println!("{answered:8.0} ns/document  an answer of {DOCUMENTS} known documents of 3 tokens");
}
