//! What a workload must not say.

use std::{fmt, time::Duration};

use super::{Abandon, Budget, Content, Process, Stream, Workload};

/// Streams of a workload: each has state of its own in generator and simulator.
const STREAMS_MAX: usize = 64;
/// Bytes of a name: it stands in tables and metrics.
const NAME_BYTES_MAX: usize = 64;
/// Documents of a request: what a server takes by default.
const DOCUMENTS_MAX: u32 = 10_000;
/// Tokens of a text: more than any model reads, and little enough to make on the way.
const TOKENS_MAX: u32 = 1 << 16;
/// Stored documents of a stream: they are all put before the first request.
const POOL_MAX: u32 = 1_000_000;
/// Components of a vector.
const DIM_MAX: u32 = 4096;
/// Callers of a closed loop: each waits at once.
const CALLERS_MAX: u32 = 100_000;
/// Arrivals a second: beyond it intended times are closer than clocks tell apart.
const RATE_MAX: f64 = 1e6;
/// Length of a run, of a deadline and of every other time: a longer one is a mistake.
const TIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Something that a workload must not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadFault {
    /// Where: `stream[2].arrivals.rate`.
    pub key: String,
    /// What is wrong there.
    pub message: String,
}

/// Everything that is wrong with a workload; at least one thing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct WorkloadFaults(pub Vec<WorkloadFault>);

impl fmt::Display for WorkloadFaults {
    /// One line each: `stream[2].arrivals.rate: must be …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, WorkloadFault { key, message }) in self.0.iter().enumerate() {
            let separator = if n == 0 { "" } else { "\n" };
            write!(f, "{separator}{key}: {message}")?;
        }
        Ok(())
    }
}

impl Workload {
    /// Everything that is wrong with it, beyond its syntax.
    ///
    /// # Errors
    ///
    /// At least one fault, each with its key.
    pub fn check(&self) -> Result<(), WorkloadFaults> {
        let mut faults = Faults::default();
        faults.time("duration", self.duration);
        faults.require(self.warm_up < self.duration, "warm_up", "must end before `duration` does");
        let streams = self.streams.len();
        faults.require((1..=STREAMS_MAX).contains(&streams), "stream", &format!("must be 1 to {STREAMS_MAX}"));
        for (index, stream) in self.streams.iter().enumerate().take(STREAMS_MAX) {
            let duplicate = self.streams[..index].iter().any(|earlier| earlier.name == stream.name);
            faults.within(index);
            faults.require(!duplicate, "name", "is used twice");
            stream.check(self.duration, &mut faults);
            let earlier = self.streams[..index].iter().find(|earlier| earlier.namespace() == stream.namespace());
            let alike = |earlier: &Stream| {
                earlier.content == stream.content && earlier.document_tokens == stream.document_tokens
            };
            let one_pool = stream.namespace().is_none() || earlier.is_none_or(alike);
            faults.require(one_pool, "content", "shares a namespace with a stream of another pool or document_tokens");
        }
        if faults.found.is_empty() { Ok(()) } else { Err(WorkloadFaults(faults.found)) }
    }
}

impl Stream {
    fn namespace(&self) -> Option<&str> {
        match &self.content {
            Content::Stored { namespace, .. } => Some(namespace),
            Content::Text | Content::Vectors { .. } => None,
        }
    }

    fn check(&self, duration: Duration, faults: &mut Faults) {
        let named = |name: &str, bytes_max| (1..=bytes_max).contains(&name.len());
        faults.require(named(&self.name, NAME_BYTES_MAX), "name", &format!("must be 1 to {NAME_BYTES_MAX} bytes"));
        self.arrivals.check(faults);
        let until = self.until.unwrap_or(duration);
        faults.require(self.from < until, "from", "must come before `until` and the end of the run");
        faults.require(until <= duration, "until", "must not come after the end of the run");
        self.documents.check("documents", DOCUMENTS_MAX, faults);
        self.document_tokens.check("document_tokens", TOKENS_MAX, faults);
        self.query_tokens.check("query_tokens", TOKENS_MAX, faults);
        match &self.content {
            Content::Text => {}
            Content::Stored { namespace, pool } => {
                faults.require(named(namespace, 128), "content.namespace", "must be 1 to 128 bytes");
                faults.require(*pool <= POOL_MAX, "content.pool", &format!("must be at most {POOL_MAX}"));
                let enough = self.documents.largest().is_none_or(|documents| documents <= *pool);
                faults.require(enough, "content.pool", "must not be less than `documents`");
            }
            Content::Vectors { dim } => {
                let fits = (1..=DIM_MAX).contains(dim);
                faults.require(fits, "content.dim", &format!("must be 1 to {DIM_MAX}"));
            }
        }
        faults.require(self.distinct != Some(0), "distinct", "must be at least 1");
        let tenant = self.tenant.as_deref().is_none_or(|tenant| named(tenant, NAME_BYTES_MAX));
        faults.require(tenant, "tenant", &format!("must be 1 to {NAME_BYTES_MAX} bytes"));
        faults.time("deadline", self.deadline);
        if let Some(Budget { time, pairs }) = self.budget {
            faults.require(time.is_some() || pairs.is_some(), "budget", "must have `time`, `pairs` or both");
            faults.require(pairs != Some(0), "budget.pairs", "must be at least 1");
            faults.time("budget.time", time.unwrap_or(TIME_MAX));
        }
        if let Some(Abandon { share, after }) = self.abandon {
            faults.require((0.0..=1.0).contains(&share), "abandon.share", "must be from 0 to 1");
            faults.require(after <= TIME_MAX, "abandon.after", "must be at most 24h");
        }
    }
}

impl Process {
    fn check(&self, faults: &mut Faults) {
        match *self {
            Self::Constant { rate } | Self::Poisson { rate } => {
                let fits = (1e-6..=RATE_MAX).contains(&rate);
                faults.require(fits, "arrivals.rate", &format!("must be from 0.000001 to {RATE_MAX} a second"));
            }
            Self::Closed { callers, think_time } => {
                let fits = (1..=CALLERS_MAX).contains(&callers);
                faults.require(fits, "arrivals.callers", &format!("must be 1 to {CALLERS_MAX}"));
                faults.require(think_time <= TIME_MAX, "arrivals.think_time", "must be at most 24h");
            }
        }
    }
}

/// Faults as they are found.
#[derive(Default)]
pub(super) struct Faults {
    found: Vec<WorkloadFault>,
    prefix: String,
}

impl Faults {
    /// What follows is about that stream.
    fn within(&mut self, stream: usize) {
        self.prefix = format!("stream[{stream}].");
    }

    pub(super) fn require(&mut self, holds: bool, key: &str, message: &str) {
        if !holds {
            self.found.push(WorkloadFault { key: format!("{}{key}", self.prefix), message: message.to_owned() });
        }
    }

    fn time(&mut self, key: &str, time: Duration) {
        self.require(!time.is_zero() && time <= TIME_MAX, key, "must be longer than 0 and at most 24h");
    }
}
