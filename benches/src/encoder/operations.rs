//! Single operations of the encoder on one thread, beside what the processor's multipliers could do at most.

use std::{hint::black_box, time::Duration};

use sluice_kernels::{
    Isa,
    attention::{Attend, AttentionScratch, attend},
    linear::{Linear, PackedLinear, Storage, linear},
    peak,
    quantized::{Codes, QuantizedLayer, QuantizedLinear, linear_int8, quantize},
};

use crate::report::{Row, Spread};

/// Rows that the engine works on at a time.
const ROWS: usize = 48;
/// Inputs and outputs of MiniLM's linear layers, and of the largest of a BERT-base.
const SHAPES: [(&str, usize, usize); 5] = [
    ("qkv", 384, 1152),
    ("attention output", 384, 384),
    ("intermediate", 384, 1536),
    ("output", 1536, 384),
    ("base intermediate", 768, 3072),
];
/// Lengths of a sequence: a passage, and the longest of the model.
const LENGTHS: [usize; 2] = [86, 256];
const NUM_HEADS: usize = 12;
const HEAD_DIM: usize = 32;
/// Time of one measurement, and how many there are; the fastest counts.
const SLICE: Duration = Duration::from_millis(10);
const SLICES: usize = 9;

/// A row for each operation: what it does a second, beside the most that the processor could.
///
/// # Errors
/// If shapes do not fit: a bug.
pub fn rows(clock: fn() -> Duration) -> anyhow::Result<Vec<Row>> {
    let isa = Isa::best();
    let peak = Peak::measure(isa, clock);
    let mut rows = Vec::new();
    for (name, inputs, outputs) in SHAPES {
        let operations = 2.0 * (ROWS * inputs * outputs) as f64;
        let (x, weight) = (numbers(ROWS * inputs), numbers(outputs * inputs));
        let bias = numbers(outputs);
        let mut out = vec![0.0; ROWS * outputs];

        let layer = PackedLinear::pack(isa, Storage::F32, &weight, &bias, inputs)?;
        let mut run = || linear(Linear { layer: &layer, x: &x, outputs: 0..outputs, activation: None }, &mut out);
        run()?;
        let found = fastest(clock, || run().is_ok());
        rows.push(row(format!("operation/f32 {name} {inputs}x{outputs}"), operations * found, peak.f32));

        let layer = QuantizedLayer::pack(isa, &weight, &bias, inputs, &[])?;
        let mut codes = Codes::default();
        let mut run = || {
            quantize(&layer, &x, &mut codes)?;
            linear_int8(QuantizedLinear { layer: &layer, x: &codes, outputs: 0..outputs, activation: None }, &mut out)
        };
        run()?;
        let found = fastest(clock, || run().is_ok());
        rows.push(row(format!("operation/int8 {name} {inputs}x{outputs}"), operations * found, peak.int8));
    }
    let mut scratch = AttentionScratch::default();
    for length in LENGTHS {
        let dim = NUM_HEADS * HEAD_DIM;
        let qkv = numbers(length * 3 * dim);
        let mut out = vec![0.0; length * dim];
        let args = Attend { qkv: &qkv, queries: 0..length, num_heads: NUM_HEADS, head_dim: HEAD_DIM, scale: 0.18 };
        let mut run = || attend(isa, args.clone(), &mut scratch, &mut out);
        run()?;
        let found = fastest(clock, || run().is_ok());
        let operations = 4.0 * (dim * length * length) as f64;
        rows.push(row(format!("operation/attention of {length}"), operations * found, peak.f32));
    }
    Ok(rows)
}

/// Operations a second of bare multiplications on registers.
#[derive(Clone, Copy)]
struct Peak {
    f32: f64,
    int8: f64,
}

impl Peak {
    fn measure(isa: Isa, clock: fn() -> Duration) -> Self {
        /// About a tenth of a millisecond.
        const ROUNDS: u64 = 30_000;
        let of = |multiply: fn(Isa, u64) -> u64| {
            let operations = multiply(isa, ROUNDS) as f64;
            operations * fastest(clock, || multiply(isa, ROUNDS) > 0)
        };
        Self { f32: of(peak::multiply_f32), int8: of(peak::multiply_int8) }
    }
}

fn row(case: String, found: f64, peak: f64) -> Row {
    Row {
        case,
        unit: "GOP/s",
        ours: Spread::of([found / 1e9]),
        rival: "peak of the multipliers".to_owned(),
        rival_value: Spread::of([peak / 1e9]),
        ratio: Spread::of([found / peak]),
        target: None,
    }
}

/// Runs a second at the fastest of several measurements.
fn fastest(clock: fn() -> Duration, mut run: impl FnMut() -> bool) -> f64 {
    let mut best = 0.0_f64;
    for _ in 0..SLICES {
        let started = clock();
        let mut runs = 0.0;
        let elapsed = loop {
            black_box(run());
            runs += 1.0;
            let elapsed = clock().saturating_sub(started);
            if elapsed >= SLICE {
                break elapsed;
            }
        };
        best = best.max(runs / elapsed.as_secs_f64());
    }
    best
}

/// Numbers from −0.5 to 0.5, none of them special.
fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919) % 1000) as f32 / 1000.0 - 0.5).collect()
}
