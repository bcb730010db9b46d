//! Names and buckets of the shard's metrics.

use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::search::{LegReport, LegState, degraded};

const SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Histogram buckets by metric name.
pub const BUCKETS: &[(&str, &[f64])] = &[
    ("sluice_shard_request_duration_seconds", SECONDS),
    ("sluice_shard_leg_duration_seconds", SECONDS),
    ("sluice_shard_write_duration_seconds", SECONDS),
];

/// Writes each metric's help text. Once per process, after the recorder is installed.
pub fn describe() {
    describe_counter!("sluice_shard_requests_total", "Finished calls, by rpc and gRPC code");
    describe_gauge!("sluice_shard_requests_in_flight", "Calls being worked on, by rpc");
    describe_histogram!("sluice_shard_request_duration_seconds", "From arrival to the last message, by rpc");
    describe_counter!("sluice_shard_legs_total", "Legs of searches, by kind and by how they ended");
    describe_histogram!("sluice_shard_leg_duration_seconds", "One leg, the wait for a thread included, by kind");
    describe_counter!("sluice_shard_degraded_total", "Searches answered without one of their legs");
    describe_counter!("sluice_shard_batches_total", "Batches of documents, by outcome: written, refused, failed");
    describe_counter!("sluice_shard_documents_written_total", "Documents of batches that were written");
    describe_counter!("sluice_shard_documents_deleted_total", "Documents that were deleted by request");
    describe_histogram!("sluice_shard_write_duration_seconds", "A batch from its place in the queue to the disk");
    describe_counter!("sluice_shard_waiting_commits_total", "Commits that waited for an index that was too far behind");
    describe_gauge!("sluice_shard_collections", "Collections of this shard");
}

/// Counts the legs of an answered search.
pub fn searched(legs: &[LegReport]) {
    for leg in legs {
        let kind = match leg.kind {
            sluice_core::fusion::LegKind::Lexical => "lexical",
            sluice_core::fusion::LegKind::Dense => "dense",
            sluice_core::fusion::LegKind::Sparse => "sparse",
        };
        counter!("sluice_shard_legs_total", "kind" => kind, "state" => leg.state.name()).increment(1);
        histogram!("sluice_shard_leg_duration_seconds", "kind" => kind).record(leg.duration.as_secs_f64());
    }
    if degraded(legs) && legs.iter().any(|leg| leg.state == LegState::Ok) {
        counter!("sluice_shard_degraded_total").increment(1);
    }
}

/// Counts a batch: how it ended, the documents that were written, and the time that took.
pub fn batch(outcome: &'static str, documents: usize, duration: Duration) {
    counter!("sluice_shard_batches_total", "outcome" => outcome).increment(1);
    counter!("sluice_shard_documents_written_total").increment(documents as u64);
    histogram!("sluice_shard_write_duration_seconds").record(duration.as_secs_f64());
}

/// Counts documents that were deleted.
pub fn deleted(documents: u64) {
    counter!("sluice_shard_documents_deleted_total").increment(documents);
}

/// Shows how many collections there are.
pub fn collections(count: usize) {
    gauge!("sluice_shard_collections").set(count as f64);
}

/// A commit waits for an index.
pub(crate) fn writes_waited() {
    counter!("sluice_shard_waiting_commits_total").increment(1);
}
