//! Learned-sparse vectors: an exact inverted index.
//!
//! The score of a document is the dot product with the query over the dimensions that both have; a document that
//! shares none is not found. Optionally a query's weights are multiplied by their dimensions' inverse document
//! frequency ([`Weighting::Idf`]), so that vectors of term frequencies make BM25.
//!
//! # How it finds the best without looking at all
//!
//! Documents lie in *blocks* of 64 in order of arrival, and each dimension's postings know the largest value in each
//! block. A search adds those bounds up, takes the blocks in order of their bounds, the most promising first, and ends
//! at the first whose bound cannot reach what it has: exact, and impact-ordered by block (Mallia, Suel and Tonellotto,
//! "Faster Learned Sparse Retrieval with Block-Max Pruning", SIGIR 2024, where impacts are of 8 bits and blocks static).
//!
//! Blocks are grouped in segments of 65,536 documents. A document that is gone keeps its postings until a
//! quarter of its segment is gone: then the segment is written again without them, beside the searches.
//!
//! # Cost
//!
//! Memory: 9 bytes a posting and 12 more for each block of a dimension; about 100,000 postings make a mebibyte where
//! dimensions are common. A search: one pass over the bounds of the query's dimensions, then the blocks it looks into.

mod index;
mod search;
mod segment;
#[cfg(test)]
mod tests;

pub use self::index::{SparseIndex, Weighting};
