//! The reranking server.
//!
//! One request's way through: [`grpc`] decodes → [`validate`] parses once → [`engine::permit`] admits →
//! [`prepare`] tokenizes and cuts → [`engine`] batches and computes → [`scoring`] puts scores together →
//! [`grpc`] answers. Cancellation and permits go back against the stream, both by drop.

pub mod config;
pub mod engine;
pub mod grpc;
pub mod job;
pub mod metrics;
pub mod models;
pub mod prepare;
pub mod quickstart;
pub mod scoring;
pub mod serve;
pub mod validate;

pub use config::ServerConfig;
pub use serve::{Server, ServerError};
