//! What runs operations: a device, or what stands for one in tests.

use half::f16;
use sluice_kernels::cuda::{
    encoder::{EncoderDevice, EncoderError, Op, Region},
    late_interaction::Comparison,
};

/// Memory that was reserved as [`Regions`](super::Regions) says, and work on it in the order of the calls.
///
/// A slot's staging and results belong to the batch in it: they are written and read between
/// [`fetched`](Self::fetched) and the next [`copy_in`](Self::copy_in) alone.
pub(crate) trait Machine: Send {
    /// Writes a region and waits: for weights.
    fn write_f16(&mut self, region: Region<f16>, values: &[f16]) -> Result<(), EncoderError>;

    /// The same of what stays exact.
    fn write_f32(&mut self, region: Region<f32>, values: &[f32]) -> Result<(), EncoderError>;

    /// Whether attention is quicker with wide warps; the bits are the same.
    fn prefers_wide_attention(&self) -> bool;

    /// Makes everything ready that operations need, and starts none of them.
    fn prepare(&mut self, ops: &[Op]) -> Result<(), EncoderError>;

    /// Has our own kernels multiply from now on.
    fn use_own_products(&mut self) -> Result<(), EncoderError>;

    /// Products that were to be a library's and are not.
    fn products_refused(&self) -> usize;

    /// Host memory for what a slot's batch brings.
    fn staging(&mut self, slot: usize) -> Result<&mut [u32], EncoderError>;

    /// Has words of the slot's staging, from `at` on, copied into a region.
    fn copy_in(&mut self, slot: usize, at: usize, region: Region<u32>) -> Result<(), EncoderError>;

    /// Has operations done, behind everything before.
    fn run(&mut self, ops: &[Op]) -> Result<(), EncoderError>;

    /// Has operations done that were recorded under a key; `false` if none were yet.
    fn replay(&mut self, key: u64) -> Result<bool, EncoderError>;

    /// As [`run`](Self::run), and may record them under the key, which stands for the same operations always.
    fn run_recorded(&mut self, key: u64, ops: &[Op]) -> Result<(), EncoderError>;

    /// Has documents compared with queries, behind everything before.
    fn compare(&mut self, slot: usize, comparison: &Comparison<'_>) -> Result<(), EncoderError>;

    /// Has a region copied into the slot's results, from word `at` on, behind everything before.
    fn copy_out(&mut self, slot: usize, at: usize, region: Region<u32>) -> Result<(), EncoderError>;

    /// The slot's batch is all there.
    fn finish(&mut self, slot: usize) -> Result<(), EncoderError>;

    /// Whether the slot's batch is done, or failed.
    fn is_done(&mut self, slot: usize) -> bool;

    /// Waits for the slot's batch, and for nothing that came after it; its results.
    fn fetched(&mut self, slot: usize) -> Result<&[u32], EncoderError>;
}

impl Machine for EncoderDevice {
    fn write_f16(&mut self, region: Region<f16>, values: &[f16]) -> Result<(), EncoderError> {
        self.write(region, values)
    }

    fn write_f32(&mut self, region: Region<f32>, values: &[f32]) -> Result<(), EncoderError> {
        self.write(region, values)
    }

    fn prefers_wide_attention(&self) -> bool {
        EncoderDevice::prefers_wide_attention(self)
    }

    fn prepare(&mut self, ops: &[Op]) -> Result<(), EncoderError> {
        self.prepare(ops)
    }

    fn use_own_products(&mut self) -> Result<(), EncoderError> {
        Ok(self.use_own_products()?)
    }

    fn products_refused(&self) -> usize {
        EncoderDevice::products_refused(self).count()
    }

    fn staging(&mut self, slot: usize) -> Result<&mut [u32], EncoderError> {
        self.staging(slot)
    }

    fn copy_in(&mut self, slot: usize, at: usize, region: Region<u32>) -> Result<(), EncoderError> {
        self.copy_in(slot, at, region)
    }

    fn run(&mut self, ops: &[Op]) -> Result<(), EncoderError> {
        self.run(ops)
    }

    fn replay(&mut self, key: u64) -> Result<bool, EncoderError> {
        self.replay(key)
    }

    fn run_recorded(&mut self, key: u64, ops: &[Op]) -> Result<(), EncoderError> {
        self.run_recorded(key, ops)
    }

    fn compare(&mut self, slot: usize, comparison: &Comparison<'_>) -> Result<(), EncoderError> {
        self.compare(slot, comparison)
    }

    fn copy_out(&mut self, slot: usize, at: usize, region: Region<u32>) -> Result<(), EncoderError> {
        self.copy_out(slot, at, region)
    }

    fn finish(&mut self, slot: usize) -> Result<(), EncoderError> {
        self.finish(slot)
    }

    fn is_done(&mut self, slot: usize) -> bool {
        EncoderDevice::is_done(self, slot)
    }

    fn fetched(&mut self, slot: usize) -> Result<&[u32], EncoderError> {
        self.fetched(slot)
    }
}
