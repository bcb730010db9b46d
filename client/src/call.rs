//! One call: attempts under one deadline.

use std::{sync::MutexGuard, time::Duration};

use prost::Message;
use sluice_core::Time;
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::{Request, Status};

use crate::{
    ClientError,
    client::Connection,
    error::{broken_connection, expired_here},
    options::DEADLINE_MAX,
    retry::{Failure, RetryBudget, RetryDecision, RetryState},
};

/// When a call began and when it ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    start: Instant,
    total: Duration,
}

impl Deadline {
    pub(crate) fn starting_now(total: Duration) -> Self {
        Self { start: Instant::now(), total: total.min(DEADLINE_MAX) }
    }

    /// `message` with the time that is left, for the server to know, and whose it is.
    pub(crate) fn stamp<T>(&self, message: T, connection: &Connection) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.total.saturating_sub(self.start.elapsed()));
        if let Some(token) = connection.token() {
            request.metadata_mut().insert("authorization", token.header());
        }
        request
    }

    /// Waits for what an attempt gives, no longer than to the end. `Err(None)` is the end.
    pub(crate) async fn bound<T>(&self, attempt: impl Future<Output = Result<T, Status>>) -> Result<T, Option<Status>> {
        match timeout_at(self.start + self.total, attempt).await {
            Ok(Err(status)) if expired_here(&status) => Err(None),
            Ok(outcome) => outcome.map_err(Some),
            Err(_) => Err(None),
        }
    }

    /// What to tell the caller after attempt number `attempts` has failed for good; no status is the end.
    pub(crate) fn error(&self, status: Option<&Status>, connection: &Connection, attempts: u32) -> ClientError {
        match status {
            Some(status) => ClientError::from_status(status, connection.url(), attempts),
            None => ClientError::expired(self.total, attempts),
        }
    }

    fn now(&self) -> Time {
        Time::from_origin(self.start.elapsed())
    }
}

/// Makes attempts until one succeeds, one fails for good, or the deadline is there.
///
/// Every attempt that another could follow sends a copy of `message`, so a call costs a copy of its
/// documents; the last one that the policy allows sends the original.
pub(crate) async fn with_retries<M, T, F>(
    connection: &Connection,
    deadline: Deadline,
    message: M,
    attempt: impl Fn(Request<M>) -> F,
) -> Result<T, ClientError>
where
    M: Message + Clone,
    F: Future<Output = Result<T, Status>>,
{
    // The transport would only say that its stream broke.
    let (bytes, limit) = (message.encoded_len(), connection.message_size_max());
    if bytes > limit {
        return Err(ClientError::TooLarge { bytes, limit });
    }
    let policy = connection.retry_policy();
    let attempts_max = policy.attempts_max;
    let mut retry = RetryState::new(policy.clone(), Time::from_origin(deadline.total), connection.next_seed());
    while retry.attempts() + 1 < attempts_max {
        match deadline.bound(attempt(deadline.stamp(message.clone(), connection))).await {
            Ok(answer) => return Ok(succeeded(connection, answer)),
            Err(None) => return Err(deadline.error(None, connection, retry.attempts() + 1)),
            Err(Some(status)) => match decide(&mut retry, &deadline, &status, connection.budget()) {
                Some(at) => sleep_until(deadline.start + at.since_origin()).await,
                None => return Err(deadline.error(Some(&status), connection, retry.attempts())),
            },
        }
    }
    match deadline.bound(attempt(deadline.stamp(message, connection))).await {
        Ok(answer) => Ok(succeeded(connection, answer)),
        Err(status) => Err(deadline.error(status.as_ref(), connection, retry.attempts() + 1)),
    }
}

fn succeeded<T>(connection: &Connection, answer: T) -> T {
    connection.budget().succeeded();
    answer
}

/// When to try again, if at all.
fn decide(
    retry: &mut RetryState,
    deadline: &Deadline,
    status: &Status,
    mut budget: MutexGuard<'_, RetryBudget>,
) -> Option<Time> {
    let mut failure = Failure::of(status);
    if broken_connection(status).is_some() {
        failure.code = tonic::Code::Unavailable;
    }
    match retry.next(deadline.now(), &failure, &mut budget) {
        RetryDecision::Retry { at } => Some(at),
        RetryDecision::GiveUp(_) => None,
    }
}
