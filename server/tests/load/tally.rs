//! What callers saw, and how it compares with what the server counted.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sluice_proto::rerank::v1::RerankResponse;
use sluice_service::status::code_name;
use tonic::Code;

use crate::{caller::Mix, common::prometheus::Metrics, workload::Ask};

/// How a request is made. The name is the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rpc {
    Rerank,
    RerankStream,
    RerankMany,
}

const RPCS: [Rpc; 3] = [Rpc::Rerank, Rpc::RerankStream, Rpc::RerankMany];

/// Shared by all callers.
#[derive(Default)]
pub struct Tally(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    /// Requests made, and requests whose end the caller did not see: it left, or its own timer ended the call.
    begun: BTreeMap<Rpc, u64>,
    unseen: BTreeMap<Rpc, u64>,
    /// Ends that the caller saw, by code.
    ended: BTreeMap<(Rpc, &'static str), u64>,
    /// Of answered requests.
    documents: u64,
    units: u64,
    query_tokens: u64,
    document_tokens: u64,
    computed_tokens: u64,
    latencies: Vec<Duration>,
    /// A moving mean of them.
    typical_latency: Duration,
}

impl Tally {
    pub fn begin(&self, rpc: Rpc) {
        *self.lock().begun.entry(rpc).or_default() += 1;
    }

    pub fn unseen(&self, rpc: Rpc) {
        *self.lock().unseen.entry(rpc).or_default() += 1;
    }

    pub fn refused(&self, rpc: Rpc, code: Code) {
        *self.lock().ended.entry((rpc, code_name(code))).or_default() += 1;
    }

    pub fn answered(&self, rpc: Rpc, ask: &Ask, answer: &RerankResponse, latency: Duration) {
        let usage = answer.usage.unwrap_or_default();
        let mut counts = self.lock();
        *counts.ended.entry((rpc, code_name(Code::Ok))).or_default() += 1;
        counts.documents += ask.documents() as u64;
        counts.units += ask.units() as u64;
        counts.query_tokens += usage.query_tokens;
        counts.document_tokens += usage.document_tokens;
        counts.computed_tokens += usage.computed_tokens;
        counts.latencies.push(latency);
        counts.typical_latency = counts.typical_latency.mul_f64(0.95) + latency.mul_f64(0.05);
    }

    /// Of recent answers: who leaves midway leaves within that time.
    pub fn typical_latency(&self) -> Duration {
        self.lock().typical_latency
    }

    /// What the server says otherwise, of the time since `before`; nothing is in flight.
    ///
    /// A caller that left does not know how its request ended, nor whether it arrived at all: where there are such, the
    /// server may have counted up to as many more. Where everybody waited, every figure is equal.
    pub fn faults(&self, before: &Metrics, now: &Metrics, mix: Mix) -> Vec<String> {
        let counts = self.lock();
        let since = |name: &str, labels: &[(&str, &str)]| now.count(name, labels) - before.count(name, labels);
        let mut faults = now.faults_at_rest();
        let mut check = |what: String, ours: u64, theirs: u64, unseen: u64| {
            if !(ours..=ours + unseen).contains(&theirs) {
                faults.push(format!("{what}: {ours} here (and {unseen} unseen), {theirs} there"));
            }
        };
        let mut unseen_of_all = 0;
        for rpc in RPCS {
            let name = format!("{rpc:?}");
            let unseen = counts.unseen.get(&rpc).copied().unwrap_or_default();
            let begun = counts.begun.get(&rpc).copied().unwrap_or_default();
            unseen_of_all += unseen;
            check(format!("{name} made"), begun - unseen, since("sluice_requests_total", &[("rpc", &name)]), unseen);
            for code in now.values("sluice_requests_total", "code") {
                let ours = counts.ended.get(&(rpc, code)).copied().unwrap_or_default();
                let theirs = since("sluice_requests_total", &[("rpc", &name), ("code", code)]);
                check(format!("{name} {code}"), ours, theirs, unseen);
            }
        }
        let of_code = |code: Code| {
            let ended = counts.ended.iter().filter(|((_, name), _)| *name == code_name(code));
            ended.map(|(_, count)| count).sum::<u64>()
        };
        let finished = |outcome: &str| since("sluice_finished_total", &[("outcome", outcome)]);
        let (answered, refused) = (of_code(Code::Ok), of_code(Code::ResourceExhausted));
        check("answered".to_owned(), answered, finished("answered"), unseen_of_all);
        check("failed".to_owned(), 0, finished("failed"), 0);
        // What no server could do in time is refused with the code of a deadline.
        let unreachable = since("sluice_rejected_total", &[("reason", "unreachable")]);
        let rejected = since("sluice_rejected_total", &[]) - unreachable;
        check("rejected".to_owned(), refused, rejected, unseen_of_all);
        // What went to a caller who had just left was computed all the same; so was a part of what was cancelled.
        let (slack, computed) =
            if mix == Mix::Patient && unseen_of_all == 0 { (0, 0) } else { (u64::MAX / 2, u64::MAX / 2) };
        check("admitted".to_owned(), answered, since("sluice_admitted_total", &[]), slack);
        let kinds = [("query", counts.query_tokens), ("document", counts.document_tokens)];
        for (kind, ours) in kinds {
            check(format!("{kind} tokens"), ours, since("sluice_tokens_total", &[("kind", kind)]), slack);
        }
        check("units".to_owned(), counts.units, since("sluice_units_total", &[("event", "dispatched")]), computed);
        let real = since("sluice_computed_tokens_total", &[("kind", "real")]);
        check("computed tokens".to_owned(), counts.computed_tokens, real, computed);
        check("padding".to_owned(), 0, since("sluice_computed_tokens_total", &[("kind", "padding")]), 0);
        check("faults of batches".to_owned(), 0, since("sluice_batch_faults_total", &[]), 0);
        let removed = since("sluice_units_total", &[("event", "cancelled")]);
        faults.extend(
            counts.too_little(mix, [finished("cancelled"), finished("expired") + unreachable + rejected, removed]),
        );
        faults
    }

    /// For people.
    pub fn figures(&self, before: &Metrics, now: &Metrics) -> String {
        let mut counts = self.lock();
        let mut text = String::new();
        for rpc in RPCS {
            let count = |map: &BTreeMap<Rpc, u64>| map.get(&rpc).copied().unwrap_or_default();
            let _ = write!(text, "{:<13}{:>6} made", format!("{rpc:?}"), count(&counts.begun));
            for ((_, code), ended) in counts.ended.iter().filter(|((of, _), _)| *of == rpc) {
                let _ = write!(text, ", {ended} {code}");
            }
            let _ = writeln!(text, ", {} left or timed out", count(&counts.unseen));
        }
        let since = |name: &str, labels: &[(&str, &str)]| now.count(name, labels) - before.count(name, labels);
        let of = |name, label, values: &[&str]| {
            let each = values.iter().map(|value| format!("{} {value}", since(name, &[(label, value)])));
            each.collect::<Vec<_>>().join(", ")
        };
        let outcomes = of("sluice_finished_total", "outcome", &["answered", "cancelled", "expired", "failed"]);
        let events = of("sluice_units_total", "event", &["enqueued", "dispatched", "cancelled", "expired"]);
        let _ = writeln!(
            text,
            "server: {} admitted = {outcomes}; {} rejected",
            since("sluice_admitted_total", &[]),
            since("sluice_rejected_total", &[])
        );
        let _ = writeln!(text, "units:  {events}");
        counts.latencies.sort();
        let at =
            |part: f64| counts.latencies[((counts.latencies.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
        let (median, late, last) = (at(0.5), at(0.99), at(1.0));
        let _ = writeln!(
            text,
            "answers: {} documents; median {median:.0} ms, 99 % {late:.0} ms, longest {last:.0} ms",
            counts.documents
        );
        text
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    /// A run in which nothing happened would show nothing. A short one on a slow machine may be spared the rarer ends.
    fn too_little(&self, mix: Mix, cut_off: [u64; 3]) -> Vec<String> {
        let ok = |rpc: &Rpc| self.ended.get(&(*rpc, "OK")).copied().unwrap_or_default();
        let mut wanted: Vec<(String, u64)> = RPCS.iter().map(|rpc| (format!("{rpc:?} OK"), ok(rpc))).collect();
        if mix == Mix::Restless && RPCS.iter().map(ok).sum::<u64>() > 200 {
            let ends = ["cancelled", "expired or refused in time", "removed from the queue when cancelled"];
            wanted.extend(ends.map(str::to_owned).into_iter().zip(cut_off));
        }
        wanted.into_iter().filter(|(_, count)| *count == 0).map(|(what, _)| format!("{what}: none at all")).collect()
    }
}
