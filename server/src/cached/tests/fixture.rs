//! A backend whose scores follow from the tokens, and what tests ask of it.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sluice_core::{
    Lane, ModelIndex, Operation, Priority, TenantId, Worth,
    admission::{AdmissionConfig, Work},
    backend::{Backend, BackendError, BackendLimits, BatchOutput, Ticket},
    batch::{Comparison, Components, PackedBatch, QueryVectors, Role, Sequence, TokenMatrix, TokenVectors},
    cost::CostModel,
    scheduler::Policy,
};
use sluice_tokenstore::ModelDigest;

use crate::{
    cached::{Answer, CachedEngine, Tokens},
    engine::{
        Backends, Clock, Engine, EngineConfig, EngineError, Progress, SlotValue,
        permit::{Permits, Terms},
    },
    job::CachePolicy,
};

/// A batch with one of these fails, or has no number for a score.
pub const FAILS: u32 = 1_000_001;
pub const NO_NUMBER: u32 = 1_000_002;

pub const OPERATIONS: [Operation; 3] = [Operation::LateInteraction, Operation::EncodeDense, Operation::CrossEncode];
pub const TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Probe {
    submitted: VecDeque<Arc<PackedBatch>>,
    /// A batch waits here for a message, while there is a sender.
    gate: Option<crossbeam_channel::Receiver<()>>,
    /// Sequences that went through.
    sequences: Arc<AtomicUsize>,
}

impl Backend for Probe {
    fn limits(&self) -> BackendLimits {
        BackendLimits { batch_tokens_max: 100, batch_sequences_max: 10, in_flight_batches_max: 1 }
    }

    fn submit(&mut self, batch: Arc<PackedBatch>) -> Result<Ticket, BackendError> {
        self.submitted.push_back(batch);
        Ok(Ticket(0))
    }

    fn collect(&mut self, _: Ticket) -> Result<BatchOutput, BackendError> {
        let batch = self.submitted.pop_front().expect("it was submitted");
        if let Some(gate) = &self.gate {
            let _ = gate.recv();
        }
        if batch.input_ids().contains(&FAILS) {
            return Err(BackendError::Failed("told to".to_owned()));
        }
        self.sequences.fetch_add(batch.len(), Ordering::SeqCst);
        let texts = batch.ranges().map(|range| &batch.input_ids()[range]);
        Ok(match batch.lane().operation {
            Operation::EncodeDense => BatchOutput::DenseVectors(texts.map(dense).collect()),
            Operation::CrossEncode => BatchOutput::Scores(texts.map(logit).collect()),
            _ => BatchOutput::Scores(texts.zip(batch.roles()).map(|(ids, role)| late(ids, role)).collect()),
        })
    }
}

fn late(ids: &[u32], role: &Role) -> f32 {
    match role {
        Role::Query(vectors) => {
            vectors.fill(TokenMatrix { data: ids.iter().map(|id| *id as f32).collect(), dim: 1 });
            0.0
        }
        Role::Document(vectors) => {
            let query = vectors.get().expect("the query came first");
            if ids.contains(&NO_NUMBER) { f32::NAN } else { query.data.iter().sum::<f32>() / 7.0 + logit(ids) }
        }
        Role::Plain | Role::Compared(_) => unreachable!("{role:?}"),
    }
}

fn logit(ids: &[u32]) -> f32 {
    if ids.contains(&NO_NUMBER) { f32::NAN } else { ids.iter().map(|id| (*id as f32).sqrt()).sum() }
}

fn dense(ids: &[u32]) -> Vec<f32> {
    let angle = logit(ids);
    vec![angle.cos(), angle.sin()]
}

/// Scores each comparison with the rows of its document.
#[derive(Default)]
struct Comparer(VecDeque<Arc<PackedBatch>>);

impl Backend for Comparer {
    fn limits(&self) -> BackendLimits {
        BackendLimits { batch_tokens_max: 100, batch_sequences_max: 10, in_flight_batches_max: 1 }
    }

    fn submit(&mut self, batch: Arc<PackedBatch>) -> Result<Ticket, BackendError> {
        self.0.push_back(batch);
        Ok(Ticket(0))
    }

    fn collect(&mut self, _: Ticket) -> Result<BatchOutput, BackendError> {
        let batch = self.0.pop_front().expect("it was submitted");
        let score = |role: &Role| match role {
            Role::Compared(comparison) => {
                assert!(comparison.query.get().is_some(), "the query's batch came first");
                comparison.document.rows() as f32
            }
            role => unreachable!("{role:?}"),
        };
        Ok(BatchOutput::Scores(batch.roles().iter().map(score).collect()))
    }
}

/// Vectors that are there already.
#[derive(Debug)]
struct Rows(Vec<f32>);

impl TokenVectors for Rows {
    fn dim(&self) -> usize {
        1
    }

    fn rows(&self) -> usize {
        self.0.len()
    }

    fn components(&self) -> Components<'_> {
        Components::F32(&self.0)
    }
}

pub struct Fixture {
    pub cached: CachedEngine,
    pub permits: Permits,
    gate: crossbeam_channel::Sender<()>,
    sequences: Arc<AtomicUsize>,
}

/// A request: a query and documents by their first ids, and how it is asked.
#[derive(Clone, Debug)]
pub struct Ask {
    pub operation: Operation,
    pub query: u32,
    pub documents: Vec<u32>,
    /// Documents whose vectors are there, by their rows.
    pub compared: Vec<usize>,
    pub policy: CachePolicy,
    pub priority: Priority,
    pub timeout: Duration,
}

impl Ask {
    pub fn new(operation: Operation, query: u32, documents: impl IntoIterator<Item = u32>) -> Self {
        Self {
            operation,
            query,
            documents: documents.into_iter().collect(),
            compared: Vec::new(),
            policy: CachePolicy::Use,
            priority: Priority::Standard,
            timeout: TIMEOUT,
        }
    }

    pub fn sequences(&self) -> Vec<Sequence> {
        let vectors: Arc<QueryVectors> = Arc::default();
        let document = |id: &u32| match self.operation {
            Operation::LateInteraction => Sequence::single(vec![*id, 3, 5], Role::Document(Arc::clone(&vectors))),
            Operation::EncodeDense => Sequence::single(vec![*id, 3, 5], Role::Plain),
            _ => Sequence { input_ids: vec![self.query, 2, *id, 5], second_segment_start: 2, role: Role::Plain },
        };
        let query = match self.operation {
            Operation::LateInteraction => Some(Role::Query(Arc::clone(&vectors))),
            Operation::EncodeDense => Some(Role::Plain),
            _ => None,
        };
        let compared = |rows: &usize| {
            let (query, document) = (Arc::clone(&vectors), Arc::new(Rows(vec![1.0; *rows])));
            Sequence::compared(Comparison { query, document, cost: 1 })
        };
        let query = query.map(|role| Sequence::single(vec![self.query, 2], role));
        let documents = self.documents.iter().map(document);
        query.into_iter().chain(documents).chain(self.compared.iter().map(compared)).collect()
    }

    pub fn query_tokens(&self) -> u64 {
        if self.operation == Operation::CrossEncode { 0 } else { 2 }
    }

    pub fn document_tokens(&self) -> u64 {
        if self.operation == Operation::CrossEncode { 4 } else { 3 }
    }

    pub fn lane(&self) -> Lane {
        Lane { model: ModelIndex(0), operation: self.operation }
    }
}

impl Fixture {
    /// With `gated`, every batch waits for [`open`](Self::open).
    pub fn start(gated: bool) -> Self {
        Self::with_bytes(gated, 1 << 20)
    }

    pub fn with_bytes(gated: bool, bytes_max: u64) -> Self {
        let clock = Clock::start();
        let (gate, waits) = crossbeam_channel::bounded(100_000);
        let sequences = Arc::new(AtomicUsize::new(0));
        let probe = Probe { gate: gated.then_some(waits), sequences: Arc::clone(&sequences), ..Probe::default() };
        let config = EngineConfig {
            batch_tokens_max: None,
            queued_units_max: 100_000,
            look_ahead_requests_max: 4,
            policy: Policy::default(),
            cost: CostModel::default(),
        };
        let backends = Backends { models: vec![Box::new(probe)], vectors: Box::new(Comparer::default()) };
        let most = 1_000_000;
        let room = Work { documents: most, tokens: most, bytes: most };
        let admission = AdmissionConfig { room, tenant_room_percent: 100, ..AdmissionConfig::default() };
        let permits = Permits::new(admission, true, clock.clone());
        let engine = Engine::start(vec![backends], config, permits.clone(), clock).expect("a thread");
        let cached = CachedEngine::new(engine, [(ModelDigest([7; 32]), "probe")], bytes_max);
        Self { cached, permits, gate, sequences }
    }

    pub fn open(&self, batches: usize) {
        for _ in 0..batches {
            self.gate.send(()).expect("the probe listens");
        }
    }

    /// Sequences that were computed so far, queries included.
    pub fn sequences(&self) -> usize {
        self.sequences.load(Ordering::SeqCst)
    }

    /// Looked up, admitted and submitted: its claims are made.
    pub async fn ask(&self, ask: &Ask) -> Answer {
        let looked_up = self.cached.look_up(ask.lane(), ask.sequences(), ask.policy).await;
        let work = Work { documents: ask.documents.len() as u64, tokens: looked_up.tokens_left(), bytes: 1 };
        let terms = Terms {
            class: ask.priority,
            tenant: TenantId(0),
            deadline: self.cached.engine.clock().now() + ask.timeout,
            worth: Worth::Whole,
        };
        let permit = self.permits.try_admit(terms, work, None).expect("room");
        looked_up.submit(permit).await.expect("running")
    }

    pub async fn scores(&self, ask: &Ask) -> (Vec<f32>, Tokens) {
        finish(ask, self.ask(ask).await).await.expect("it is computed")
    }

    /// Waits until every permit is back, and every flight over.
    pub async fn drained(&self) {
        let open = || self.cached.cache.as_ref().map_or(0, |cache| cache.flights.open());
        for _ in 0..2000 {
            if self.permits.held() == Work::default() && open() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        unreachable!("held: {:?}, open: {}", self.permits.held(), open());
    }
}

/// All scores, documents first, then comparisons; and tokens.
pub async fn finish(ask: &Ask, mut answer: Answer) -> Result<(Vec<f32>, Tokens), EngineError> {
    let mut results = Vec::new();
    let read = async {
        while let Progress::Ready(more) = answer.next().await? {
            assert!(!more.is_empty());
            results.extend(more);
        }
        Ok::<_, EngineError>(())
    };
    tokio::time::timeout(2 * TIMEOUT, read).await.expect("no request hangs")?;
    results.sort_by_key(|(unit, _)| *unit);
    let first = u32::from(ask.operation != Operation::CrossEncode);
    let units: Vec<u32> = results.iter().map(|(unit, _)| *unit).collect();
    let count = (ask.documents.len() + ask.compared.len()) as u32;
    assert_eq!(units, (first..first + count).collect::<Vec<_>>(), "each unit once, and the query never");
    let score = |(_, value)| match value {
        SlotValue::Score(score) => score,
        value => unreachable!("{value:?}"),
    };
    Ok((results.into_iter().map(score).collect(), answer.tokens()))
}

/// As they are computed, in f32 and f64 as the probe and the engine do it.
pub fn expected(ask: &Ask) -> Vec<f32> {
    let score = |id: &u32| match ask.operation {
        Operation::LateInteraction => (ask.query as f32 + 2.0) / 7.0 + logit(&[*id, 3, 5]),
        Operation::EncodeDense => {
            let (query, document) = (dense(&[ask.query, 2]), dense(&[*id, 3, 5]));
            query.iter().zip(&document).map(|(q, d)| f64::from(*q) * f64::from(*d)).sum::<f64>() as f32
        }
        _ => logit(&[ask.query, 2, *id, 5]),
    };
    ask.documents.iter().map(score).chain(ask.compared.iter().map(|rows| *rows as f32)).collect()
}

pub fn bits(scores: &[f32]) -> Vec<u32> {
    scores.iter().map(|score| score.to_bits()).collect()
}
