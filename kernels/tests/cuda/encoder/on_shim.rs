//! Operations on the CPU.

use sluice_cuda_shim::{self as shim, Limits, Memory};
use sluice_kernels::cuda::encoder::{Arena, Op, OpError};

/// Never: a CPU is always there.
pub fn skipped() -> bool {
    false
}

/// How far a sum of `k` products may be from the formula, relative to the sum of their magnitudes: a matrix instruction
/// rounds once for 16 of them, and so does the bias.
pub fn sum_tolerance(k: usize) -> f64 {
    (k.div_ceil(16) + 1) as f64 * 2_f64.powi(-24)
}

/// Runs an operation over an arena, threads in the order of `seed`, and says which kernel it was.
pub fn run(op: &Op, arena: &mut Vec<u8>, seed: u64) -> Result<&'static str, OpError> {
    let mut memory = Memory::new();
    let buffer = memory.upload(arena);
    let launch = op.launch(Arena { base: buffer.address(), bytes: arena.len() })?;
    let request = shim::Launch {
        kernel: launch.kernel,
        grid: [launch.blocks, 1, 1],
        block: [launch.threads, 1, 1],
        shared_bytes: launch.shared_bytes as usize,
        limits: Limits::SM_86,
        seed,
    };
    shim::launch(&request, &mut memory, &[launch.parameter.as_bytes()])
        .unwrap_or_else(|error| panic!("{}, seed {seed}: {error}\n{op:?}", launch.kernel));
    *arena = memory.read(buffer);
    Ok(launch.kernel)
}
