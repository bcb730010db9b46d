//! Who computes which score right now, so that nobody computes it beside them.
//!
//! A flight is a key under computation: one request owns it, and others follow. A request that finds a flight follows
//! it only if it then has the score no later than by computing it ([`Flight::is_worth_waiting_for`]); if not, it
//! computes the score itself and owns the flight from then on, since its score will be there first.
//!
//! | what happens | what becomes of the flight |
//! |---|---|
//! | anybody's score for the key arrives | it is kept, every follower has it, the flight is over |
//! | the owner leaves: cancelled, expired, device lost, refused | the most urgent follower owns it, at once |
//! | the owner's computation failed | the key may be why: every follower computes it by itself, with no flight |
//! | a follower leaves | nothing |
//!
//! Invariants, at every release of the lock: a flight's owner is computing it, or has been told to; no request is in a
//! flight after its [`Claims`] are dropped; there are no more seats than units inside the engine's admission.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sluice_core::Time;

use super::{
    key::{BuildKeyHasher, Key},
    scores::Scores,
    waiting::Waiting,
};
use crate::{
    engine::{EngineError, SlotValue},
    metrics::ScoreCacheMetrics,
};

/// Units that may be ahead of another request's unit beyond those that would be ahead of one's own: about a batch on a
/// CPU.
const AHEAD_UNITS_MAX: u32 = 8;
/// A flight's deadline may be later than one's own by that part of one's own time.
const LATER_PART: u32 = 8;
/// Keys looked at under one hold of the lock: some 100 µs.
pub(super) const KEYS_AT_ONCE: usize = 512;

/// Scores that are kept, and those under way.
pub(super) struct Flights {
    scores: Scores,
    open: Mutex<HashMap<Key, Flight, BuildKeyHasher>>,
    metrics: ScoreCacheMetrics,
}

struct Flight {
    owner: Seat,
    /// Among the units that the owner computes.
    place: u32,
    followers: Vec<Seat>,
}

/// A unit of a request.
#[derive(Clone)]
struct Seat {
    waiting: Arc<Waiting>,
    unit: u32,
}

/// How a request gets a score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Claim {
    /// It is there.
    Known(f32),
    /// By computing it.
    Compute,
    /// From whoever computes it.
    Follow,
}

impl Flights {
    pub(super) fn new(bytes_max: u64, metrics: ScoreCacheMetrics) -> Self {
        let scores = Scores::new(bytes_max, metrics.evictions.clone());
        Self { scores, open: Mutex::default(), metrics }
    }

    /// A score that is kept.
    pub(super) fn known(&self, key: &Key) -> Option<f32> {
        self.scores.get(key)
    }

    /// Counts scores that were there when they were asked for.
    pub(super) fn count_hits(&self, hits: usize) {
        self.metrics.hits.increment(hits as u64);
    }

    /// What to do about each of some keys that were not known. `before` are the units of the request ahead of them that
    /// were not known either. Enter the keys into [`Claims`] first.
    pub(super) fn claim(&self, me: &Arc<Waiting>, keys: &[(u32, Key)], before: u32, now: Time) -> Vec<Claim> {
        let mut claims = Vec::with_capacity(keys.len());
        let mut open = self.lock();
        for (place, &(unit, key)) in (before..).zip(keys) {
            let seat = || Seat { waiting: Arc::clone(me), unit };
            claims.push(match open.entry(key) {
                // A score is kept before its flight is over: without a flight, it may have come since it was looked up.
                Entry::Vacant(entry) => match self.scores.get(&key) {
                    Some(score) => Claim::Known(score),
                    None => {
                        entry.insert(Flight { owner: seat(), place: me.undertake(), followers: Vec::new() });
                        Claim::Compute
                    }
                },
                Entry::Occupied(mut entry) => {
                    let flight = entry.get_mut();
                    if flight.is_worth_waiting_for(me, place, now) {
                        flight.followers.push(seat());
                        Claim::Follow
                    } else {
                        (flight.owner, flight.place) = (seat(), me.undertake());
                        Claim::Compute
                    }
                }
            });
        }
        drop(open);
        let count = |which: fn(&Claim) -> bool| claims.iter().filter(|claim| which(claim)).count() as u64;
        self.metrics.hits.increment(count(|claim| matches!(claim, Claim::Known(_))));
        self.metrics.misses.increment(count(|claim| matches!(claim, Claim::Compute)));
        self.metrics.joins.increment(count(|claim| matches!(claim, Claim::Follow)));
        claims
    }

    /// Keeps scores, and gives them to whoever follows.
    pub(super) fn publish(&self, scores: &[(Key, f32)]) {
        let mut fills: Vec<(Seat, f32)> = Vec::new();
        for scores in scores.chunks(KEYS_AT_ONCE) {
            for &(key, score) in scores {
                self.scores.insert(key, score);
            }
            let mut open = self.lock();
            for (key, score) in scores {
                let followers = open.remove(key).map(|flight| flight.followers).unwrap_or_default();
                fills.extend(followers.into_iter().map(|seat| (seat, *score)));
            }
        }
        self.metrics.bytes.set(self.scores.bytes() as f64);
        fills.sort_unstable_by_key(|(seat, _)| (seat.waiting.id, seat.unit));
        for same in fills.chunk_by(|(a, _), (b, _)| a.waiting.id == b.waiting.id) {
            same[0].0.waiting.fill(same.iter().map(|(seat, score)| (seat.unit, SlotValue::Score(*score))));
        }
    }

    /// Takes a request out of its flights. Where it is the owner, another is; with `suspect` keys, nobody is, and each
    /// follower is on its own.
    fn leave(&self, me: &Waiting, keys: &[(u32, Key)], suspect: bool) {
        let mut heirs = Vec::new();
        for keys in keys.chunks(KEYS_AT_ONCE) {
            let mut open = self.lock();
            for (_, key) in keys {
                let Entry::Occupied(mut entry) = open.entry(*key) else { continue };
                let flight = entry.get_mut();
                flight.followers.retain(|seat| seat.waiting.id != me.id);
                if flight.owner.waiting.id != me.id {
                    continue;
                }
                if suspect || flight.followers.is_empty() {
                    heirs.extend(entry.remove().followers);
                } else {
                    heirs.push(flight.succeed());
                }
            }
        }
        // Outside the lock. One that leaves meanwhile is the owner already, and hands on what it does not hear of.
        for seat in heirs {
            seat.waiting.inherit(seat.unit);
        }
    }

    /// Keys under way.
    #[cfg(test)]
    pub(super) fn open(&self) -> usize {
        self.lock().len()
    }

    /// What is kept, in bytes.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        self.scores.bytes()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Flight, BuildKeyHasher>> {
        // No code panics with the lock held but for want of memory, and each flight is changed in one step.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flight {
    /// Whether a request, whose own unit would stand at `place` among those that it computes, has the score no later by
    /// following.
    ///
    /// A more urgent class goes first, whatever its request. Within a class requests take turns unit by unit, so the one
    /// with fewer units ahead is sooner, and of equals the one whose deadline is earlier.
    fn is_worth_waiting_for(&self, me: &Waiting, place: u32, now: Time) -> bool {
        let (owner, own) = (self.owner.waiting.rank, me.rank);
        // Another tenant's turn may come late, whatever its class.
        if owner.tenant != own.tenant {
            return false;
        }
        if owner.class() != own.class() {
            return owner.class() < own.class();
        }
        let latest = own.deadline + own.deadline.since(now) / LATER_PART;
        owner.deadline <= latest && self.owner.waiting.ahead_of(self.place) <= place.saturating_add(AHEAD_UNITS_MAX)
    }

    /// Makes the most urgent follower the owner.
    fn succeed(&mut self) -> Seat {
        let urgency = |(_, seat): &(usize, &Seat)| seat.waiting.rank.order();
        let heir = self.followers.iter().enumerate().min_by_key(urgency).map_or(0, |(index, _)| index);
        self.owner = self.followers.remove(heir);
        self.place = self.owner.waiting.undertake();
        self.owner.clone()
    }
}

/// The keys that a request waits for, its own or others'. Dropped, it leaves their flights: however its task ends, no
/// follower is forgotten.
pub(super) struct Claims {
    pub(super) flights: Arc<Flights>,
    pub(super) waiting: Arc<Waiting>,
    /// With their units; entered before they are claimed.
    pub(super) keys: Vec<(u32, Key)>,
}

impl Claims {
    /// Leaves some flights: what came of those keys is not a score.
    pub(super) fn give_up(&self, keys: &[(u32, Key)]) {
        self.flights.leave(&self.waiting, keys, true);
    }
}

impl Drop for Claims {
    fn drop(&mut self) {
        // A request with all its values has no seat left: a flight that gives one is over.
        if self.waiting.is_complete() {
            return;
        }
        let suspect = self.waiting.failure() == Some(EngineError::Failed);
        // Unless it has been told why already: whoever still reads it hears that nothing more will come.
        self.waiting.fail(EngineError::Failed);
        self.flights.leave(&self.waiting, &self.keys, suspect);
    }
}
