//! Names, buckets and handles of the server's metrics.
//!
//! Two sums hold whenever nothing is in flight, and tests check them:
//! `admitted = Σ finished{outcome}` and `units{enqueued} = Σ units{dispatched, cancelled, expired}`.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use metrics::{
    Counter, Gauge, Histogram, Label, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use sluice_core::{DeviceIndex, Lane, Operation, Priority, admission::Work, backend::DeviceCache};

const SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
const REFUSAL_SECONDS: &[f64] = &[0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.01, 0.025, 0.1, 1.0];
const TOKENS: &[f64] = &[16.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0];
const SEQUENCES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];
const RATIO: &[f64] = &[0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0];

/// Histogram buckets by metric name.
pub const BUCKETS: &[(&str, &[f64])] = &[
    ("sluice_request_duration_seconds", SECONDS),
    ("sluice_refusal_duration_seconds", REFUSAL_SECONDS),
    ("sluice_queue_duration_seconds", SECONDS),
    ("sluice_tokenize_duration_seconds", SECONDS),
    ("sluice_compute_duration_seconds", SECONDS),
    ("sluice_predicted_duration_seconds", SECONDS),
    ("sluice_wasted_device_seconds", SECONDS),
    ("sluice_batch_tokens", TOKENS),
    ("sluice_batch_sequences", SEQUENCES),
    ("sluice_batch_fill_ratio", RATIO),
];

/// Writes each metric's help text. Once per process, after the recorder is installed.
pub fn describe() {
    describe_counter!("sluice_requests_total", "Finished calls (of RerankMany: requests), by rpc and gRPC code");
    describe_gauge!("sluice_requests_in_flight", "Calls (of RerankMany: requests) being worked on, by rpc");
    describe_histogram!("sluice_request_duration_seconds", "From arrival to the last message, by rpc");
    describe_histogram!(
        "sluice_refusal_duration_seconds",
        "From arrival to a refusal for want of room or time, by rpc"
    );
    describe_counter!("sluice_admitted_total", "Requests admitted");
    describe_counter!("sluice_rejected_total", "Requests refused at admission, by reason, class and tenant");
    describe_counter!("sluice_finished_total", "Admitted requests that ended, by outcome");
    describe_gauge!("sluice_admitted_documents", "Documents of requests inside");
    describe_gauge!("sluice_admitted_tokens", "Tokens of requests inside");
    describe_gauge!("sluice_admitted_bytes", "Bytes of text of requests inside");
    describe_histogram!("sluice_tokenize_duration_seconds", "Tokenizing of a request, the wait for a thread included");
    describe_histogram!("sluice_queue_duration_seconds", "From a request's submission to its first batch");
    describe_histogram!("sluice_compute_duration_seconds", "One batch on its device, by operation");
    describe_histogram!(
        "sluice_predicted_duration_seconds",
        "What the cost model expected of batches that then were computed, by operation"
    );
    describe_gauge!(
        "sluice_cost_relative_error",
        "Median of |predicted - measured| / measured over the latest batches, by operation and model"
    );
    describe_gauge!("sluice_backlog_seconds", "Predicted device time of what waits, by class");
    describe_histogram!("sluice_batch_tokens", "Tokens of a batch, without padding");
    describe_histogram!("sluice_batch_sequences", "Sequences of a batch");
    describe_histogram!("sluice_batch_fill_ratio", "Tokens of a batch over its budget");
    describe_counter!("sluice_computed_tokens_total", "Tokens that went through a model; kind=padding is waste");
    describe_counter!("sluice_units_total", "Units by event: enqueued, dispatched, cancelled, expired");
    describe_gauge!("sluice_queue_units", "Units waiting for a batch");
    describe_gauge!("sluice_queue_tokens", "Tokens waiting for a batch");
    describe_gauge!("sluice_batches_in_flight", "Batches dispatched and not completed");
    describe_gauge!("sluice_devices_up", "Devices that compute");
    describe_counter!("sluice_moved_batches_total", "Batches that a lost device left to another");
    describe_counter!("sluice_batch_faults_total", "Batches that failed on the device, by kind");
    describe_histogram!(
        "sluice_wasted_device_seconds",
        "Device time of a batch that went into requests whose caller had left or whose deadline had passed"
    );
    describe_counter!("sluice_tokens_total", "Tokens of answered requests, by kind: query, document");
    describe_counter!("sluice_token_store_lookups_total", "Stored documents asked for, by result: hit, missing, stale");
    describe_counter!("sluice_device_cache_total", "Stored documents on the device, by event: hit, miss, eviction");
    describe_gauge!("sluice_device_cache_documents", "Stored documents whose vectors are on the device");
    describe_gauge!("sluice_device_cache_bytes", "Bytes of the device that they take");
    describe_counter!(
        "sluice_score_cache_hits_total",
        "Scores of documents' chunks that were kept when they were asked for"
    );
    describe_counter!("sluice_score_cache_misses_total", "Scores that were not kept and are computed");
    describe_counter!(
        "sluice_score_cache_joins_total",
        "Scores that were not kept and are taken from another request that computes them"
    );
    describe_counter!("sluice_score_cache_evictions_total", "Scores that made room for others");
    describe_gauge!("sluice_score_cache_bytes", "What kept scores take, at most");
    describe_gauge!("sluice_model_info", "1 per loaded model; what it is stands in the labels");
}

/// How an admitted request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With a complete answer.
    Answered,
    /// Its caller left, or gave up.
    Cancelled,
    /// Its deadline passed.
    Expired,
    /// With any other error.
    Failed,
}

/// Counts an admitted request.
pub fn admitted() {
    counter!("sluice_admitted_total").increment(1);
}

/// Counts a refused one.
pub fn rejected(reason: &'static str, class: Priority, tenant: &str) {
    counter!("sluice_rejected_total", "reason" => reason, "class" => class.name(), "tenant" => tenant.to_owned())
        .increment(1);
}

/// Counts the end of an admitted request.
pub fn finished(outcome: Outcome) {
    let outcome = match outcome {
        Outcome::Answered => "answered",
        Outcome::Cancelled => "cancelled",
        Outcome::Expired => "expired",
        Outcome::Failed => "failed",
    };
    counter!("sluice_finished_total", "outcome" => outcome).increment(1);
}

/// Counts the tokens of an answered request.
pub fn answered_tokens(query: u64, document: u64) {
    counter!("sluice_tokens_total", "kind" => "query").increment(query);
    counter!("sluice_tokens_total", "kind" => "document").increment(document);
}

/// Shows what has come inside. By difference: totals that several threads set would be left at whichever came last.
pub fn entered(work: Work) {
    gauge!("sluice_admitted_documents").increment(work.documents as f64);
    gauge!("sluice_admitted_tokens").increment(work.tokens as f64);
    gauge!("sluice_admitted_bytes").increment(work.bytes as f64);
}

/// Shows what has left.
pub fn left(work: Work) {
    gauge!("sluice_admitted_documents").decrement(work.documents as f64);
    gauge!("sluice_admitted_tokens").decrement(work.tokens as f64);
    gauge!("sluice_admitted_bytes").decrement(work.bytes as f64);
}

/// Counts stored documents that were asked for.
pub fn token_store_lookups(result: &'static str, count: u64) {
    counter!("sluice_token_store_lookups_total", "result" => result).increment(count);
}

/// Shows a loaded model.
pub fn model(labels: Vec<Label>) {
    gauge!("sluice_model_info", labels).set(1.0);
}

/// Handles of the driver, looked up once.
pub(crate) struct QueueMetrics {
    pub(crate) enqueued: Counter,
    pub(crate) dispatched: Counter,
    pub(crate) cancelled: Counter,
    pub(crate) expired: Counter,
    pub(crate) queue_units: Gauge,
    pub(crate) queue_tokens: Gauge,
    pub(crate) batches_in_flight: Gauge,
    pub(crate) moved: Counter,
    pub(crate) queue_seconds: Histogram,
    pub(crate) batch_tokens: Histogram,
    pub(crate) batch_sequences: Histogram,
    pub(crate) batch_fill: Histogram,
    /// By [`Priority::index`].
    pub(crate) backlog: [Gauge; Priority::ALL.len()],
}

impl QueueMetrics {
    pub(crate) fn new() -> Self {
        let unit = |event: &'static str| counter!("sluice_units_total", "event" => event);
        Self {
            enqueued: unit("enqueued"),
            dispatched: unit("dispatched"),
            cancelled: unit("cancelled"),
            expired: unit("expired"),
            queue_units: gauge!("sluice_queue_units"),
            queue_tokens: gauge!("sluice_queue_tokens"),
            batches_in_flight: gauge!("sluice_batches_in_flight"),
            moved: counter!("sluice_moved_batches_total"),
            queue_seconds: histogram!("sluice_queue_duration_seconds"),
            batch_tokens: histogram!("sluice_batch_tokens"),
            batch_sequences: histogram!("sluice_batch_sequences"),
            batch_fill: histogram!("sluice_batch_fill_ratio"),
            backlog: Priority::ALL.map(|class| gauge!("sluice_backlog_seconds", "class" => class.name())),
        }
    }
}

/// Handles of the score cache, looked up once.
pub(crate) struct ScoreCacheMetrics {
    pub(crate) hits: Counter,
    pub(crate) misses: Counter,
    pub(crate) joins: Counter,
    pub(crate) evictions: Counter,
    pub(crate) bytes: Gauge,
}

impl ScoreCacheMetrics {
    pub(crate) fn new() -> Self {
        Self {
            hits: counter!("sluice_score_cache_hits_total"),
            misses: counter!("sluice_score_cache_misses_total"),
            joins: counter!("sluice_score_cache_joins_total"),
            evictions: counter!("sluice_score_cache_evictions_total"),
            bytes: gauge!("sluice_score_cache_bytes"),
        }
    }
}

/// Counts a batch that was computed: real tokens, padding, seconds.
pub(crate) fn computed(operation: Operation, tokens: usize, padding: usize, seconds: f64) {
    counter!("sluice_computed_tokens_total", "kind" => "real").increment(tokens as u64);
    counter!("sluice_computed_tokens_total", "kind" => "padding").increment(padding as u64);
    histogram!("sluice_compute_duration_seconds", "operation" => operation.name()).record(seconds);
}

/// Shows how long a batch that has just been measured was expected to take, and how well its lane is predicted.
pub(crate) fn predicted(lane: Lane, predicted: Duration, median_relative_error: Option<f64>) {
    let operation = lane.operation.name();
    histogram!("sluice_predicted_duration_seconds", "operation" => operation).record(predicted.as_secs_f64());
    if let Some(error) = median_relative_error {
        let model = lane.model.0.to_string();
        gauge!("sluice_cost_relative_error", "operation" => operation, "model_index" => model).set(error);
    }
}

/// Shows how many devices compute.
pub fn devices_up(devices: usize) {
    gauge!("sluice_devices_up").set(devices as f64);
}

/// Counts device time for results that nobody waits for any more.
pub(crate) fn wasted(seconds: f64) {
    histogram!("sluice_wasted_device_seconds").record(seconds);
}

/// What each device keeps of stored documents; shown as a sum.
#[derive(Debug)]
pub(crate) struct DeviceCaches(Mutex<Vec<DeviceCache>>);

impl DeviceCaches {
    pub(crate) fn new(devices: usize) -> Self {
        Self(Mutex::new(vec![DeviceCache::default(); devices]))
    }

    pub(crate) fn note(&self, device: DeviceIndex, cache: DeviceCache) {
        let mut caches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        caches[usize::from(device.0)] = cache;
        let sum = |of: fn(&DeviceCache) -> u64| caches.iter().map(of).sum();
        device_cache(DeviceCache {
            hits: sum(|cache| cache.hits),
            misses: sum(|cache| cache.misses),
            evictions: sum(|cache| cache.evictions),
            documents: sum(|cache| cache.documents),
            bytes: sum(|cache| cache.bytes),
        });
    }
}

fn device_cache(cache: DeviceCache) {
    let DeviceCache { hits, misses, evictions, documents, bytes } = cache;
    for (event, count) in [("hit", hits), ("miss", misses), ("eviction", evictions)] {
        counter!("sluice_device_cache_total", "event" => event).absolute(count);
    }
    gauge!("sluice_device_cache_documents").set(documents as f64);
    gauge!("sluice_device_cache_bytes").set(bytes as f64);
}

/// Counts a batch that failed.
pub(crate) fn batch_fault(kind: &'static str) {
    counter!("sluice_batch_faults_total", "kind" => kind).increment(1);
}
