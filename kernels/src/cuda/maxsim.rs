//! MaxSim on a CUDA device.
//!
//! The formula, its arguments and its edge values are those of [`crate::maxsim`]. The sources are in
//! `kernels/cuda/maxsim`, a ladder of three steps; [`plan`](plan::plan) cuts a scoring into their blocks, and is pure.
//!
//! | documents | query | similarities |
//! |---|---|---|
//! | f16 | rounded to f16 | products exact, summed in f32 by matrix instructions, which round to zero where a CPU rounds to nearest |
//! | int8 | quantised to int8, a scale per row | exact in 32 bits, then one multiplication each with the two scales |
//! | f32 | f32 | `fmaf` in order of `dim`; the naive kernel alone |
//! | binary | – | no kernel: [`PlanError::Storage`](plan::PlanError::Storage) |
//!
//! Accuracy against f64 on the same rounded vectors: f16 within `dim · 2⁻²² · Σₖ |qₖ·dₖ|` for each similarity, int8
//! within `2⁻²²` of it, relatively. Similarities are added in f32: first over query rows of one residue modulo 8, in
//! order, then over residues.
//!
//! A score's bits do not depend on what else is scored in the call, nor on the number of multiprocessors.

pub mod arguments;
pub mod batch;
pub mod plan;
pub mod query;

mod request;
mod scorer;

pub use request::{Document, Layout, Query, Request, RequestError, document_bytes};
pub use scorer::{Alignment, MaxSimDevice, Prepared, ScoreError};
