//! The encoder on a CUDA device, checked and measured: `encoder_gpu FOLDER` reads the models and cases that
//! `benches/gpu/encoder_models.py` wrote there, and prints JSON, which `benches/gpu/encoder_report.py` makes a table of.
//!
//! Not yet run on a GPU.
//!
//! Checked, for each model: logits, dense vectors and late interaction beside the CPU's engine in f32, and the bits of each
//! pair alone beside those in the batch. Measured: all pairs of a case through the engine's seam, two batches in flight, from token ids on the host to
//! scores on the host.
//!
//! Exit codes: 0 measured; 1 failed, or something differs; 2 wrong usage; 3 no usable device.
#![allow(clippy::disallowed_methods, reason = "a binary reads its command line and the clock")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "results go to standard output, what is wrong to error")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Instant,
};

use serde_json::{Value, json};
use sluice_core::{
    Lane, ModelIndex, Operation, RequestId, UnitId,
    backend::{Backend, BatchOutput},
    batch::{PackedBatch, QueryVectors, Role, Sequence},
};
use sluice_inference::{CpuOptions, CudaOptions, LoadedModel, cuda_device, load_folder, load_folder_cuda};

/// Of a batch: as the server has it.
const BATCH_TOKENS: u32 = 32_768;
const BATCH_SEQUENCES: u32 = 1024;
/// What f16 may change of a logit, of a component of a unit vector, and of a cosine.
const TOLERANCE: f32 = 2e-3;
/// Tokens of late interaction's query.
const QUERY_TOKENS: usize = 32;
/// Each case is repeated for about so long, and at least three times.
const SECONDS_PER_CASE: f64 = 0.5;
const ROUNDS_MIN: usize = 3;
const ROUNDS_MAX: usize = 100;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [folder] = &arguments[..] else {
        eprintln!("usage: encoder_gpu FOLDER");
        return ExitCode::from(2);
    };
    let device = match cuda_device(0) {
        Ok(device) => device,
        Err(error) => {
            eprintln!("no usable CUDA device: {error}");
            return ExitCode::from(3);
        }
    };
    match measure(Path::new(folder), &device) {
        Ok((report, sound)) => {
            println!("{report:#}");
            if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The report, and whether every check has passed.
fn measure(folder: &Path, device: &str) -> Result<(Value, bool), Failure> {
    let plan: Value = serde_json::from_slice(&fs::read(folder.join("cases.json"))?)?;
    let (mut models, mut sound) = (Vec::new(), true);
    for described in plan["models"].as_array().ok_or("cases.json has models")? {
        let name = described["name"].as_str().ok_or("a model has a name")?;
        let mut model = Model::load(folder.join(name))?;
        let check = model.check(&lengths(&described["check"])?)?;
        sound &= check["passed"] == json!(true);
        eprintln!("{name}: {check}");
        let mut cases = Vec::new();
        for case in described["cases"].as_array().ok_or("a model has cases")? {
            let seconds = model.time(&lengths(&case["lengths"])?)?;
            eprintln!("{name} {}: {:.3} ms", case["name"], 1e3 * median(&seconds));
            cases.push(json!({
                "name": case["name"],
                "seconds": median(&seconds),
                "seconds_min": seconds.iter().copied().fold(f64::INFINITY, f64::min),
                "seconds_max": seconds.iter().copied().fold(0.0, f64::max),
                "rounds": seconds.len(),
            }));
        }
        models.push(json!({"name": name, "backend": model.cuda.info.backend, "check": check, "cases": cases}));
    }
    Ok((json!({"device": device, "models": models}), sound))
}

fn lengths(value: &Value) -> Result<Vec<usize>, Failure> {
    let lengths = value.as_array().ok_or("lengths are a list")?;
    lengths.iter().map(|length| Ok(length.as_u64().ok_or("a length is a number")? as usize)).collect()
}

struct Model {
    folder: PathBuf,
    cuda: LoadedModel,
}

impl Model {
    fn load(folder: PathBuf) -> Result<Self, Failure> {
        let options = CudaOptions {
            ordinal: 0,
            batch_tokens_max: BATCH_TOKENS,
            batch_sequences_max: BATCH_SEQUENCES,
            memory_bytes_max: usize::MAX,
        };
        let cuda = load_folder_cuda(&folder, String::new(), String::new(), &options)?;
        Ok(Self { folder, cuda })
    }

    /// Logits beside the CPU's, and alone beside together.
    fn check(&mut self, lengths: &[usize]) -> Result<Value, Failure> {
        let options = CpuOptions::new(BATCH_TOKENS, BATCH_SEQUENCES);
        let mut cpu = load_folder(&self.folder, String::new(), String::new(), &options)?;
        let pairs = pairs(lengths);
        let expected = logits(&mut *cpu.backend, &batches(&pairs))?;
        let found = logits(&mut *self.cuda.backend, &batches(&pairs))?;
        let distance = largest_distance(&found, &expected);
        let vectors = [&mut self.cuda, &mut cpu].map(|model| vectors(&mut *model.backend, &pairs));
        let [vectors, exact] = vectors;
        let (dense, late) = vectors?;
        let (exact_dense, exact_late) = exact?;
        let dense = largest_distance(&dense, &exact_dense);
        // Of a query row: each adds the error of its cosine.
        let late = largest_distance(&late, &exact_late) / QUERY_TOKENS as f32;
        let mut moved = 0;
        for (pair, together) in pairs.iter().zip(&found) {
            let alone = logits(&mut *self.cuda.backend, &batches(std::slice::from_ref(pair)))?;
            moved += usize::from(alone[0].to_bits() != together.to_bits());
        }
        let spread = expected.iter().copied().fold(f32::NEG_INFINITY, f32::max)
            - expected.iter().copied().fold(f32::INFINITY, f32::min);
        let passed = [distance, dense, late].iter().all(|distance| *distance <= TOLERANCE) && moved == 0;
        Ok(json!({
            "passed": passed, "largest_distance": distance, "tolerance": TOLERANCE, "spread": spread,
            "largest_distance_dense": dense, "largest_distance_late_interaction": late,
            "pairs": pairs.len(), "pairs_whose_bits_depend_on_the_batch": moved, "logits": found,
        }))
    }

    /// Seconds of each round.
    fn time(&mut self, lengths: &[usize]) -> Result<Vec<f64>, Failure> {
        let batches = batches(&pairs(lengths));
        // Kernels are compiled and plans are made the first time.
        logits(&mut *self.cuda.backend, &batches)?;
        let (begin, mut seconds) = (Instant::now(), Vec::new());
        while seconds.len() < ROUNDS_MIN
            || (seconds.len() < ROUNDS_MAX && begin.elapsed().as_secs_f64() < SECONDS_PER_CASE)
        {
            let round = Instant::now();
            logits(&mut *self.cuda.backend, &batches)?;
            seconds.push(round.elapsed().as_secs_f64());
        }
        Ok(seconds)
    }
}

/// Pairs of those lengths; `encoder_rivals.py` makes the same ids.
fn pairs(lengths: &[usize]) -> Vec<Sequence> {
    let pair = |(number, &length): (usize, &usize)| Sequence {
        input_ids: (0..length).map(|position| 1000 + ((131 * number + 31 * position) % 20_000) as u32).collect(),
        second_segment_start: length as u32 / 4,
        role: Role::Plain,
    };
    lengths.iter().enumerate().map(pair).collect()
}

/// The texts' dense vectors end to end, and their scores against a query.
fn vectors(backend: &mut dyn Backend, texts: &[Sequence]) -> Result<(Vec<f32>, Vec<f32>), Failure> {
    let slot = Arc::new(QueryVectors::default());
    let query = Sequence::single(texts[1].input_ids[..QUERY_TOKENS].to_vec(), Role::Query(Arc::clone(&slot)));
    let document = |text: &Sequence| Sequence { role: Role::Document(Arc::clone(&slot)), ..text.clone() };
    let late: Vec<Sequence> = std::iter::once(query).chain(texts.iter().map(document)).collect();
    let mut run = |operation, sequences: &[Sequence]| -> Result<BatchOutput, Failure> {
        let [batch] = &of_operation(operation, sequences)[..] else { return Err("texts that are one batch".into()) };
        let ticket = backend.submit(Arc::clone(batch))?;
        Ok(backend.collect(ticket)?)
    };
    match (run(Operation::EncodeDense, texts)?, run(Operation::LateInteraction, &late)?) {
        (BatchOutput::DenseVectors(dense), BatchOutput::Scores(scores)) => Ok((dense.concat(), scores)),
        _ => Err("neither vectors nor scores".into()),
    }
}

fn batches(pairs: &[Sequence]) -> Vec<Arc<PackedBatch>> {
    of_operation(Operation::CrossEncode, pairs)
}

/// In their order, as many to a batch as it takes.
fn of_operation(operation: Operation, pairs: &[Sequence]) -> Vec<Arc<PackedBatch>> {
    let lane = Lane { model: ModelIndex(0), operation };
    let empty = || PackedBatch::with_capacity(lane, BATCH_SEQUENCES as usize, BATCH_TOKENS as usize);
    let (mut batches, mut batch) = (Vec::new(), empty());
    for (index, pair) in (0..).zip(pairs) {
        let full = batch.total_tokens() + pair.input_ids.len() > BATCH_TOKENS as usize
            || batch.len() == BATCH_SEQUENCES as usize;
        if full {
            batches.push(Arc::new(std::mem::replace(&mut batch, empty())));
        }
        batch.push(UnitId { request: RequestId(0), index }, pair);
    }
    batches.push(Arc::new(batch));
    batches
}

/// Scores of all batches, as many in flight as the backend takes.
fn logits(backend: &mut dyn Backend, batches: &[Arc<PackedBatch>]) -> Result<Vec<f32>, Failure> {
    let in_flight = backend.limits().in_flight_batches_max as usize;
    let (mut tickets, mut scores) = (std::collections::VecDeque::new(), Vec::new());
    let mut collect = |backend: &mut dyn Backend, ticket| -> Result<(), Failure> {
        let BatchOutput::Scores(found) = backend.collect(ticket)? else { return Err("no scores".into()) };
        scores.extend(found);
        Ok(())
    };
    for batch in batches {
        if tickets.len() == in_flight {
            let ticket = tickets.pop_front().ok_or("a batch is in flight")?;
            collect(backend, ticket)?;
        }
        tickets.push_back(backend.submit(Arc::clone(batch))?);
    }
    for ticket in tickets {
        collect(backend, ticket)?;
    }
    Ok(scores)
}

/// Infinite if anything is NaN, or they are not as many.
fn largest_distance(found: &[f32], expected: &[f32]) -> f32 {
    if found.len() != expected.len() {
        return f32::INFINITY;
    }
    let distances = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    distances.fold(0.0, |largest, distance| if distance.is_nan() { f32::INFINITY } else { largest.max(distance) })
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
