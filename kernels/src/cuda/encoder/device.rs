//! An encoder's memory on a device, and its work there.
//!
//! Not yet run on a GPU.
//!
//! Two batches may be under way, each in a slot of its own: while one is computed, the next is copied in on a second
//! stream, and the host reads what the last one left. Events order the two streams; the host waits for results alone.
#![allow(unsafe_code, reason = "kernels and copies run while the host goes on")]

use std::collections::HashMap;

use cudarc::driver::CudaEvent;

use super::{
    error::EncoderError,
    launch::{Launch, OpError},
    memory::{Arena, Element, Region},
    op::Op,
    recorded::Recording,
};
use crate::cuda::{
    CudaDevice, CudaError,
    device::{Function, Grid},
    late_interaction::{CompareError, ComparePlan, Comparison},
    linear::{Multiplication, Products},
    maxsim::arguments::bytes_of,
    memory::{DeviceBuffer, PinnedBuffer},
    stream::CopyStream,
};

/// How much a device reserves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncoderMemory {
    /// Of the device's memory, as an [`ArenaLayout`](super::ArenaLayout) says.
    pub arena_bytes: usize,
    /// Of the host's, for what a slot's batch brings.
    pub staging_words: usize,
    /// Of the host's, for what it leaves.
    pub results_words: usize,
    /// Of the host's, for a [comparison's](Comparison) program.
    pub program_words: usize,
}

/// A device with an arena of its memory, for batches in two slots. Used by one thread at a time.
#[derive(Debug)]
pub struct EncoderDevice {
    // Graphs and memory before the device, whose context they are of.
    pub(super) recordings: HashMap<u64, Recording>,
    slots: [Slot; 2],
    arena: DeviceBuffer,
    pub(super) products: Option<Products>,
    plan: ComparePlan,
    program: Vec<u8>,
    pub(super) started: Vec<Started>,
    copies: CopyStream,
    pub(super) device: CudaDevice,
}

/// The host's side of a batch.
#[derive(Debug)]
struct Slot {
    staging: PinnedBuffer,
    program: PinnedBuffer,
    results: PinnedBuffer,
    /// What was to be copied in has been.
    copied: CudaEvent,
    /// The batch is through, results and all.
    done: CudaEvent,
    /// Work waits for `copied`, and has not been told so.
    fresh: bool,
    /// A comparison may be reading its program.
    comparing: bool,
    /// Results are on their way, and nothing marks their end yet.
    unfinished: bool,
}

/// An operation, checked.
#[derive(Debug)]
pub(super) enum Started {
    Kernel(Launch),
    Product(Multiplication),
}

impl EncoderDevice {
    /// Reserves all memory that batches will need.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`], or another fault of the device.
    pub fn new(device: CudaDevice, memory: EncoderMemory) -> Result<Self, EncoderError> {
        let EncoderMemory { arena_bytes, staging_words, results_words, program_words } = memory;
        let slot = || -> Result<Slot, CudaError> {
            Ok(Slot {
                staging: device.allocate_pinned(4 * staging_words)?,
                program: device.allocate_pinned(4 * program_words)?,
                results: device.allocate_pinned(4 * results_words)?,
                copied: device.event()?,
                done: device.event()?,
                fresh: false,
                comparing: false,
                unfinished: false,
            })
        };
        let slots = [slot()?, slot()?];
        let (arena, copies) = (device.allocate(arena_bytes)?, device.copy_stream()?);
        let (plan, program, started) = (ComparePlan::default(), Vec::new(), Vec::new());
        let recordings = HashMap::new();
        Ok(Self { recordings, slots, arena, products: None, plan, program, started, copies, device })
    }

    /// Has cuBLASLt compute the products that it can; returns its version. What was recorded is forgotten.
    ///
    /// # Errors
    /// [`CudaError::LibraryMissing`] where it is not installed: products are then computed as before.
    pub fn use_cublaslt(&mut self) -> Result<usize, CudaError> {
        let products = Products::open(&self.device)?;
        let version = products.version();
        self.replace_products(Some(products))?;
        Ok(version)
    }

    /// Has our own kernels compute all products again. What was recorded is forgotten.
    ///
    /// # Errors
    /// [`CudaError::Lost`].
    pub fn use_own_products(&mut self) -> Result<(), CudaError> {
        self.replace_products(None)
    }

    /// Products that cuBLASLt was to compute and has no algorithm for; our own kernel computes them.
    pub fn products_refused(&self) -> impl Iterator<Item = &crate::cuda::linear::Product> {
        self.products.iter().flat_map(Products::refused)
    }

    fn replace_products(&mut self, products: Option<Products>) -> Result<(), CudaError> {
        // What is under way uses the library's workspace.
        self.device.synchronize()?;
        self.recordings.clear();
        self.products = products;
        Ok(())
    }

    /// Loads the kernels of operations and plans their products, so that nothing of that is left for their first time.
    ///
    /// # Errors
    /// As [`run`](Self::run); nothing is started.
    pub fn prepare(&mut self, ops: &[Op]) -> Result<(), EncoderError> {
        self.check(ops)?;
        let Self { device, started, .. } = self;
        for started in started {
            if let Started::Kernel(launch) = started {
                device.function(launch.unit, launch.kernel)?;
            }
        }
        Ok(())
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &CudaDevice {
        &self.device
    }

    /// Whether attention is quicker with [wide](super::Attend::wide) warps.
    #[must_use]
    pub fn prefers_wide_attention(&self) -> bool {
        self.device.compute_capability() >= (9, 0)
    }

    /// Writes a region and waits until it is there: for weights.
    ///
    /// # Errors
    /// [`OpError`] if it lies outside the arena or has another length, [`CudaError`] if the device fails.
    pub fn write<T: Element>(&mut self, region: Region<T>, values: &[T]) -> Result<(), EncoderError> {
        if region.len() != values.len() {
            return Err(OpError::Shape { argument: "values", expected: region.len(), found: values.len() }.into());
        }
        let address = self.arena().address("region", &region)?;
        // SAFETY: the region lies in the arena, as was checked, and both ends stay until the wait below is over.
        unsafe { self.device.copy_in(bytes_of(values), address) }?;
        Ok(self.device.synchronize()?)
    }

    /// Host memory for what a slot's next batch brings, once what it brought before has been copied.
    ///
    /// # Errors
    /// [`CudaError::Lost`].
    pub fn staging(&mut self, slot: usize) -> Result<&mut [u32], EncoderError> {
        let slot = &mut self.slots[slot];
        CopyStream::wait_on_host(&slot.copied)?;
        Ok(slot.staging.as_mut_words())
    }

    /// Has words of a slot's staging, from `at` on, copied into a region, beside what is computed for the other slot.
    /// What is asked for after this waits for it.
    ///
    /// # Errors
    /// [`OpError`] for a region outside the arena, [`EncoderError::Words`] for words that are not there.
    pub fn copy_in(&mut self, slot: usize, at: usize, region: Region<u32>) -> Result<(), EncoderError> {
        let address = self.arena().address("region", &region)?;
        let slot = &mut self.slots[slot];
        let bytes = words("staging", slot.staging.bytes(), at, &region)?;
        // SAFETY: the region lies in the arena. Staging is given out again after `copied` alone, and freed after the
        // streams have been waited for.
        unsafe { self.copies.copy_in(&self.device, &slot.staging.as_slice()[bytes], address) }?;
        self.copies.record(&slot.copied)?;
        slot.fresh = true;
        Ok(())
    }

    /// Has operations done, in order and behind everything before. All are checked before the first is started.
    ///
    /// # Errors
    /// [`EncoderError`]; after one of the device's, some may have been done.
    pub fn run(&mut self, ops: &[Op]) -> Result<(), EncoderError> {
        self.check(ops)?;
        self.await_copies()?;
        Ok(self.start_all()?)
    }

    /// Checks operations, all of them; products are planned that were not yet.
    pub(super) fn check(&mut self, ops: &[Op]) -> Result<(), EncoderError> {
        let arena = self.arena();
        let Self { device, products, started, .. } = self;
        started.clear();
        ops.iter().try_for_each(|op| {
            let launch = op.launch(arena)?;
            let product = match (op, products.as_mut()) {
                (Op::Product(product), Some(products)) => match Multiplication::of(product, arena)? {
                    Some(multiplication) if products.plan(device, &multiplication.product)? => Some(multiplication),
                    _ => None,
                },
                _ => None,
            };
            started.push(product.map_or(Started::Kernel(launch), Started::Product));
            Ok(())
        })
    }

    /// Has documents compared with queries, behind everything before.
    ///
    /// # Errors
    /// [`CompareError`] if that cannot be planned in the room that there is, or [`CudaError`].
    pub fn compare(&mut self, slot: usize, comparison: &Comparison<'_>) -> Result<(), EncoderError> {
        let (shape, arena) = (self.device.shape(), self.arena());
        let launches = self.plan.encode(comparison, &shape, arena, &mut self.program)?;
        let address = arena.address("program", &comparison.program)?;
        let slot = &mut self.slots[slot];
        let (needed, found) = (self.program.len(), slot.program.bytes());
        if needed > found {
            return Err(CompareError::Room { region: "the program", needed, found }.into());
        }
        if slot.comparing {
            // The batch that had the slot before was given up: what it started reads its program still.
            self.copies.synchronize()?;
            self.device.synchronize()?;
        }
        slot.comparing = true;
        slot.program.as_mut_slice()[..needed].copy_from_slice(&self.program);
        // SAFETY: the plan has made sure that the region has room. Neither end is written again before this comparison is
        // over.
        unsafe { self.copies.copy_in(&self.device, &slot.program.as_slice()[..needed], address) }?;
        self.copies.record(&slot.copied)?;
        slot.fresh = true;
        self.await_copies()?;
        for launch in self.plan.launches(&launches) {
            let function = self.device.function(launch.unit, launch.kernel)?;
            let grid = Grid { blocks: launch.grid, threads: launch.threads, shared_bytes: launch.shared_bytes };
            // SAFETY: the program was made for these regions, which lie in the arena and are as large as the plan says,
            // and nothing else is written where it lies before the launch is over.
            unsafe { self.device.launch(function, grid, launches.parameter.as_bytes()) }?;
        }
        Ok(())
    }

    /// Has a region copied into a slot's results, from word `at` on, behind everything before.
    ///
    /// # Errors
    /// As for [`copy_in`](Self::copy_in).
    pub fn copy_out(&mut self, slot: usize, at: usize, region: Region<u32>) -> Result<(), EncoderError> {
        let address = self.arena().address("region", &region)?;
        let Slot { results, unfinished, .. } = &mut self.slots[slot];
        let bytes = words("results", results.bytes(), at, &region)?;
        *unfinished = true;
        // SAFETY: the region lies in the arena; results are read after `done` alone.
        Ok(unsafe { self.device.copy_out(address, &mut results.as_mut_slice()[bytes]) }?)
    }

    /// Marks the end of a slot's batch.
    ///
    /// # Errors
    /// [`CudaError::Lost`].
    pub fn finish(&mut self, slot: usize) -> Result<(), EncoderError> {
        let slot = &mut self.slots[slot];
        self.device.record(&slot.done)?;
        slot.unfinished = false;
        Ok(())
    }

    /// Whether the end of a slot's batch has come, or never will: then [`fetched`](Self::fetched) says why.
    #[must_use]
    pub fn is_done(&self, slot: usize) -> bool {
        CopyStream::is_past(&self.slots[slot].done)
    }

    /// Waits for the end of a slot's batch, and for nothing after it; what it left.
    ///
    /// # Errors
    /// [`CudaError::Lost`] if a kernel trapped or the device failed; [`EncoderError::Unfinished`] if results were asked for
    /// since the last [`finish`](Self::finish).
    pub fn fetched(&mut self, slot: usize) -> Result<&[u32], EncoderError> {
        let slot = &mut self.slots[slot];
        if slot.unfinished {
            return Err(EncoderError::Unfinished);
        }
        CopyStream::wait_on_host(&slot.done)?;
        slot.comparing = false;
        Ok(slot.results.as_words())
    }

    fn arena(&self) -> Arena {
        Arena { base: self.arena.address(), bytes: self.arena.bytes() }
    }

    /// Has what is asked for from here on wait for what was to be copied in.
    pub(super) fn await_copies(&mut self) -> Result<(), CudaError> {
        for slot in &mut self.slots {
            if std::mem::take(&mut slot.fresh) {
                self.device.await_event(&slot.copied)?;
            }
        }
        Ok(())
    }

    /// Has the operations that were checked done.
    pub(super) fn start_all(&mut self) -> Result<(), CudaError> {
        let Self { device, products, started, .. } = self;
        started.iter().try_for_each(|started| {
            let function = match started {
                Started::Kernel(launch) => Some(device.function(launch.unit, launch.kernel)?),
                Started::Product(_) => None,
            };
            // SAFETY: each operation has checked that all it names lies in the arena, which outlives the streams' work, and
            // that what it writes is apart; its kernel leaves none of that whatever the memory holds.
            unsafe { start(device, products.as_mut(), started, function) }
        })
    }
}

/// Starts an operation; `function` is its kernel, if it has one.
///
/// # Safety
/// As [`CudaDevice::launch`] and [`Products::run`].
pub(super) unsafe fn start(
    device: &CudaDevice,
    products: Option<&mut Products>,
    started: &Started,
    function: Option<Function>,
) -> Result<(), CudaError> {
    match started {
        Started::Kernel(launch) => {
            let function = function.expect("a launch has a kernel");
            let grid = Grid { blocks: launch.blocks, threads: launch.threads, shared_bytes: launch.shared_bytes };
            // SAFETY: the caller's promise.
            unsafe { device.launch(function, grid, launch.parameter.as_bytes()) }
        }
        Started::Product(product) => {
            let products = products.expect("it was there when the operation was checked");
            // SAFETY: the caller's promise.
            unsafe { products.run(device, product) }
        }
    }
}

impl Drop for EncoderDevice {
    fn drop(&mut self) {
        // Work may be under way on both streams. A lost device has none.
        let _ = self.copies.synchronize();
        let _ = self.device.synchronize();
    }
}

/// Bytes of a buffer of words that a region corresponds to.
fn words(
    what: &'static str,
    bytes: usize,
    at: usize,
    region: &Region<u32>,
) -> Result<std::ops::Range<usize>, EncoderError> {
    let (found, most) = (at + region.len(), bytes / 4);
    if found > most { Err(EncoderError::Words { what, found, most }) } else { Ok(4 * at..4 * found) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::encoder::ArenaLayout;

    #[test]
    fn words_beyond_a_buffer_are_refused() {
        let region = ArenaLayout::default().region::<u32>(10);
        assert_eq!(words("results", 40, 0, &region), Ok(0..40));
        assert_eq!(words("results", 48, 2, &region), Ok(8..48));
        let refused = EncoderError::Words { what: "results", found: 11, most: 10 };
        assert_eq!(words("results", 43, 1, &region), Err(refused.clone()));
        assert_eq!(refused.to_string(), "11 words of results, at most 10");
    }
}
