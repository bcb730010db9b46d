//! Numeric kernels, each beside its plain f64 reference.
//!
//! Shapes, slices and numbers: nothing here knows a request or a model. Every operation is a folder
//! with a `reference` that reads like the formula and a `fallback` that any machine runs fast enough;
//! variants for one instruction set stand beside them and are tested against the reference alike.
//!
//! | operation | formula |
//! |---|---|
//! | [`maxsim`] | Σ over query rows of the largest dot product with a document row |
//! | [`linear`] | x·Wᵀ + bias, and an activation of it |
//! | [`quantized`] | the same in integers of 8 bits |
//! | [`attention`] | softmax(Q·Kᵀ·scale)·V, per sequence and head |
//! | [`activation`] | GELU and ReLU of x + bias |
//! | [`layer_norm`] | normalised x + bias + residual |
//! | [`softmax`] | e^(scale·x) over its row's sum |
//! | [`normalize`] | x / ‖x‖₂ |
//! | [`pool`] | one row for a sequence of rows |
//!
//! [`peak`] has loops that say what a machine can do at most.
//!
//! Sequences lie end to end: `cu_seqlens[i]..cu_seqlens[i + 1]` are the rows of sequence `i`, and
//! nothing is padded. Matrices are row-major.
//!
//! A result never depends on what else is in the call: each sequence, row or document is computed in
//! an order that its own shape fixes.

pub mod activation;
pub mod attention;
pub mod cuda;
pub mod layer_norm;
pub mod linear;
pub mod maxsim;
pub mod normalize;
pub mod peak;
pub mod pool;
pub mod quantized;
pub mod softmax;
pub mod tokens;

mod aligned;
mod isa;
mod shape;
mod simd;

pub use aligned::Aligned;
pub use isa::{InstructionSet, Isa};
pub use shape::ShapeError;
