//! Every implementation that the machine has, in every storage, beside the reference.

mod cases;
mod conformance;
mod edges;
mod properties;
mod screening;
