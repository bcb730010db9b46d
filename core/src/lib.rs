//! Pure decisions of a reranking server.
//!
//! Nothing here knows a clock, a thread, a socket, a device or a wire type: time comes in as a
//! [`Time`], work as costs and ids, and what comes out is a value that somebody else acts on. The
//! same scheduler therefore runs in the server, in tests and in simulations of virtual time.
//!
//! | module | question it answers |
//! |---|---|
//! | [`scheduler`] | which units go into the next batch, and when |
//! | [`admission`] | whether a request may come in at all |
//! | [`batch`] | what a packed batch looks like |
//! | [`backend`] | what a device must be able to do |
//! | [`rank`] | who comes first |
//! | [`fusion`] | how several lists become one |
//! | [`evaluate`] | how good an order is |

pub mod admission;
pub mod backend;
pub mod batch;
pub mod evaluate;
pub mod fusion;
pub mod rank;
pub mod scheduler;
mod time;
mod unit;

pub use time::Time;
pub use unit::{Lane, ModelIndex, Operation, RequestId, Unit, UnitId};
