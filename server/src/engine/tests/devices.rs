//! Several devices under one driver.

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

impl Fixture {
    /// First ids that a device has seen.
    fn seen_on(&self, device: usize) -> Vec<u32> {
        self.all_seen[device].lock().expect("no panic").clone()
    }

    fn open(&self, device: usize, batches: usize) {
        for _ in 0..batches {
            self.gates[device].send(()).expect("the probe lives");
        }
    }

    /// Waits until something holds.
    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let end = tokio::time::Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(tokio::time::Instant::now() < end, "{what}: {:?}", [0, 1].map(|device| self.seen_on(device)));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn orphans(&self) -> usize {
        self.shared.orphans.load(Ordering::SeqCst)
    }
}

fn scores(query: u32, documents: u32, rows: &[usize]) -> Vec<f32> {
    (query..=query + documents).map(|id| id as f32).chain(rows.iter().map(|rows| *rows as f32)).collect()
}

async fn finished(answer: Answer) -> Result<Vec<f32>, EngineError> {
    tokio::time::timeout(PATIENCE, finish(answer)).await.expect("nobody hangs")
}

#[tokio::test]
async fn several_devices_answer_as_one() {
    for (count, in_flight) in [(1, 1), (2, 1), (2, 2), (4, 2)] {
        let fixture = Fixture::with_devices(count, false, in_flight, 5_000);
        let mut answers = Vec::new();
        for turn in 0..30_u32 {
            let (first, documents, rows) = (1_000 * (turn + 1), 5 + turn, vec![3, 1, 40 + turn as usize]);
            if turn.is_multiple_of(2) {
                let sequences = late(first, documents, &rows);
                let answer = fixture.submit_sequences(Operation::LateInteraction, sequences, 60_000).await;
                answers.push((answer, scores(first, documents, &rows)));
            } else {
                let ids: Vec<u32> = (first..first + documents).collect();
                answers.push((fixture.submit(&ids, 60_000).await, ids.iter().map(|id| *id as f32).collect()));
            }
        }
        for (answer, expected) in answers {
            assert_eq!(finished(answer).await, Ok(expected), "{count} devices");
        }
        for device in 0..count {
            assert!(!fixture.seen_on(device).is_empty(), "device {device} of {count} has nothing to do");
        }
        assert_eq!(fixture.orphans(), 0, "{count} devices");
        fixture.drained().await;
    }
}

#[tokio::test]
async fn documents_run_where_their_query_is_until_that_is_computed() {
    let fixture = Fixture::with_devices(2, true, 1, 500);
    // Its first batch holds the query and nine documents, and its device.
    let asking = fixture.submit_sequences(Operation::LateInteraction, late(100, 39, &[2, 3]), 60_000).await;
    fixture.until("the query is on a device", |all| all.seen_on(0).len() == 10).await;
    let plain: Vec<u32> = (1..=30).collect();
    let others = fixture.submit(&plain, 60_000).await;
    fixture.open(1, 1_000);
    assert_eq!(finished(others).await, Ok(plain.iter().map(|id| *id as f32).collect()), "the other device is free");
    assert_eq!(fixture.seen_on(1), plain, "and computes nothing that needs the query");
    assert_eq!(fixture.seen_on(0).len(), 10);
    // Now the vectors are known, and the rest may run on either.
    fixture.open(0, 1_000);
    assert_eq!(finished(asking).await, Ok(scores(100, 39, &[2, 3])));
    assert!(fixture.seen_on(1).len() > plain.len(), "both have computed documents: {:?}", fixture.seen_on(1));
    assert_eq!(fixture.orphans(), 0);
    fixture.drained().await;
}

#[tokio::test]
async fn a_lost_device_leaves_its_work_to_the_other() {
    for in_flight in [1, 2] {
        let fixture = Fixture::with_devices(2, true, in_flight, 500);
        fixture.shared.stays_lost.store(true, Ordering::SeqCst);
        let mut devices_up = fixture.engine.devices_up();
        // A query, its documents, and more of them behind: all on the first device, which is lost under the first batch.
        let mut sequences = late(100, 25, &[4]);
        sequences[1].input_ids[1] = LOSES_DEVICE_ONCE;
        let asking = fixture.submit_sequences(Operation::LateInteraction, sequences, 60_000).await;
        let there = 10 * in_flight as usize;
        fixture.until("batches are on the first device", |all| all.seen_on(0).len() == there).await;
        let neighbour = fixture.submit(&[1, 2, 3], 60_000).await;
        fixture.until("the neighbour is on the second", |all| all.seen_on(1).len() == 3).await;
        fixture.open(0, 1_000);
        devices_up.wait_for(|up| *up == 1).await.expect("the engine lives");
        fixture.open(1, 500);
        assert_eq!(finished(neighbour).await, Ok(vec![1.0, 2.0, 3.0]));
        assert_eq!(finished(asking).await, Ok(scores(100, 25, &[4])), "{in_flight} in flight");
        assert_eq!(fixture.orphans(), 0, "documents are moved behind their query");
        let later: Vec<u32> = (200..240).collect();
        let expected: Vec<f32> = later.iter().map(|id| *id as f32).collect();
        assert_eq!(finished(fixture.submit(&later, 60_000).await).await, Ok(expected.clone()));
        assert_eq!(fixture.seen_on(0).len(), there, "nothing new on a lost device");
        assert_eq!(*devices_up.borrow(), 1);
        // It comes back, and works again.
        fixture.shared.stays_lost.store(false, Ordering::SeqCst);
        devices_up.wait_for(|up| *up == 2).await.expect("the engine lives");
        fixture.open(1, 400);
        while fixture.seen_on(0).len() == there {
            assert_eq!(finished(fixture.submit(&later, 60_000).await).await, Ok(expected.clone()));
        }
        fixture.drained().await;
    }
}

#[tokio::test]
async fn what_loses_every_device_it_comes_to_is_not_tried_for_ever() {
    let fixture = Fixture::with_devices(2, false, 1, 500);
    let mut devices_up = fixture.engine.devices_up();
    assert_eq!(finished(fixture.submit(&[LOSES_DEVICE], 60_000).await).await, Err(EngineError::DeviceLost));
    devices_up.wait_for(|up| *up == 2).await.expect("the engine lives");
    assert_eq!(finished(fixture.submit(&[3], 60_000).await).await, Ok(vec![3.0]));
    assert_eq!(
        fixture.all_seen.iter().filter(|seen| seen.lock().expect("no panic").contains(&LOSES_DEVICE)).count(),
        2
    );
    fixture.drained().await;
}

#[tokio::test]
async fn who_waits_while_all_devices_are_lost_is_answered_afterwards_or_too_late() {
    let fixture = Fixture::with_devices(2, false, 1, 500);
    fixture.shared.stays_lost.store(true, Ordering::SeqCst);
    let mut devices_up = fixture.engine.devices_up();
    // The one device is lost under it, and then the other.
    assert_eq!(finished(fixture.submit(&[LOSES_DEVICE], 60_000).await).await, Err(EngineError::DeviceLost));
    devices_up.wait_for(|up| *up == 0).await.expect("the engine lives");
    let (patient, late) = (fixture.submit(&[3], 60_000).await, fixture.submit(&[4], 50).await);
    assert_eq!(finished(late).await, Err(EngineError::Expired));
    fixture.shared.stays_lost.store(false, Ordering::SeqCst);
    assert_eq!(finished(patient).await, Ok(vec![3.0]));
    fixture.drained().await;
}

#[tokio::test]
async fn a_failure_on_one_device_costs_its_own_request() {
    let fixture = Fixture::with_devices(2, true, 1, 500);
    // Each device is held by one of these until the others wait together.
    let holding = [fixture.submit(&[1], 60_000).await, fixture.submit(&[2], 60_000).await];
    let (left, poisoned) = (fixture.submit(&[3, 4], 60_000).await, fixture.submit(&[5, FAILS, 6], 60_000).await);
    fixture.open(0, 500);
    fixture.open(1, 500);
    for (first, expected) in holding.into_iter().zip([1.0, 2.0]) {
        assert_eq!(finished(first).await, Ok(vec![expected]));
    }
    assert_eq!(finished(left).await, Ok(vec![3.0, 4.0]));
    assert_eq!(finished(poisoned).await, Err(EngineError::Failed));
    fixture.drained().await;
}

#[tokio::test]
async fn both_devices_finish_what_they_took_after_the_last_handle_is_gone() {
    let fixture = Fixture::with_devices(2, true, 1, 500);
    let answers =
        [fixture.submit(&[1], 60_000).await, fixture.submit(&[2], 60_000).await, fixture.submit(&[3], 60_000).await];
    // The driver waits for more while both compute.
    let sees = |device: usize| move |all: &Fixture| !all.seen_on(device).is_empty();
    fixture.until("the first has a batch", sees(0)).await;
    fixture.until("the second has a batch", sees(1)).await;
    let Fixture { engine, gates, .. } = fixture;
    drop(engine);
    for gate in gates.iter().cycle().take(6) {
        gate.send(()).expect("the probe listens");
    }
    for (answer, expected) in answers.into_iter().zip([1.0, 2.0, 3.0]) {
        assert_eq!(finished(answer).await, Ok(vec![expected]));
    }
}
