//! The first stage: finds candidates by words, by dense and by learned-sparse vectors, and fuses what it finds.

pub mod dense;
pub mod document;
pub mod filter;
pub mod identity;
pub mod lexical;
pub mod payload;
pub mod schema;
pub mod sparse;
pub mod vector_index;
