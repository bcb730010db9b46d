//! Runs CUDA sources on a CPU, for tests.
//!
//! The sources of `kernels/cuda` are compiled with the machine's C++ compiler into this crate, and [`launch`] runs a
//! kernel of theirs by name: one fiber per CUDA thread, blocks one after another. Barriers, shuffles and matrix
//! instructions are where fibers wait for each other; which one runs next is drawn from the launch's seed, so a kernel
//! whose result depends on that order shows it with some seed.
//!
//! | found | how |
//! |---|---|
//! | a thread that misses a barrier or a shuffle | nobody can run: the launch fails, and says who waits where |
//! | lanes of a warp at different instructions | the launch fails |
//! | global memory out of bounds, or not aligned | `load…` and `store` of the prelude are checked; other accesses meet poison around every [`Buffer`], and writes there are found after the launch |
//! | shared memory out of bounds | guards around the dynamic part |
//! | shared memory read before it is written, or expected to survive a block | poisoned (NaN) before each block |
//! | shared memory read before a copy into it was waited for, or copied over while it is read | copies arrive at once or when they are waited for, as the seed has it |
//! | a launch that a device would refuse | [`Limits`] |
//!
//! It cannot find what only hardware has: races between warps that no yield point separates, the memory model, caches,
//! bank conflicts, registers, speed. Matrix instructions round once each, where a device rounds a little worse:
//! results are compared with a tolerance.
//!
//! Fibers as coroutines of one thread: QEMU's `coroutine-ucontext`. Running CUDA on a CPU for tests: the idea of
//! CUDA's own early device emulation, and of CuPBoP (Han et al., 2022).

mod launch;
mod memory;

pub use launch::{Launch, LaunchError, Limits, kernels, launch};
pub use memory::{Buffer, Memory, Plain};
