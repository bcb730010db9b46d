//! A device of the CPU shim.

use std::collections::HashMap;

use half::f16;
use sluice_cuda_shim::{Buffer, Launch, LaunchError, Limits, Memory, launch};
use sluice_kernels::cuda::{
    CudaError,
    encoder::{Arena, EncoderError, EncoderMemory, Op, OpError, Region},
    late_interaction::{ComparePlan, Comparison},
    maxsim::plan::DeviceShape,
};

use super::super::Machine;

const SHAPE: DeviceShape =
    DeviceShape { multiprocessors: 4, shared_bytes_per_block: 227 << 10, shared_bytes_per_multiprocessor: 228 << 10 };

/// Does at once what a device does later.
pub(crate) struct Emulated {
    memory: Memory,
    buffer: Buffer<u8>,
    staging: [Vec<u32>; 2],
    results: [Vec<u32>; 2],
    plan: ComparePlan,
    seed: u64,
    /// Kernels that were started.
    pub(crate) started: Vec<&'static str>,
    /// Operations by key, and how often they were replayed.
    recorded: HashMap<u64, Vec<Op>>,
    pub(crate) replays: usize,
    /// Refuses to multiply until it is to use its own products.
    pub(crate) library_fails: bool,
    pub(crate) wide_attention: bool,
    /// Says that no batch is done.
    pub(crate) is_busy: bool,
    /// Fails from that kernel on.
    pub(crate) lost_after: usize,
}

impl Emulated {
    /// `seed` decides the order in which threads run.
    pub(crate) fn new(size: EncoderMemory, seed: u64) -> Self {
        let mut memory = Memory::new();
        let buffer = memory.alloc(size.arena_bytes);
        let words = |words| [vec![u32::MAX; words], vec![u32::MAX; words]];
        Self {
            memory,
            buffer,
            staging: words(size.staging_words),
            results: words(size.results_words),
            plan: ComparePlan::default(),
            seed,
            started: Vec::new(),
            recorded: HashMap::new(),
            replays: 0,
            library_fails: false,
            wide_attention: false,
            is_busy: false,
            lost_after: usize::MAX,
        }
    }

    fn arena(&self) -> Arena {
        Arena { base: self.buffer.address(), bytes: self.buffer.len() }
    }

    fn start(
        &mut self,
        kernel: &'static str,
        [grid, threads, shared]: [u32; 3],
        parameter: &[u8],
    ) -> Result<(), EncoderError> {
        if self.started.len() >= self.lost_after {
            return Err(EncoderError::Cuda(CudaError::Lost { code: "told to".to_owned() }));
        }
        self.started.push(kernel);
        let request = Launch {
            kernel,
            grid: [grid, 1, 1],
            block: [threads, 1, 1],
            shared_bytes: shared as usize,
            limits: Limits::SM_90,
            seed: self.seed,
        };
        let failed = |error: LaunchError| CudaError::Launch { what: kernel, code: error.to_string() };
        Ok(launch(&request, &mut self.memory, &[parameter]).map_err(failed)?)
    }

    fn put(&mut self, offset: usize, bytes: &[u8]) {
        let mut all = self.memory.read(self.buffer);
        all[offset..offset + bytes.len()].copy_from_slice(bytes);
        self.memory.write(self.buffer, &all);
    }
}

impl Machine for Emulated {
    fn write_f16(&mut self, region: Region<f16>, values: &[f16]) -> Result<(), EncoderError> {
        assert_eq!(region.len(), values.len(), "a region is written as a whole");
        self.put(region.offset(), &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
        Ok(())
    }

    fn write_f32(&mut self, region: Region<f32>, values: &[f32]) -> Result<(), EncoderError> {
        assert_eq!(region.len(), values.len(), "a region is written as a whole");
        self.put(region.offset(), &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
        Ok(())
    }

    fn prefers_wide_attention(&self) -> bool {
        self.wide_attention
    }

    fn prepare(&mut self, ops: &[Op]) -> Result<(), EncoderError> {
        let arena = self.arena();
        Ok(ops.iter().try_for_each(|op| op.launch(arena).map(drop))?)
    }

    fn use_own_products(&mut self) -> Result<(), EncoderError> {
        self.library_fails = false;
        self.recorded.clear();
        Ok(())
    }

    fn products_refused(&self) -> usize {
        0
    }

    fn staging(&mut self, slot: usize) -> Result<&mut [u32], EncoderError> {
        Ok(&mut self.staging[slot])
    }

    fn copy_in(&mut self, slot: usize, at: usize, region: Region<u32>) -> Result<(), EncoderError> {
        let bytes: Vec<u8> =
            self.staging[slot][at..at + region.len()].iter().flat_map(|word| word.to_le_bytes()).collect();
        self.put(region.offset(), &bytes);
        Ok(())
    }

    fn run(&mut self, ops: &[Op]) -> Result<(), EncoderError> {
        let arena = self.arena();
        if self.library_fails && ops.iter().any(|op| matches!(op, Op::Product(_))) {
            return Err(CudaError::Launch { what: "multiplying", code: "told to".to_owned() }.into());
        }
        let launches: Result<Vec<_>, OpError> = ops.iter().map(|op| op.launch(arena)).collect();
        for launch in launches? {
            let size = [launch.blocks, launch.threads, launch.shared_bytes];
            self.start(launch.kernel, size, launch.parameter.as_bytes())?;
        }
        Ok(())
    }

    fn replay(&mut self, key: u64) -> Result<bool, EncoderError> {
        let Some(ops) = self.recorded.get(&key).cloned() else { return Ok(false) };
        self.replays += 1;
        self.run(&ops).map(|()| true)
    }

    fn run_recorded(&mut self, key: u64, ops: &[Op]) -> Result<(), EncoderError> {
        self.run(ops)?;
        let before = self.recorded.insert(key, ops.to_vec());
        assert!(before.is_none_or(|before| before == ops), "a key stands for the same operations always");
        Ok(())
    }

    fn compare(&mut self, _: usize, comparison: &Comparison<'_>) -> Result<(), EncoderError> {
        let (arena, mut program) = (self.arena(), Vec::new());
        let launches = self.plan.encode(comparison, &SHAPE, arena, &mut program)?;
        self.put(comparison.program.offset(), &program);
        for launch in self.plan.launches(&launches) {
            let size = [launch.grid, launch.threads, launch.shared_bytes];
            self.start(launch.kernel, size, launches.parameter.as_bytes())?;
        }
        Ok(())
    }

    fn copy_out(&mut self, slot: usize, at: usize, region: Region<u32>) -> Result<(), EncoderError> {
        let all = self.memory.read(self.buffer);
        let bytes = &all[region.offset()..region.offset() + region.bytes()];
        let words = bytes.as_chunks::<4>().0.iter().map(|&word| u32::from_le_bytes(word));
        self.results[slot][at..at + region.len()].iter_mut().zip(words).for_each(|(result, word)| *result = word);
        Ok(())
    }

    fn finish(&mut self, _: usize) -> Result<(), EncoderError> {
        Ok(())
    }

    fn is_done(&mut self, _: usize) -> bool {
        !self.is_busy
    }

    fn fetched(&mut self, slot: usize) -> Result<&[u32], EncoderError> {
        Ok(&self.results[slot])
    }
}
