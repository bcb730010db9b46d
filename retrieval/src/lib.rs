//! The first stage: finds candidates by words, by dense and by learned-sparse vectors, and fuses what it finds.

pub mod collection;
pub mod dense;
pub mod document;
pub mod filter;
pub mod identity;
pub mod indexes;
pub mod lexical;
pub mod payload;
pub mod schema;
pub mod shard;
pub mod sparse;
pub mod truth;
pub mod vector_index;

pub use self::identity::{ContentHash, DocId, Lsn};
