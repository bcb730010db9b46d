//! Rerank throughput on real text beside ONNX Runtime: same weights, texts, limit of 256 tokens, and threads.
//!
//! | case | requests |
//! |---|---|
//! | `dense/natural`, `late_interaction/natural`, `cross_encoder/natural` | queries and documents with the lengths they have |
//! | `cross_encoder/NxM` | one query, N documents that all fill the M tokens of the model |
//!
//! | row of a case | ours | rival |
//! |---|---|---|
//! | (none) | our engine in f32, from texts to scores, one request after the other | ONNX Runtime f32; its dynamic int8; candle's own BERT; our graph on candle's products |
//! | `/int8` | our engine in int8 | ONNX Runtime's two; candle's own BERT |
//! | `/avx2` | our engine in f32, with AVX2 alone | ONNX Runtime f32, which cannot be told to leave AVX-512 |
//! | `/encode` | f32 without tokenization | ONNX Runtime f32 likewise |
//! | `/grpc` | our engine in f32 through the server on loopback | the same in process |
//!
//! Every f32 score of ours is compared with the f32 rival's: a run in which they disagree fails.
//!
//! Rows `operation/…` are single operations on one thread beside what the processor's multipliers could do; the row
//! `memory` is the resident set of a server (and its client) that answers requests without a pause.

mod candle_bert;
mod contenders;
mod fastest;
mod in_process;
mod memory;
mod model;
mod onnxruntime;
mod operations;
mod over_grpc;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::Context;
use serde::Serialize;
use sluice_core::Operation;
use sluice_inference::{CpuEngine, CpuOptions, Precision, Resolver, SilentProgress, Source};
use sluice_kernels::{InstructionSet, Isa};

use crate::{
    interleave::{Contender, Request, interleave},
    machine::Machine,
    report::Report,
    texts::{Texts, long_request},
};
use candle_bert::CandleBert;
use contenders::{Ours, Targets, Tracks};
pub(crate) use in_process::{InProcess, TokenLimits, tokenize};
use model::Head;
use onnxruntime::OnnxRuntime;
use over_grpc::OverGrpc;

/// What is measured, and how long.
#[derive(Debug, Clone)]
pub struct Options {
    /// Candidates file; `None` takes DL19's where it lies beside the source tree, else draws texts.
    pub candidates: Option<PathBuf>,
    /// Queries of a pass.
    pub queries: usize,
    /// Documents of a query.
    pub documents: usize,
    /// Threads of either side.
    pub threads: usize,
    /// Passes over the queries.
    pub passes: usize,
    /// How long the server is kept busy for the memory row.
    pub memory_time: Duration,
}

/// How documents are scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Method {
    Dense,
    LateInteraction,
    CrossEncoder,
}

impl Method {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::LateInteraction => "late_interaction",
            Self::CrossEncoder => "cross_encoder",
        }
    }

    pub(crate) fn on_the_wire(self) -> sluice_client::Method {
        match self {
            Self::Dense => sluice_client::Method::Dense,
            Self::LateInteraction => sluice_client::Method::LateInteraction,
            Self::CrossEncoder => sluice_client::Method::CrossEncoder,
        }
    }

    pub(crate) fn operation(self) -> Operation {
        match self {
            Self::Dense => Operation::EncodeDense,
            Self::LateInteraction => Operation::LateInteraction,
            Self::CrossEncoder => Operation::CrossEncode,
        }
    }
}

/// Who they compete with.
struct Rivals {
    onnxruntime: OnnxRuntime,
    candle: CandleBert,
}

/// One kind of requests.
struct Case {
    name: String,
    method: Method,
    requests: Vec<Request>,
    /// Whether there is padding to win from.
    natural: bool,
}

impl Case {
    fn targets(&self) -> Targets {
        if self.natural { Targets { f32: 1.5, int8: 2.0 } } else { Targets { f32: 1.3, int8: 1.8 } }
    }
}

/// ONNX Runtime's idle threads spin for 40 ms (measured) after a request, on the processors of whoever comes next.
const REST: Duration = Duration::from_millis(100);
/// Tokens and sequences of a batch, as the server has them by default.
const BATCH_TOKENS: u32 = 1024;
const BATCH_SEQUENCES: u32 = 256;
/// Where the test collections lie, seen from the source tree.
const CANDIDATES: &str = "../shared/data/dl19/candidates.jsonl";
const HEAD: &str = "../shared/data/cross-encoder-oracle/head.safetensors";

/// Runs the scenario. The report's `faults` say where ours and the rival disagree.
///
/// # Errors
/// If the model, the texts or the rival are not to be had, or somebody fails.
pub fn run(options: &Options, machine: &Machine) -> anyhow::Result<Report> {
    let &Options { threads, memory_time, .. } = options;
    let texts = texts(options, machine);
    let natural = texts.requests(options.queries, options.documents)?;
    let scratch = tempfile::Builder::new().prefix("bench-").tempdir_in(&machine.cache)?;
    let (folder, head) = model_folder(machine, scratch.path())?;

    let served = OverGrpc::start(&folder, BATCH_TOKENS, threads, machine)?;
    // First of all, while nothing but the server is in memory.
    (machine.progress)("memory of a busy server");
    let memory = memory::measure(&served, &natural, &folder, (memory_time, machine.clock))?;
    let load = |name, options: CpuOptions| InProcess::load(name, &folder, &options, machine.clock);
    let own = CpuOptions { threads, ..CpuOptions::new(BATCH_TOKENS, BATCH_SEQUENCES) };
    let avx2 = Isa::of(InstructionSet::Avx2).filter(|avx2| *avx2 < Isa::best());
    let mut ours = Ours {
        f32: load("sluice", own)?,
        int8: load("sluice int8", CpuOptions { precision: Precision::Int8, ..own })?,
        f16: load("sluice f16", CpuOptions { precision: Precision::F16, ..own })?,
        avx2: avx2.map(|isa| load("sluice avx2", CpuOptions { isa: Some(isa), ..own })).transpose()?,
        candle: load("candle's products", CpuOptions { engine: CpuEngine::Candle, ..own })?,
        served,
    };
    let limits = (threads, ours.f32.max_tokens());
    let rivals = Rivals {
        onnxruntime: OnnxRuntime::start(machine, &folder, scratch.path(), limits)?,
        candle: CandleBert::load(&folder, ours.f32.tokenizer(), machine.clock)?,
    };

    let mut report = Report {
        scenario: "encoder",
        host: machine.host(options.threads),
        commit: machine.commit(),
        rows: Vec::new(),
        notes: vec![
            texts.description(),
            format!(
                "{} queries with {} documents each, {} passes, {} threads, at most {} tokens; tokenization included, \
                 except in rows /encode; f32, except where a rival says int8",
                options.queries, options.documents, options.passes, options.threads, limits.1
            ),
            head_note(&head),
            rivals.onnxruntime.description(),
        ],
        faults: Vec::new(),
    };
    report.notes.extend(ours.descriptions());
    for case in cases(natural, options.documents, ours.f32.max_tokens())? {
        (machine.progress)(&case.name);
        measure(&case, options.passes, (&mut ours, &rivals), &mut report)?;
    }
    (machine.progress)("single operations");
    report.rows.extend(operations::rows(machine.clock)?);
    report.rows.push(memory.row);
    report.notes.push(memory.note);
    Ok(report)
}

fn texts(options: &Options, machine: &Machine) -> Texts {
    let usual = machine.workspace.join(CANDIDATES);
    match &options.candidates {
        Some(path) => Texts::File(path.clone()),
        None if usual.is_file() => Texts::File(usual),
        None => Texts::Drawn,
    }
}

/// The default model with a classification head, below `scratch`.
fn model_folder(machine: &Machine, scratch: &Path) -> anyhow::Result<(PathBuf, Head)> {
    (machine.progress)("finding the default model");
    let resolver = Resolver::new(machine.cache.join("models"), Arc::new(SilentProgress));
    let found = resolver.with_hub(machine.hub.clone()).resolve(&Source::Default)?;
    let head = machine.workspace.join(HEAD);
    let head = if head.is_file() { Head::File(head) } else { Head::Drawn };
    let folder = scratch.join("model");
    model::merge(&found.path, &head, &folder)?;
    Ok((folder, head))
}

fn head_note(head: &Head) -> String {
    let origin = match head {
        Head::File(_) => "the pair oracle's",
        Head::Drawn => "drawn from a seed",
    };
    format!("all-MiniLM-L6-v2 with a classification head of random weights, {origin}")
}

fn cases(natural: Vec<Request>, documents: usize, max_tokens: usize) -> anyhow::Result<Vec<Case>> {
    let long = long_request(&natural, documents, max_tokens).context("no text to make long documents of")?;
    let mut cases: Vec<Case> = [Method::Dense, Method::LateInteraction, Method::CrossEncoder]
        .into_iter()
        .map(|method| Case {
            name: format!("{}/natural", method.name()),
            method,
            requests: natural.clone(),
            natural: true,
        })
        .collect();
    cases.push(Case {
        name: format!("cross_encoder/{documents}x{max_tokens}"),
        method: Method::CrossEncoder,
        requests: vec![long],
        natural: false,
    });
    Ok(cases)
}

fn measure(
    case: &Case,
    passes: usize,
    (ours, rivals): (&mut Ours, &Rivals),
    report: &mut Report,
) -> anyhow::Result<()> {
    let Some(first) = case.requests.first() else { return Ok(()) };
    let Rivals { onnxruntime: rival, candle } = rivals;
    let f32_batch = rival.best_batch(onnxruntime::Precision::F32, case.method, first)?;
    let int8_batch = rival.best_batch(onnxruntime::Precision::Int8, case.method, first)?;
    let candle_batch = candle.best_batch(case.method, first)?;
    let mut contenders = ours.contenders(case.method);
    contenders.push(Box::new(rival.contender(onnxruntime::Precision::F32, case.method, f32_batch)));
    contenders.push(Box::new(rival.contender(onnxruntime::Precision::Int8, case.method, int8_batch)));
    contenders.push(Box::new(candle.contender(case.method, candle_batch)));
    let mut turns: Vec<&mut dyn Contender> = Vec::with_capacity(contenders.len());
    for contender in &mut contenders {
        turns.push(contender.as_mut());
    }
    let tracks = Tracks::of(interleave(&mut turns, &case.requests, passes, || thread::sleep(REST))?)?;
    report.rows.extend(tracks.rows(&case.name, case.targets()));
    report.faults.extend(tracks.faults(&case.name));
    report.notes.push(format!(
        "{}: {}; its batches: f32 {f32_batch}, int8 {int8_batch}; candle-transformers' {candle_batch}",
        case.name,
        tracks.summary()
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_cover_methods_and_lengths() {
        let natural = Texts::Drawn.requests(2, 5).unwrap();
        let cases = cases(natural, 5, 256).unwrap();
        let found: Vec<_> = cases.iter().map(|case| (case.name.as_str(), case.requests.len())).collect();
        let expected = [
            ("dense/natural", 2),
            ("late_interaction/natural", 2),
            ("cross_encoder/natural", 2),
            ("cross_encoder/5x256", 1),
        ];
        assert_eq!(found, expected);
        assert!(cases.iter().flat_map(|case| &case.requests).all(|request| request.documents.len() == 5));
    }
}
