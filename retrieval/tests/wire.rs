//! The shard's gRPC service over real loopback sockets.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::panic, reason = "real servers, and real time")]

#[path = "wire/bad_input.rs"]
mod bad_input;
#[path = "wire/collections.rs"]
mod collections;
mod common;
#[path = "wire/degraded.rs"]
mod degraded;
#[path = "wire/documents.rs"]
mod documents;
#[path = "wire/paging.rs"]
mod paging;
#[path = "wire/port.rs"]
mod port;
#[path = "wire/searching.rs"]
mod searching;
