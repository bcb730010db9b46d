//! Dense vectors: the exact scan, and a graph where scanning is too slow.
//!
//! | index | a search looks at | for |
//! |---|---|---|
//! | [`ExactDense`] | all vectors | the oracle; some ten thousand vectors |
//! | [`GraphDense`] | a few hundred, and exactly so where that is cheaper | the default |
//!
//! Both keep their vectors in memory as f32 and score by the same loop, so a document has the same score in both.

mod exact;
mod graph;
mod metric;
mod rows;

pub use self::{
    exact::ExactDense,
    graph::{GraphDense, GraphOptions, GraphStatus},
};
