//! MaxSim on a device that keeps documents.
#![allow(unsafe_code, reason = "kernels and copies run while the host goes on")]

use std::fmt;

use super::{
    batch::{Batch, Regions},
    plan::{Launches, QueryShape, Shape, Step, Unit, plan},
    request::{Document, Layout, Query, Request, RequestError},
};
use crate::{
    cuda::{
        CudaDevice, CudaError,
        device::{Grid, elapsed_seconds},
        memory::{DeviceBuffer, PinnedBuffer},
        residency::{Counters, Residency},
    },
    shape,
};

/// A device with documents of one layout in its memory.
///
/// Buffers grow to the largest request and stay; a request of a size that has been seen allocates nothing, neither on
/// the device nor on the host. One request at a time.
#[derive(Debug)]
pub struct MaxSimDevice {
    layout: Layout,
    residency: Residency,
    batch: Batch,
    // Memory before the device, whose context it is of.
    arena: DeviceBuffer,
    upload: DeviceBuffer,
    results: DeviceBuffer,
    staging: PinnedBuffer,
    fetched: PinnedBuffer,
    device: CudaDevice,
}

/// Each query row's best token, for all documents of a request in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Alignment {
    /// The largest similarity, query row by query row; −∞ for a document without rows.
    pub values: Vec<f32>,
    /// Its token's number in the document, the first of equal ones; `u32::MAX` for a document without rows.
    pub tokens: Vec<u32>,
}

/// Why there are no scores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScoreError {
    /// The request is at fault.
    Request(RequestError),
    /// The device is.
    Cuda(CudaError),
}

impl fmt::Display for ScoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(error) => error.fmt(f),
            Self::Cuda(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ScoreError {}

impl From<RequestError> for ScoreError {
    fn from(error: RequestError) -> Self {
        Self::Request(error)
    }
}

impl From<CudaError> for ScoreError {
    fn from(error: CudaError) -> Self {
        Self::Cuda(error)
    }
}

/// A request that lies on the device, to be scored again and again: for measurements. It scores what is in the arena at
/// that time, so nothing may be put there in between.
#[derive(Debug)]
pub struct Prepared {
    launches: Launches,
    kernel: (Unit, &'static str),
    grid: Grid,
    documents: usize,
    results: DeviceBuffer,
    _upload: DeviceBuffer,
}

impl Prepared {
    /// Name of its kernel.
    #[must_use]
    pub fn kernel(&self) -> &'static str {
        self.kernel.1
    }
}

impl MaxSimDevice {
    /// Reserves `arena_bytes` of the device's memory for documents that stay, and loads the kernels that requests of this
    /// layout take: seconds the first time, until the driver has compiled them and keeps them in its cache.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`], or another fault of the device.
    pub fn new(mut device: CudaDevice, layout: Layout, arena_bytes: usize) -> Result<Self, CudaError> {
        load_kernels(&mut device, layout)?;
        Ok(Self {
            layout,
            residency: Residency::new(arena_bytes),
            batch: Batch::default(),
            arena: device.allocate(arena_bytes)?,
            upload: device.allocate(0)?,
            results: device.allocate(0)?,
            staging: device.allocate_pinned(0)?,
            fetched: device.allocate_pinned(0)?,
            device,
        })
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &CudaDevice {
        &self.device
    }

    /// Whether a document is in the arena. It may be gone after any request that keeps others.
    #[must_use]
    pub fn is_resident(&self, key: u64) -> bool {
        self.residency.contains(key)
    }

    /// Forgets a document: it was deleted, or has changed.
    pub fn forget(&mut self, key: u64) {
        self.residency.remove(key);
    }

    /// What the arena has done so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.residency.counters()
    }

    /// Writes a score for each document.
    ///
    /// # Errors
    /// [`ScoreError`]; the scores are then as they were. After [`CudaError::OutOfMemory`] a smaller request may pass;
    /// after [`CudaError::Lost`] nothing will.
    pub fn score(&mut self, request: &Request<'_>, scores: &mut [f32]) -> Result<(), ScoreError> {
        self.run(request, scores, None)
    }

    /// [`score`](Self::score), and says which token each query row's similarity is with.
    ///
    /// # Errors
    /// As [`score`](Self::score).
    pub fn align(
        &mut self,
        request: &Request<'_>,
        scores: &mut [f32],
        alignment: &mut Alignment,
    ) -> Result<(), ScoreError> {
        self.run(request, scores, Some(alignment))
    }

    /// Puts documents into the arena, so that they can be named by key.
    ///
    /// # Errors
    /// As [`score`](Self::score). A document that found no room is no error: [`is_resident`](Self::is_resident) says so.
    pub fn keep(&mut self, documents: &[Document<'_>]) -> Result<(), ScoreError> {
        let queries = [Query { rows: &[], documents: documents.len() as u32 }];
        self.upload(&Request { queries: &queries, documents }, false, Step::Stream)?;
        Ok(self.device.synchronize()?)
    }

    /// Uploads a request without scoring it.
    ///
    /// # Errors
    /// As [`score`](Self::score).
    pub fn prepare(&mut self, request: &Request<'_>, step: Step) -> Result<Prepared, ScoreError> {
        let launches = self.upload(request, false, step)?;
        let cut = self.batch.plan();
        let kernel = (cut.kernel.unit, cut.kernel.name());
        let grid = Grid { blocks: cut.grid, threads: cut.block, shared_bytes: cut.shared_bytes };
        let documents = request.documents.len();
        self.device.synchronize()?;
        // The request keeps the buffers that it lies in; the next one gets its own.
        let upload = std::mem::replace(&mut self.upload, self.device.allocate(0)?);
        let results = std::mem::replace(&mut self.results, self.device.allocate(0)?);
        Ok(Prepared { launches, kernel, grid, documents, results, _upload: upload })
    }

    /// Seconds that one scoring takes, measured by events around `launches` of them, `rounds` times: `prepared` in turn,
    /// so that several requests over different documents keep the cache from having them.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn time(&mut self, prepared: &[Prepared], launches: usize, rounds: usize) -> Result<Vec<f64>, CudaError> {
        let mut seconds = Vec::with_capacity(rounds);
        for round in 0..=rounds {
            let begin = self.device.mark()?;
            for launch in 0..launches {
                self.launch(&prepared[(round * launches + launch) % prepared.len()])?;
            }
            let elapsed = elapsed_seconds(&begin, &self.device.mark()?)?;
            // The first round compiles, and warms up.
            seconds.extend((round > 0).then_some(elapsed / launches as f64));
        }
        self.device.synchronize()?;
        Ok(seconds)
    }

    /// Scores a prepared request once more, and reads its scores.
    ///
    /// # Errors
    /// [`ScoreError`] if `scores` is not one for each document, or the device fails.
    pub fn read(&mut self, prepared: &Prepared, scores: &mut [f32]) -> Result<(), ScoreError> {
        shape::length("scores", prepared.documents, scores.len()).map_err(RequestError::Shape)?;
        self.launch(prepared)?;
        self.fetch(4 * prepared.documents, prepared.results.address())?;
        copy_words(self.fetched.as_slice(), scores, f32::from_le_bytes);
        Ok(())
    }

    fn run(
        &mut self,
        request: &Request<'_>,
        scores: &mut [f32],
        alignment: Option<&mut Alignment>,
    ) -> Result<(), ScoreError> {
        shape::length("scores", request.documents.len(), scores.len()).map_err(RequestError::Shape)?;
        let launches = self.upload(request, alignment.is_some(), Step::Stream)?;
        let cut = self.batch.plan();
        let kernel = (cut.kernel.unit, cut.kernel.name());
        let grid = Grid { blocks: cut.grid, threads: cut.block, shared_bytes: cut.shared_bytes };
        let (alignments, fetched) = (cut.alignments, self.batch.fetched_bytes());
        // SAFETY: the launches were encoded for these buffers, which are as large as the batch says, and which nobody
        // touches before `fetch` has waited for the device.
        unsafe { launch(&mut self.device, kernel, grid, &launches) }?;
        self.fetch(fetched, self.results.address())?;
        let words = self.fetched.as_slice();
        copy_words(words, scores, f32::from_le_bytes);
        if let Some(alignment) = alignment {
            let (values, tokens) = words[4 * scores.len()..].split_at(4 * alignments);
            alignment.values.resize(alignments, 0.0);
            alignment.tokens.resize(alignments, 0);
            copy_words(values, &mut alignment.values, f32::from_le_bytes);
            copy_words(tokens, &mut alignment.tokens, u32::from_le_bytes);
        }
        Ok(())
    }

    /// Lays a request out, makes room for it, and copies it to the device.
    fn upload(&mut self, request: &Request<'_>, alignment: bool, step: Step) -> Result<Launches, ScoreError> {
        let device = self.device.shape();
        self.batch.lay_out(self.layout, request, alignment, (&device, step), &mut self.residency)?;
        let launches = self.copy(request);
        if launches.is_err() {
            // What was to be kept has not arrived.
            self.batch.take_back(&mut self.residency);
        }
        Ok(launches?)
    }

    fn copy(&mut self, request: &Request<'_>) -> Result<Launches, CudaError> {
        grow(&self.device, &mut self.upload, self.batch.upload_bytes())?;
        grow(&self.device, &mut self.results, self.batch.results_bytes())?;
        if self.staging.bytes() < self.batch.staging_bytes() {
            self.staging = self.device.allocate_pinned(self.batch.staging_bytes().next_power_of_two())?;
        }
        let regions =
            Regions { arena: self.arena.address(), upload: self.upload.address(), results: self.results.address() };
        let staging = self.staging.as_mut_slice();
        let launches = self.batch.fill(self.layout, request, &regions, staging);
        // SAFETY: `upload` has grown to that size; staging memory is next written by the next request, which begins
        // after this one has waited for the device, or has failed to, which only a lost device does.
        unsafe { self.device.copy_in(&staging[..self.batch.upload_bytes()], self.upload.address()) }?;
        for keep in self.batch.keeps() {
            let address = self.arena.address() + keep.offset as u64;
            // SAFETY: `Residency` gave the document room inside the arena, whose capacity is the buffer's size.
            unsafe { self.device.copy_in(&staging[keep.staged.clone()], address) }?;
        }
        Ok(launches)
    }

    fn launch(&mut self, prepared: &Prepared) -> Result<(), CudaError> {
        // SAFETY: `prepared` owns the buffers that its launches were encoded for; both it and the arena live until the
        // device has been waited for, because dropping a buffer waits.
        unsafe { launch(&mut self.device, prepared.kernel, prepared.grid, &prepared.launches) }
    }

    /// Reads results, and waits for everything before them.
    fn fetch(&mut self, bytes: usize, address: u64) -> Result<(), CudaError> {
        if self.fetched.bytes() < bytes {
            self.fetched = self.device.allocate_pinned(bytes.next_power_of_two())?;
        }
        // SAFETY: the results region has that many bytes; the host's are not touched before the wait.
        unsafe { self.device.copy_out(address, &mut self.fetched.as_mut_slice()[..bytes]) }?;
        self.device.synchronize()
    }
}

impl Drop for MaxSimDevice {
    fn drop(&mut self) {
        // Copies and kernels may be under way if a request failed half-way. A lost device has none.
        let _ = self.device.synchronize();
    }
}

/// Has the driver compile what short and long queries and alignments take, before the first request waits for it.
fn load_kernels(device: &mut CudaDevice, layout: Layout) -> Result<(), CudaError> {
    let Layout { storage, dim } = layout;
    for (rows, alignment) in [(32, false), (64, false), (32, true)] {
        let queries = [QueryShape { rows, documents: 1 }];
        // What cannot be planned is refused when it is asked for.
        let shape = Shape { storage, dim, queries: &queries, lengths: &[1], alignment };
        if let Ok(plan) = plan(&shape, &device.shape()) {
            device.function(plan.kernel.unit, plan.kernel.name())?;
        }
    }
    for join in ["maxsim_join", "maxsim_join_alignment"] {
        device.function(Unit::Mma, join)?;
    }
    Ok(())
}

/// Starts what a plan says.
///
/// # Safety
/// As [`CudaDevice::launch`], for both launches.
unsafe fn launch(
    device: &mut CudaDevice,
    (unit, name): (Unit, &'static str),
    grid: Grid,
    launches: &Launches,
) -> Result<(), CudaError> {
    if grid.blocks == 0 {
        return Ok(());
    }
    let function = device.function(unit, name)?;
    // SAFETY: the caller's promise; the plan that encoded the parameter also named the kernel.
    unsafe { device.launch(function, grid, launches.parameter.as_bytes()) }?;
    if let Some(second) = launches.second {
        let function = device.function(Unit::Mma, second.kernel)?;
        let grid = Grid { blocks: second.grid, shared_bytes: 0, ..grid };
        // SAFETY: as above.
        unsafe { device.launch(function, grid, launches.parameter.as_bytes()) }?;
    }
    Ok(())
}

/// Replaces a buffer that is too small; twice as large as needed at most, so that requests that grow do it seldom.
fn grow(device: &CudaDevice, buffer: &mut DeviceBuffer, bytes: usize) -> Result<(), CudaError> {
    if buffer.bytes() < bytes {
        *buffer = device.allocate(bytes.next_power_of_two())?;
    }
    Ok(())
}

fn copy_words<T>(bytes: &[u8], words: &mut [T], word: fn([u8; 4]) -> T) {
    for (out, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *out = word(*bytes);
    }
}
