//! Token embeddings by document, in append-only memory-mapped segments.
