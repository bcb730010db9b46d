//! What is sent, and the model that answers it.

use std::{fmt, time::Duration};

use sluice_core::workload::{Abandon, Class, Process, Sizes, Stream, Weighted, Workload};

/// A batch's fixed part, and a token's.
pub(super) const PER_BATCH: Microseconds = Microseconds(1000);
pub(super) const PER_TOKEN: Microseconds = Microseconds(4);
/// A batch takes so much more or less.
pub(super) const JITTER: f64 = 0.1;
/// Limits of a batch.
pub(super) const BATCH_TOKENS_MAX: u32 = 2048;
pub(super) const BATCH_SEQUENCES_MAX: u32 = 128;
/// Callers of the closed loop that finds the capacity: enough for full batches.
pub(super) const CAPACITY_CALLERS: u32 = 48;
/// Tokens of a document and of a query: a pair has three more.
const DOCUMENT_TOKENS: u32 = 20;
const QUERY_TOKENS: u32 = 8;
/// Of the mix: share of requests, documents and deadline of each class.
const MIX: [(Class, f64, u32, Duration); 3] = [
    (Class::Interactive, 0.7, 10, Duration::from_millis(200)),
    (Class::Standard, 0.2, 40, Duration::from_secs(1)),
    (Class::Bulk, 0.1, 160, Duration::from_secs(4)),
];
/// Documents of a request of the mix, on average.
pub(super) const MIX_DOCUMENTS: f64 = 31.0;

/// A time as a scripted model's file has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Microseconds(pub u32);

impl Microseconds {
    pub(super) fn seconds(self) -> f64 {
        f64::from(self.0) / 1e6
    }
}

impl fmt::Display for Microseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}us", self.0)
    }
}

/// The file of the scripted model.
pub(super) fn script() -> String {
    format!(
        "batch_tokens_max = {BATCH_TOKENS_MAX}\nbatch_sequences_max = {BATCH_SEQUENCES_MAX}\n\
         [service_time]\nper_batch = \"{PER_BATCH}\"\nper_token = \"{PER_TOKEN}\"\njitter = {JITTER:?}\nseed = 1\n"
    )
}

/// How long a full batch takes, seconds.
pub(super) fn batch_seconds() -> f64 {
    // Sequences fill it first: 128 pairs of 31 tokens would be 3,968.
    let tokens = BATCH_TOKENS_MAX.min(BATCH_SEQUENCES_MAX * (DOCUMENT_TOKENS + QUERY_TOKENS + 3));
    (1.0 + JITTER) * (PER_BATCH.seconds() + PER_TOKEN.seconds() * f64::from(tokens))
}

fn stream(name: &str, arrivals: Process, documents: Sizes) -> Stream {
    let mut stream = Stream::new(name, arrivals, documents);
    stream.document_tokens = Sizes::Fixed(DOCUMENT_TOKENS);
    stream.query_tokens = Sizes::Fixed(QUERY_TOKENS);
    stream
}

fn of_mix(class: Class, rate: f64) -> Stream {
    let (_, _, documents, deadline) = MIX[Class::ALL.iter().position(|other| *other == class).unwrap_or_default()];
    let stream = stream(class.name(), Process::Poisson { rate }, Sizes::Fixed(documents));
    Stream { class, deadline, ..stream }
}

/// A workload of these streams, its warm-up before the counted time.
pub(super) fn workload(streams: Vec<Stream>, warm_up: Duration, counted: Duration) -> Workload {
    Workload { duration: warm_up + counted, warm_up, seed: 1, streams }
}

/// The mix's requests from callers who wait for their answers.
pub(super) fn closed_mix() -> Vec<Stream> {
    let sizes =
        MIX.map(|(_, share, documents, _)| Weighted { value: documents, weight: (10.0 * share).round() as u32 });
    let arrivals = Process::Closed { callers: CAPACITY_CALLERS, think_time: Duration::ZERO };
    vec![stream("closed", arrivals, Sizes::Weighted(sizes.to_vec()))]
}

/// The mix at so many requests a second.
pub(super) fn mix(rate: f64) -> Vec<Stream> {
    MIX.iter().map(|(class, share, _, _)| of_mix(*class, share * rate)).collect()
}

/// Interactive and standard requests as of the mix at half the capacity, and bulk that makes it twice the capacity.
pub(super) fn bulk_overload(documents_per_second: f64) -> Vec<Stream> {
    let mut streams = mix(0.5 * documents_per_second / MIX_DOCUMENTS);
    let [interactive, standard, bulk] = MIX.map(|(_, share, documents, _)| share * f64::from(documents));
    let others = 0.5 * documents_per_second * (interactive + standard) / (interactive + standard + bulk);
    let rate = (2.0 * documents_per_second - others) / f64::from(MIX[2].2);
    streams[2].arrivals = Process::Poisson { rate };
    streams
}

/// A tenant of 10-document requests that asks for a fifth of the capacity.
pub(super) fn small_tenant(documents_per_second: f64) -> Stream {
    let rate = 0.2 * documents_per_second / 10.0;
    let stream = stream("small", Process::Poisson { rate }, Sizes::Fixed(10));
    Stream { tenant: Some("small".to_owned()), deadline: Duration::from_secs(10), ..stream }
}

/// One that sends 1,000-document requests without a pause.
pub(super) fn large_tenant() -> Stream {
    let arrivals = Process::Closed { callers: 4, think_time: Duration::ZERO };
    Stream { tenant: Some("large".to_owned()), ..stream("large", arrivals, Sizes::Fixed(1000)) }
}

/// Callers of whom half leave midway.
pub(super) fn storm() -> Vec<Stream> {
    let arrivals = Process::Closed { callers: 200, think_time: Duration::ZERO };
    let abandon = Some(Abandon { share: 0.5, after: Duration::from_millis(300) });
    vec![Stream { abandon, ..stream("storm", arrivals, Sizes::Fixed(40)) }]
}

#[cfg(test)]
mod tests {
    use sluice_core::workload::Traffic;

    use super::*;

    fn documents_per_second(streams: Vec<Stream>) -> f64 {
        let workload = workload(streams, Duration::ZERO, Duration::from_secs(600));
        let traffic = Traffic::new(workload).expect("it has no faults");
        traffic.arrivals().map(|arrival| arrival.request.documents.len()).sum::<usize>() as f64 / 600.0
    }

    #[test]
    fn workloads_offer_what_they_are_said_to() {
        // Sums of Poisson numbers of requests; 3 % is more than 3 standard deviations of each.
        for (offered, expected) in [
            (documents_per_second(mix(100.0)), 100.0 * MIX_DOCUMENTS),
            (documents_per_second(bulk_overload(5_000.0)), 10_000.0),
            (documents_per_second(vec![small_tenant(5_000.0)]), 1_000.0),
        ] {
            assert!((offered / expected - 1.0).abs() < 0.03, "{offered} for {expected}");
        }
        let mean: f64 = MIX.iter().map(|(_, share, documents, _)| share * f64::from(*documents)).sum();
        assert!((mean - MIX_DOCUMENTS).abs() < 1e-9);
        let interactive = |streams: &[Stream]| streams[0].clone();
        assert_eq!(interactive(&bulk_overload(3_100.0)), interactive(&mix(50.0)), "nothing but bulk is more");
    }

    #[test]
    fn the_script_is_a_table_of_times() {
        let script: toml::Table = script().parse().expect("it is TOML");
        assert_eq!(script["service_time"]["per_batch"].as_str(), Some("1000us"));
        assert!((batch_seconds() - 1.1 * (1e-3 + 2048.0 * 4e-6)).abs() < 1e-12);
    }
}
