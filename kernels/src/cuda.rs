//! CUDA: kernels beside their sources, and the device they run on.
//!
//! Sources are in `kernels/cuda`. They include nothing; what they are compiled to (PTX) is committed, so that building
//! Sluice needs no CUDA, and the driver is loaded when a device is opened, so that running it needs none either.

pub mod encoder;
pub mod late_interaction;
pub mod linear;
pub mod maxsim;
pub mod ptx;
pub mod residency;

mod device;
mod error;
mod memory;
mod stream;

pub use device::CudaDevice;
pub use error::CudaError;
