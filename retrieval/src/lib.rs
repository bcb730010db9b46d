//! The first stage: finds candidates by words, by dense and by learned-sparse vectors, and fuses what it finds.

pub mod config;
pub mod document;
pub mod filter;
pub mod grpc;
pub mod identity;
pub mod metrics;
pub mod payload;
pub mod schema;
pub mod search;
pub mod serve;
pub mod store;
pub mod validate;
pub mod vector_index;
