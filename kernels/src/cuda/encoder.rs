//! A transformer encoder's operations on a CUDA device, over packed sequences in f16.
//!
//! A batch is one matrix `[total_tokens, hidden]`; nothing is padded. All memory of an engine (weights, activations, the
//! batch, results) is one arena, planned once; a [`Region`] is a typed range of it. An operation is plain data over regions.
//! [`Op::launch`] checks it and says what to start, which is pure: tests run the same launches on a CPU.
//!
//! | operation | formula |
//! |---|---|
//! | [`Embed`] | LayerNorm(word + position + token type) |
//! | [`AddNorm`] | LayerNorm(x + bias + residual) |
//! | [`Product`] | f(x·Wᵀ + bias) |
//! | [`Activate`] | f(x + bias), in place |
//! | [`Attend`] | softmax(q·kᵀ·scale)·v, per sequence and head |
//! | [`GatherFirst`] | each sequence's first row |
//! | [`Pool`] | first or mean row of each sequence, over its length where that is wanted |
//! | [`Score`] | x·w + bias, one number for a row |
//! | [`Normalize`] | x / ‖x‖₂ in the layout that [MaxSim](super::maxsim) reads |
//!
//! Matrices, biases and tables are f16; factors and offsets of norms, results, sums and statistics f32. Rows are whole
//! cells of 8 numbers. Formulas in f64 are those of the CPU's operations ([`layer_norm`](crate::layer_norm::reference),
//! [`attention`](crate::attention::reference), …).
//!
//! How many rows and sequences there are truly lies on the device ([`BatchRegions`]): launches are sized for a capacity, so
//! a graph that was recorded once serves every batch that fits. Whatever the device's memory says, no kernel leaves the
//! regions it was given: a wrong number on the device makes wrong results there, nothing worse.
//!
//! A row's bits depend on its sequence and the weights alone: not on what shares the batch, not on the capacity.
//!
//! Not yet run on a GPU: tests run the kernels on a CPU (`kernels/shim`).

mod activate;
mod attend;
mod batch;
mod device;
mod error;
mod host_arena;
mod launch;
mod memory;
mod norm;
mod op;
mod product;
mod recorded;
mod sequence;

pub use activate::{Activate, Function};
pub use attend::{Attend, Queries};
pub use batch::{BatchError, BatchRegions, Capacity, HostBatch, Vocabulary, fill};
pub use device::{EncoderDevice, EncoderMemory};
pub use error::EncoderError;
pub use host_arena::{RunError, run_in_host_arena, time_in_host_arena};
pub use launch::{Launch, OpError, Parameter, Unit};
pub use memory::{Arena, ArenaLayout, Element, Mark, Matrix, Region};
pub use norm::{AddNorm, Embed, Norm};
pub use op::Op;
pub use product::{Output, Product};
pub use recorded::RECORDINGS_MAX;
pub use sequence::{GatherFirst, Input, Normalize, Pool, Score};
