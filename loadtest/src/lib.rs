//! Open-loop load for a Sluice server: requests leave when they are intended to, whether or not earlier ones were
//! answered, and their latency counts from then.
//!
//! A closed loop asks less the slower the server answers, so it never shows what a queue does to those behind it
//! (*coordinated omission*). Here a request that could not leave in time is late by its own fault or the server's, and
//! in both cases the wait is part of its latency; that it happened is reported.
//!
//! | module | question it answers |
//! |---|---|
//! | [`sluice_core::workload`] | what is sent, and when |
//! | [`compose`] | which texts and vectors that is |
//! | [`run()`] | how it is sent, and what came of each request |
//! | [`tally`] | what all of them came to: counts, percentiles and how certain they are |
//! | [`report`] | the figures as JSON, documented there |
//! | [`table`] | the figures as a table |

pub mod compose;
mod interval;
pub mod report;
pub mod run;
pub mod table;
pub mod tally;
mod words;

pub use run::{Options, Progress, RunError, Target, run};
