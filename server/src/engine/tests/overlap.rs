//! Batches that are in flight while another is computed.

use super::*;

const PATIENCE_MS: u64 = 20_000;

/// A batch that comes while the device computes is there before the device is done; one more is not.
#[tokio::test]
async fn the_next_batch_does_not_wait_for_the_one_before() {
    let fixture = Fixture::start(true, 2);
    let mut answers = Vec::new();
    for id in 1..=3_u32 {
        answers.push(fixture.submit(&[id], PATIENCE_MS).await);
        seen(&fixture, &(1..=id.min(2)).collect::<Vec<_>>()).await;
    }
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(*fixture.seen.lock().expect("no panic"), [1, 2], "two are in flight");
    fixture.gate.send(()).expect("the probe lives");
    assert_eq!(finish(answers.remove(0)).await, Ok(vec![1.0]));
    seen(&fixture, &[1, 2, 3]).await;
    for _ in 0..2 {
        fixture.gate.send(()).expect("the probe lives");
    }
    assert_eq!(finish(answers.remove(0)).await, Ok(vec![2.0]));
    assert_eq!(finish(answers.remove(0)).await, Ok(vec![3.0]));
    fixture.drained().await;
}

async fn seen(fixture: &Fixture, ids: &[u32]) {
    for _ in 0..PATIENCE_MS {
        if *fixture.seen.lock().expect("no panic") == ids {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    unreachable!("{:?} instead of {ids:?}", fixture.seen);
}

/// A batch that is in flight behind a failing one may need what that has not computed: its parts wait for those.
#[tokio::test]
async fn what_follows_a_failing_batch_is_tried_behind_all_of_it() {
    let fixture = Fixture::start(true, 2);
    let holding = [fixture.submit(&[1], PATIENCE_MS).await, fixture.submit(&[2], PATIENCE_MS).await];
    seen(&fixture, &[1, 2]).await;
    let poisoned = fixture.submit(&[FAILS], PATIENCE_MS).await;
    // Behind the one that fails: the query, documents in its batch, and more of them in those that follow.
    let asking = fixture.submit_sequences(Operation::CrossEncode, late(100, 25, &[]), PATIENCE_MS).await;
    for _ in 0..100 {
        fixture.gate.send(()).expect("the probe lives");
    }
    for (answer, expected) in holding.into_iter().zip([1.0, 2.0]) {
        assert_eq!(finish(answer).await, Ok(vec![expected]));
    }
    assert_eq!(finish(poisoned).await, Err(EngineError::Failed));
    assert_eq!(finish(asking).await, Ok((100..=125).map(|id| id as f32).collect()));
    fixture.drained().await;
}

#[tokio::test]
async fn a_batch_that_is_refused_takes_no_time_from_the_one_before() {
    const COMPUTES: Duration = Duration::from_millis(100);
    let fixture = Fixture::start(true, 2);
    let mut first = fixture.submit(&[1], PATIENCE_MS).await;
    seen(&fixture, &[1]).await;
    tokio::time::sleep(COMPUTES).await;
    let refused = fixture.submit(&[IS_REFUSED], PATIENCE_MS).await;
    seen(&fixture, &[1, IS_REFUSED]).await;
    fixture.gate.send(()).expect("the probe lives");
    while first.next().await.expect("it is computed") != Progress::Done {}
    let (_, compute) = first.times();
    assert!(compute >= COMPUTES, "{compute:?}");
    assert_eq!(finish(refused).await, Err(EngineError::Failed));
    assert_eq!(*fixture.seen.lock().expect("no panic"), [1, IS_REFUSED, IS_REFUSED], "it is tried once more");
}

/// Computes nothing, and counts what is in flight.
struct Narrow {
    in_flight_batches_max: u32,
    submitted: std::collections::VecDeque<Arc<PackedBatch>>,
    most: Arc<AtomicUsize>,
    polls: u32,
}

impl Narrow {
    fn new(in_flight_batches_max: u32) -> (Self, Arc<AtomicUsize>) {
        let most = Arc::default();
        (Self { in_flight_batches_max, submitted: Default::default(), most: Arc::clone(&most), polls: 0 }, most)
    }
}

impl Backend for Narrow {
    fn limits(&self) -> BackendLimits {
        let in_flight_batches_max = self.in_flight_batches_max;
        BackendLimits { batch_tokens_max: 8, batch_sequences_max: 2, in_flight_batches_max }
    }

    fn submit(&mut self, batch: Arc<PackedBatch>) -> Result<Ticket, BackendError> {
        self.submitted.push_back(batch);
        self.most.fetch_max(self.submitted.len(), Ordering::SeqCst);
        Ok(Ticket(0))
    }

    fn is_ready(&mut self, _: &Ticket) -> bool {
        self.polls += 1;
        self.polls.is_multiple_of(4)
    }

    fn collect(&mut self, _: Ticket) -> Result<BatchOutput, BackendError> {
        let batch = self.submitted.pop_front().expect("it was submitted");
        Ok(BatchOutput::Scores(batch.ranges().map(|range| batch.input_ids()[range.start] as f32).collect()))
    }
}

/// A model that has stayed on the processor beside two that overlap.
#[tokio::test]
async fn a_backend_that_takes_fewer_holds_nobody_up_and_gets_no_more() {
    let limits = [2, 1, 2];
    let (models, most): (Vec<_>, Vec<_>) = limits.iter().map(|limit| Narrow::new(*limit)).unzip();
    let models = models.into_iter().map(|model| Box::new(model) as Box<dyn Backend>).collect();
    let backends = Backends { models, vectors: Box::new(Comparer::default()) };
    let (engine, permits) = start_engine(vec![backends], 5_000);
    let mut answers = Vec::new();
    for turn in 0..40_u32 {
        for model in (0..3).map(ModelIndex) {
            let ids = turn * 100..turn * 100 + 5;
            let sequences = ids.clone().map(|id| Sequence::single(vec![id, 7, 7, 7], Role::Plain)).collect();
            let lane = Lane { model, operation: Operation::CrossEncode };
            let answer = submit_to((&engine, &permits), lane, sequences, PATIENCE_MS).await;
            answers.push((answer, ids.map(|id| id as f32).collect::<Vec<_>>()));
        }
    }
    for (answer, expected) in answers {
        assert_eq!(finish(answer).await, Ok(expected));
    }
    let most: Vec<_> = most.iter().map(|most| most.load(Ordering::SeqCst)).collect();
    assert_eq!(most, limits.map(|limit| limit as usize));
}

/// Whether a device would be given back: every backend has let go of it before the first asks for another.
struct Sharer {
    holders: Arc<AtomicUsize>,
    holds: bool,
    loses: bool,
    submitted: std::collections::VecDeque<Arc<PackedBatch>>,
}

impl Backend for Sharer {
    fn limits(&self) -> BackendLimits {
        BackendLimits { batch_tokens_max: 8, batch_sequences_max: 2, in_flight_batches_max: 1 }
    }

    fn submit(&mut self, batch: Arc<PackedBatch>) -> Result<Ticket, BackendError> {
        self.submitted.push_back(batch);
        Ok(Ticket(0))
    }

    fn collect(&mut self, _: Ticket) -> Result<BatchOutput, BackendError> {
        let batch = self.submitted.pop_front().expect("it was submitted");
        if std::mem::take(&mut self.loses) {
            return Err(BackendError::DeviceLost("told to".to_owned()));
        }
        Ok(BatchOutput::Scores(batch.ranges().map(|range| batch.input_ids()[range.start] as f32).collect()))
    }

    fn release(&mut self) {
        if std::mem::take(&mut self.holds) {
            self.holders.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn rebuild(&mut self) -> Result<(), BackendError> {
        // The first finds nobody; those after it share what it was given.
        let holders = self.holders.fetch_add(1, Ordering::SeqCst);
        self.holds = true;
        if holders < 2 { Ok(()) } else { Err(BackendError::DeviceLost("somebody has the lost one still".to_owned())) }
    }
}

#[tokio::test]
async fn all_let_go_of_a_lost_device_before_it_is_rebuilt() {
    let holders = Arc::new(AtomicUsize::new(2));
    let sharer = |loses| Sharer { holders: Arc::clone(&holders), holds: true, loses, submitted: Default::default() };
    let models: Vec<Box<dyn Backend>> = vec![Box::new(sharer(true)), Box::new(sharer(false))];
    let (engine, permits) = start_engine(vec![Backends { models, vectors: Box::new(Comparer::default()) }], 50);
    let mut devices_up = engine.devices_up();
    let ask = |model| {
        let sequences = vec![Sequence::single(vec![5, 7, 7, 7], Role::Plain)];
        let lane = Lane { model: ModelIndex(model), operation: Operation::CrossEncode };
        submit_to((&engine, &permits), lane, sequences, PATIENCE_MS)
    };
    assert_eq!(finish(ask(0).await).await, Err(EngineError::DeviceLost));
    for model in [0, 1] {
        assert_eq!(finish(ask(model).await).await, Ok(vec![5.0]), "model {model}");
    }
    devices_up.wait_for(|up| *up == 1).await.expect("the engine lives");
    assert_eq!(holders.load(Ordering::SeqCst), 2, "both have it again");
}

/// Takes a while to give its device back.
struct Leaver(Arc<AtomicBool>);

impl Backend for Leaver {
    fn limits(&self) -> BackendLimits {
        BackendLimits { batch_tokens_max: 8, batch_sequences_max: 2, in_flight_batches_max: 1 }
    }

    fn submit(&mut self, _: Arc<PackedBatch>) -> Result<Ticket, BackendError> {
        Err(BackendError::Failed("it computes nothing".to_owned()))
    }

    fn collect(&mut self, _: Ticket) -> Result<BatchOutput, BackendError> {
        Err(BackendError::Failed("it computes nothing".to_owned()))
    }
}

impl Drop for Leaver {
    fn drop(&mut self) {
        std::thread::sleep(Duration::from_millis(100));
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A process that ended before would take the driver away under it.
#[test]
fn who_ends_an_engine_waits_for_its_devices() {
    let left = Arc::<AtomicBool>::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().expect("threads can be started");
    runtime.block_on(async {
        let models: Vec<Box<dyn Backend>> = vec![Box::new(Leaver(Arc::clone(&left)))];
        drop(start_engine(vec![Backends { models, vectors: Box::new(Comparer::default()) }], 5_000));
    });
    drop(runtime);
    assert!(left.load(Ordering::SeqCst));
}
