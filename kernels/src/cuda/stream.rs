//! Work beside a device's own order, and work that was recorded.
#![allow(unsafe_code, reason = "the driver is a C library")]

use std::{fmt, sync::Arc};

use cudarc::driver::{CudaEvent, CudaGraph, CudaStream, result};

use super::{
    CudaDevice,
    error::{CudaError, classify},
};

/// Work that was recorded on a device.
pub(crate) struct RecordedGraph(CudaGraph);

// SAFETY: the driver asks that a graph is not used by two threads at once, which `&mut` of its owner sees to; it has no
// ties to one.
unsafe impl Send for RecordedGraph {}

impl fmt::Debug for RecordedGraph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordedGraph").finish_non_exhaustive()
    }
}

impl RecordedGraph {
    pub fn of(graph: CudaGraph) -> Self {
        Self(graph)
    }

    /// Has it done, behind everything that was asked of its device before.
    ///
    /// # Safety
    /// As for what was recorded, once more.
    pub unsafe fn launch(&mut self) -> Result<(), CudaError> {
        self.0.launch().map_err(|error| classify("replaying a graph", 0, error))
    }
}

/// Copies to a device beside its work.
#[derive(Debug)]
pub(crate) struct CopyStream(Arc<CudaStream>);

impl CopyStream {
    pub fn of(stream: Arc<CudaStream>) -> Self {
        Self(stream)
    }

    /// Copies from the host to `address` of device memory, behind this stream's copies before it.
    ///
    /// # Safety
    /// Until it is done neither end may be freed, nor the host's written; `address` must have room for all of it.
    pub unsafe fn copy_in(&self, device: &CudaDevice, host: &[u8], address: u64) -> Result<(), CudaError> {
        device.bind()?;
        // SAFETY: the caller's promise.
        unsafe { result::memcpy_htod_async(address, host, self.0.cu_stream()) }
            .map_err(|error| classify("copying to the device", 0, error))
    }

    /// An event is passed when all copies before it are done.
    pub fn record(&self, event: &CudaEvent) -> Result<(), CudaError> {
        event.record(&self.0).map_err(|error| classify("recording an event", 0, error))
    }

    pub fn synchronize(&self) -> Result<(), CudaError> {
        self.0.synchronize().map_err(|error| classify("waiting for copies", 0, error))
    }

    /// Whether an event of either stream has happened; a lost device's has.
    pub fn is_past(event: &CudaEvent) -> bool {
        event.try_is_complete().unwrap_or(true)
    }

    /// Has the host wait for an event of either stream.
    pub fn wait_on_host(event: &CudaEvent) -> Result<(), CudaError> {
        event.synchronize().map_err(|error| classify("waiting for the device", 0, error))
    }
}
