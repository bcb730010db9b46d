//! Typed client of Sluice, and the `sluice` command.
//!
//! ```no_run
//! use sluice_client::{Client, ClientError, ClientOptions, Method, Rerank};
//!
//! # async fn example() -> Result<(), ClientError> {
//! let client = Client::connect("http://127.0.0.1:50051", ClientOptions::default()).await?;
//! let request = Rerank::new("how long does a flea live")
//!     .document("a", "Fleas live for up to a year.")
//!     .document("b", "The flea market opens at nine.")
//!     .method(Method::LateInteraction)
//!     .top_n(1);
//! let answer = client.rerank(request).await?;
//! assert_eq!(answer.results.len(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! | module | question it answers |
//! |---|---|
//! | [`Client`] | how to call a server: every call has a deadline, and the server is told |
//! | [`retry`] | whether a failed call is tried again, and when |
//! | [`ClientError`] | what went wrong, decoded from `google.rpc` details |
//! | [`Rerank`], [`Stage`], [`Budget`], [`Explain`], [`PutTokens`] | how to write a request |
//! | [`Client::upsert`], [`Client::search`] and their neighbours, [`shard`] | how to talk to a first-stage shard |
//! | [`Matrix`] | how to read an embedding, and how to write one |
//! | [`table`] | how to show a ranking to a person |
//! | [`names`] | what an enum value is called on a command line and in JSON |
//!
//! Messages are the generated ones, re-exported as [`proto`].

mod call;
mod client;
mod embedding;
mod error;
pub mod names;
mod options;
mod request;
pub mod retry;
pub mod shard;
mod stage;
mod stream;
pub mod table;
mod tokens;

pub use sluice_proto as proto;
pub use sluice_proto::{
    model::v1::{
        Capability, DataType, Embedding, EmbeddingKind, EncodeRequest, EncodeResponse, Model, TokenizeRequest,
        TokenizeResponse,
    },
    rerank::v1::{
        CachePolicy, CollectionStats, CompactResponse, DeleteResponse, DocumentSource, ExplainRequest, ExplainResponse,
        ExplainedDocument, LongDocument, Method, PartialReason, Priority, PutRequest, PutResponse, RerankManyRequest,
        RerankRequest, RerankResponse, RerankResult, ScoreKind, ScoreUpdate, StageOrder, StatsResponse, StoredTokens,
        Token, TokenMatch, TokenStorage,
    },
};
pub use tonic::Code;

pub use client::Client;
pub use embedding::{Matrix, MatrixError};
pub use error::{ClientError, FieldViolation, Reason, StatusError};
pub use options::{BearerToken, ClientOptions, Compression};
pub use request::{Explain, Rerank};
pub use retry::RetryPolicy;
pub use stage::{Budget, Stage};
pub use stream::{Answer, Answers, Update, Updates};
pub use tokens::{ContentHash, PutTokens, content_hash};
