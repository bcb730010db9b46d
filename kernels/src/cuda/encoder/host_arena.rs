//! Operations over an arena that lies in host memory: for tests and comparisons, not for serving.
#![allow(unsafe_code, reason = "kernels run on addresses")]

use std::fmt;

use super::{
    launch::{Launch, OpError},
    memory::Arena,
    op::Op,
};
use crate::cuda::{
    CudaDevice, CudaError,
    device::{Grid, elapsed_seconds},
};

/// Why operations were not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunError {
    /// One of them is at fault; none was started.
    Op(OpError),
    /// The device is.
    Cuda(CudaError),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Op(error) => error.fmt(f),
            Self::Cuda(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RunError {}

impl From<OpError> for RunError {
    fn from(error: OpError) -> Self {
        Self::Op(error)
    }
}

impl From<CudaError> for RunError {
    fn from(error: CudaError) -> Self {
        Self::Cuda(error)
    }
}

/// Copies an arena to the device, runs operations in order, and copies it back.
///
/// # Errors
/// [`RunError`]; the arena is then as it was, or, if the device was lost on the way back, beyond use.
pub fn run_in_host_arena(device: &mut CudaDevice, ops: &[Op], arena: &mut [u8]) -> Result<(), RunError> {
    let memory = device.allocate(arena.len())?;
    let launches = launches(ops, Arena { base: memory.address(), bytes: arena.len() })?;
    // SAFETY: `memory` has room for the arena; neither is freed or written before the wait below, whatever fails first.
    let copied = unsafe { device.copy_in(arena, memory.address()) };
    let started = copied.and_then(|()| launches.iter().try_for_each(|launch| start(device, launch)));
    device.synchronize()?;
    started?;
    // SAFETY: as above.
    unsafe { device.copy_out(memory.address(), arena) }?;
    Ok(device.synchronize()?)
}

/// Copies an arena to the device, and measures each operation there: seconds, by events around `repeats` launches that
/// follow each other, the median of `rounds`.
///
/// # Errors
/// [`RunError`].
pub fn time_in_host_arena(
    device: &mut CudaDevice,
    ops: &[Op],
    arena: &[u8],
    (repeats, rounds): (usize, usize),
) -> Result<Vec<f64>, RunError> {
    let memory = device.allocate(arena.len())?;
    let launches = launches(ops, Arena { base: memory.address(), bytes: arena.len() })?;
    // SAFETY: `memory` has room for the arena; neither is freed or written before the wait below.
    let copied = unsafe { device.copy_in(arena, memory.address()) };
    device.synchronize()?;
    copied?;
    let timed = launches.iter().map(|launch| time(device, launch, repeats, rounds)).collect();
    // Before the memory is freed, whatever failed.
    device.synchronize()?;
    timed
}

fn time(device: &mut CudaDevice, launch: &Launch, repeats: usize, rounds: usize) -> Result<f64, RunError> {
    let mut seconds = Vec::with_capacity(rounds);
    for round in 0..=rounds.max(1) {
        let begin = device.mark()?;
        (0..repeats).try_for_each(|_| start(device, launch))?;
        let elapsed = elapsed_seconds(&begin, &device.mark()?)?;
        // The first round compiles, and warms up.
        seconds.extend((round > 0).then_some(elapsed / repeats as f64));
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[seconds.len() / 2])
}

fn launches(ops: &[Op], place: Arena) -> Result<Vec<Launch>, OpError> {
    ops.iter().map(|op| op.launch(place)).collect()
}

fn start(device: &mut CudaDevice, launch: &Launch) -> Result<(), CudaError> {
    let function = device.function(launch.unit, launch.kernel)?;
    let Launch { blocks, threads, shared_bytes, .. } = *launch;
    // SAFETY: `Op::launch` has held every address and size to the arena, kernels stay within those whatever the arena
    // holds, and the arena lives until the device has been waited for.
    unsafe { device.launch(function, Grid { blocks, threads, shared_bytes }, launch.parameter.as_bytes()) }
}
