//! Memory that is given back when it is dropped.
#![allow(unsafe_code, reason = "the driver is a C library")]

use std::sync::Arc;

use cudarc::driver::{
    CudaContext,
    result::{self, DriverError},
};

/// Device memory. Its users wait for the device before they drop it.
#[derive(Debug)]
pub(crate) struct DeviceBuffer {
    address: u64,
    bytes: usize,
    context: Arc<CudaContext>,
}

impl DeviceBuffer {
    pub fn new(context: &Arc<CudaContext>, bytes: usize) -> Result<Self, DriverError> {
        context.bind_to_thread()?;
        // SAFETY: the context is bound; a size of 0 would be refused.
        let address = unsafe { result::malloc_sync(bytes.max(1)) }?;
        Ok(Self { address, bytes, context: Arc::clone(context) })
    }

    /// A multiple of 256.
    pub fn address(&self) -> u64 {
        self.address
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: allocated in this context, and nobody has the address any more. The driver waits for the device
            // first. A lost context has no memory to give back, which is the only error there can be.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

/// Host memory that stays where it is.
#[derive(Debug)]
pub(crate) struct PinnedBuffer {
    begin: *mut u8,
    bytes: usize,
    context: Arc<CudaContext>,
}

// SAFETY: plain memory with one owner.
unsafe impl Send for PinnedBuffer {}

impl PinnedBuffer {
    pub fn new(context: &Arc<CudaContext>, bytes: usize) -> Result<Self, DriverError> {
        context.bind_to_thread()?;
        // SAFETY: the context is bound; no flags.
        let begin = unsafe { result::malloc_host(bytes.max(1), 0) }?.cast::<u8>();
        // SAFETY: the driver gave that many bytes. Written once, so that they may be read as a slice.
        unsafe { begin.write_bytes(0, bytes) };
        Ok(Self { begin, bytes, context: Arc::clone(context) })
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: that many bytes, initialised by `new`.
        unsafe { std::slice::from_raw_parts(self.begin, self.bytes) }
    }

    /// Whole words.
    pub fn as_words(&self) -> &[u32] {
        // SAFETY: the driver aligns to a page; every word is initialised, and any bits are one.
        unsafe { std::slice::from_raw_parts(self.begin.cast(), self.bytes / 4) }
    }

    /// Whole words.
    pub fn as_mut_words(&mut self) -> &mut [u32] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.begin.cast(), self.bytes / 4) }
    }

    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.begin, self.bytes) }
    }
}

impl Drop for PinnedBuffer {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: allocated in this context and not used after this; a lost context leaves nothing to do.
            let _ = unsafe { result::free_host(self.begin.cast()) };
        }
    }
}
