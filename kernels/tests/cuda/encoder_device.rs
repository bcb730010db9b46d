//! An encoder's device, if there is one: slots, copies beside computing, comparisons, cuBLASLt.

use std::env;

use half::f16;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use sluice_kernels::{
    activation::Activation,
    cuda::{
        CudaDevice, CudaError,
        encoder::{
            ArenaLayout, EncoderDevice, EncoderError, EncoderMemory, Function, Matrix, Op, Output, Product, Region,
        },
        late_interaction::{CompareError, CompareQuery, Comparison},
        linear::padded_rows,
    },
    linear,
    maxsim::{self, MaxSim},
    tokens::Tokens,
};

const PROGRAM_WORDS: usize = 64 << 10;

/// A device with an arena, or why there is none.
fn device(layout: &ArenaLayout, words: usize) -> Option<EncoderDevice> {
    match CudaDevice::open(0) {
        Ok(device) => {
            let memory = EncoderMemory {
                arena_bytes: layout.bytes(),
                staging_words: words,
                results_words: words,
                program_words: PROGRAM_WORDS,
            };
            Some(EncoderDevice::new(device, memory).unwrap())
        }
        Err(error) => {
            assert!(
                env::var_os("SLUICE_REQUIRE_GPU").is_none_or(|value| value != "1"),
                "a device is required: {error}"
            );
            println!("skipped: no usable CUDA device ({error})");
            None
        }
    }
}

/// Numbers that f16 holds.
fn random(seed: u64, count: usize) -> Vec<f32> {
    let mut rng = SmallRng::seed_from_u64(seed);
    (0..count).map(|_| f16::from_f32(rng.random_range(-1.0..1.0_f32)).to_f32()).collect()
}

fn halves(x: &[f32]) -> Vec<f16> {
    x.iter().map(|&x| f16::from_f32(x)).collect()
}

/// Halves, two to a word.
fn words(x: &[f32]) -> Vec<u32> {
    let bits = |x: f32| u32::from(f16::from_f32(x).to_bits());
    x.chunks_exact(2).map(|pair| bits(pair[0]) | bits(pair[1]) << 16).collect()
}

fn unpacked(words: &[u32]) -> Vec<f32> {
    words
        .iter()
        .flat_map(|word| [*word as u16, (word >> 16) as u16])
        .map(|bits| f16::from_bits(bits).to_f32())
        .collect()
}

/// A product whose rows come in and go out by a slot.
struct Case {
    layout: ArenaLayout,
    rows: usize,
    columns: usize,
    inputs: usize,
    count: Region<u32>,
    x: [Region<f16>; 2],
    weight: Region<f16>,
    bias: Region<f16>,
    out: [Region<f16>; 2],
}

impl Case {
    fn new(rows: usize, columns: usize, inputs: usize) -> Self {
        let mut layout = ArenaLayout::default();
        let count = layout.region(1);
        let x = [layout.region(rows * inputs), layout.region(rows * inputs)];
        let (weight, bias) = (layout.region(columns * inputs), layout.region(columns));
        let out = [layout.region(rows * columns), layout.region(rows * columns)];
        Self { layout, rows, columns, inputs, count, x, weight, bias, out }
    }

    fn device(&self) -> Option<EncoderDevice> {
        let mut device = device(&self.layout, self.rows * self.inputs.max(self.columns))?;
        device.write(self.count, &[self.rows as u32]).unwrap();
        device.write(self.weight, &halves(&random(1, self.columns * self.inputs))).unwrap();
        device.write(self.bias, &halves(&random(2, self.columns))).unwrap();
        Some(device)
    }

    /// Queues a batch of some of the rows in a slot.
    fn submit(&self, device: &mut EncoderDevice, slot: usize, x: &[f32], function: Option<Function>) {
        let rows = x.len() / self.inputs;
        let staged = words(x);
        device.staging(slot).unwrap()[..staged.len()].copy_from_slice(&staged);
        let part = self.x[slot].slice(0..x.len()).unwrap();
        device.copy_in(slot, 0, part.cast().unwrap()).unwrap();
        let out = self.out[slot].slice(0..rows * self.columns).unwrap();
        device.run(&[self.op(slot, rows, function)]).unwrap();
        device.copy_out(slot, 0, out.cast().unwrap()).unwrap();
        device.finish(slot).unwrap();
    }

    /// The product of a slot's first rows, padded as a batch's are.
    fn op(&self, slot: usize, rows: usize, function: Option<Function>) -> Op {
        let rows = padded_rows(rows as u32, self.rows as u32) as usize;
        Op::Product(Product {
            count: self.count,
            x: Matrix::new(self.x[slot].slice(0..rows * self.inputs).unwrap(), self.inputs).unwrap(),
            weight: Matrix::new(self.weight, self.inputs).unwrap(),
            bias: Some(self.bias),
            function,
            out: Output::F16(Matrix::new(self.out[slot].slice(0..rows * self.columns).unwrap(), self.columns).unwrap()),
            rows_max: self.rows,
        })
    }

    fn collect(&self, device: &mut EncoderDevice, slot: usize, rows: usize) -> Vec<f32> {
        unpacked(&device.fetched(slot).unwrap()[..rows * self.columns / 2])
    }

    fn assert_conforms(&self, x: &[f32], found: &[f32], activation: Option<Activation>, what: &str) {
        let (weight, bias) = (random(1, self.columns * self.inputs), random(2, self.columns));
        let expected = linear::reference::linear(x, &weight, &bias, self.inputs, activation);
        for (found, expected) in found.iter().zip(expected) {
            // The sum's error, and that of the rounding to f16.
            let tolerance = self.inputs as f64 * 2_f64.powi(-20) + expected.abs() * 2_f64.powi(-10) + 1e-3;
            assert!((f64::from(*found) - expected).abs() <= tolerance, "{what}: {found}, expected {expected}");
        }
    }
}

#[test]
fn gpu_batches_in_two_slots_keep_apart() {
    let case = Case::new(300, 64, 96);
    let Some(mut device) = case.device() else { return };
    let batches: Vec<Vec<f32>> = (0..6).map(|seed| random(10 + seed, (300 - 7 * seed as usize) * 96)).collect();
    // Two under way, always.
    case.submit(&mut device, 0, &batches[0], None);
    for (number, batch) in batches.iter().enumerate() {
        if let Some(next) = batches.get(number + 1) {
            case.submit(&mut device, (number + 1) % 2, next, None);
        }
        let found = case.collect(&mut device, number % 2, batch.len() / 96);
        case.assert_conforms(batch, &found, None, &format!("batch {number}"));
    }
    let beyond = device.copy_in(0, 300 * 96, case.x[0].cast().unwrap());
    assert!(matches!(beyond, Err(EncoderError::Words { .. })), "{beyond:?}");
}

#[test]
fn gpu_recorded_operations_serve_every_batch() {
    let case = Case::new(300, 64, 96);
    let Some(mut device) = case.device() else { return };
    // With our own products, and then with cuBLASLt's, where that is installed.
    for key in [1, 2] {
        if key == 2 && !use_cublaslt(&mut device) {
            return;
        }
        for round in 0..4 {
            let x = random(20 + round, 300 * 96);
            let staged = words(&x);
            device.staging(0).unwrap()[..staged.len()].copy_from_slice(&staged);
            device.copy_in(0, 0, case.x[0].cast().unwrap()).unwrap();
            let replayed = device.replay(key).unwrap();
            assert_eq!(replayed, round >= 2, "it is recorded when it comes for the second time");
            if !replayed {
                device.run_recorded(key, &[case.op(0, 300, None)]).unwrap();
            }
            device.copy_out(0, 0, case.out[0].cast().unwrap()).unwrap();
            device.finish(0).unwrap();
            let found = case.collect(&mut device, 0, 300);
            case.assert_conforms(&x, &found, None, &format!("key {key}, round {round}"));
        }
    }
}

/// Whether cuBLASLt computes products from now on. It may be missing, unless `SLUICE_REQUIRE_CUBLASLT=1`.
fn use_cublaslt(device: &mut EncoderDevice) -> bool {
    match device.use_cublaslt() {
        Ok(version) => {
            println!("cuBLASLt {version}");
            true
        }
        Err(error @ CudaError::LibraryMissing { .. }) => {
            let required = env::var_os("SLUICE_REQUIRE_CUBLASLT").is_some_and(|value| value == "1");
            assert!(!required, "cuBLASLt is required: {error}");
            println!("skipped: {error}");
            false
        }
        Err(error) => panic!("{error}"),
    }
}

/// Products of MiniLM-L6, BERT-base and XLM-R-large, and an odd one: each as the largest batch, and as smaller ones.
#[test]
fn gpu_cublaslt_conforms_and_bits_do_not_depend_on_the_rows() {
    let small = [(1152, 384), (384, 1536), (64, 136)].map(|shape| (700, shape));
    let large = [(2304, 768), (3072, 768), (768, 3072), (4096, 1024)].map(|shape| (2_500, shape));
    for (most, (columns, inputs)) in small.into_iter().chain(large).chain([(32_768, (384, 384))]) {
        let case = Case::new(most, columns, inputs);
        let Some(mut device) = case.device() else { return };
        if !use_cublaslt(&mut device) {
            return;
        }
        let x = random(3, most * inputs);
        for (function, activation) in [(None, None), (Some(Function::GeluTanh), Some(Activation::GeluTanh))] {
            case.submit(&mut device, 0, &x, function);
            let together = case.collect(&mut device, 0, most);
            for rows in [0..40, most - 24..most] {
                let what = format!("{columns} x {inputs}, {function:?}: rows {rows:?} of {most}");
                let found = &together[rows.start * columns..rows.end * columns];
                case.assert_conforms(&x[rows.start * inputs..rows.end * inputs], found, activation, &what);
            }
            let ends = [1, 8, 117, 320, 700, 1_025, 2_048, 2_499, 20_001];
            for rows in ends.into_iter().filter(|end| *end <= most).flat_map(|end| [0..end, most - end..most]) {
                case.submit(&mut device, 1, &x[rows.start * inputs..rows.end * inputs], function);
                let alone = case.collect(&mut device, 1, rows.len());
                let expected = &together[rows.start * columns..rows.end * columns];
                assert!(alone == expected, "{columns} x {inputs}, {function:?}: rows {rows:?} of {most}");
            }
        }
        let refused: Vec<_> = device.products_refused().collect();
        assert!(refused.is_empty(), "cuBLASLt has no algorithm for {refused:?}");
    }
}

#[test]
fn gpu_rows_on_the_device_are_compared() {
    let (dim, lengths) = (64, [40_usize, 1, 300, 17]);
    let mut layout = ArenaLayout::default();
    let rows = lengths.iter().sum::<usize>();
    let vectors = layout.region::<f16>(rows * dim);
    let (scores, partials) = (layout.region::<f32>(8), layout.region::<f32>(1 << 16));
    let program = layout.region::<u32>(PROGRAM_WORDS);
    let Some(mut device) = device(&layout, 8) else { return };
    let x = random(5, rows * dim);
    device.write(vectors, &halves(&x)).unwrap();
    let matrix = Matrix::new(vectors, dim).unwrap();
    let starts: Vec<usize> =
        lengths.iter().scan(0, |end, length| Some(std::mem::replace(end, *end + length))).collect();
    let part = |number: usize| matrix.rows(starts[number]..starts[number] + lengths[number]).unwrap();
    let queries = [CompareQuery { rows: part(0), documents: 3 }];
    let documents = [part(1), part(2), part(3)];
    let comparison = Comparison { queries: &queries, documents: &documents, scores, program, partials };
    device.compare(0, &comparison).unwrap();
    device.copy_out(0, 0, scores.slice(0..3).unwrap().cast().unwrap()).unwrap();
    device.finish(0).unwrap();
    let found: Vec<f32> = device.fetched(0).unwrap()[..3].iter().map(|&word| f32::from_bits(word)).collect();
    let cu_seqlens: Vec<u32> = starts[1..].iter().chain([&rows]).map(|end| (end - starts[1]) as u32).collect();
    let (query, documents) = x.split_at(lengths[0] * dim);
    let reference = MaxSim { query, documents: Tokens::F32(documents), cu_seqlens: &cu_seqlens, dim };
    for (found, expected) in found.iter().zip(maxsim::reference::maxsim(reference)) {
        assert!((f64::from(*found) - expected).abs() <= 1e-3 * expected.abs(), "{found}, expected {expected}");
    }
    let cramped = Comparison { program: program.slice(0..8).unwrap(), ..comparison };
    let refused = device.compare(1, &cramped);
    assert!(matches!(refused, Err(EncoderError::Compare(CompareError::Room { .. }))), "{refused:?}");
}
