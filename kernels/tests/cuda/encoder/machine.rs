//! A device whose memory is one arena, as an engine's is: of the shim, or a GPU, as `crate::runner` has it.

use std::ops::Range;

use half::f16;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use sluice_cuda_shim::Memory;
use sluice_kernels::cuda::encoder::{
    ArenaLayout, BatchRegions, Capacity, Element, HostBatch, Matrix, Op, OpError, Region, Vocabulary, fill,
};

use crate::runner;

/// Bytes of NaN behind every region, which nobody may write: as far as a wrong index gets, as a rule.
const GUARD_BYTES: usize = 4096;

pub const VOCABULARY: Vocabulary = Vocabulary { ids: 50, token_types: 2, positions: 600 };

/// An arena, and the order in which threads run.
pub struct Machine {
    layout: ArenaLayout,
    bytes: Vec<u8>,
    pub seed: u64,
}

impl Machine {
    pub fn new(seed: u64) -> Self {
        Self { layout: ArenaLayout::default(), bytes: Vec::new(), seed }
    }

    /// A region of NaN.
    pub fn room<T: Element>(&mut self, len: usize) -> Region<T> {
        let region = self.layout.region(len);
        self.layout.region::<u32>(GUARD_BYTES / 4);
        self.bytes.resize(self.layout.bytes(), 0xff);
        region
    }

    pub fn room_for_rows(&mut self, rows: usize, columns: usize) -> Matrix {
        Matrix::new(self.room(rows * columns), columns).unwrap()
    }

    pub fn f16(&mut self, x: &[f32]) -> Region<f16> {
        let region = self.room(x.len());
        self.write(&region, x.iter().map(|&x| f16::from_f32(x).to_le_bytes()));
        region
    }

    pub fn f32(&mut self, x: &[f32]) -> Region<f32> {
        let region = self.room(x.len());
        self.write(&region, x.iter().map(|x| x.to_le_bytes()));
        region
    }

    pub fn u32(&mut self, x: &[u32]) -> Region<u32> {
        let region = self.room(x.len());
        self.write_u32(&region, x);
        region
    }

    pub fn write_u32(&mut self, region: &Region<u32>, x: &[u32]) {
        self.write(region, x.iter().map(|x| x.to_le_bytes()));
    }

    pub fn matrix(&mut self, x: &[f32], columns: usize) -> Matrix {
        Matrix::new(self.f16(x), columns).unwrap()
    }

    fn write<T: Element, const N: usize>(&mut self, region: &Region<T>, x: impl Iterator<Item = [u8; N]>) {
        self.bytes[region.offset()..][..region.bytes()]
            .as_chunks_mut::<N>()
            .0
            .iter_mut()
            .zip(x)
            .for_each(|(b, x)| *b = x);
    }

    /// A batch of these lengths, its ids drawn from `seed` and the sequence's length, so that a sequence is the same in
    /// any company.
    pub fn batch(&mut self, lengths: &[usize], capacity: Capacity) -> (BatchRegions, Tokens) {
        let tokens = Tokens::random(lengths);
        // Behind whatever the layout has, and with a guard of its own.
        let regions = BatchRegions::new(&mut self.layout, capacity);
        self.room::<u32>(1);
        let mut words = vec![u32::MAX; regions.whole.len()];
        fill(&regions, VOCABULARY, tokens.host(), &mut words).unwrap();
        self.write_u32(&regions.whole, &words);
        (regions, tokens)
    }

    /// The first `rows` rows.
    pub fn rows(&self, matrix: &Matrix, rows: usize) -> Vec<f32> {
        let row = |row: usize| {
            let bytes = &self.bytes[matrix.offset() + 2 * row * matrix.pitch()..][..2 * matrix.column_count()];
            bytes.as_chunks().0.iter().map(|&bytes| f16::from_le_bytes(bytes).to_f32())
        };
        (0..rows).flat_map(row).collect()
    }

    pub fn read_f32(&self, region: &Region<f32>) -> Vec<f32> {
        let bytes = &self.bytes[region.offset()..][..region.bytes()];
        bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
    }

    /// Copies the arena into a device's memory; returns its address.
    pub fn upload(&self, memory: &mut Memory) -> u64 {
        memory.upload(&self.bytes).address()
    }

    /// Runs an operation, and says which kernel it was. Bytes that lie outside of `written` must stay as they are.
    pub fn run(&mut self, op: Op, written: &[Range<usize>]) -> &'static str {
        self.try_run(op, written).unwrap_or_else(|error| panic!("{op:?}: {error}"))
    }

    pub fn try_run(&mut self, op: Op, written: &[Range<usize>]) -> Result<&'static str, OpError> {
        let mut found = self.bytes.clone();
        let kernel = runner::run(&op, &mut found, self.seed)?;
        for range in written {
            self.bytes[range.clone()].copy_from_slice(&found[range.clone()]);
        }
        if self.bytes != found {
            let stray = self.bytes.iter().zip(&found).position(|(before, after)| before != after);
            panic!("{kernel} wrote byte {stray:?}, outside of {written:?}");
        }
        Ok(kernel)
    }
}

/// Bytes of the first `rows` rows of a matrix.
pub fn rows_of(matrix: &Matrix, rows: usize) -> Vec<Range<usize>> {
    let row = |row: usize| {
        let begin = matrix.offset() + 2 * row * matrix.pitch();
        begin..begin + 2 * matrix.column_count()
    };
    (0..rows).map(row).collect()
}

/// Bytes of the first `len` elements of a region.
pub fn part_of<T: Element>(region: &Region<T>, len: usize) -> Range<usize> {
    let begin = region.offset();
    begin..begin + len * T::BYTES
}

/// Packed sequences, as the host has them.
pub struct Tokens {
    pub input_ids: Vec<u32>,
    pub token_types: Vec<u32>,
    pub cu_seqlens: Vec<u32>,
}

impl Tokens {
    fn random(lengths: &[usize]) -> Self {
        let mut tokens = Self { input_ids: Vec::new(), token_types: Vec::new(), cu_seqlens: vec![0] };
        for &length in lengths {
            let mut rng = SmallRng::seed_from_u64(length as u64);
            tokens.input_ids.extend((0..length).map(|_| rng.random_range(0..VOCABULARY.ids)));
            tokens.token_types.extend((0..length).map(|i| u32::from(2 * i > length)));
            tokens.cu_seqlens.push(tokens.input_ids.len() as u32);
        }
        tokens
    }

    pub fn host(&self) -> HostBatch<'_> {
        let Self { input_ids, token_types, cu_seqlens } = self;
        HostBatch { input_ids, token_types, cu_seqlens, first_position: 0 }
    }
}

/// Numbers in ±`magnitude`, rounded to halves.
pub fn random(seed: u64, count: usize, magnitude: f32) -> Vec<f32> {
    let mut rng = SmallRng::seed_from_u64(seed);
    (0..count).map(|_| rounded(rng.random_range(-magnitude..magnitude))).collect()
}

pub fn rounded(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

/// Asserts that halves are the formula's result: rounded, and `tolerance` besides.
pub fn assert_close(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let same = f64::from(found) == expected || (found.is_nan() && expected.is_nan());
        let bound = expected.abs() * 2_f64.powi(-11) + tolerance;
        let distance = (f64::from(found) - expected).abs();
        assert!(same || distance <= bound, "{what}, element {i}: {found}, expected {expected} ± {bound:e}");
    }
}

pub fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}
