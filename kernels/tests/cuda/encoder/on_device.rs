//! Operations on a GPU, if there is one.

use std::{cell::RefCell, env};

use sluice_kernels::cuda::{
    CudaDevice,
    encoder::{Arena, Op, OpError, RunError, run_in_host_arena},
};

thread_local! {
    /// Opened once: a context takes longer than all of its tests.
    static DEVICE: RefCell<Option<CudaDevice>> = const { RefCell::new(None) };
}

/// Whether there is no device to run on; where one is required that is a failure.
pub fn skipped() -> bool {
    DEVICE.with_borrow_mut(|device| match device {
        Some(_) => false,
        None => match CudaDevice::open(0) {
            Ok(opened) => {
                *device = Some(opened);
                false
            }
            Err(error) => {
                assert!(
                    env::var_os("SLUICE_REQUIRE_GPU").is_none_or(|value| value != "1"),
                    "a device is required: {error}"
                );
                println!("skipped: no usable CUDA device ({error})");
                true
            }
        },
    })
}

/// How far a sum of `k` products may be from the formula, relative to the sum of their magnitudes: matrix units cut what
/// lies below the last bit of the largest, product by product.
pub fn sum_tolerance(k: usize) -> f64 {
    k as f64 * 2_f64.powi(-22)
}

/// Runs an operation over an arena, and says which kernel it was.
pub fn run(op: &Op, arena: &mut [u8], _seed: u64) -> Result<&'static str, OpError> {
    let launch = op.launch(Arena { base: 0, bytes: arena.len() })?;
    DEVICE.with_borrow_mut(|device| {
        let device = device.as_mut().expect("a test asks first whether it is skipped");
        match run_in_host_arena(device, &[*op], arena) {
            Ok(()) => Ok(launch.kernel),
            Err(RunError::Op(error)) => Err(error),
            Err(RunError::Cuda(error)) => panic!("{}: {error}\n{op:?}", launch.kernel),
        }
    })
}
