//! One call: its deadline, and what is counted about it.

use std::{future::Future, time::Duration};

use metrics::{counter, gauge, histogram};
use sluice_service::{
    deadline,
    status::{Refusal, code_name},
};
use tokio::time::Instant;
use tonic::{Code, Request, Status};

use super::App;

/// Longer deadlines are cut to this: nobody waits longer, and sums with it stay in range.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);
/// The answer is sent that much before the deadline: at the deadline itself tonic's own timer would
/// answer, with CANCELLED (docs/adr/0005).
const ANSWER_MARGIN: Duration = Duration::from_millis(2);

/// A call being worked on. Dropped without [`end`](Self::end), it counts as cancelled.
pub(super) struct Call {
    rpc: &'static str,
    pub(super) arrival: Instant,
    pub(super) deadline: Instant,
    code: Code,
}

impl Call {
    /// Reads the deadline and counts the call. One whose deadline has passed is refused before any work.
    pub(super) fn begin<T>(rpc: &'static str, request: &Request<T>, app: &App) -> Result<Self, Status> {
        Self::within_default(rpc, request, app.default_deadline())
    }

    /// The same for a stream of requests, which has no deadline but its caller's.
    pub(super) fn begin_stream<T>(rpc: &'static str, request: &Request<T>) -> Result<Self, Status> {
        Self::within_default(rpc, request, TIMEOUT_MAX)
    }

    fn within_default<T>(rpc: &'static str, request: &Request<T>, default: Duration) -> Result<Self, Status> {
        gauge!("sluice_shard_requests_in_flight", "rpc" => rpc).increment(1);
        let arrival = deadline::arrival(request);
        let said = deadline::timeout(request.metadata());
        let timeout = said.as_ref().copied().ok().flatten().unwrap_or(default).min(TIMEOUT_MAX);
        let deadline = arrival + timeout.saturating_sub(ANSWER_MARGIN.min(timeout / 4));
        let call = Self { rpc, arrival, deadline, code: Code::Cancelled };
        match said {
            Err(fault) => Err(call.refused(Refusal::InvalidArgument(vec![fault]))),
            Ok(_) if Instant::now() >= deadline => Err(call.refused(Refusal::DeadlineExceeded { phase: "arrival" })),
            Ok(_) => Ok(call),
        }
    }

    /// Ends it with a refusal.
    pub(super) fn refused(mut self, refusal: Refusal) -> Status {
        let status = Status::from(refusal);
        self.end(status.code());
        status
    }

    /// Notes how the call ended.
    pub(super) fn end(&mut self, code: Code) {
        self.code = code;
    }

    /// `work`, unless the deadline passes first.
    pub(super) async fn within<T>(&self, work: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
        let expired = |_| Refusal::DeadlineExceeded { phase: "processing" };
        tokio::time::timeout_at(self.deadline, work).await.map_err(expired)?
    }

    /// Runs a unary call to its end.
    pub(super) async fn run<T>(mut self, work: impl Future<Output = Result<T, Refusal>>) -> Result<T, Status> {
        let result = self.within(work).await.map_err(Status::from);
        self.end(result.as_ref().map_or_else(Status::code, |_| Code::Ok));
        result
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        gauge!("sluice_shard_requests_in_flight", "rpc" => self.rpc).decrement(1);
        counter!("sluice_shard_requests_total", "rpc" => self.rpc, "code" => code_name(self.code)).increment(1);
        let seconds = self.arrival.elapsed().as_secs_f64();
        histogram!("sluice_shard_request_duration_seconds", "rpc" => self.rpc).record(seconds);
    }
}
