//! Named benchmark scenarios with their rivals.
//!
//! A scenario runs ours and its rivals in turn on the same work, in one run on one machine, compares the answers,
//! and reports ratios. `docs/benchmarks.md` has the method and figures; `baselines/` has them as JSON.
//!
//! | scenario | ours beside |
//! |---|---|
//! | [`encoder`] | ONNX Runtime |
//! | [`end_to_end`] | its own engine without the server |
//! | [`tokenstore`] | the same vectors sent with every request |
//! | [`maxsim`] | maxsim-cpu and NumPy |
//! | [`scheduler`] | the same server with a plain FIFO policy, and a simulation |
//! | [`shard`] | tantivy alone, usearch alone, NumPy, and what its searches can take at least |

pub mod encoder;
pub mod end_to_end;
pub mod interleave;
pub mod machine;
pub mod maxsim;
pub mod report;
pub mod rivals;
pub mod scheduler;
pub mod served;
pub mod shard;
pub mod texts;
pub mod tokenstore;
