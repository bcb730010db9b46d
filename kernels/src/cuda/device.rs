//! A device: found, checked, and asked for memory and launches.
#![allow(unsafe_code, reason = "the driver is a C library")]

use std::{
    collections::HashMap,
    ffi::{CStr, CString, c_void},
    ptr,
    sync::Arc,
};

use cudarc::driver::{
    CudaContext, CudaEvent, CudaStream,
    result::{self, DriverError},
    sys::{
        self, CUdevice_attribute, CUevent_flags, CUfunction, CUfunction_attribute, CUmodule, CUresult,
        CUstreamCaptureMode,
    },
};

use super::{
    error::{CudaError, DRIVER_NEEDED, classify},
    maxsim::plan::DeviceShape,
    memory::{DeviceBuffer, PinnedBuffer},
    ptx::{self, ComputeCapability, Unit},
    stream::{CopyStream, RecordedGraph},
};

/// A CUDA device, one stream on it, and the kernels that have been loaded. Used by one thread at a time.
///
/// Nothing is loaded before [`open`](Self::open), and everything is given back when it is dropped.
pub struct CudaDevice {
    // Before the context, which they live in.
    units: HashMap<Unit, Loaded>,
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
    name: String,
    compute: ComputeCapability,
    shape: DeviceShape,
    l2_bytes: usize,
}

impl std::fmt::Debug for CudaDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CudaDevice").field("name", &self.name).field("shape", &self.shape).finish_non_exhaustive()
    }
}

/// A kernel, ready to launch. Belongs to the device that gave it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Function(CUfunction);

/// How many threads, in which blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    pub blocks: u32,
    pub threads: u32,
    pub shared_bytes: u32,
}

/// A unit of PTX that the driver has compiled.
struct Loaded {
    module: CUmodule,
    context: Arc<CudaContext>,
    functions: HashMap<&'static str, Function>,
}

// SAFETY: a module may be used by any thread that has its context bound, which every use here does first; `&mut`
// keeps two threads from using it at once.
unsafe impl Send for Loaded {}

impl Drop for Loaded {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: the module was loaded in this context and is not used after this. A context that is lost takes
            // its modules with it, and the error says no more than that.
            let _ = unsafe { result::module::unload(self.module) };
        }
    }
}

impl CudaDevice {
    /// Opens the device of that number (as `CUDA_VISIBLE_DEVICES` counts them).
    ///
    /// # Errors
    /// [`CudaError`]; without a driver or a device this is known in milliseconds.
    pub fn open(ordinal: usize) -> Result<Self, CudaError> {
        // SAFETY: loads a library and looks no further; CUDA's has no precondition for that.
        if !unsafe { sys::is_culib_present() } {
            return Err(CudaError::LibraryMissing { library: "CUDA driver" });
        }
        let mut found = 0;
        // SAFETY: the library is there, and writes one integer. It is the only call that is allowed before cuInit.
        let version = unsafe { sys::cuDriverGetVersion(&raw mut found) }.result();
        version.map_err(|error| opening(ordinal, error))?;
        if found < DRIVER_NEEDED {
            return Err(CudaError::DriverTooOld { found, needed: DRIVER_NEEDED });
        }
        match Self::open_once(ordinal) {
            // Everybody of ours has let go of it, but CUDA's runtime, which is inside cuBLASLt, keeps the context of a
            // device until the device is reset: without that, everybody would be given the lost one again.
            Err(CudaError::Lost { .. }) => {
                reset(ordinal)?;
                Self::open_once(ordinal)
            }
            opened => opened,
        }
    }

    fn open_once(ordinal: usize) -> Result<Self, CudaError> {
        let context = CudaContext::new(ordinal).map_err(|error| opening(ordinal, error))?;
        Self::of(context).map_err(|error| opening(ordinal, error))?
    }

    fn of(context: Arc<CudaContext>) -> Result<Result<Self, CudaError>, DriverError> {
        let compute = context.compute_capability()?;
        if compute < ptx::OLDEST {
            return Ok(Err(CudaError::TooOld { found: compute, needed: ptx::OLDEST }));
        }
        let attribute = |of| context.attribute(of).map(|value| u32::try_from(value).unwrap_or(0));
        let shape = DeviceShape {
            multiprocessors: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_bytes_per_block: attribute(
                CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            )?,
            shared_bytes_per_multiprocessor: attribute(
                CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR,
            )?,
        };
        let l2_bytes = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)? as usize;
        let name = context.name()?;
        let stream = context.new_stream()?;
        Ok(Ok(Self { units: HashMap::new(), stream, context, name, compute, shape, l2_bytes }))
    }

    /// What the device calls itself.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Major and minor.
    #[must_use]
    pub fn compute_capability(&self) -> ComputeCapability {
        self.compute
    }

    /// What plans need to know.
    #[must_use]
    pub fn shape(&self) -> DeviceShape {
        self.shape
    }

    /// Bytes of its L2 cache.
    #[must_use]
    pub fn l2_bytes(&self) -> usize {
        self.l2_bytes
    }

    /// Bytes of device memory that are free, and that there are.
    ///
    /// # Errors
    /// [`CudaError::Lost`].
    pub fn memory(&self) -> Result<(usize, usize), CudaError> {
        self.context.mem_get_info().map_err(|error| classify("asking for free memory", 0, error))
    }

    /// Device memory, its contents undefined.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`] with the bytes asked for, or [`CudaError::Lost`].
    pub(crate) fn allocate(&self, bytes: usize) -> Result<DeviceBuffer, CudaError> {
        DeviceBuffer::new(&self.context, bytes).map_err(|error| classify("allocating", bytes, error))
    }

    /// Host memory that the device copies from and to without detours.
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate).
    pub(crate) fn allocate_pinned(&self, bytes: usize) -> Result<PinnedBuffer, CudaError> {
        PinnedBuffer::new(&self.context, bytes).map_err(|error| classify("pinning", bytes, error))
    }

    /// Copies `host[range]` to `address` of device memory, some time before the next [`synchronize`](Self::synchronize).
    ///
    /// # Safety
    /// Until then neither end may be freed, nor the host's written; `address` must have room for the range.
    pub(crate) unsafe fn copy_in(&self, host: &[u8], address: u64) -> Result<(), CudaError> {
        self.bind()?;
        // SAFETY: the caller's promise.
        unsafe { result::memcpy_htod_async(address, host, self.stream.cu_stream()) }
            .map_err(|error| classify("copying to the device", 0, error))
    }

    /// Copies from `address` to `host`, some time before the next [`synchronize`](Self::synchronize).
    ///
    /// # Safety
    /// Until then neither end may be freed, nor the host's touched; `address` must have that many bytes.
    pub(crate) unsafe fn copy_out(&self, address: u64, host: &mut [u8]) -> Result<(), CudaError> {
        self.bind()?;
        if host.is_empty() {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        unsafe { result::memcpy_dtoh_async(host, address, self.stream.cu_stream()) }
            .map_err(|error| classify("copying from the device", 0, error))
    }

    /// Waits for everything that was asked of the device.
    ///
    /// # Errors
    /// [`CudaError::Lost`] if a kernel trapped or the device failed.
    pub(crate) fn synchronize(&self) -> Result<(), CudaError> {
        self.stream.synchronize().map_err(|error| classify("waiting for the device", 0, error))
    }

    /// Whether the device still answers; waits for nothing.
    ///
    /// # Errors
    /// [`CudaError::Lost`], if a kernel trapped or the device failed.
    pub(crate) fn query(&self) -> Result<(), CudaError> {
        self.bind()?;
        // SAFETY: the stream is this device's, and its context is bound.
        match unsafe { sys::cuStreamQuery(self.stream.cu_stream()) }.result() {
            Ok(()) | Err(DriverError(CUresult::CUDA_ERROR_NOT_READY)) => Ok(()),
            Err(error) => Err(classify("asking after the device", 0, error)),
        }
    }

    /// A kernel of a unit, which is loaded first where it was not: some hundred milliseconds, once.
    pub(crate) fn function(&mut self, unit: impl Into<Unit>, name: &'static str) -> Result<Function, CudaError> {
        let unit = unit.into();
        self.bind()?;
        if !self.units.contains_key(&unit) {
            let module = self.load(unit)?;
            let loaded = Loaded { module, context: Arc::clone(&self.context), functions: HashMap::new() };
            self.units.insert(unit, loaded);
        }
        let unit = self.units.get_mut(&unit).expect("it was just inserted");
        if let Some(&known) = unit.functions.get(name) {
            return Ok(known);
        }
        let c_name = CString::new(name).expect("a kernel's name has no zero");
        // SAFETY: the module is loaded, in the context that is bound.
        let function = unsafe { result::module::get_function(unit.module, c_name) };
        let function = function.map_err(|error| classify("finding a kernel", 0, error))?;
        let shared = self.shape.shared_bytes_per_block.cast_signed();
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // Kernels with static shared memory have a little less, and need no dynamic one.
        if unit_has_dynamic_shared(name) {
            // SAFETY: the function is of the module that is loaded.
            let allowed = unsafe { result::function::set_function_attribute(function, attribute, shared) };
            allowed.map_err(|error| classify("allowing shared memory", 0, error))?;
        }
        unit.functions.insert(name, Function(function));
        Ok(Function(function))
    }

    fn load(&self, unit: Unit) -> Result<CUmodule, CudaError> {
        let needed = CudaError::TooOld { found: self.compute, needed: ptx::OLDEST };
        let text = CString::new(ptx::ptx(unit, self.compute).ok_or(needed)?).expect("PTX is text");
        let text: &CStr = &text;
        // SAFETY: PTX as a string that ends in 0, in the context that is bound.
        unsafe { result::module::load_data(text.as_ptr().cast()) }
            .map_err(|error| classify("loading kernels", 0, error))
    }

    /// Starts a kernel with one parameter, given as its bytes.
    ///
    /// # Safety
    /// The parameter must be the kernel's own structure, and every address in it must be of device memory that is as
    /// large as the kernel takes it to be and lives until the next [`synchronize`](Self::synchronize).
    pub(crate) unsafe fn launch(&self, function: Function, grid: Grid, parameter: &[u8]) -> Result<(), CudaError> {
        self.bind()?;
        let mut parameters = [ptr::from_ref(parameter).cast::<c_void>().cast_mut()];
        let stream = self.stream.cu_stream();
        let (blocks, threads) = ((grid.blocks, 1, 1), (grid.threads, 1, 1));
        // SAFETY: the driver copies the parameter before it returns; the rest is the caller's promise.
        unsafe { result::launch_kernel(function.0, blocks, threads, grid.shared_bytes, stream, &mut parameters) }
            .map_err(|error| classify("launching a kernel", 0, error))
    }

    /// A point in the stream's time.
    pub(crate) fn mark(&self) -> Result<CudaEvent, CudaError> {
        let mark = self.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
        mark.map_err(|error| classify("recording an event", 0, error))
    }

    /// Bytes per second, read and written together, that the device copies within its memory, by events: the median of
    /// `rounds` copies of `bytes`.
    ///
    /// # Errors
    /// [`CudaError`]; twice `bytes` are allocated for it.
    pub fn copy_bandwidth(&self, bytes: usize, rounds: usize) -> Result<f64, CudaError> {
        let (from, to) = (self.allocate(bytes)?, self.allocate(bytes)?);
        let stream = self.stream.cu_stream();
        let mut seconds = Vec::with_capacity(rounds);
        for round in 0..=rounds.max(1) {
            let begin = self.mark()?;
            // SAFETY: both buffers have that many bytes and live until the event below has been waited for.
            unsafe { result::memcpy_dtod_async(to.address(), from.address(), bytes, stream) }
                .map_err(|error| classify("copying on the device", 0, error))?;
            let elapsed = elapsed_seconds(&begin, &self.mark()?)?;
            // The first touches memory that nobody has touched.
            seconds.extend((round > 0).then_some(elapsed));
        }
        seconds.sort_by(f64::total_cmp);
        Ok(2.0 * bytes as f64 / seconds[seconds.len() / 2])
    }

    /// An event that counts as passed until it is recorded.
    pub(crate) fn event(&self) -> Result<CudaEvent, CudaError> {
        let event = self.context.new_event(Some(CUevent_flags::CU_EVENT_DISABLE_TIMING));
        event.map_err(|error| classify("making an event", 0, error))
    }

    /// An event is passed when all that was asked for before has been done.
    pub(crate) fn record(&self, event: &CudaEvent) -> Result<(), CudaError> {
        event.record(&self.stream).map_err(|error| classify("recording an event", 0, error))
    }

    /// What is asked for from here on waits for an event.
    pub(crate) fn await_event(&self, event: &CudaEvent) -> Result<(), CudaError> {
        self.stream.wait(event).map_err(|error| classify("waiting for an event", 0, error))
    }

    /// Records what `start` asks of the device, which is not done, so that it can be asked for at once.
    pub(crate) fn record_graph(
        &self,
        start: impl FnOnce() -> Result<(), CudaError>,
    ) -> Result<RecordedGraph, CudaError> {
        let recording = |error| classify("recording a graph", 0, error);
        self.stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED).map_err(recording)?;
        let started = start();
        // Whatever failed: a stream that goes on recording does nothing else.
        let graph = self.stream.end_capture(sys::CUgraphInstantiate_flags(0)).map_err(recording);
        started?;
        let nothing = || CudaError::Launch { what: "recording a graph", code: "it is empty".to_owned() };
        graph?.map(RecordedGraph::of).ok_or_else(nothing)
    }

    /// A second order of work, for copies beside what is computed.
    pub(crate) fn copy_stream(&self) -> Result<CopyStream, CudaError> {
        let stream = self.context.new_stream().map_err(|error| classify("making a stream", 0, error))?;
        Ok(CopyStream::of(stream))
    }

    /// What its work is in order on.
    pub(crate) fn stream(&self) -> sys::CUstream {
        self.stream.cu_stream()
    }

    /// Makes its context the thread's.
    pub(crate) fn bind(&self) -> Result<(), CudaError> {
        self.context.bind_to_thread().map_err(|error| classify("binding the context", 0, error))
    }
}

/// Seconds between two marks, once both have been passed.
pub(crate) fn elapsed_seconds(begin: &CudaEvent, end: &CudaEvent) -> Result<f64, CudaError> {
    let milliseconds = begin.elapsed_ms(end).map_err(|error| classify("reading an event", 0, error))?;
    Ok(f64::from(milliseconds) / 1e3)
}

fn unit_has_dynamic_shared(kernel: &str) -> bool {
    !kernel.contains("naive") && !kernel.contains("join")
}

/// Ends a lost context, whoever keeps it.
fn reset(ordinal: usize) -> Result<(), CudaError> {
    let number = i32::try_from(ordinal).map_err(|_| CudaError::NoDevice { ordinal })?;
    let device = result::device::get(number).map_err(|error| opening(ordinal, error))?;
    // SAFETY: the context is lost: whoever still has it is told so by every call, before this and after it.
    unsafe { sys::cuDevicePrimaryCtxReset_v2(device) }.result().map_err(|error| opening(ordinal, error))
}

fn opening(ordinal: usize, error: DriverError) -> CudaError {
    match error.0 {
        CUresult::CUDA_ERROR_NO_DEVICE | CUresult::CUDA_ERROR_INVALID_DEVICE => CudaError::NoDevice { ordinal },
        _ => classify("opening the device", 0, error),
    }
}
