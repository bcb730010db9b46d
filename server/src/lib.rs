//! The reranking server.
//!
//! One request's way through: [`grpc`] decodes → [`validate`] parses once → [`engine::permit`] admits →
//! [`subject`] finds what is stored →
//! [`prepare`] tokenizes and cuts → [`cached`] leaves out what is known → [`engine`] batches and computes →
//! [`scoring`] puts scores together → [`cascade`] puts documents in order, stage after stage → [`grpc`] answers.
//! Cancellation and permits go back against the stream, both by drop.

pub mod cached;
pub mod cascade;
pub mod config;
pub mod cost_file;
pub mod engine;
pub mod grpc;
pub mod job;
pub mod metrics;
pub mod models;
mod placement;
pub mod prepare;
pub mod quickstart;
pub mod scoring;
pub mod serve;
pub mod store;
pub mod subject;
pub mod tenants;
pub mod validate;
pub mod vectors;
pub mod warm_up;

pub use config::ServerConfig;
pub use serve::{Server, ServerError};
