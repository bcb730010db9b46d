//! Pure decisions of a reranking server.
//!
//! Nothing here knows a clock, a thread, a socket, a device or a wire type: time comes in as a
//! [`Time`], work as costs and ids, and what comes out is a value that somebody else acts on. The
//! same scheduler therefore runs in the server, in tests and in simulations of virtual time.
//!
//! | module | question it answers |
//! |---|---|
//! | [`scheduler`] | which units go into the next batch, and when |
//! | [`cost`] | how long a batch will take |
//! | [`admission`] | whether a request may come in at all |
//! | [`quota`] | whether its tenant may send it now |
//! | [`batch`] | what a packed batch looks like |
//! | [`backend`] | what a device must be able to do |
//! | [`rank`] | who comes first |
//! | [`fusion`] | how several lists become one |
//! | [`evaluate`] | how good an order is |
//! | [`workload`] | what callers do, and when |
//! | [`simulate`] | what a server would do with a workload |

pub mod admission;
pub mod backend;
pub mod batch;
pub mod cost;
pub mod evaluate;
pub mod fusion;
pub mod quota;
pub mod rank;
pub mod scheduler;
pub mod simulate;
mod time;
mod unit;
pub mod workload;

pub use time::Time;
pub use unit::{DeviceIndex, Lane, ModelIndex, Operation, Priority, RequestId, TenantId, Unit, UnitId, Worth};
