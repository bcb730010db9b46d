//! Batches to the shard, in order, each until it is acknowledged.

use std::{collections::VecDeque, time::Duration};

use anyhow::{Context, anyhow, ensure};
use futures_util::{StreamExt, stream};
use sluice_client::{
    Client, ClientError, Code, RetryPolicy, StatusError,
    proto::retrieval::v1::{BatchWritten, UpsertRequest},
    retry::{Failure, Pushback, RetryBudget, RetryDecision, RetryState},
    shard::{Acknowledgement, Acknowledgements},
};
use sluice_core::Time;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout, timeout_at},
};

use super::{
    input::Fault,
    prepare::{Prepared, Ready},
};

/// Batches that are sent ahead of their acknowledgements: the shard checks one while it writes another.
const AHEAD_MAX: usize = 4;
/// A call is opened anew after so long, however much it is to write.
const CALL_DURATION_MAX: Duration = Duration::from_secs(12 * 60 * 60);

/// How long a shard may take to end a call that has nothing left to say.
const CLOSE_DURATION_MAX: Duration = Duration::from_secs(2);

/// Writes batches to a collection.
///
/// What one call has not acknowledged when it ends is written by the next one, in the same order, whatever of it was
/// written before: to write a batch twice does no harm, and of two documents with one id the later stays.
pub(super) struct Writer {
    client: Client,
    collection: String,
    policy: RetryPolicy,
    /// For one batch.
    deadline: Duration,
    waiting: VecDeque<(u64, Prepared)>,
    call: Option<Call>,
    batches: u64,
    /// When the first of those that wait came to be the first.
    since: Instant,
    retries: Option<Retries>,
    /// No call is opened earlier.
    not_before: Instant,
}

/// A batch that is on disk.
#[derive(Debug)]
pub(super) struct Written {
    pub prepared: Prepared,
    /// Its log sequence number; none if there was nothing to write after all.
    pub lsn: Option<u64>,
}

struct Call {
    sender: mpsc::Sender<UpsertRequest>,
    answers: Acknowledgements,
}

/// Of the first of those that wait.
struct Retries {
    state: RetryState,
    budget: RetryBudget,
    start: Instant,
}

impl Writer {
    pub(super) fn new(client: Client, collection: String, policy: RetryPolicy, deadline: Duration) -> Self {
        let now = Instant::now();
        Self {
            client: client.with_deadline(CALL_DURATION_MAX),
            collection,
            policy,
            deadline,
            waiting: VecDeque::with_capacity(AHEAD_MAX),
            call: None,
            batches: 0,
            since: now,
            retries: None,
            not_before: now,
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < AHEAD_MAX
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes a batch to write; there must be room.
    pub(super) fn push(&mut self, prepared: Prepared) {
        if self.waiting.is_empty() {
            self.since = Instant::now();
        }
        self.batches += 1;
        if let (Some(call), Some(request)) = (&self.call, request(&self.collection, self.batches, &prepared)) {
            // There is room for as many as wait. A call that has ended says so with its next answer.
            let _ = call.sender.try_send(request);
        }
        self.waiting.push_back((self.batches, prepared));
    }

    /// The next batch that is acknowledged; one must wait. Nothing is lost if it is dropped.
    ///
    /// # Errors
    /// Where a batch cannot be written, whatever is tried, within the deadline.
    pub(super) async fn next(&mut self) -> anyhow::Result<Written> {
        let end = self.since + self.deadline;
        loop {
            if self.waiting.front().is_some_and(|(_, prepared)| prepared.documents.is_empty()) {
                return self.finish(None);
            }
            let Some(call) = &mut self.call else {
                sleep_until(self.not_before).await;
                match timeout_at(end, self.open()).await {
                    Ok(Ok(call)) => self.call = Some(call),
                    Ok(Err(error)) => self.pause(error)?,
                    Err(_) => return Err(self.late()),
                }
                continue;
            };
            match timeout_at(end, call.answers.next()).await {
                Ok(Some(Ok(answer))) => {
                    if let Some(written) = self.settle(answer)? {
                        return Ok(written);
                    }
                }
                Ok(Some(Err(error))) => self.pause(error)?,
                Ok(None) => self.pause(ended())?,
                Err(_) => return Err(self.late()),
            }
        }
    }

    /// Ends the call when everything is acknowledged, so that the shard does not take it for one that was given up.
    pub(super) async fn close(&mut self) {
        if let Some(Call { sender, mut answers }) = self.call.take() {
            drop(sender);
            // Nothing waits: whatever comes now changes nothing.
            let _ = timeout(CLOSE_DURATION_MAX, answers.next()).await;
        }
    }

    /// Calls, and sends everything that waits.
    async fn open(&self) -> Result<Call, ClientError> {
        let (sender, mut receiver) = mpsc::channel(AHEAD_MAX);
        for request in self.waiting.iter().filter_map(|(id, prepared)| request(&self.collection, *id, prepared)) {
            // There is room for as many as wait.
            let _ = sender.try_send(request);
        }
        let answers = self.client.upsert(stream::poll_fn(move |cx| receiver.poll_recv(cx))).await?;
        Ok(Call { sender, answers })
    }

    fn settle(&mut self, answer: Acknowledgement) -> anyhow::Result<Option<Written>> {
        let first = self.waiting.front().map(|(id, _)| *id);
        ensure!(first == Some(answer.batch_id), "the shard acknowledged batch {}, not {first:?}", answer.batch_id);
        match answer.outcome {
            Ok(written) => {
                self.check_hashes(&written)?;
                self.finish(Some(written.lsn)).map(Some)
            }
            Err(error) if self.drop_refused(&error) => {
                // Later batches wait their turn behind what is left of this one.
                self.call = None;
                Ok(None)
            }
            Err(error) => {
                self.pause(ClientError::Status(Box::new(error)))?;
                Ok(None)
            }
        }
    }

    /// The first of those that wait is done.
    fn finish(&mut self, lsn: Option<u64>) -> anyhow::Result<Written> {
        let (_, prepared) = self.waiting.pop_front().context("no batch waits")?;
        self.since = Instant::now();
        self.retries = None;
        Ok(Written { prepared, lsn })
    }

    /// The shard's hashes are what the token store is asked with: they must be of the texts that it was given.
    fn check_hashes(&self, written: &BatchWritten) -> anyhow::Result<()> {
        let documents = self.waiting.front().map(|(_, prepared)| prepared.documents.as_slice()).unwrap_or_default();
        let ours = documents.iter().map(|ready| &ready.hash[..]);
        let same = ours.eq(written.content_hashes.iter().map(Vec::as_slice));
        ensure!(same, "the shard makes other contents of the documents than were embedded");
        Ok(())
    }

    /// Takes documents that the shard finds fault with out of the first batch; false if it is about none of them.
    fn drop_refused(&mut self, error: &StatusError) -> bool {
        let Some((_, prepared)) = self.waiting.front_mut().filter(|_| error.code == Code::InvalidArgument) else {
            return false;
        };
        let refused = refused_documents(error);
        let mut position = 0;
        let before = prepared.documents.len();
        let Prepared { documents, complaints, tally, .. } = prepared;
        documents.retain(|Ready { place, .. }| {
            let fault = refused.iter().find(|(index, _)| *index == position);
            complaints.extend(fault.map(|(_, reason)| Fault { place: place.clone(), reason: reason.clone() }));
            position += 1;
            fault.is_none()
        });
        let dropped = before - documents.len();
        tally.bad_lines += dropped;
        tally.written -= dropped;
        tally.documents -= dropped;
        dropped > 0
    }

    /// Ends the call, and says when the next one may begin.
    fn pause(&mut self, error: ClientError) -> anyhow::Result<()> {
        self.call = None;
        let Some(failure) = passing(&error) else { return Err(self.hopeless(error)) };
        let now = Instant::now();
        let retries = self.retries.get_or_insert_with(|| Retries {
            state: RetryState::new(self.policy.clone(), Time::from_origin(self.deadline), self.batches),
            budget: RetryBudget::new(&self.policy),
            start: now,
        });
        match retries.state.next(Time::from_origin(now - retries.start), &failure, &mut retries.budget) {
            RetryDecision::Retry { at } => self.not_before = retries.start + at.since_origin(),
            RetryDecision::GiveUp(_) => return Err(self.hopeless(error)),
        }
        Ok(())
    }

    fn hopeless(&self, error: ClientError) -> anyhow::Error {
        anyhow::Error::new(error).context(format!("writing {}", self.place()))
    }

    fn late(&self) -> anyhow::Error {
        anyhow!("writing {}: no acknowledgement within {:?}", self.place(), self.deadline)
    }

    /// Where the first of those that wait comes from.
    fn place(&self) -> String {
        let documents = self.waiting.front().map(|(_, prepared)| prepared.documents.as_slice()).unwrap_or_default();
        match (documents.first(), documents.last()) {
            (Some(first), Some(last)) => format!("{} to {}", first.place, last.place),
            _ => "nothing".to_owned(),
        }
    }
}

/// What the shard is sent of a batch; nothing where nothing is to be written, for it would refuse that.
fn request(collection: &str, id: u64, prepared: &Prepared) -> Option<UpsertRequest> {
    let documents: Vec<_> = prepared.documents.iter().map(|ready| ready.document.clone()).collect();
    (!documents.is_empty()).then(|| UpsertRequest { collection: collection.to_owned(), batch_id: id, documents })
}

/// Positions of the documents that a refusal names, each with its first fault.
fn refused_documents(error: &StatusError) -> Vec<(usize, String)> {
    let mut refused: Vec<(usize, String)> = Vec::new();
    for violation in &error.field_violations {
        let Some((index, rest)) = violation.field.strip_prefix("documents[").and_then(|path| path.split_once(']'))
        else {
            continue;
        };
        let Ok(index) = index.parse::<usize>() else { continue };
        if refused.iter().all(|(known, _)| *known != index) {
            let field = rest.trim_start_matches('.');
            let separator = if field.is_empty() { "" } else { ": " };
            refused.push((index, format!("{field}{separator}{}", violation.description)));
        }
    }
    refused
}

/// A failure after which the same batches may be written; `None` if they never can be.
fn passing(error: &ClientError) -> Option<Failure> {
    let (code, pushback) = match error {
        ClientError::Connection { .. } => (Code::Unavailable, None),
        ClientError::Status(status) => (status.code, status.retry_after.map(Pushback::After)),
        _ => return None,
    };
    // A call that has lasted too long, or that somebody on the way has cut off, is as good as a lost connection.
    let cut_off = matches!(code, Code::DeadlineExceeded | Code::Cancelled | Code::Aborted);
    Some(Failure { code: if cut_off { Code::Unavailable } else { code }, pushback })
}

/// The shard has said nothing of what waits.
fn ended() -> ClientError {
    ClientError::Status(Box::new(StatusError {
        code: Code::Unavailable,
        message: "the shard ended the call".to_owned(),
        field_violations: Vec::new(),
        retry_after: None,
        reason: None,
        attempts: 1,
    }))
}
