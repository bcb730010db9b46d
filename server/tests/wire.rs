//! What the wire promises, through the real port: streams, many requests over one call, order, long documents,
//! encoding, and how the port itself behaves.

#![allow(clippy::disallowed_methods, reason = "real processes and real time")]

#[path = "wire/anytime.rs"]
mod anytime;
#[path = "wire/cache.rs"]
mod cache;
#[path = "wire/cascade.rs"]
mod cascade;
mod common;
#[path = "wire/devices.rs"]
mod devices;
#[path = "wire/encoding.rs"]
mod encoding;
#[path = "wire/explain.rs"]
mod explain;
#[path = "wire/long_documents.rs"]
mod long_documents;
#[path = "wire/many.rs"]
mod many;
#[path = "wire/port.rs"]
mod port;
#[path = "wire/ranking.rs"]
mod ranking;
#[path = "wire/stream.rs"]
mod stream;
#[path = "wire/tenants.rs"]
mod tenants;
#[path = "wire/token_store.rs"]
mod token_store;
#[path = "wire/vectors.rs"]
mod vectors;

use sluice_proto::rerank::v1::Method;

/// Every way to score.
const METHODS: [Method; 3] = [Method::LateInteraction, Method::Dense, Method::CrossEncoder];

/// One batch for each sequence, `milliseconds` long.
fn one_by_one(milliseconds: u32) -> String {
    format!("max_tokens = 64\nbatch_sequences_max = 1\n[service_time]\nper_batch = \"{milliseconds}ms\"\n")
}

/// So many documents, of two to five words.
fn texts(count: usize) -> Vec<String> {
    (0..count).map(|index| format!("red {}", "apple ".repeat(1 + index % 4))).collect()
}
