//! Operations that come again and again, recorded as graphs.
#![allow(unsafe_code, reason = "a graph runs while the host goes on")]

use super::{
    device::{EncoderDevice, Started, start},
    error::EncoderError,
    op::Op,
};
use crate::cuda::{CudaError, device::Function, stream::RecordedGraph};

/// Operations that are recorded, at most: a graph takes some hundred KiB. What comes beyond is started one by one.
pub const RECORDINGS_MAX: usize = 256;

/// Operations that are asked for again and again.
#[derive(Debug)]
pub(super) enum Recording {
    /// Done once: kernels are loaded, and products planned.
    Seen,
    Graph(RecordedGraph),
    /// The driver could not.
    Refused,
}

impl EncoderDevice {
    /// Has recorded operations done, behind everything before; `false` if there are none of that key yet.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn replay(&mut self, key: u64) -> Result<bool, EncoderError> {
        if !matches!(self.recordings.get(&key), Some(Recording::Graph(_))) {
            return Ok(false);
        }
        self.await_copies()?;
        let Some(Recording::Graph(graph)) = self.recordings.get_mut(&key) else { return Ok(false) };
        // SAFETY: the operations were checked when they were recorded, and the arena is where it was.
        unsafe { graph.launch() }?;
        Ok(true)
    }

    /// As [`run`](Self::run), and records the operations under a key when they come for the second time, while no more than
    /// [`RECORDINGS_MAX`] keys are known. A key stands for the same operations always.
    ///
    /// # Errors
    /// As [`run`](Self::run). A driver that cannot record is no error.
    pub fn run_recorded(&mut self, key: u64, ops: &[Op]) -> Result<(), EncoderError> {
        if !matches!(self.recordings.get(&key), Some(Recording::Seen)) {
            self.run(ops)?;
            if self.recordings.len() < RECORDINGS_MAX {
                self.recordings.entry(key).or_insert(Recording::Seen);
            }
            return Ok(());
        }
        self.check(ops)?;
        // What a graph waited for itself would be waited for once and for all.
        self.await_copies()?;
        let recorded = self.record();
        self.recordings.insert(key, recorded.map_or(Recording::Refused, Recording::Graph));
        if self.replay(key)? { Ok(()) } else { self.run(ops) }
    }

    /// The operations that were checked, as a graph.
    fn record(&mut self) -> Result<RecordedGraph, CudaError> {
        let Self { device, products, started, .. } = self;
        let functions: Result<Vec<Option<Function>>, _> = started
            .iter()
            .map(|started| match started {
                Started::Kernel(launch) => device.function(launch.unit, launch.kernel).map(Some),
                Started::Product(_) => Ok(None),
            })
            .collect();
        let functions = functions?;
        device.record_graph(|| {
            started.iter().zip(functions).try_for_each(|(started, function)| {
                // SAFETY: nothing is done yet; who replays it makes sure of the same as `start_all`.
                unsafe { start(device, products.as_mut(), started, function) }
            })
        })
    }
}
