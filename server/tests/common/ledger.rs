//! What a server has counted, read from its metrics port, and what this process holds.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{net::TcpStream, runtime::Handle};

use super::TestServer;

/// Everything that must be 0 when nothing is under way, summed over its labels.
const AT_REST: [&str; 7] = [
    "sluice_admitted_documents",
    "sluice_admitted_tokens",
    "sluice_admitted_bytes",
    "sluice_queue_units",
    "sluice_queue_tokens",
    "sluice_batches_in_flight",
    "sluice_requests_in_flight",
];

/// Time in which what is under way is over.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);

/// The metrics of this process at one moment. The recorder is one per process: counters go on from one test
/// server to the next, gauges are shared by those that run at a time.
#[derive(Clone, Debug)]
pub struct Counts(BTreeMap<String, f64>);

impl Counts {
    /// As they are now.
    pub async fn of(server: &TestServer) -> Self {
        let text = fetch(server.metrics.expect("a server with metrics")).await;
        let series = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
        Self(series.map(|(name, value)| (name.to_owned(), value.parse().expect("a number"))).collect())
    }

    /// As they are once `holds` does.
    pub async fn when(server: &TestServer, what: &str, holds: impl Fn(&Self) -> bool) -> Self {
        let begin = Instant::now();
        loop {
            let counts = Self::of(server).await;
            if holds(&counts) {
                return counts;
            }
            assert!(begin.elapsed() < PATIENCE, "{what} did not come in {PATIENCE:?}: {counts:#?}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// As they are once nothing is under way; asserts that the server's books balance then.
    pub async fn at_rest(server: &TestServer) -> Self {
        let counts = Self::when(server, "rest", |counts| AT_REST.iter().all(|gauge| counts.sum(gauge) == 0.0)).await;
        let (admitted, finished) = (counts.sum("sluice_admitted_total"), counts.sum("sluice_finished_total"));
        assert_eq!(admitted, finished, "admitted = Σ finished");
        let left = ["dispatched", "cancelled", "expired"].map(|event| counts.units(event)).iter().sum::<f64>();
        assert_eq!(counts.units("enqueued"), left, "enqueued = dispatched + cancelled + expired");
        counts
    }

    /// One series with its labels as written; 0 if it was never recorded.
    pub fn get(&self, series: &str) -> f64 {
        self.0.get(series).copied().unwrap_or(0.0)
    }

    /// A metric over all its labels.
    pub fn sum(&self, metric: &str) -> f64 {
        let of_metric = |series: &str| series.split('{').next() == Some(metric);
        self.0.iter().filter(|(series, _)| of_metric(series)).map(|(_, value)| value).sum()
    }

    /// Units by event.
    pub fn units(&self, event: &str) -> f64 {
        self.get(&format!("sluice_units_total{{event=\"{event}\"}}"))
    }

    /// Admitted requests by outcome.
    pub fn finished(&self, outcome: &str) -> f64 {
        self.get(&format!("sluice_finished_total{{outcome=\"{outcome}\"}}"))
    }
}

/// What this process holds. Descriptors and threads are known on Linux alone, and 0 elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    descriptors: usize,
    threads: usize,
    /// Tasks of the test's runtime, in which the server lives too.
    tasks: usize,
}

impl Held {
    pub fn now() -> Self {
        let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let threads = status.lines().find_map(|line| line.strip_prefix("Threads:"));
        let threads = threads.and_then(|count| count.trim().parse().ok()).unwrap_or(0);
        Self { descriptors, threads, tasks: Handle::current().metrics().num_alive_tasks() }
    }

    /// Waits until no more is held than this, as things that were closed go.
    pub async fn not_grown(self) {
        let begin = Instant::now();
        loop {
            let now = Self::now();
            if now.descriptors <= self.descriptors && now.threads <= self.threads && now.tasks <= self.tasks {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "{self:?} grew to {now:?}");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// The body of `GET /metrics`.
async fn fetch(address: SocketAddr) -> String {
    let stream = TcpStream::connect(address).await.expect("the metrics port listens");
    let mut request = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".as_slice();
    while !request.is_empty() {
        stream.writable().await.expect("a socket");
        match stream.try_write(request) {
            Ok(written) => request = &request[written..],
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
    }
    let (mut response, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        stream.readable().await.expect("a socket");
        match stream.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => response.extend_from_slice(&buffer[..read]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
    }
    let response = String::from_utf8(response).expect("text");
    let (head, body) = response.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 ") && !head.contains("chunked"), "{head}");
    body.to_owned()
}
