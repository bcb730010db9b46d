//! The reranking server.
