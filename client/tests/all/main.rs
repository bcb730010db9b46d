//! The client and the `sluice` command against a scripted server on a loopback port.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "helpers of tests fail by panicking, and measure what real processes and a real server do"
)]

mod client;
mod command;
mod eval;
mod explain;
mod fake;
mod stream;
mod tokens;
