//! Launches.
#![allow(unsafe_code, reason = "kernels are C++ functions")]

use std::{
    error::Error,
    ffi::{CStr, CString, c_char, c_int, c_void},
    fmt, ptr,
};

use crate::Memory;

/// What a device accepts, in CUDA's names and units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Threads of a block.
    pub threads_per_block: u32,
    /// Blocks along x; along y and z it is 65,535 on every device.
    pub grid_x: u32,
    /// Bytes of shared memory that a source may declare with a fixed size.
    pub static_shared_bytes: usize,
    /// Bytes of a block's dynamic shared memory, where the function's attribute allows it.
    pub dynamic_shared_bytes: usize,
}

impl Limits {
    /// Compute capability 8.0 (A100).
    pub const SM_80: Self = Self {
        threads_per_block: 1024,
        grid_x: 0x7fff_ffff,
        static_shared_bytes: 48 << 10,
        dynamic_shared_bytes: 163 << 10,
    };
    /// Compute capability 8.6 and 8.9 (RTX 30 and 40, L4, L40).
    pub const SM_86: Self = Self { dynamic_shared_bytes: 99 << 10, ..Self::SM_80 };
    /// Compute capability 9.0 (H100, H200).
    pub const SM_90: Self = Self { dynamic_shared_bytes: 227 << 10, ..Self::SM_80 };
}

/// A launch of a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// Its name in the source.
    pub kernel: &'a str,
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y, z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared_bytes: usize,
    /// What the device accepts.
    pub limits: Limits,
    /// Decides the order in which threads run.
    pub seed: u64,
}

/// Why a launch failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaunchError {
    /// No source has a kernel of that name.
    UnknownKernel(String),
    /// A device would refuse it.
    Limit {
        /// Which limit.
        what: &'static str,
        /// What was asked for.
        asked: u64,
        /// The most there can be.
        most: u64,
    },
    /// The parameters are not those of the kernel.
    Parameters(String),
    /// A thread did what it must not, or waits for ever.
    Failed(String),
    /// The bytes around a buffer were written; buffers are numbered as they were made.
    Trespass {
        /// Which buffer.
        buffer: usize,
    },
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKernel(name) => write!(f, "there is no kernel {name}"),
            Self::Limit { what, asked, most } => write!(f, "{what}: {asked}, at most {most}"),
            Self::Parameters(what) => write!(f, "the kernel {what}"),
            Self::Failed(what) => f.write_str(what),
            Self::Trespass { buffer } => write!(f, "something was written beside buffer {buffer}"),
        }
    }
}

impl Error for LaunchError {}

#[repr(C)]
struct RawRange {
    begin: usize,
    end: usize,
}

/// `ShimLaunch` of runtime/shim.cpp.
#[repr(C)]
struct RawLaunch {
    kernel: *const c_char,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: usize,
    static_shared_max: usize,
    seed: u64,
    parameters: *const *const c_void,
    parameter_sizes: *const usize,
    parameter_count: usize,
    ranges: *const RawRange,
    range_count: usize,
    message: *mut c_char,
    message_bytes: usize,
}

#[repr(C)]
struct RawKernel {
    name: *const c_char,
    call: *const c_void,
    parameter_count: usize,
    parameter_sizes: *const usize,
}

unsafe extern "C" {
    fn shim_launch(launch: *const RawLaunch) -> c_int;
    static shim_kernel_count: usize;
    #[link_name = "shim_kernels"]
    static SHIM_KERNELS: [*const RawKernel; 0];
}

/// Names of all kernels that were compiled in.
#[must_use]
pub fn kernels() -> Vec<&'static str> {
    // SAFETY: the table is constant and has that many entries, each a constant with a name that ends in 0.
    unsafe {
        let table = std::slice::from_raw_parts((&raw const SHIM_KERNELS).cast::<*const RawKernel>(), shim_kernel_count);
        table.iter().map(|&kernel| CStr::from_ptr((*kernel).name).to_str().expect("a C++ name is ASCII")).collect()
    }
}

/// Runs a kernel to its end. `parameters` are the bytes of each, as CUDA wants them; `memory` is all it may touch.
///
/// # Errors
/// [`LaunchError`]; what the kernel wrote before it failed is written.
pub fn launch(launch: &Launch<'_>, memory: &mut Memory, parameters: &[&[u8]]) -> Result<(), LaunchError> {
    check_limits(launch)?;
    let unknown = || LaunchError::UnknownKernel(launch.kernel.to_owned());
    let kernel = CString::new(launch.kernel).map_err(|_| unknown())?;
    // Parameters are read where they lie, so they lie aligned.
    let aligned: Vec<Vec<u128>> = parameters.iter().map(|bytes| aligned(bytes)).collect();
    let addresses: Vec<*const c_void> = aligned.iter().map(|words| words.as_ptr().cast()).collect();
    let sizes: Vec<usize> = parameters.iter().map(|bytes| bytes.len()).collect();
    let ranges: Vec<RawRange> = memory.ranges().into_iter().map(|(begin, end)| RawRange { begin, end }).collect();
    let mut message: [c_char; 1024] = [0; 1024];
    let raw = RawLaunch {
        kernel: kernel.as_ptr(),
        grid: launch.grid,
        block: launch.block,
        shared_bytes: launch.shared_bytes,
        static_shared_max: launch.limits.static_shared_bytes,
        seed: launch.seed,
        parameters: addresses.as_ptr(),
        parameter_sizes: sizes.as_ptr(),
        parameter_count: sizes.len(),
        ranges: ranges.as_ptr(),
        range_count: ranges.len(),
        message: message.as_mut_ptr(),
        message_bytes: message.len(),
    };
    // SAFETY: every pointer is to a live local of that length; `memory` is borrowed exclusively, so nobody else holds
    // its bytes while the kernel writes them. A kernel that writes elsewhere than its buffers is the test's finding.
    let status = unsafe { shim_launch(&raw const raw) };
    // SAFETY: shim_launch ends its message with 0, and an untouched message is all 0.
    let text = unsafe { CStr::from_ptr(message.as_ptr()) }.to_string_lossy().into_owned();
    match status {
        0 => memory.trespass().map_or(Ok(()), |buffer| Err(LaunchError::Trespass { buffer })),
        1 => Err(unknown()),
        2 => Err(LaunchError::Parameters(text)),
        _ => Err(LaunchError::Failed(text)),
    }
}

fn check_limits(launch: &Launch<'_>) -> Result<(), LaunchError> {
    let Launch { grid, block, limits, .. } = launch;
    let threads = block.iter().map(|&size| u64::from(size)).product();
    let cases = [
        ("threads of a block", threads, u64::from(limits.threads_per_block)),
        ("blocks along x", u64::from(grid[0]), u64::from(limits.grid_x)),
        ("blocks along y", u64::from(grid[1]), 65_535),
        ("blocks along z", u64::from(grid[2]), 65_535),
        ("bytes of dynamic shared memory", launch.shared_bytes as u64, limits.dynamic_shared_bytes as u64),
    ];
    for (what, asked, most) in cases {
        if asked > most {
            return Err(LaunchError::Limit { what, asked, most });
        }
    }
    if threads == 0 || grid.contains(&0) {
        return Err(LaunchError::Limit { what: "an empty launch", asked: 0, most: 0 });
    }
    Ok(())
}

fn aligned(bytes: &[u8]) -> Vec<u128> {
    let mut words = vec![0_u128; bytes.len().div_ceil(16)];
    // SAFETY: the words have at least as many bytes, and the two do not overlap.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), words.as_mut_ptr().cast(), bytes.len()) };
    words
}
