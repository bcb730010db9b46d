//! What a collection promises about crashes, full disks, and searches beside writes.
//!
//! | test | more of it |
//! |---|---|
//! | `kill` | `SLUICE_KILLS`: how often a writing process is killed (12) |
//! | `together` | `SLUICE_TOGETHER_SECONDS`: how long writes and searches run side by side (2) |
//! | `full` | needs `sh`; its second half needs the right to mount a tmpfs, and says so where it is missing |
#![allow(clippy::disallowed_methods, reason = "real processes and real time, told by the environment how much")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helper functions too")]

mod fixture;
mod full;
mod index;
mod kill;
mod legs;
mod together;
