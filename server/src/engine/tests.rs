use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU32, AtomicUsize},
};

use sluice_core::{
    ModelIndex, Operation, Priority, TenantId, Worth,
    admission::{AdmissionConfig, Work},
    backend::{BackendError, BatchOutput, Ticket},
    batch::{Comparison, PackedBatch, QueryVectors, Role, TokenMatrix, TokenVectors},
};

mod devices;
mod overlap;

use super::{
    permit::{Permits, Terms},
    *,
};

/// Scores each sequence with its first token id, and does what some ids tell it to.
struct Probe {
    submitted: Vec<Arc<PackedBatch>>,
    /// A batch waits here for a message, while there is a sender.
    gate: Option<crossbeam_channel::Receiver<()>>,
    /// The message for the first has come.
    passed: bool,
    batches: Arc<AtomicUsize>,
    lost: Arc<AtomicU32>,
    /// First ids of all sequences that were submitted, in order.
    seen: Arc<Mutex<Vec<u32>>>,
    in_flight_batches_max: u32,
    shared: Arc<Shared>,
}

/// What the probes of all devices have in common.
#[derive(Default)]
struct Shared {
    /// Whether [`LOSES_DEVICE_ONCE`] has struck.
    struck: AtomicBool,
    /// A lost device does not come back meanwhile.
    stays_lost: AtomicBool,
    /// Documents that came to a device while their query's vectors were neither there nor known.
    orphans: AtomicUsize,
}

const FAILS: u32 = 1_000_001;
const PANICS: u32 = 1_000_002;
const LOSES_DEVICE: u32 = 1_000_003;
const FILLS_MEMORY: u32 = 1_000_004;
const MISCOUNTS: u32 = 1_000_005;
const LOSES_DEVICE_ONCE: u32 = 1_000_006;
const IS_REFUSED: u32 = 1_000_007;

impl Backend for Probe {
    fn limits(&self) -> BackendLimits {
        let in_flight_batches_max = self.in_flight_batches_max;
        BackendLimits { batch_tokens_max: 100, batch_sequences_max: 10, in_flight_batches_max }
    }

    fn submit(&mut self, batch: Arc<PackedBatch>) -> Result<Ticket, BackendError> {
        let first_ids = batch.ranges().map(|range| batch.input_ids()[range.start]);
        self.seen.lock().expect("no panic").extend(first_ids);
        if batch.input_ids().contains(&IS_REFUSED) {
            return Err(BackendError::Failed("told to".to_owned()));
        }
        let under_way: Vec<Role> =
            self.submitted.iter().chain([&batch]).flat_map(|batch| batch.roles()).cloned().collect();
        let is_here = |query: &Arc<QueryVectors>| {
            let mut roles = under_way.iter();
            query.get().is_some() || roles.any(|role| matches!(role, Role::Query(here) if Arc::ptr_eq(here, query)))
        };
        let orphans = batch.roles().iter().filter(|role| matches!(role, Role::Document(query) if !is_here(query)));
        self.shared.orphans.fetch_add(orphans.count(), Ordering::SeqCst);
        self.submitted.push(batch);
        Ok(Ticket(0))
    }

    fn collect(&mut self, _: Ticket) -> Result<BatchOutput, BackendError> {
        let batch = self.submitted.remove(0);
        if let Some(gate) = &self.gate
            && !std::mem::take(&mut self.passed)
        {
            let _ = gate.recv();
        }
        self.batches.fetch_add(1, Ordering::SeqCst);
        let has = |id| batch.input_ids().contains(&id);
        assert!(!has(PANICS), "told to");
        if has(FAILS) {
            return Err(BackendError::Failed("told to".to_owned()));
        }
        if self.lost.load(Ordering::SeqCst) > 0 {
            return Err(BackendError::DeviceLost("since then".to_owned()));
        }
        if has(LOSES_DEVICE) || has(LOSES_DEVICE_ONCE) && !self.shared.struck.swap(true, Ordering::SeqCst) {
            self.lost.store(2, Ordering::SeqCst);
            return Err(BackendError::DeviceLost("told to".to_owned()));
        }
        if has(FILLS_MEMORY) && batch.len() > 2 {
            return Err(BackendError::OutOfMemory);
        }
        for role in batch.roles() {
            if let Role::Query(slot) = role {
                slot.fill(TokenMatrix { data: vec![1.0], dim: 1 });
            }
        }
        if batch.roles().iter().any(|role| matches!(role, Role::Document(slot) if slot.get().is_none())) {
            return Err(BackendError::Failed("a query is not computed".to_owned()));
        }
        let mut scores: Vec<f32> = batch.ranges().map(|range| batch.input_ids()[range.start] as f32).collect();
        if has(MISCOUNTS) {
            scores.pop();
        }
        Ok(BatchOutput::Scores(scores))
    }

    fn is_ready(&mut self, _: &Ticket) -> bool {
        let is_shut =
            |gate: &crossbeam_channel::Receiver<()>| gate.try_recv() == Err(crossbeam_channel::TryRecvError::Empty);
        self.passed |= !self.gate.as_ref().is_some_and(is_shut);
        self.passed
    }

    fn rebuild(&mut self) -> Result<(), BackendError> {
        if self.shared.stays_lost.load(Ordering::SeqCst) {
            return Err(BackendError::DeviceLost("for good".to_owned()));
        }
        let left = self.lost.fetch_sub(1, Ordering::SeqCst);
        if left > 1 { Err(BackendError::DeviceLost("still".to_owned())) } else { Ok(()) }
    }
}

/// Scores each comparison with the rows of its document.
#[derive(Default)]
struct Comparer(std::collections::VecDeque<Arc<PackedBatch>>);

impl Backend for Comparer {
    fn limits(&self) -> BackendLimits {
        BackendLimits { batch_tokens_max: u32::MAX, batch_sequences_max: 100, in_flight_batches_max: 8 }
    }

    fn submit(&mut self, batch: Arc<PackedBatch>) -> Result<Ticket, BackendError> {
        assert_eq!(batch.lane().operation, Operation::MaxSim, "nothing else comes here");
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

struct Fixture {
    engine: Engine,
    permits: Permits,
    /// Of the first device.
    gate: crossbeam_channel::Sender<()>,
    batches: Arc<AtomicUsize>,
    /// What the first device has seen.
    seen: Arc<Mutex<Vec<u32>>>,
    /// By device.
    gates: Vec<crossbeam_channel::Sender<()>>,
    all_seen: Vec<Arc<Mutex<Vec<u32>>>>,
    shared: Arc<Shared>,
}

fn start_engine(devices: Vec<Backends>, queued_units_max: usize) -> (Engine, Permits) {
    let clock = Clock::start();
    let config = EngineConfig {
        batch_tokens_max: None,
        queued_units_max,
        look_ahead_requests_max: 4,
        policy: Policy::default(),
        cost: CostModel::default(),
    };
    let room = Work { documents: 5000, tokens: 1000, bytes: 1000 };
    let admission = AdmissionConfig { room, tenant_room_percent: 100, ..AdmissionConfig::default() };
    let permits = Permits::new(admission, true, clock.clone());
    let engine = Engine::start(devices, config, permits.clone(), clock).expect("a thread");
    (engine, permits)
}

impl Fixture {
    /// With `gated`, every batch waits for a message through the gate.
    fn start(gated: bool, in_flight_batches_max: u32) -> Self {
        Self::with_queue(gated, in_flight_batches_max, 50)
    }

    fn with_queue(gated: bool, in_flight_batches_max: u32, queued_units_max: usize) -> Self {
        Self::with_devices(1, gated, in_flight_batches_max, queued_units_max)
    }

    fn with_devices(count: usize, gated: bool, in_flight_batches_max: u32, queued_units_max: usize) -> Self {
        let batches = Arc::new(AtomicUsize::new(0));
        let shared = Arc::new(Shared::default());
        let (mut gates, mut all_seen, mut devices) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..count {
            let (gate, waits) = crossbeam_channel::bounded(1000);
            let seen = Arc::new(Mutex::new(Vec::new()));
            let probe = Probe {
                submitted: Vec::new(),
                gate: gated.then_some(waits),
                passed: false,
                batches: Arc::clone(&batches),
                lost: Arc::default(),
                seen: Arc::clone(&seen),
                in_flight_batches_max,
                shared: Arc::clone(&shared),
            };
            gates.push(gate);
            all_seen.push(seen);
            devices.push(Backends { models: vec![Box::new(probe)], vectors: Box::new(Comparer::default()) });
        }
        let (engine, permits) = start_engine(devices, queued_units_max);
        let (gate, seen) = (gates[0].clone(), Arc::clone(&all_seen[0]));
        Self { engine, permits, gate, batches, seen, gates, all_seen, shared }
    }

    async fn submit(&self, first_ids: &[u32], timeout_ms: u64) -> Answer {
        let sequences = first_ids.iter().map(|id| Sequence::single(vec![*id, 7, 7, 7], Role::Plain)).collect();
        self.submit_sequences(Operation::CrossEncode, sequences, timeout_ms).await
    }

    async fn submit_sequences(&self, operation: Operation, sequences: Vec<Sequence>, timeout_ms: u64) -> Answer {
        let lane = Lane { model: ModelIndex(0), operation };
        submit_to((&self.engine, &self.permits), lane, sequences, timeout_ms).await
    }

    /// Waits until every permit is back.
    async fn drained(&self) {
        for _ in 0..1000 {
            if self.permits.held() == Work::default() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        unreachable!("permits leak: {:?}", self.permits.held());
    }
}

async fn submit_to(
    (engine, permits): (&Engine, &Permits),
    lane: Lane,
    sequences: Vec<Sequence>,
    timeout_ms: u64,
) -> Answer {
    let work = Work { documents: sequences.len() as u64, tokens: 1, bytes: 1 };
    let terms = Terms {
        class: Priority::Standard,
        tenant: TenantId(0),
        deadline: engine.clock().now() + Duration::from_millis(timeout_ms),
        worth: Worth::Whole,
    };
    let permit = permits.try_admit(terms, work, None).expect("room");
    engine.submit(Submission { lane, sequences, permit }).await.expect("running")
}

/// A query whose first token is `query`, its documents' those that follow, then comparisons with `rows` rows each.
fn late(query: u32, documents: u32, rows: &[usize]) -> Vec<Sequence> {
    let vectors: Arc<QueryVectors> = Arc::default();
    let document = |id| Sequence::single(vec![id, 7, 7, 7], Role::Document(Arc::clone(&vectors)));
    let compared = |rows: &usize| {
        let document = Arc::new(Rows(vec![1.0; *rows]));
        Sequence::compared(Comparison { query: Arc::clone(&vectors), document, cost: 1 })
    };
    let first = Sequence::single(vec![query, 7, 7, 7], Role::Query(Arc::clone(&vectors)));
    [first].into_iter().chain((1..=documents).map(|at| document(query + at))).chain(rows.iter().map(compared)).collect()
}

/// All scores in unit order, or the failure.
async fn finish(mut answer: Answer) -> Result<Vec<f32>, EngineError> {
    let mut results = Vec::new();
    while let Progress::Ready(more) = answer.next().await? {
        results.extend(more);
    }
    results.sort_by_key(|(unit, _)| *unit);
    Ok(results
        .into_iter()
        .map(|(_, value)| match value {
            SlotValue::Score(score) => score,
            SlotValue::Tokens(_) | SlotValue::Dense(_) | SlotValue::Alignment(_) => f32::NAN,
        })
        .collect())
}

#[tokio::test]
async fn every_unit_gets_its_own_result() {
    for in_flight in [1, 2] {
        let fixture = Fixture::start(false, in_flight);
        let requests: Vec<Vec<u32>> = vec![(1..=35).collect(), vec![50], (60..=71).collect()];
        let mut answers = Vec::new();
        for ids in &requests {
            answers.push(fixture.submit(ids, 10_000).await);
        }
        for (ids, answer) in requests.iter().zip(answers) {
            let expected: Vec<f32> = ids.iter().map(|id| *id as f32).collect();
            assert_eq!(finish(answer).await, Ok(expected));
        }
        fixture.drained().await;
    }
}

/// A document of so many rows.
#[derive(Debug)]
struct Rows(Vec<f32>);

impl TokenVectors for Rows {
    fn dim(&self) -> usize {
        1
    }

    fn rows(&self) -> usize {
        self.0.len()
    }

    fn components(&self) -> sluice_core::batch::Components<'_> {
        sluice_core::batch::Components::F32(&self.0)
    }
}

/// What costs `u32::MAX` may be predicted to take years, if a small comparison before it was slow.
const CENTURY_MS: u64 = 100 * 365 * 24 * 3_600_000;

#[tokio::test]
async fn comparisons_come_after_their_query_and_share_the_device() {
    for in_flight in [1, 2] {
        let fixture = Fixture::start(false, in_flight);
        let mut answers = Vec::new();
        for (turn, rows) in (1_u32..).zip([3, 40, 1]) {
            let query: Arc<QueryVectors> = Arc::default();
            // More than fits one batch on either side, and one comparison that costs more than any batch may.
            let mut sequences = vec![Sequence::single(vec![turn; 4], Role::Query(Arc::clone(&query)))];
            sequences.extend((0..6).map(|_| Sequence::single(vec![turn; 20], Role::Document(Arc::clone(&query)))));
            sequences.extend((0..9).map(|index| {
                let (document, query) = (Arc::new(Rows(vec![1.0; rows + index])), Arc::clone(&query));
                Sequence::compared(Comparison { query, document, cost: if index == 7 { u32::MAX } else { 1 } })
            }));
            let mut expected = vec![turn as f32; 7];
            expected.extend((0..9).map(|index| (rows + index) as f32));
            let answer = fixture.submit_sequences(Operation::LateInteraction, sequences, CENTURY_MS).await;
            answers.push((answer, expected));
        }
        for (answer, expected) in answers {
            assert_eq!(finish(answer).await, Ok(expected));
        }
        fixture.drained().await;
    }
}

#[tokio::test]
async fn a_failing_batch_is_tried_again_in_order_of_units() {
    let fixture = Fixture::start(true, 1);
    // The first batch holds the slot until the others wait together.
    let first = fixture.submit(&[1], 10_000).await;
    let neighbour = fixture.submit(&[2], 10_000).await;
    let poisoned = fixture.submit(&[FAILS], 10_000).await;
    let asking = fixture.submit_sequences(Operation::CrossEncode, late(3, 3, &[]), 10_000).await;
    for _ in 0..50 {
        fixture.gate.send(()).expect("the probe waits");
    }
    assert_eq!(finish(first).await, Ok(vec![1.0]));
    assert_eq!(finish(neighbour).await, Ok(vec![2.0]));
    assert_eq!(finish(poisoned).await, Err(EngineError::Failed));
    assert_eq!(finish(asking).await, Ok(vec![3.0, 4.0, 5.0, 6.0]), "documents are not tried before their query");
    fixture.drained().await;
}

#[tokio::test]
async fn nothing_to_compute_is_done_at_once() {
    let fixture = Fixture::start(true, 1);
    let answer = fixture.submit_sequences(Operation::LateInteraction, Vec::new(), 10_000).await;
    assert_eq!(finish(answer).await, Ok(Vec::new()));
    fixture.drained().await;
    assert_eq!(fixture.batches.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_failure_costs_its_own_request() {
    for (bad, expected) in
        [(FAILS, EngineError::Failed), (PANICS, EngineError::Failed), (MISCOUNTS, EngineError::Failed)]
    {
        for in_flight in [1, 2] {
            let fixture = Fixture::start(true, in_flight);
            // The first batch holds the slot until all three wait together.
            let first = fixture.submit(&[1], 10_000).await;
            let (left, poisoned, right) = (
                fixture.submit(&[2, 3], 10_000).await,
                fixture.submit(&[4, bad, 5], 10_000).await,
                fixture.submit(&[6], 10_000).await,
            );
            for _ in 0..100 {
                let _ = fixture.gate.send(());
            }
            assert_eq!(finish(first).await, Ok(vec![1.0]), "{bad}");
            assert_eq!(finish(left).await, Ok(vec![2.0, 3.0]), "{bad}");
            assert_eq!(finish(poisoned).await, Err(expected), "{bad}");
            assert_eq!(finish(right).await, Ok(vec![6.0]), "{bad}");
            fixture.drained().await;
        }
    }
}

#[tokio::test]
async fn out_of_memory_is_split_until_it_fits() {
    let fixture = Fixture::start(false, 1);
    let answer = fixture.submit(&[1, FILLS_MEMORY, 3, 4, 5, 6], 10_000).await;
    assert_eq!(finish(answer).await, Ok(vec![1.0, FILLS_MEMORY as f32, 3.0, 4.0, 5.0, 6.0]));
    fixture.drained().await;
}

#[tokio::test]
async fn a_lost_device_comes_back() {
    let fixture = Fixture::start(false, 1);
    let mut devices_up = fixture.engine.devices_up();
    fixture.shared.stays_lost.store(true, Ordering::SeqCst);
    assert_eq!(finish(fixture.submit(&[LOSES_DEVICE, 2], 10_000).await).await, Err(EngineError::DeviceLost));
    devices_up.wait_for(|up| *up == 0).await.expect("the engine lives");
    fixture.shared.stays_lost.store(false, Ordering::SeqCst);
    devices_up.wait_for(|up| *up == 1).await.expect("the engine lives");
    assert_eq!(finish(fixture.submit(&[3], 10_000).await).await, Ok(vec![3.0]));
    fixture.drained().await;
}

#[tokio::test]
async fn a_deadline_passes_in_the_queue() {
    let fixture = Fixture::start(true, 1);
    let first = fixture.submit(&[1], 10_000).await;
    let late = fixture.submit(&[2, 3], 30).await;
    assert_eq!(finish(late).await, Err(EngineError::Expired));
    fixture.gate.send(()).expect("the probe listens");
    assert_eq!(finish(first).await, Ok(vec![1.0]));
    fixture.drained().await;
    assert_eq!(fixture.batches.load(Ordering::SeqCst), 1, "nothing was computed for the late one");
}

#[tokio::test]
async fn what_nobody_waits_for_is_not_computed() {
    let fixture = Fixture::start(true, 1);
    let first = fixture.submit(&[1], 10_000).await;
    let left = fixture.submit(&[2, 3], 10_000).await;
    drop(left);
    // The permit of the one that left is back while the batch before it still runs.
    for _ in 0..1000 {
        if fixture.permits.held().documents == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(fixture.permits.held().documents, 1);
    fixture.gate.send(()).expect("the probe listens");
    assert_eq!(finish(first).await, Ok(vec![1.0]));
    fixture.drained().await;
    assert_eq!(fixture.batches.load(Ordering::SeqCst), 1);
}

/// Two hundred callers, of whom half leave while a batch runs: of theirs nothing is computed but what that batch holds.
#[tokio::test]
async fn nothing_is_dispatched_for_who_has_left() {
    for in_flight in [1, 2] {
        let fixture = Fixture::with_queue(true, in_flight, 10_000);
        let mut answers = Vec::new();
        for caller in 0..200_u32 {
            let first_ids: Vec<u32> = (0..20).map(|unit| 1000 * caller + unit).collect();
            answers.push(Some(fixture.submit(&first_ids, 60_000).await));
        }
        let is_gone = |first_id: &u32| (first_id / 1000) % 2 == 1;
        for answer in answers.iter_mut().skip(1).step_by(2) {
            drop(answer.take());
        }
        let under_way = fixture.seen.lock().expect("no panic").len();
        for _ in 0..1000 {
            fixture.gate.send(()).expect("the probe listens");
        }
        for (caller, answer) in (0_u32..).zip(answers).filter_map(|(caller, answer)| Some((caller, answer?))) {
            let scores = finish(answer).await.expect("computed");
            assert_eq!(scores, (0..20).map(|unit| (1000 * caller + unit) as f32).collect::<Vec<_>>());
        }
        fixture.drained().await;
        let seen = fixture.seen.lock().expect("no panic");
        assert!(under_way <= 10 * in_flight as usize, "at most the batches in flight: {under_way}");
        let late: Vec<&u32> = seen[10 * in_flight as usize..].iter().filter(|first_id| is_gone(first_id)).collect();
        assert_eq!(late, Vec::<&u32>::new(), "of {} units", seen.len());
    }
}

#[tokio::test]
async fn a_full_queue_refuses_the_whole_request() {
    let fixture = Fixture::start(true, 1);
    let first = fixture.submit(&[1], 10_000).await;
    let too_much = fixture.submit(&[2; 60], 10_000).await;
    assert_eq!(finish(too_much).await, Err(EngineError::QueueFull));
    let fits = fixture.submit(&[3; 40], 10_000).await;
    for _ in 0..10 {
        fixture.gate.send(()).expect("the probe listens");
    }
    assert_eq!(finish(first).await, Ok(vec![1.0]));
    assert_eq!(finish(fits).await, Ok(vec![3.0; 40]));
    fixture.drained().await;
}

#[tokio::test]
async fn work_that_was_taken_is_finished_after_the_last_handle_is_gone() {
    let fixture = Fixture::start(true, 1);
    let (first, second) = (fixture.submit(&[1], 10_000).await, fixture.submit(&[2], 10_000).await);
    let Fixture { engine, gate, .. } = fixture;
    drop(engine);
    for _ in 0..2 {
        gate.send(()).expect("the probe listens");
    }
    assert_eq!(finish(first).await, Ok(vec![1.0]));
    assert_eq!(finish(second).await, Ok(vec![2.0]));
}
