//! Sends each request when it is intended.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use sluice_client::{
    ClientError, Code, names,
    proto::rerank::v1::{RerankRequest, RerankResponse},
};
use sluice_core::workload::{Arrival, Caller};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    task::{JoinSet, spawn_blocking},
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};

use super::{AHEAD, Run, Senders};
use crate::tally::{End, NO_ANSWER, Sample, UNREACHABLE};

/// After the end of a run, the time for requests that were due just before it and are still being made.
const GRACE: Duration = Duration::from_secs(1);
/// A caller of a closed loop that was refused waits at least so long, or as long as it was told to, up to
/// [`REFUSED_PAUSE_MAX`]: it must not become an open loop as fast as the server can refuse.
const REFUSED_PAUSE: Duration = Duration::from_millis(10);
const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Starts everybody who sends.
pub(super) fn start(run: &Arc<Run>, samples: mpsc::Sender<Sample>) -> Senders {
    let mut senders = JoinSet::new();
    let (messages, prepared) = mpsc::channel(AHEAD);
    let composer = Arc::clone(&run.composer);
    // Ends when nobody takes its messages any more.
    spawn_blocking(move || {
        for arrival in composer.traffic().arrivals() {
            let message = composer.message(&arrival.request);
            if messages.blocking_send((arrival, message)).is_err() {
                return;
            }
        }
    });
    for caller in run.composer.traffic().callers() {
        senders.spawn(closed_loop(Arc::clone(run), caller, samples.clone()));
    }
    senders.spawn(open_loop(Arc::clone(run), prepared, samples));
    senders
}

/// Lets each request go at its time, or when there is a slot for it.
async fn open_loop(
    run: Arc<Run>,
    mut prepared: mpsc::Receiver<(Arrival, RerankRequest)>,
    samples: mpsc::Sender<Sample>,
) {
    let mut in_flight = JoinSet::new();
    let give_up = run.start + run.composer.traffic().workload().duration + GRACE;
    while let Some((arrival, message)) = prepared.recv().await {
        sleep_until(run.start + arrival.at).await;
        let slot = run.slot(give_up).await;
        let (run, samples) = (Arc::clone(&run), samples.clone());
        in_flight.spawn(async move {
            let sample = match slot {
                Some(slot) => run.send(&arrival, message, slot).await,
                None => run.unsent(&arrival),
            };
            // The tally is gone when the run was stopped.
            let _ = samples.send(sample).await;
        });
        while in_flight.try_join_next().is_some() {}
    }
    while in_flight.join_next().await.is_some() {}
}

/// Sends, waits for the end, thinks, and sends again.
async fn closed_loop(run: Arc<Run>, mut caller: Caller, samples: mpsc::Sender<Sample>) {
    sleep_until(run.start + caller.begins()).await;
    loop {
        let at = run.start.elapsed();
        let Some(request) = caller.send(at) else { return };
        let message = run.composer.message(&request);
        let arrival = Arrival { at: run.start.elapsed(), request };
        let (sample, retry_after) = run.call(&arrival, message).await;
        let refused = matches!(sample.end, End::Failed { .. });
        if samples.send(sample).await.is_err() {
            return;
        }
        if refused {
            sleep(retry_after.unwrap_or_default().clamp(REFUSED_PAUSE, REFUSED_PAUSE_MAX)).await;
        }
        sleep_until(run.start + caller.resumes(run.start.elapsed())).await;
    }
}

impl Run {
    /// A place among those in flight; `None` if none becomes free in time.
    async fn slot(&self, give_up: Instant) -> Option<OwnedSemaphorePermit> {
        if Instant::now() >= give_up {
            return None;
        }
        if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
            return Some(slot);
        }
        self.waited.fetch_add(1, Ordering::Relaxed);
        timeout_at(give_up, Arc::clone(&self.slots).acquire_owned()).await.ok()?.ok()
    }

    async fn send(&self, arrival: &Arrival, message: RerankRequest, slot: OwnedSemaphorePermit) -> Sample {
        let (sample, _) = self.call(arrival, message).await;
        drop(slot);
        sample
    }

    /// One call, and when its caller was told to come back.
    async fn call(&self, arrival: &Arrival, message: RerankRequest) -> (Sample, Option<Duration>) {
        let client = self.clients.sending(arrival.request.stream);
        let now_in_flight = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        self.in_flight_peak.fetch_max(now_in_flight, Ordering::Relaxed);
        let sent = Instant::now();
        let call = client.rerank(message);
        let outcome = match arrival.request.abandoned_after {
            Some(after) => timeout(after, call).await.ok(),
            None => Some(call.await),
        };
        let service = sent.elapsed();
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        let (end, retry_after) = match outcome {
            None => (End::Abandoned, None),
            Some(Ok(answer)) => (answered(&answer), None),
            Some(Err(error)) => failed(&error),
        };
        (self.sample(arrival, sent, service, end), retry_after)
    }

    fn unsent(&self, arrival: &Arrival) -> Sample {
        self.sample(arrival, Instant::now(), Duration::ZERO, End::Unsent)
    }

    fn sample(&self, arrival: &Arrival, sent: Instant, service: Duration, end: End) -> Sample {
        Sample {
            stream: arrival.request.stream,
            intended: arrival.at,
            lag: sent.saturating_duration_since(self.start + arrival.at),
            service,
            documents: u32::try_from(arrival.request.documents.len()).unwrap_or(u32::MAX),
            end,
        }
    }
}

fn answered(answer: &RerankResponse) -> End {
    let mut partial: Vec<String> = answer.partial_reasons.iter().map(|reason| names::partial_reason(*reason)).collect();
    if answer.partial && partial.is_empty() {
        partial.push("unspecified".to_owned());
    }
    End::Answered { partial }
}

fn failed(error: &ClientError) -> (End, Option<Duration>) {
    let end = |code: Code, reason: String| End::Failed { status: names::code(code), reason };
    match error {
        ClientError::Status(status) => {
            // A server says why it refuses; a timer, at either end of the connection, does not.
            let own = if status.code == Code::DeadlineExceeded { NO_ANSWER } else { "" };
            let reason = status.reason.as_ref().map_or(own, |reason| &reason.reason);
            (end(status.code, reason.to_owned()), status.retry_after)
        }
        ClientError::Connection { .. } => (end(Code::Unavailable, UNREACHABLE.to_owned()), None),
        ClientError::TooLarge { .. } => (end(Code::OutOfRange, "MESSAGE_TOO_LARGE".to_owned()), None),
        ClientError::Address { .. } | ClientError::Options(_) | ClientError::Protocol(_) => {
            (end(Code::Internal, "PROTOCOL".to_owned()), None)
        }
    }
}
