//! What every Sluice process shares: configuration, telemetry, health, drain, errors.
//!
//! Nothing here knows what a process serves. A binary hands in its configuration type, the names of its
//! services and its own checks, and gets back what behaves the same in every process: one way to be
//! configured, one way to be watched, one way to stop, one way to say no.
//!
//! | module | question it answers |
//! |---|---|
//! | [`config`] | what was configured, by whom, and what is wrong with it |
//! | [`telemetry`] | what happens inside: metrics and logs |
//! | [`health`] | whether callers should send work here |
//! | [`drain`] | how a process stops without breaking a promise |
//! | [`status`] | how a refusal looks on the wire |
//! | [`credentials`] | who a caller says it is |
//! | [`deadline`] | how long a caller is willing to wait, and since when |
//! | [`grpc`] | how the gRPC port behaves: sizes, compression, keepalive, reflection |
//! | [`incoming`] | which connections are accepted, and for how long |

pub mod config;
pub mod credentials;
pub mod deadline;
pub mod drain;
pub mod grpc;
pub mod health;
pub mod incoming;
pub mod status;
pub mod telemetry;
