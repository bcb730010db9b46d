//! The encoder's CUDA sources, run on the CPU, against the formulas in f64.

mod activate;
mod attention;
mod counts;
mod machine;
mod norm;
mod product;
mod sequence;
mod stack;
