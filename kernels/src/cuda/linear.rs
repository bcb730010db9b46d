//! y = x·Wᵀ + bias on a CUDA device, in f16 with sums in f32: cuBLASLt, loaded at run time.
//!
//! Not yet run on a GPU: what is tested is everything up to the library's calls.
//!
//! | argument | shape | layout |
//! |---|---|---|
//! | x | `[m, k]`, f16 | rows `x_pitch` components apart |
//! | W | `[n, k]`, f16 | rows end to end |
//! | bias | `[n]`, f16 | with an [`Epilogue`] that adds it |
//! | y | `[m, n]`, f16 | rows `y_pitch` components apart |
//!
//! cuBLASLt's matrices are column-major, and a row-major matrix read so is its transpose: what it is asked for is
//! yᵀ = W·xᵀ, so that its "m" is our n and its "n" the rows of the batch.
//!
//! **A row's bits do not depend on the other rows.** An algorithm is chosen once for each [`Product`], for the largest
//! batch, and is kept for every batch; it must take every [padded](padded_rows) number of rows. Split-K and every
//! reduction over blocks are ruled out, so a sum is made by one block in the order of k. What an algorithm does with a row
//! is the same in every tile, as far as its makers say anything about it; a test on the device compares the bits. A product
//! for which there is no such algorithm is left to our own kernel.
//!
//! Cost: 2·m·n·k FLOPs. Planning asks a heuristic once for each product, and about each padded number of rows: milliseconds.

mod heuristic;
mod library;
mod plan;
mod products;

pub(crate) use plan::Multiplication;
pub use plan::{Epilogue, Product, padded_rows};
pub use products::Products;
