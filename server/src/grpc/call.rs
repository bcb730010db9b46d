//! One call: its deadline, and what is counted about it.

use std::{future::Future, time::Duration};

use metrics::{counter, gauge, histogram};
use sluice_core::{
    Lane, Priority, TenantId, Time, Worth,
    admission::{Growth, Refused, Work},
    cost::BatchShape,
};
use sluice_service::{
    credentials, deadline,
    status::{FieldFault, Refusal, code_name},
};
use tokio::time::Instant;
use tonic::{Code, Request, Status, metadata::MetadataMap};

use super::App;
use crate::{
    engine::permit::{Permit, Terms, Texts},
    metrics::{self as counted, Outcome},
};

/// Longer deadlines are cut to this: nobody waits longer, and sums with it stay in range.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);
/// The answer is sent that much before the deadline: at the deadline itself tonic's own timer would
/// answer, with CANCELLED (docs/adr/0005).
const ANSWER_MARGIN: Duration = Duration::from_millis(2);

/// Who asks, since when and until when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    pub(super) arrival: Instant,
    pub(super) deadline: Instant,
    /// Whose it is.
    pub(super) tenant: TenantId,
}

/// A call being worked on. Dropped without [`end`](Self::end), it counts as cancelled.
pub(super) struct Call {
    rpc: &'static str,
    pub(super) caller: Caller,
    code: Code,
}

impl Call {
    /// Reads the deadline and counts the call. One whose deadline has passed is refused before any work.
    pub(super) fn begin<T>(rpc: &'static str, request: &Request<T>, app: &App) -> Result<Self, Status> {
        let arrival = deadline::arrival(request);
        let timeout = deadline::timeout(request.metadata());
        let tenant = app.tenant(request.metadata());
        let known = tenant.as_ref().copied().unwrap_or(TenantId(0));
        let call = Self::new(rpc, arrival, timeout.as_ref().copied().ok().flatten(), known, app);
        match (tenant, timeout) {
            (Ok(_), Ok(_)) => call.in_time(),
            (Err(refusal), _) => call.end_with(refusal),
            (_, Err(fault)) => call.end_with(Refusal::InvalidArgument(vec![fault])),
        }
    }

    /// As [`begin`](Self::begin) for a request inside a call, bounded by the call's deadline.
    pub(super) fn nested(
        rpc: &'static str,
        outer: Instant,
        timeout: Option<Duration>,
        tenant: TenantId,
        app: &App,
    ) -> Self {
        let mut call = Self::new(rpc, Instant::now(), timeout, tenant, app);
        call.caller.deadline = call.caller.deadline.min(outer);
        call
    }

    fn new(rpc: &'static str, arrival: Instant, timeout: Option<Duration>, tenant: TenantId, app: &App) -> Self {
        gauge!("sluice_requests_in_flight", "rpc" => rpc).increment(1);
        let timeout = timeout.unwrap_or(app.0.default_deadline).min(TIMEOUT_MAX);
        let deadline = arrival + timeout.saturating_sub(ANSWER_MARGIN.min(timeout / 4));
        Self { rpc, caller: Caller { arrival, deadline, tenant }, code: Code::Cancelled }
    }

    fn in_time(self) -> Result<Self, Status> {
        if Instant::now() < self.caller.deadline {
            return Ok(self);
        }
        self.end_with(Refusal::DeadlineExceeded { phase: "arrival" })
    }

    fn end_with(mut self, refusal: Refusal) -> Result<Self, Status> {
        let status = Status::from(refusal);
        self.end(status.code());
        Err(status)
    }

    /// Notes how the call ended.
    pub(super) fn end(&mut self, code: Code) {
        self.code = code;
    }

    /// `work`, unless the deadline passes first.
    pub(super) async fn within<T>(&self, work: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
        let expired = |_| Refusal::DeadlineExceeded { phase: "processing" };
        tokio::time::timeout_at(self.caller.deadline, work).await.map_err(expired)?
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
        gauge!("sluice_requests_in_flight", "rpc" => self.rpc).decrement(1);
        counter!("sluice_requests_total", "rpc" => self.rpc, "code" => code_name(self.code)).increment(1);
        let took = self.caller.arrival.elapsed().as_secs_f64();
        histogram!("sluice_request_duration_seconds", "rpc" => self.rpc).record(took);
        if self.code == Code::ResourceExhausted {
            histogram!("sluice_refusal_duration_seconds", "rpc" => self.rpc).record(took);
        }
    }
}

/// An admitted request. Dropped without [`end`](Self::end), it was cut off: by its deadline, else by
/// its caller.
pub(super) struct Admitted {
    deadline: Instant,
    outcome: Option<Outcome>,
}

impl Admitted {
    /// Ends it the way the answer did.
    pub(super) fn end(&mut self, refusal: Option<&Refusal>) {
        self.outcome = Some(match refusal {
            None => Outcome::Answered,
            Some(Refusal::DeadlineExceeded { .. }) => Outcome::Expired,
            Some(_) => Outcome::Failed,
        });
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let expired = Instant::now() >= self.deadline;
        let cut_off = if expired { Outcome::Expired } else { Outcome::Cancelled };
        counted::finished(self.outcome.unwrap_or(cut_off));
    }
}

impl App {
    /// Whose call it is.
    pub(super) fn tenant(&self, metadata: &MetadataMap) -> Result<TenantId, Refusal> {
        self.0.tenants.find(credentials::bearer(metadata)?).ok_or(Refusal::Unauthenticated)
    }

    /// How a request of that caller is to be treated.
    pub(super) fn terms(&self, caller: Caller, class: Priority, worth: Worth) -> Terms {
        Terms { class, tenant: caller.tenant, deadline: self.time(caller.deadline), worth }
    }

    /// Room for what is known before tokenizing, at once or not at all.
    pub(super) fn admit(&self, terms: Terms, texts: Texts, documents: usize, bytes: u64) -> Result<Permit, Refusal> {
        let work = Work { documents: documents as u64, tokens: 0, bytes };
        let admitted = self.0.permits.try_admit(terms, work, Some(texts));
        admitted.map_err(|refused| self.refused(&refused, terms))
    }

    /// Room alone, for what the device does not compute.
    pub(super) fn admit_aside(&self, caller: Caller, items: usize, bytes: u64) -> Result<Permit, Refusal> {
        let terms = self.terms(caller, Priority::Standard, Worth::Whole);
        let work = Work { documents: items as u64, tokens: 0, bytes };
        self.0.permits.try_admit(terms, work, None).map_err(|refused| self.refused(&refused, terms))
    }

    /// Room for the tokens too, and time for the work: from here on the request counts as admitted.
    pub(super) fn admit_tokens(
        &self,
        permit: Permit,
        tokens: u64,
        work: &[(Lane, BatchShape)],
    ) -> Result<(Permit, Admitted), Refusal> {
        let terms = permit.terms();
        let more = Work { tokens, ..Work::default() };
        let grown = permit.grown(Growth { more, charged: tokens, goes_on: false, units: work });
        let permit = grown.map_err(|refused| self.refused(&refused, terms))?;
        counted::admitted();
        // No deadline is further away than that.
        let deadline = self.0.preparer.clock.instant(terms.deadline).unwrap_or_else(|| Instant::now() + TIMEOUT_MAX);
        Ok((permit, Admitted { deadline, outcome: None }))
    }

    /// Counts a refusal, and says it.
    fn refused(&self, refused: &Refused, terms: Terms) -> Refusal {
        counted::rejected(refused.name(), terms.class, self.0.tenants.name(terms.tenant));
        self.refusal(refused, terms)
    }

    fn refusal(&self, refused: &Refused, terms: Terms) -> Refusal {
        match *refused {
            Refused::Room(rejected) => Refusal::ResourceExhausted {
                what: format!("{} in flight", rejected.resource.name()),
                limit: rejected.limit,
                retry_after: rejected.retry_after,
            },
            Refused::Quota(over) => Refusal::QuotaExceeded { what: over.kind.name(), retry_after: over.retry_after },
            Refused::Overloaded { predicted, retry_after } => {
                let available = terms.deadline.since(self.0.preparer.clock.now());
                Refusal::QueueTooLong { expected: predicted, available, retry_after }
            }
            Refused::Unreachable { .. } => Refusal::DeadlineExceeded { phase: "unreachable" },
        }
    }

    /// Room for `more` tokens of an admitted request, and time for further work; its tenant is charged all that this
    /// work computes. What is refused here is no refusal at admission, and counts with how the request ends.
    pub(super) fn admit_more_tokens(
        &self,
        permit: Permit,
        more: u64,
        charged: u64,
        work: &[(Lane, BatchShape)],
    ) -> Result<Permit, Refusal> {
        let terms = permit.terms();
        let more = Work { tokens: more, ..Work::default() };
        let grown = permit.grown(Growth { more, charged, goes_on: true, units: work });
        grown.map_err(|refused| self.refusal(&refused, terms))
    }

    /// A point of the runtime on the engine's clock.
    pub(super) fn time(&self, instant: Instant) -> Time {
        self.0.preparer.clock.time(instant)
    }
}

/// A fault of a single field.
pub(super) fn fault(field: &str, description: impl Into<String>) -> Refusal {
    Refusal::InvalidArgument(vec![FieldFault { field: field.to_owned(), description: description.into() }])
}
