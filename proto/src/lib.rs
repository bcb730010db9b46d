//! The wire: Sluice's protobuf messages and gRPC services.
//!
//! The `.proto` files beside this crate are the contract; each field states its unit and limit there.
//! Code is generated at build time by `protox` and `tonic-prost-build`, so no `protoc` is needed.

/// Reranking: `sluice.rerank.v1`.
pub mod rerank {
    /// Version 1.
    #[allow(clippy::all, clippy::pedantic, missing_docs, reason = "generated")]
    pub mod v1 {
        tonic::include_proto!("sluice.rerank.v1");
    }
}

/// The first stage: `sluice.retrieval.v1`.
pub mod retrieval {
    /// Version 1.
    #[allow(clippy::all, clippy::pedantic, missing_docs, reason = "generated")]
    pub mod v1 {
        tonic::include_proto!("sluice.retrieval.v1");
    }
}

/// Models and encoding: `sluice.model.v1`.
pub mod model {
    /// Version 1.
    #[allow(clippy::all, clippy::pedantic, missing_docs, reason = "generated")]
    pub mod v1 {
        tonic::include_proto!("sluice.model.v1");
    }
}

/// Every file of the wire as an encoded `FileDescriptorSet`, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("sluice");
