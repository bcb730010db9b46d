//! The load generator and the `sluice-load` command against a scripted server on a loopback port, in real time.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "helpers of tests fail by panicking, and measure what real processes and a real server do"
)]

mod command;
mod fake;
mod run;
