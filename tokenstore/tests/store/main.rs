//! The store as its callers and the machine it runs on treat it: put, asked, deleted, compacted, copied, damaged,
//! killed.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test fails by panicking, and says why")]
#![allow(
    clippy::disallowed_methods,
    reason = "processes are started and killed here, which the environment tells apart"
)]

mod compact;
mod damage;
mod exchange;
mod fixture;
mod kill;
mod model;
mod put;
