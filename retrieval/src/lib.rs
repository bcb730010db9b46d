//! The first stage: finds candidates by words, by dense and by learned-sparse vectors, and fuses what it finds.

pub mod collection;
pub mod config;
pub mod dense;
pub mod document;
pub mod filter;
pub mod grpc;
pub mod identity;
pub mod indexes;
pub mod lexical;
pub mod metrics;
pub mod payload;
pub mod qdrant;
pub mod schema;
pub mod search;
pub mod serve;
pub mod shard;
pub mod sparse;
pub mod store;
pub mod truth;
pub mod validate;
pub mod vector_index;

pub use self::identity::{ContentHash, DocId, Lsn};
