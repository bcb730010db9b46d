//! `sluice-server` as its users meet it: a process with flags, files, signals, ports and two streams of text.
#![cfg(unix)]
#![allow(clippy::disallowed_methods, reason = "starts real processes and waits in real time")]
#![allow(clippy::panic, reason = "a test fails by panicking, in its helper functions too")]

mod common;
#[path = "process/configuration.rs"]
mod configuration;
#[path = "process/models.rs"]
mod models;
#[path = "process/quickstart.rs"]
mod quickstart;
#[path = "process/stopping.rs"]
mod stopping;
#[path = "process/telemetry.rs"]
mod telemetry;
#[path = "process/tiny_model.rs"]
mod tiny_model;
