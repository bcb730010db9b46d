//! Collections on a Qdrant cluster, over loopback: the whole shard against a server of Qdrant's own gRPC services.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::panic, reason = "real servers, and real time")]
#![allow(clippy::print_stderr, reason = "says what was skipped, and what was found")]

#[path = "qdrant/both.rs"]
mod both;
#[path = "qdrant/cluster.rs"]
mod cluster;
mod common;
#[path = "qdrant/evaluate.rs"]
mod evaluate;
#[path = "qdrant/example.rs"]
mod example;
#[path = "qdrant/faults.rs"]
mod faults;
#[path = "qdrant/filters.rs"]
mod filters;
mod judged;
#[path = "qdrant/names.rs"]
mod names;
#[path = "qdrant/refused.rs"]
mod refused;
#[path = "qdrant/served.rs"]
mod served;
#[path = "qdrant/services.rs"]
mod services;
#[path = "qdrant/words.rs"]
mod words;
