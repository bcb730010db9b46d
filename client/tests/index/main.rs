//! `sluice index` as a process, against a real shard on its disk and a real server with a scripted model.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "helpers of tests fail by panicking, and measure what real processes do"
)]

mod files;
mod models;
mod trouble;
mod world;
