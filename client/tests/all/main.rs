//! The client against a scripted server on a loopback port.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "helpers of tests fail by panicking, and measure what a real server does"
)]

mod client;
mod fake;
mod stream;
