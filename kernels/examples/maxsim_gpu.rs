//! MaxSim on a CUDA device, measured: `maxsim_gpu [--quick]` prints JSON, which `benches/gpu/report.py` makes a table of.
//!
//! Documents are resident. Each case has as many sets of them as keep four times the L2 cache busy, and at least five,
//! scored in turn, so that every scoring reads device memory. Time is between two events around many scorings, which
//! follow each other without a gap; `wall_seconds` is one whole call on the host instead, from ids to scores.
//!
//! Exit codes: 0 measured; 1 failed; 2 wrong usage; 3 no usable device.
#![allow(clippy::disallowed_methods, reason = "a binary reads its command line and the clock")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "results go to standard output, what is wrong to error")]

use std::{env, process::ExitCode, time::Instant};

use half::f16;
use serde_json::{Value, json};
use sluice_kernels::{
    cuda::{
        CudaDevice,
        maxsim::{Document, Layout, MaxSimDevice, Query, Request, document_bytes, plan::Step},
    },
    tokens::{self, Storage, Tokens},
};

const DIM: usize = 128;
const QUERY_ROWS: usize = 32;
/// Sets of documents are this many times the L2 cache, together.
const CACHES: usize = 4;
const SETS_MIN: usize = 5;
/// Rows that documents are cut from: many times as long as any of them, and odd, so that they differ.
const POOL_ROWS: usize = 20_011;
/// Bytes that are staged at a time while the arena is filled.
const STAGED_MAX: usize = 128 << 20;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let quick = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--quick"] => true,
        _ => {
            eprintln!("usage: maxsim_gpu [--quick]");
            return ExitCode::from(2);
        }
    };
    if let Err(error) = CudaDevice::open(0) {
        eprintln!("no usable CUDA device: {error}");
        return ExitCode::from(3);
    }
    match measure(quick) {
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

fn measure(quick: bool) -> Result<Value, Failure> {
    let device = CudaDevice::open(0)?;
    let copy = device.copy_bandwidth(if quick { 256 << 20 } else { 4 << 30 }, 20)?;
    let mut report = json!({
        "device": device.name(),
        "compute_capability": [device.compute_capability().0, device.compute_capability().1],
        "multiprocessors": device.shape().multiprocessors,
        "l2_bytes": device.l2_bytes(),
        "copy_bytes_per_second": copy,
        "cases": [],
    });
    let shapes: &[(u32, u32)] =
        if quick { &[(100, 180)] } else { &[(100, 180), (1000, 180), (1000, 300), (10_000, 180), (10_000, 300)] };
    let pool = Pool::new();
    for storage in [Storage::F16, Storage::Int8] {
        for &(documents, rows) in shapes {
            let case = Case { storage, documents, rows, quick };
            let found = case.measure(&pool)?;
            eprintln!("{} {documents} x {rows}: measured", storage.name());
            report["cases"].as_array_mut().ok_or("the report has cases")?.extend(found);
        }
    }
    Ok(report)
}

/// Vectors in every storage, of which documents are slices.
struct Pool {
    f16: Vec<f16>,
    codes: Vec<u8>,
    scales: Vec<f32>,
    query: Vec<f32>,
}

impl Pool {
    fn new() -> Self {
        // xorshift64 (Marsaglia 2003): any numbers will do, as long as they are no zeros.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut draw = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        let vectors: Vec<f32> = (0..POOL_ROWS * DIM).map(|_| draw()).collect();
        let query = (0..QUERY_ROWS * DIM).map(|_| draw()).collect();
        let (codes, scales) = tokens::to_int8(&vectors, DIM).expect("the pool is whole rows");
        Self { f16: tokens::to_f16(&vectors), codes, scales, query }
    }

    fn document(&self, storage: Storage, number: usize, rows: usize) -> Tokens<'_> {
        let first = number * 7919 % (POOL_ROWS - rows);
        let components = first * DIM..(first + rows) * DIM;
        match storage {
            Storage::F16 => Tokens::F16(&self.f16[components]),
            _ => Tokens::Int8 { codes: &self.codes[components], scales: &self.scales[first..first + rows] },
        }
    }
}

struct Case {
    storage: Storage,
    documents: u32,
    rows: u32,
    quick: bool,
}

impl Case {
    fn measure(&self, pool: &Pool) -> Result<Vec<Value>, Failure> {
        let layout = Layout { storage: self.storage, dim: DIM };
        let bytes = document_bytes(layout, self.rows);
        let set_bytes = bytes * self.documents as usize;
        let device = CudaDevice::open(0)?;
        let sets = (CACHES * device.l2_bytes()).div_ceil(set_bytes).max(SETS_MIN);
        let arena = sets * self.documents as usize * (bytes + 256);
        let mut device = MaxSimDevice::new(device, layout, arena)?;
        self.fill(&mut device, pool, sets, bytes)?;
        let queries = [Query { rows: &pool.query, documents: self.documents }];
        let named: Vec<Vec<Document<'_>>> = (0..sets as u64)
            .map(|set| (0..u64::from(self.documents)).map(|n| Document::Resident(set << 32 | n)).collect())
            .collect();
        let requests: Vec<_> = named.iter().map(|documents| Request { queries: &queries, documents }).collect();
        let mut found = Vec::new();
        for step in Step::ALL {
            // The naive kernel is there for its answers: one small case shows how far it is from the others.
            let naive = step == Step::Naive;
            if naive && self.documents > 1000 {
                continue;
            }
            let prepared = requests.iter().map(|request| device.prepare(request, step));
            let prepared = prepared.collect::<Result<Vec<_>, _>>()?;
            let (launches, rounds) = if self.quick || naive { (sets, 3) } else { (sets * 10, 20) };
            let seconds = device.time(&prepared, launches, rounds)?;
            let mut scores = vec![f32::NAN; self.documents as usize];
            device.read(&prepared[0], &mut scores)?;
            if !scores.iter().all(|score| score.is_finite()) {
                return Err("a score is not finite".into());
            }
            let mut row = self.row(step.name(), prepared[0].kernel(), set_bytes, sets, &seconds);
            if step == Step::Stream {
                row["wall_seconds"] = json!(median(&self.wall(&mut device, &requests)?));
            }
            found.push(row);
        }
        Ok(found)
    }

    fn fill(&self, device: &mut MaxSimDevice, pool: &Pool, sets: usize, bytes: usize) -> Result<(), Failure> {
        let keys: Vec<u64> =
            (0..sets as u64).flat_map(|set| (0..u64::from(self.documents)).map(move |n| set << 32 | n)).collect();
        for keys in keys.chunks((STAGED_MAX / bytes).max(1)) {
            let keep = |&key: &u64| {
                let number = (key >> 32) as usize * 104_729 + key as u32 as usize;
                Document::Keep(key, pool.document(self.storage, number, self.rows as usize))
            };
            device.keep(&keys.iter().map(keep).collect::<Vec<_>>())?;
        }
        match keys.iter().find(|&&key| !device.is_resident(key)) {
            Some(key) => Err(format!("document {key:x} found no room").into()),
            None => Ok(()),
        }
    }

    /// Seconds of whole calls.
    fn wall(&self, device: &mut MaxSimDevice, requests: &[Request<'_>]) -> Result<Vec<f64>, Failure> {
        let mut scores = vec![0.0; self.documents as usize];
        let mut seconds = Vec::new();
        for round in 0..if self.quick { 5 } else { 50 } {
            let begin = Instant::now();
            device.score(&requests[round % requests.len()], &mut scores)?;
            seconds.push(begin.elapsed().as_secs_f64());
        }
        Ok(seconds.split_off(seconds.len() / 10))
    }

    fn row(&self, step: &str, kernel: &str, bytes: usize, sets: usize, seconds: &[f64]) -> Value {
        json!({
            "storage": self.storage.name(),
            "documents": self.documents,
            "tokens": self.rows,
            "dim": DIM,
            "query_rows": QUERY_ROWS,
            "step": step,
            "kernel": kernel,
            "bytes": bytes,
            "sets": sets,
            "seconds": median(seconds),
            "seconds_min": seconds.iter().copied().fold(f64::INFINITY, f64::min),
            "seconds_max": seconds.iter().copied().fold(0.0, f64::max),
        })
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
