//! An encoder's operations on a CUDA device, measured one by one: `encoder_ops_gpu [--quick]` prints JSON.
//!
//! Each operation of a layer at the shapes of three models: 12 launches between two events, the median of 9 rounds. What one
//! operation leaves in the L2 cache the next of the same finds there: figures of small batches are of a warm cache, as
//! they are between neighbours of a real layer. `share` is of the larger floor: FLOPs at the rate of `--peak TFLOP/s`,
//! bytes at the rate of a copy on this device.
//!
//! Exit codes: 0 measured; 1 failed; 2 wrong usage; 3 no usable device. Not yet run on a GPU.
#![allow(clippy::disallowed_methods, reason = "a binary reads its command line")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "results go to standard output, what is wrong to error")]

use std::{env, process::ExitCode};

use serde_json::{Value, json};
use sluice_kernels::cuda::{
    CudaDevice,
    encoder::{
        Activate, AddNorm, ArenaLayout, Attend, BatchRegions, Capacity, Embed, Function, HostBatch, Matrix, Norm, Op,
        OpError, Output, Product, Queries, Region, Vocabulary, fill, time_in_host_arena,
    },
};

type Failure = Box<dyn std::error::Error>;

/// Sizes of a model.
#[derive(Clone, Copy)]
struct Model {
    name: &'static str,
    hidden: usize,
    heads: usize,
    intermediate: usize,
}

const MODELS: [Model; 3] = [
    Model { name: "MiniLM", hidden: 384, heads: 12, intermediate: 1536 },
    Model { name: "BERT-base", hidden: 768, heads: 12, intermediate: 3072 },
    Model { name: "XLM-R-large", hidden: 1024, heads: 16, intermediate: 4096 },
];
/// Sequences, and tokens of each.
const BATCHES: [(usize, usize); 4] = [(1, 256), (10, 128), (100, 64), (100, 256)];
const VOCABULARY: Vocabulary = Vocabulary { ids: 30_000, token_types: 2, positions: 512 };

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (quick, peak) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => (false, None),
        ["--quick"] => (true, None),
        ["--peak", peak] => match peak.parse::<f64>() {
            Ok(peak) => (false, Some(peak * 1e12)),
            Err(_) => return usage(),
        },
        _ => return usage(),
    };
    let device = match CudaDevice::open(0) {
        Ok(device) => device,
        Err(error) => {
            eprintln!("no usable CUDA device: {error}");
            return ExitCode::from(3);
        }
    };
    match measure(device, quick, peak) {
        Ok(report) => {
            println!("{report:#}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: encoder_ops_gpu [--quick | --peak TFLOP/s]");
    ExitCode::from(2)
}

fn measure(mut device: CudaDevice, quick: bool, peak: Option<f64>) -> Result<Value, Failure> {
    let copy = device.copy_bandwidth(256 << 20, 10)?;
    let mut rows = Vec::new();
    let models = if quick { &MODELS[..1] } else { &MODELS[..] };
    let batches = if quick { &BATCHES[..1] } else { &BATCHES[..] };
    for (model, batch) in models.iter().flat_map(|model| batches.iter().map(move |batch| (model, *batch))) {
        let bench = Bench::new(*model, batch)?;
        let ops: Vec<Op> = bench.steps.iter().map(|step| step.op).collect();
        let seconds = time_in_host_arena(&mut device, &ops, &bench.arena, (12, 9))?;
        for (step, seconds) in bench.steps.iter().zip(seconds) {
            let floor = (step.bytes / copy).max(peak.map_or(0.0, |peak| step.flops / peak));
            rows.push(json!({
                "model": model.name, "sequences": batch.0, "tokens": batch.1, "op": step.name, "seconds": seconds,
                "flops_per_second": step.flops / seconds, "bytes_per_second": step.bytes / seconds,
                "share": floor / seconds,
            }));
        }
        eprintln!("{} {} x {}: measured", model.name, batch.0, batch.1);
    }
    Ok(json!({
        "device": device.name(),
        "copy_bytes_per_second": copy,
        "peak_flops_per_second": peak,
        "rows": rows,
    }))
}

/// An operation, with what it computes and moves at least.
struct Step {
    name: &'static str,
    op: Op,
    flops: f64,
    bytes: f64,
}

/// A model's memory for a batch, and what is measured in it.
struct Bench {
    arena: Vec<u8>,
    steps: Vec<Step>,
}

/// Where a layer's matrices lie.
struct Layer {
    model: Model,
    batch: BatchRegions,
    length: usize,
    hidden: Matrix,
    other: Matrix,
    qkv: Matrix,
    inner: Matrix,
    first: Matrix,
    first_out: Matrix,
    tables: [Matrix; 3],
    weights: [Matrix; 4],
    vector: Region<f32>,
    bias: Region<half::f16>,
}

impl Bench {
    fn new(model: Model, (sequences, length): (usize, usize)) -> Result<Self, Failure> {
        let mut layout = ArenaLayout::default();
        let layer = Layer::new(&mut layout, model, (sequences, length))?;
        // Halves between 0.5 and 1, either sign: matrix units on zeros draw less power, and run faster for it.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut arena = vec![0; layout.bytes()];
        for half in arena.as_chunks_mut::<2>().0 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *half = ((state >> 48) as u16 & 0x83ff | 0x3800).to_le_bytes();
        }
        let tokens = sequences * length;
        let starts: Vec<u32> = (0..=sequences).map(|sequence| (sequence * length) as u32).collect();
        let ids: Vec<u32> = (0..tokens).map(|token| (token * 7919 % 30_000) as u32).collect();
        let types = vec![0; tokens];
        let host = HostBatch { input_ids: &ids, token_types: &types, cu_seqlens: &starts, first_position: 0 };
        let whole = layer.batch.whole;
        let mut words = vec![0; whole.len()];
        fill(&layer.batch, VOCABULARY, host, &mut words)?;
        let bytes = words.iter().flat_map(|word: &u32| word.to_le_bytes());
        arena[whole.offset()..].iter_mut().zip(bytes).for_each(|(out, byte)| *out = byte);
        Ok(Self { arena, steps: layer.steps()? })
    }
}

impl Layer {
    fn new(layout: &mut ArenaLayout, model: Model, (sequences, length): (usize, usize)) -> Result<Self, OpError> {
        let Model { hidden: h, intermediate, .. } = model;
        let tokens = sequences * length;
        let batch = BatchRegions::new(layout, Capacity { tokens, sequences });
        let mut matrix = |rows: usize, columns: usize| Matrix::new(layout.region(rows * columns), columns);
        let tables =
            [VOCABULARY.ids, VOCABULARY.positions, VOCABULARY.token_types].map(|rows| matrix(rows as usize, h));
        let weights =
            [(3 * h, h), (h, h), (intermediate, h), (h, intermediate)].map(|(rows, columns)| matrix(rows, columns));
        let [words, positions, token_types] = tables;
        let [qkv, output, up, down] = weights;
        Ok(Self {
            model,
            batch,
            length,
            hidden: matrix(tokens, h)?,
            other: matrix(tokens, h)?,
            qkv: matrix(tokens, 3 * h)?,
            inner: matrix(tokens, intermediate)?,
            first: matrix(sequences, h)?,
            first_out: matrix(sequences, h)?,
            tables: [words?, positions?, token_types?],
            weights: [qkv?, output?, up?, down?],
            vector: layout.region(h),
            bias: layout.region(intermediate.max(3 * h)),
        })
    }

    fn steps(&self) -> Result<Vec<Step>, OpError> {
        let Self { batch, hidden, other, qkv, inner, first, first_out, tables, weights, vector, .. } = *self;
        let h = self.model.hidden;
        let count = batch.tokens;
        let norm = Norm { gamma: vector, beta: vector, epsilon: 1e-12 };
        let [words, positions, token_types] = tables;
        let part = |number: usize| qkv.columns(number * h..(number + 1) * h);
        let attend = Attend {
            batch,
            q: part(0)?,
            k: part(1)?,
            v: part(2)?,
            out: other,
            num_heads: self.model.heads,
            head_dim: h / self.model.heads,
            scale: 1.0 / ((h / self.model.heads) as f32).sqrt(),
            queries: Queries::All,
            wide: false,
        };
        let wide = Op::Attend(Attend { wide: true, ..attend });
        let gelu = Some(Function::GeluErf);
        let rows = hidden.row_count();
        let step = |name, op, flops: usize, numbers: usize| Step {
            name,
            op,
            flops: flops as f64,
            bytes: (2 * numbers) as f64,
        };
        let similarities = 4 * h * self.length;
        Ok(vec![
            step(
                "embed",
                Op::Embed(Embed { batch, words, positions, token_types, norm, out: hidden }),
                0,
                2 * rows * h,
            ),
            self.product("qkv", hidden, weights[0], None, qkv)?,
            step("attention", Op::Attend(attend), similarities * rows, 4 * rows * h),
            step("attention, wide", wide, similarities * rows, 4 * rows * h),
            step(
                "attention, first tokens",
                Op::Attend(Attend { q: first, out: first_out, queries: Queries::First, ..attend }),
                similarities * first.row_count(),
                2 * rows * h,
            ),
            self.product("output", other, weights[1], None, hidden)?,
            step(
                "norm",
                Op::AddNorm(AddNorm { count, x: other, bias: None, residual: Some(hidden), norm, out: other }),
                0,
                3 * rows * h,
            ),
            self.product("up and gelu", hidden, weights[2], gelu, inner)?,
            self.product("up", hidden, weights[2], None, inner)?,
            step(
                "gelu",
                Op::Activate(Activate { count, x: inner, bias: None, function: Function::GeluErf }),
                0,
                2 * rows * inner.column_count(),
            ),
            self.product("down", inner, weights[3], None, hidden)?,
        ])
    }

    fn product(
        &self,
        name: &'static str,
        x: Matrix,
        weight: Matrix,
        function: Option<Function>,
        out: Matrix,
    ) -> Result<Step, OpError> {
        let (rows, n, k) = (x.row_count(), weight.row_count(), weight.column_count());
        let bias = Some(self.bias.slice(0..n)?);
        let (count, out) = (self.batch.tokens, Output::F16(out));
        let op = Product { count, x, weight, bias, function, out, rows_max: rows };
        let (flops, numbers) = (2 * rows * n * k, rows * (n + k) + n * k);
        Ok(Step { name, op: Op::Product(op), flops: flops as f64, bytes: (2 * numbers) as f64 })
    }
}
