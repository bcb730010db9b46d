//! Carries a request's results from the engine to everybody who waits for them.

use std::sync::Arc;

use futures_util::{StreamExt, stream::FuturesUnordered};
use sluice_core::{
    Lane, Time,
    batch::{Role, Sequence},
};

use super::{Units, flights::Claims, key::Key, results::Results, tokens, waiting::Waiting};
use crate::engine::{self, Clock, Engine, EngineError, Progress, SlotValue, Submission, permit::Permit};

/// The task of one request. However it ends, its [`Claims`] are dropped with it.
pub(super) struct Carrier {
    engine: Engine,
    lane: Lane,
    claims: Claims,
    waiting: Arc<Waiting>,
    /// By unit, where it has one.
    keys: Vec<Option<Key>>,
    query: Option<Sequence>,
    /// By unit: those that may still have to be computed here.
    sequences: Vec<Option<Sequence>>,
    /// Units to compute at once.
    computed: Vec<u32>,
    results: Results,
}

/// A submission under way.
struct Batch {
    answer: engine::Answer,
    /// The unit of each of its sequences.
    units: Vec<u32>,
    /// Its number among the request's.
    number: usize,
}

enum Event {
    Progress(Batch, Result<Progress, EngineError>),
    /// Units that were followed are this request's own now.
    Inherited(Vec<u32>),
    Expired,
}

impl Carrier {
    pub(super) fn new(engine: Engine, lane: Lane, claims: Claims, units: Units) -> Self {
        let Units { query, sequences, mut computed, .. } = units;
        computed.sort_unstable();
        let mut keys = vec![None; sequences.len()];
        for (unit, key) in &claims.keys {
            keys[*unit as usize] = Some(*key);
        }
        Self {
            engine,
            lane,
            waiting: Arc::clone(&claims.waiting),
            claims,
            keys,
            results: Results::new(lane.operation, query.is_some()),
            query,
            sequences,
            computed,
        }
    }

    /// Computes what is to be computed at once, and what is inherited, with the room of `permit`.
    pub(super) async fn run(mut self, permit: Permit) {
        if let Err(error) = self.carry(permit).await {
            self.waiting.fail(error);
        }
    }

    async fn carry(&mut self, permit: Permit) -> Result<(), EngineError> {
        let clock = self.engine.clock().clone();
        let deadline = self.waiting.rank.deadline;
        let mut batches = FuturesUnordered::new();
        let computed = std::mem::take(&mut self.computed);
        if computed.is_empty() {
            // What it waits for is in the scheduler on another's account.
            permit.queued();
        } else {
            batches.push(self.submit(computed, permit.clone()).await?.step());
        }
        while !self.waiting.is_complete() {
            let event = tokio::select! {
                Some((batch, progress)) = batches.next(), if !batches.is_empty() => Event::Progress(batch, progress),
                units = self.waiting.inheritance() => Event::Inherited(units),
                () = sleep_until(&clock, deadline) => Event::Expired,
            };
            match event {
                Event::Progress(batch, progress) => {
                    self.waiting.timed(batch.number, batch.answer.times());
                    if let Progress::Ready(values) = progress? {
                        self.settle(&batch, values);
                        batches.push(batch.step());
                    }
                }
                Event::Inherited(units) => {
                    batches.push(self.submit(units, permit.clone()).await?.step());
                }
                Event::Expired => return Err(EngineError::Expired),
            }
        }
        Ok(())
    }

    /// Hands units to the engine, behind the query, unless that is known by now.
    async fn submit(&mut self, units: Vec<u32>, permit: Permit) -> Result<Batch, EngineError> {
        let query = self.query.iter().filter(|query| match &query.role {
            Role::Query(vectors) => vectors.get().is_none(),
            Role::Plain | Role::Document(_) | Role::Compared(_) => !self.results.has_query(),
        });
        let mut sequences: Vec<Sequence> = query.cloned().collect();
        // The query is unit 0.
        let mut submitted = vec![0; sequences.len()];
        for unit in units {
            if let Some(sequence) = self.sequences[unit as usize].take() {
                sequences.push(sequence);
                submitted.push(unit);
            }
        }
        let number = self.waiting.submitted(sequences.iter().map(tokens).sum());
        let submission = Submission { lane: self.lane, sequences, permit };
        Ok(Batch { answer: self.engine.submit(submission).await?, units: submitted, number })
    }

    /// Gives values to whom they belong: scores to everybody who waits for the key and to the cache, all to the request.
    fn settle(&mut self, batch: &Batch, values: Vec<(u32, SlotValue)>) {
        let values = values.into_iter().map(|(index, value)| (batch.units[index as usize], value));
        let values = self.results.scores(values);
        let (mut scores, mut given_up) = (Vec::new(), Vec::new());
        for (unit, value) in &values {
            match (self.keys[*unit as usize], value) {
                (Some(key), SlotValue::Score(score)) => scores.push((key, *score)),
                (Some(key), _) => given_up.push((*unit, key)),
                (None, _) => {}
            }
        }
        self.waiting.settle(u32::try_from(scores.len()).unwrap_or(u32::MAX));
        self.claims.flights.publish(&scores);
        if !given_up.is_empty() {
            self.claims.give_up(&given_up);
        }
        self.waiting.fill(values);
    }
}

impl Batch {
    async fn step(mut self) -> (Self, Result<Progress, EngineError>) {
        let progress = self.answer.next().await;
        (self, progress)
    }
}

async fn sleep_until(clock: &Clock, deadline: Time) {
    match clock.instant(deadline) {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
