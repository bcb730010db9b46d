//! RerankMany: requests over one call, answers as they are ready.

use std::{collections::HashSet, time::Duration};

use futures_util::{FutureExt, Stream, stream};
use sluice_core::TenantId;
use sluice_proto::rerank::v1::{RequestError, RerankManyRequest, RerankManyResponse, rerank_many_response::Outcome};
use sluice_service::{deadline, status::Refusal};
use tokio::{task::JoinSet, time::Instant};
use tonic::{Request, Status, Streaming};

use super::{
    App,
    call::{Call, fault},
};
use crate::validate;

const RPC: &str = "RerankMany";
/// Bytes of a request's id.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// A call without a deadline lives until its caller, its connection or the server ends.
const UNBOUNDED: Duration = Duration::from_secs(365 * 24 * 3600);

/// The answers to a call's requests.
pub(super) fn answer(
    app: App,
    request: Request<Streaming<RerankManyRequest>>,
) -> Result<impl Stream<Item = Result<RerankManyResponse, Status>>, Status> {
    let timeout =
        deadline::timeout(request.metadata()).map_err(|fault| Status::from(Refusal::InvalidArgument(vec![fault])))?;
    let deadline = deadline::arrival(&request) + timeout.unwrap_or(UNBOUNDED).min(UNBOUNDED);
    if deadline <= Instant::now() {
        return Err(Refusal::DeadlineExceeded { phase: "arrival" }.into());
    }
    let in_flight_max = app.0.limits.requests_in_flight_per_stream_max;
    let tenant = app.tenant(request.metadata())?;
    let many = Many {
        app,
        tenant,
        deadline,
        timed: timeout.is_some(),
        in_flight_max,
        requests: request.into_inner(),
        open: true,
        turned_away: false,
        ids: HashSet::new(),
        answers: JoinSet::new(),
        ended: false,
    };
    Ok(stream::unfold(many, Many::next))
}

struct Many {
    app: App,
    tenant: TenantId,
    /// Of the call as a whole.
    deadline: Instant,
    /// The caller set that deadline.
    timed: bool,
    in_flight_max: usize,
    requests: Streaming<RerankManyRequest>,
    /// The caller may send more, and we would read it.
    open: bool,
    /// The caller may have wanted to send more.
    turned_away: bool,
    /// Of requests in flight.
    ids: HashSet<String>,
    /// Tasks of their own, because these are polled only while the caller reads: a request that is done
    /// gives its room back whether or not its answer can be sent. Dropped, they are cancelled.
    answers: JoinSet<(String, Result<Outcome, Status>)>,
    ended: bool,
}

impl Many {
    async fn next(mut self) -> Option<(Result<RerankManyResponse, Status>, Self)> {
        while !self.ended {
            if !self.open && self.answers.is_empty() {
                // Drained: what was read has been answered, what was not is refused with the call.
                let refusal =
                    Refusal::Unavailable { reason: "DRAINING", message: "the server is stopping", retry_after: None };
                return self.turned_away.then(|| self.end(refusal.into()));
            }
            let more = self.open && self.answers.len() < self.in_flight_max;
            tokio::select! {
                biased;
                Some(answer) = self.answers.join_next(), if !self.answers.is_empty() => {
                    // A panic, which was logged. Whose request it was is not known any more.
                    let Ok((request_id, outcome)) = answer else { return Some(self.end(Refusal::Internal.into())) };
                    self.ids.remove(&request_id);
                    let outcome = Some(outcome.unwrap_or_else(|status| Outcome::Error(error(&status))));
                    return Some((Ok(RerankManyResponse { request_id, outcome }), self));
                }
                () = self.app.0.drain.begun(), if self.open => {
                    self.open = false;
                    // Who has said all there is to say, and been read, is not turned away.
                    self.turned_away = !matches!(self.requests.message().now_or_never(), Some(Ok(None)));
                }
                () = tokio::time::sleep_until(self.deadline) => {
                    return Some(self.end(Refusal::DeadlineExceeded { phase: "stream" }.into()));
                }
                request = self.requests.message(), if more => match request {
                    Ok(Some(request)) => {
                        if let Some(refused) = self.begin(request) {
                            return Some((Ok(refused), self));
                        }
                    }
                    Ok(None) => self.open = false,
                    Err(status) => return Some(self.end(status)),
                },
            }
        }
        None
    }

    /// Starts a request, or answers one that cannot be told apart.
    fn begin(&mut self, request: RerankManyRequest) -> Option<RerankManyResponse> {
        let RerankManyRequest { request_id, request, timeout } = request;
        let refuse = |request_id: &str, field, description: &str| {
            let status = Status::from(fault(field, description));
            let outcome = Some(Outcome::Error(error(&status)));
            Some(RerankManyResponse { request_id: request_id.to_owned(), outcome })
        };
        if request_id.is_empty() || request_id.len() > REQUEST_ID_BYTES_MAX {
            return refuse(&request_id, "request_id", "must be 1 to 128 bytes");
        }
        if self.ids.contains(&request_id) {
            return refuse(&request_id, "request_id", "is in flight on this call already");
        }
        let Some(request) = request else { return refuse(&request_id, "request", "is required") };
        let Ok(timeout) = timeout.map(|timeout| validate::duration(&timeout).ok_or(())).transpose() else {
            return refuse(&request_id, "timeout", "must not be negative or out of range");
        };
        let app = self.app.clone();
        let rest_of_call = || self.timed.then(|| self.deadline.saturating_duration_since(Instant::now()));
        let call = Call::nested(RPC, self.deadline, timeout.or_else(rest_of_call), self.tenant, &app);
        self.ids.insert(request_id.clone());
        self.answers.spawn(async move {
            let caller = call.caller;
            let result = call.run(app.rerank_whole(request, caller)).await;
            (request_id, result.map(Outcome::Response))
        });
        None
    }

    fn end(mut self, status: Status) -> (Result<RerankManyResponse, Status>, Self) {
        self.ended = true;
        self.answers.abort_all();
        (Err(status), self)
    }
}

fn error(status: &Status) -> RequestError {
    RequestError {
        code: status.code().into(),
        message: status.message().to_owned(),
        status_details: status.details().to_vec(),
    }
}
