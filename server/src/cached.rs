//! Scores that are known already: between a request's sequences and the engine.
//!
//! [`CachedEngine::look_up`] says which scores of a request are kept, and so what is left to compute;
//! [`LookedUp::submit`] computes the rest, or follows another request that is computing the same just now, and answers
//! as the engine would. What a hit saves is time: a score comes out as the bits that computing would give (for our own
//! engines; within 1e-5 for candle).
//!
//! | method | unit | cached |
//! |---|---|---|
//! | cross-encoder | a pair's logit | yes |
//! | late interaction, text against text | MaxSim of the query and a chunk | yes; the query is computed only if a document needs it |
//! | dense | cosine of the query and a chunk | likewise |
//! | late interaction with vectors of the caller or the token store | MaxSim | no: comparing 180 vectors takes 6 µs, a 1,600th of encoding them, for the same room |
//!
//! One task for each request that has something to wait for carries results from the engine to whoever waits, so that a
//! slow reader holds up nobody but itself. Its request's answer owns it: dropped, the task ends, the engine forgets its
//! units, and the most urgent follower of each takes over (`flights`).

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use sluice_core::{
    Lane, Operation,
    batch::{Role, Sequence},
    cost::BatchShape,
};
use sluice_tokenstore::ModelDigest;

use crate::{
    engine::{Engine, EngineError, SlotValue, Submission, permit::Permit},
    job::CachePolicy,
    metrics::ScoreCacheMetrics,
};

mod answer;
mod carrier;
mod flights;
mod key;
mod results;
mod scores;
mod waiting;

pub use answer::Answer;
use answer::Direct;
use carrier::Carrier;
use flights::{Claim, Claims, Flights, KEYS_AT_ONCE};
use key::{Key, Keys, Profile};
use results::Results;
pub use waiting::Tokens;
use waiting::{Rank, Waiting};

/// Keys made between two looks at whether anybody else has work for this thread: some 300 µs.
const KEYS_MADE_AT_ONCE: usize = 256;

/// Scores documents, and remembers. Cheap to clone.
#[derive(Clone)]
pub struct CachedEngine {
    engine: Engine,
    /// `None` where nothing is to be kept.
    cache: Option<Arc<Cache>>,
}

struct Cache {
    flights: Arc<Flights>,
    /// By model.
    profiles: Vec<Profile>,
    next_id: AtomicU64,
}

impl CachedEngine {
    /// Keeps at most `bytes_max` bytes of scores, none for 0. `models` are the engine's, in its order: their digests,
    /// and what computes them.
    #[must_use]
    pub fn new<'a>(engine: Engine, models: impl IntoIterator<Item = (ModelDigest, &'a str)>, bytes_max: u64) -> Self {
        // They are there, at zero, where nothing is kept.
        let metrics = ScoreCacheMetrics::new();
        let cache = (bytes_max > 0).then(|| {
            let profiles = models.into_iter().map(|(digest, backend)| Profile::new(digest, backend)).collect();
            Arc::new(Cache {
                flights: Arc::new(Flights::new(bytes_max, metrics)),
                profiles,
                next_id: AtomicU64::new(0),
            })
        });
        Self { engine, cache }
    }

    /// What is known of the scores of a rerank request's sequences: the query first, where it is one, then documents
    /// or pairs, then comparisons.
    pub async fn look_up(&self, lane: Lane, sequences: Vec<Sequence>, policy: CachePolicy) -> LookedUp {
        let cache = self.cache.clone().filter(|_| policy == CachePolicy::Use);
        let query = begins_with_query(lane, &sequences);
        let mut looked_up = LookedUp {
            engine: self.engine.clone(),
            cache,
            lane,
            sequences,
            query,
            known: Vec::new(),
            misses: Vec::new(),
        };
        looked_up.ask().await;
        looked_up
    }
}

/// Whether the first sequence is the query rather than something that is scored.
fn begins_with_query(lane: Lane, sequences: &[Sequence]) -> bool {
    match lane.operation {
        Operation::EncodeDense => !sequences.is_empty(),
        Operation::LateInteraction => sequences.first().is_some_and(|first| matches!(first.role, Role::Query(_))),
        Operation::CrossEncode | Operation::EncodeTokens | Operation::MaxSim | Operation::Align => false,
    }
}

/// A request of which it is known what is left to compute.
pub struct LookedUp {
    engine: Engine,
    /// `None` if nothing is to be looked up or kept.
    cache: Option<Arc<Cache>>,
    lane: Lane,
    sequences: Vec<Sequence>,
    /// The first sequence is the query.
    query: bool,
    /// Units whose scores are there.
    known: Vec<(u32, f32)>,
    /// Units whose scores are not, and could be.
    misses: Vec<(u32, Key)>,
}

impl LookedUp {
    async fn ask(&mut self) {
        let Some(cache) = &self.cache else { return };
        let query: &[u32] = if self.query { &self.sequences[0].input_ids } else { &[] };
        let keys = Keys::new(&cache.profiles[self.lane.model.0 as usize], self.lane.operation, query);
        let units = (0_u32..).zip(&self.sequences).skip(usize::from(self.query));
        for (made, (unit, sequence)) in units.enumerate() {
            if made % KEYS_MADE_AT_ONCE == KEYS_MADE_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
            if !is_cached(self.lane, sequence, self.query) {
                continue;
            }
            let key = keys.key(sequence);
            match cache.flights.known(&key) {
                Some(score) => self.known.push((unit, score)),
                None => self.misses.push((unit, key)),
            }
        }
        cache.flights.count_hits(self.known.len());
        if self.known.is_empty() && self.misses.is_empty() {
            self.cache = None;
        }
    }

    /// Tokens that are left: what goes through the model, unless another request is computing the same. Those that are
    /// waited for count, because their sequences are kept until the score is there.
    #[must_use]
    pub fn tokens_left(&self) -> u64 {
        let known: u64 = self.known.iter().map(|(unit, _)| tokens(&self.sequences[*unit as usize])).sum();
        if self.left() == 0 { 0 } else { self.sequences.iter().map(tokens).sum::<u64>() - known }
    }

    /// The work that is left, by lane, on the same terms.
    #[must_use]
    pub fn work_left(&self) -> Vec<(Lane, BatchShape)> {
        if self.left() == 0 {
            return Vec::new();
        }
        // Both ascend.
        let mut known = self.known.iter().map(|(unit, _)| *unit).peekable();
        let left = (0_u32..).zip(&self.sequences).filter(|(unit, _)| known.next_if_eq(unit).is_none());
        Submission::work(self.lane, left.map(|(_, sequence)| sequence))
    }

    /// Units that are left, the query not counted.
    fn left(&self) -> usize {
        self.sequences.len() - usize::from(self.query) - self.known.len()
    }

    /// Has the rest computed. Dropping the answer cancels what is not computed by then.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] once the engine has ended.
    pub async fn submit(self, permit: Permit) -> Result<Answer, EngineError> {
        match self.cache.clone() {
            Some(cache) => Ok(self.share(&cache, permit).await),
            None => self.compute(permit).await,
        }
    }

    /// All of it, for this request alone.
    async fn compute(self, permit: Permit) -> Result<Answer, EngineError> {
        let Self { engine, lane, sequences, query, .. } = self;
        let computed = sequences.iter().map(tokens).sum();
        let results = Results::new(lane.operation, query);
        let answer = engine.submit(Submission { lane, sequences, permit }).await?;
        Ok(Answer::direct(Direct { answer, results, tokens: Tokens { computed, cached: 0 } }))
    }

    /// What nobody else computes.
    async fn share(self, cache: &Cache, permit: Permit) -> Answer {
        let Self { engine, lane, sequences, query, known, misses, .. } = self;
        let all = sequences.iter().map(tokens).sum();
        let id = cache.next_id.fetch_add(1, Ordering::Relaxed);
        let rank = Rank::from(permit.terms());
        let waiting = Arc::new(Waiting::new(id, rank, (sequences.len(), query), all));
        let mut claims = Claims {
            flights: Arc::clone(&cache.flights),
            waiting: Arc::clone(&waiting),
            keys: Vec::with_capacity(misses.len()),
        };
        let score = |(unit, score): (u32, f32)| (unit, SlotValue::Score(score));
        waiting.fill(known.iter().copied().map(score));
        let mut units = Units::new(sequences, query, &known, &misses);
        for keys in misses.chunks(KEYS_AT_ONCE) {
            if !claims.keys.is_empty() {
                tokio::task::yield_now().await;
            }
            let before = u32::try_from(claims.keys.len()).unwrap_or(u32::MAX);
            claims.keys.extend_from_slice(keys);
            for (&(unit, _), claim) in
                keys.iter().zip(cache.flights.claim(&waiting, keys, before, engine.clock().now()))
            {
                match claim {
                    Claim::Known(known) => {
                        units.forget(unit);
                        waiting.fill([score((unit, known))]);
                    }
                    Claim::Compute => units.compute(unit),
                    Claim::Follow => units.follows = true,
                }
            }
        }
        if units.computed.is_empty() && !units.follows {
            return Answer::shared(waiting, None, Some(permit));
        }
        let carrier = Carrier::new(engine, lane, claims, units);
        Answer::shared(waiting, Some(tokio::spawn(carrier.run(permit))), None)
    }
}

/// A request's sequences, as far as they may still have to be computed.
struct Units {
    query: Option<Sequence>,
    /// By unit.
    sequences: Vec<Option<Sequence>>,
    /// Units to compute now, the query not among them.
    computed: Vec<u32>,
    /// Some are waited for.
    follows: bool,
}

impl Units {
    /// Without those of known scores; what is neither known nor missed is not cached, and computed.
    fn new(sequences: Vec<Sequence>, query: bool, known: &[(u32, f32)], misses: &[(u32, Key)]) -> Self {
        let mut sequences: Vec<_> = sequences.into_iter().map(Some).collect();
        let query = if query { sequences.first_mut().and_then(Option::take) } else { None };
        for (unit, _) in known {
            sequences[*unit as usize] = None;
        }
        let mut computed: Vec<u32> =
            (0..).zip(&sequences).filter(|(_, sequence)| sequence.is_some()).map(|(unit, _)| unit).collect();
        // Both ascend.
        let mut misses = misses.iter().map(|(unit, _)| *unit).peekable();
        computed.retain(|unit| misses.next_if_eq(unit).is_none());
        Self { query, sequences, computed, follows: false }
    }

    fn forget(&mut self, unit: u32) {
        self.sequences[unit as usize] = None;
    }

    fn compute(&mut self, unit: u32) {
        self.computed.push(unit);
    }
}

fn tokens(sequence: &Sequence) -> u64 {
    sequence.input_ids.len() as u64
}

/// Whether a unit's score follows from the tokens of the request alone.
fn is_cached(lane: Lane, sequence: &Sequence, query: bool) -> bool {
    match (lane.operation, &sequence.role) {
        (Operation::CrossEncode, Role::Plain) => true,
        (Operation::EncodeDense, Role::Plain) | (Operation::LateInteraction, Role::Document(_)) => query,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
