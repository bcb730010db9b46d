//! A device of the CPU shim.

use sluice_cuda_shim::{Buffer, Launch, Limits, Memory, launch};
use sluice_kernels::{
    cuda::maxsim::{
        arguments::{Placement, Rows},
        plan::{DeviceShape, LaunchPlan, Shape, Step},
        query,
    },
    tokens::{self, Storage},
};

use crate::case::{Case, Found};

/// A device, and the order in which its threads run.
#[derive(Clone, Copy, Debug)]
pub struct Emulated {
    pub shape: DeviceShape,
    pub limits: Limits,
    pub seed: u64,
}

/// As many blocks as tests can wait for, in the shared memory of compute capability 9.0.
pub const LARGE: Emulated = Emulated {
    shape: DeviceShape {
        multiprocessors: 4,
        shared_bytes_per_block: 227 << 10,
        shared_bytes_per_multiprocessor: 228 << 10,
    },
    limits: Limits::SM_90,
    seed: 1,
};

/// One multiprocessor with the shared memory of compute capability 8.6.
pub const SMALL: Emulated = Emulated {
    shape: DeviceShape {
        multiprocessors: 1,
        shared_bytes_per_block: 99 << 10,
        shared_bytes_per_multiprocessor: 100 << 10,
    },
    limits: Limits::SM_86,
    seed: 2,
};

impl Emulated {
    /// Plans and runs a case, and says which kernel did it. Documents lie scattered, in buffers of their own.
    pub fn run(&self, case: &Case, step: Step) -> (Found, &'static str) {
        let mut plan = LaunchPlan::default();
        plan.rebuild(&case.shape(), &self.shape, step).unwrap();
        let mut memory = Memory::new();
        let address = |buffer: Buffer<u8>| if buffer.is_empty() { 0 } else { buffer.address() };
        let mut queries = Vec::new();
        for number in 0..case.queries.len() {
            let (rows, scales) = case.encoded(number);
            let (rows, scales) = (memory.upload(&rows), memory.upload(&scales));
            queries.push(Rows { rows: rows.address(), scales: address(scales) });
        }
        // Backwards, so that no document lies behind the one before it.
        let mut documents = Vec::new();
        for number in (0..case.documents.len()).rev() {
            let stored = case.stored(number);
            let (rows, scales) = (memory.upload(&stored.rows), memory.upload(&stored.scales));
            let scales = if case.storage == Storage::Int8 { scales.address() } else { 0 };
            documents.push(Rows { rows: rows.address(), scales });
        }
        documents.reverse();
        let scores = memory.alloc::<f32>(documents.len());
        let (partials, partial_tokens) = (memory.alloc::<f32>(plan.partials), memory.alloc::<u32>(plan.partials));
        let (values, tokens) = (memory.alloc::<f32>(plan.alignments), memory.alloc::<u32>(plan.alignments));
        let program = memory.alloc::<u8>(plan.program_bytes());
        let null_unless_aligned = |address| if case.alignment { address } else { 0 };
        let mut bytes = vec![0; plan.program_bytes()];
        let placement = Placement {
            program: program.address(),
            queries: &queries,
            documents: &documents,
            scores: scores.address(),
            partials: partials.address(),
            partial_tokens: null_unless_aligned(partial_tokens.address()),
            alignment_values: null_unless_aligned(values.address()),
            alignment_tokens: null_unless_aligned(tokens.address()),
        };
        let launches = plan.encode(&placement, &mut bytes);
        memory.write(program, &bytes);
        let mut run = |kernel, grid, shared_bytes, seed| {
            let (grid, block) = ([grid, 1, 1], [plan.block, 1, 1]);
            let request =
                Launch { kernel, grid, block, shared_bytes: shared_bytes as usize, limits: self.limits, seed };
            launch(&request, &mut memory, &[launches.parameter.as_bytes()])
                .unwrap_or_else(|error| panic!("{kernel}, seed {seed}: {error}\n{case:?}"));
        };
        if plan.grid > 0 {
            run(plan.kernel.name(), plan.grid, plan.shared_bytes, self.seed);
        }
        if let Some(second) = launches.second {
            run(second.kernel, second.grid, 0, self.seed.rotate_left(32));
        }
        let found = Found { scores: memory.read(scores), values: memory.read(values), tokens: memory.read(tokens) };
        (found, plan.kernel.name())
    }
}

/// A document as it lies on a device: padded rows, and scales.
pub struct Stored {
    pub rows: Vec<u8>,
    pub scales: Vec<f32>,
}

impl Case {
    pub fn shape(&self) -> Shape<'_> {
        Shape {
            storage: self.storage,
            dim: self.dim,
            queries: &self.shapes,
            lengths: &self.lengths,
            alignment: self.alignment,
        }
    }

    /// A query's rows and scales as bytes.
    pub fn encoded(&self, number: usize) -> (Vec<u8>, Vec<u8>) {
        let rows = self.shapes[number].rows as usize;
        let (rows, scales) = query::bytes(self.storage, self.dim, rows);
        let (mut out, mut row_scales) = (vec![0xff; rows], vec![0xff; scales]);
        query::encode(self.storage, self.dim, &self.queries[number], &mut out, &mut row_scales).unwrap();
        (out, row_scales)
    }

    pub fn stored(&self, number: usize) -> Stored {
        let (dim, x) = (self.dim, &self.documents[number]);
        let pad = |rows: Vec<u8>, row_bytes: usize, padding: u8| -> Vec<u8> {
            let pitch = row_bytes.next_multiple_of(16);
            let padded = |row: &[u8]| [row, &vec![padding; pitch - row_bytes]].concat();
            rows.chunks_exact(row_bytes).flat_map(padded).collect()
        };
        match self.storage {
            Storage::F32 => {
                Stored { rows: pad(x.iter().flat_map(|x| x.to_le_bytes()).collect(), 4 * dim, 0), scales: Vec::new() }
            }
            Storage::F16 => Stored {
                rows: pad(tokens::to_f16(x).iter().flat_map(|x| x.to_le_bytes()).collect(), 2 * dim, 0),
                scales: Vec::new(),
            },
            Storage::Int8 => {
                let (codes, scales) = tokens::to_int8(x, dim).unwrap();
                Stored { rows: pad(codes, dim, 128), scales }
            }
            Storage::Binary => unreachable!("no kernel reads it"),
        }
    }
}

impl Found {
    pub fn bits(&self) -> Vec<u32> {
        self.scores.iter().map(|score| score.to_bits()).collect()
    }
}
