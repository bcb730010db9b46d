//! What can go wrong with a device, as facts that a caller acts on.

use std::fmt;

use cudarc::driver::{result::DriverError, sys::CUresult};

use super::ptx::ComputeCapability;

/// Why a device cannot be used, or did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CudaError {
    /// The machine has no CUDA driver library.
    LibraryMissing {
        /// Its name.
        library: &'static str,
    },
    /// The driver is older than the kernels' PTX. Versions are 1000 · major + 10 · minor.
    DriverTooOld {
        /// What the driver supports; 0 if it did not say.
        found: i32,
        /// What is needed.
        needed: i32,
    },
    /// There is no device of that number.
    NoDevice {
        /// What was asked for.
        ordinal: usize,
    },
    /// The device is older than the kernels.
    TooOld {
        /// Its compute capability.
        found: ComputeCapability,
        /// What is needed.
        needed: ComputeCapability,
    },
    /// The device's memory, or the pages that the host can pin, do not suffice. A smaller piece of work may.
    OutOfMemory {
        /// What was asked for; 0 if the driver ran out of memory for itself.
        bytes: usize,
    },
    /// The device or its context is beyond use: everything on it is gone. Only opening it anew can help.
    Lost {
        /// The driver's name for it.
        code: String,
    },
    /// The driver refused something: a bug of ours, or a fault that the other variants do not name.
    Launch {
        /// What was being done.
        what: &'static str,
        /// The driver's name for it.
        code: String,
    },
}

impl fmt::Display for CudaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LibraryMissing { library } => write!(f, "there is no {library} on this machine"),
            Self::DriverTooOld { found, needed } => {
                let version = |v: &i32| format!("{}.{}", v / 1000, v % 1000 / 10);
                write!(f, "the driver supports CUDA {}, {} is needed", version(found), version(needed))
            }
            Self::NoDevice { ordinal } => write!(f, "there is no CUDA device {ordinal}"),
            Self::TooOld { found, needed } => {
                write!(
                    f,
                    "the device has compute capability {}.{}, {}.{} is needed",
                    found.0, found.1, needed.0, needed.1
                )
            }
            Self::OutOfMemory { bytes } => write!(f, "out of device memory: {bytes} bytes"),
            Self::Lost { code } => write!(f, "the device is lost: {code}"),
            Self::Launch { what, code } => write!(f, "{what}: {code}"),
        }
    }
}

impl std::error::Error for CudaError {}

/// What the kernels' PTX needs of a driver.
pub(crate) const DRIVER_NEEDED: i32 = 12_000;

/// Sorts the driver's codes. `bytes` is what was being allocated, if anything was.
pub(crate) fn classify(what: &'static str, bytes: usize, error: DriverError) -> CudaError {
    let code = format!("{:?}", error.0);
    match error.0 {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => CudaError::OutOfMemory { bytes },
        CUresult::CUDA_ERROR_STUB_LIBRARY => CudaError::LibraryMissing { library: "CUDA driver" },
        CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
        | CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH
        | CUresult::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => {
            CudaError::DriverTooOld { found: 0, needed: DRIVER_NEEDED }
        }
        // Kernels that trap and devices that fail leave a context in which every further call fails alike.
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
        | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
        | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | CUresult::CUDA_ERROR_INVALID_PC
        | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
        | CUresult::CUDA_ERROR_LAUNCH_FAILED
        | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
        | CUresult::CUDA_ERROR_ASSERT
        | CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
        | CUresult::CUDA_ERROR_NVLINK_UNCORRECTABLE
        | CUresult::CUDA_ERROR_CONTAINED
        | CUresult::CUDA_ERROR_TENSOR_MEMORY_LEAK
        | CUresult::CUDA_ERROR_EXTERNAL_DEVICE
        | CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE
        | CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED
        | CUresult::CUDA_ERROR_INVALID_CONTEXT
        | CUresult::CUDA_ERROR_DEINITIALIZED
        | CUresult::CUDA_ERROR_UNKNOWN => CudaError::Lost { code },
        _ => CudaError::Launch { what, code },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_sorted_by_what_a_caller_does() {
        let sorted = |code| classify("a launch", 7, DriverError(code));
        assert_eq!(sorted(CUresult::CUDA_ERROR_OUT_OF_MEMORY), CudaError::OutOfMemory { bytes: 7 });
        assert!(matches!(sorted(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS), CudaError::Lost { .. }));
        for lost in [CUresult::CUDA_ERROR_ECC_UNCORRECTABLE, CUresult::CUDA_ERROR_CONTAINED] {
            assert!(matches!(sorted(lost), CudaError::Lost { .. }), "{lost:?}");
        }
        assert!(matches!(sorted(CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION), CudaError::DriverTooOld { .. }));
        let refused = sorted(CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(refused.to_string(), "a launch: CUDA_ERROR_INVALID_VALUE");
        let old = CudaError::DriverTooOld { found: 11_080, needed: DRIVER_NEEDED };
        assert_eq!(old.to_string(), "the driver supports CUDA 11.8, 12.0 is needed");
    }
}
