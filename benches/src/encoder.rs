//! Rerank throughput on real text beside ONNX Runtime: same weights, texts, limit of 256 tokens, and threads.
//!
//! | case | requests |
//! |---|---|
//! | `dense/natural`, `late_interaction/natural`, `cross_encoder/natural` | queries and documents with the lengths they have |
//! | `cross_encoder/NxM` | one query, N documents that all fill the M tokens of the model |
//!
//! | row of a case | what both do |
//! |---|---|
//! | (none) | from texts to scores, one request after the other |
//! | `/encode` | the same without tokenization |
//! | `/grpc` | ours through the server on loopback; the rival in its own process, without a wire |
//!
//! Every score of ours is compared with the f32 rival's: a run in which they disagree fails.

mod in_process;
mod model;
mod onnxruntime;
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
use sluice_inference::{CpuOptions, Resolver, SilentProgress, Source};

use crate::{
    interleave::{Contender, Pass, Request, Track, interleave},
    machine::Machine,
    report::{Report, Row},
    texts::{Texts, long_request},
};
use in_process::InProcess;
use model::Head;
use onnxruntime::{OnnxRuntime, Precision};
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
}

/// How documents are scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Method {
    Dense,
    LateInteraction,
    CrossEncoder,
}

impl Method {
    fn name(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::LateInteraction => "late_interaction",
            Self::CrossEncoder => "cross_encoder",
        }
    }

    fn on_the_wire(self) -> sluice_client::Method {
        match self {
            Self::Dense => sluice_client::Method::Dense,
            Self::LateInteraction => sluice_client::Method::LateInteraction,
            Self::CrossEncoder => sluice_client::Method::CrossEncoder,
        }
    }

    fn operation(self) -> Operation {
        match self {
            Self::Dense => Operation::EncodeDense,
            Self::LateInteraction => Operation::LateInteraction,
            Self::CrossEncoder => Operation::CrossEncode,
        }
    }
}

/// One kind of requests.
struct Case {
    name: String,
    method: Method,
    requests: Vec<Request>,
}

/// How much two f32 computations of one score may differ: a MaxSim sums up to 256 cosines.
const DIFFERENCE_MAX: f64 = 1e-3;
/// ONNX Runtime's idle threads spin for 40 ms (measured) after a request, on the processors of whoever comes next.
const REST: Duration = Duration::from_millis(100);
/// As the server has it by default.
const CPU_OPTIONS: CpuOptions = CpuOptions::new(1024, 256);
/// Where the test collections lie, seen from the source tree.
const CANDIDATES: &str = "../shared/data/dl19/candidates.jsonl";
const HEAD: &str = "../shared/data/cross-encoder-oracle/head.safetensors";

/// Runs the scenario. The report's `faults` say where ours and the rival disagree.
///
/// # Errors
/// If the model, the texts or the rival are not to be had, or somebody fails.
pub fn run(options: &Options, machine: &Machine) -> anyhow::Result<Report> {
    let texts = texts(options, machine);
    let natural = texts.requests(options.queries, options.documents)?;
    let scratch = tempfile::Builder::new().prefix("bench-").tempdir_in(&machine.cache)?;
    let (folder, head) = model_folder(machine, scratch.path())?;

    let mut ours = InProcess::load(&folder, &CPU_OPTIONS, options.threads, machine.clock)?;
    let served = OverGrpc::start(&folder, CPU_OPTIONS.batch_tokens_max, options.threads, machine)?;
    let limits = (options.threads, ours.max_tokens());
    let rival = OnnxRuntime::start(machine, &folder, scratch.path(), limits)?;

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
            ours.description(),
            rival.description(),
        ],
        faults: Vec::new(),
    };
    for case in cases(natural, options.documents, ours.max_tokens())? {
        (machine.progress)(&case.name);
        measure(&case, options.passes, (&mut ours, &served, &rival), &mut report)?;
    }
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
        .map(|method| Case { name: format!("{}/natural", method.name()), method, requests: natural.clone() })
        .collect();
    cases.push(Case {
        name: format!("cross_encoder/{documents}x{max_tokens}"),
        method: Method::CrossEncoder,
        requests: vec![long],
    });
    Ok(cases)
}

fn measure(
    case: &Case,
    passes: usize,
    (ours, served, rival): (&mut InProcess, &OverGrpc, &OnnxRuntime),
    report: &mut Report,
) -> anyhow::Result<()> {
    let Some(first) = case.requests.first() else { return Ok(()) };
    let f32_batch = rival.best_batch(Precision::F32, case.method, first)?;
    let int8_batch = rival.best_batch(Precision::Int8, case.method, first)?;
    let contenders: &mut [&mut dyn Contender] = &mut [
        &mut ours.contender(case.method),
        &mut rival.contender(Precision::F32, case.method, f32_batch),
        &mut served.contender(case.method),
        &mut rival.contender(Precision::Int8, case.method, int8_batch),
    ];
    let tracks = interleave(contenders, &case.requests, passes, || thread::sleep(REST))?;
    let [ours, rival_f32, served, rival_int8] =
        <[Track; 4]>::try_from(tracks).map_err(|tracks| anyhow::anyhow!("{} tracks of 4 contenders", tracks.len()))?;
    let tracks = Tracks { ours, served, rival_f32, rival_int8 };
    report.rows.extend(tracks.rows(&case.name));
    report.faults.extend(tracks.faults(&case.name));
    report.notes.push(format!("{}: {}; its batches: f32 {f32_batch}, int8 {int8_batch}", case.name, tracks.summary()));
    Ok(())
}

/// The contenders of a case.
struct Tracks {
    ours: Track,
    served: Track,
    rival_f32: Track,
    rival_int8: Track,
}

impl Tracks {
    fn rows(&self, case: &str) -> Vec<Row> {
        let Self { ours, served, rival_f32, rival_int8 } = self;
        let documents = "documents/s";
        vec![
            row(case.to_owned(), documents, (ours, rival_f32), Pass::documents_per_second),
            row(case.to_owned(), documents, (ours, rival_int8), Pass::documents_per_second),
            row(format!("{case}/encode"), "tokens/s", (ours, rival_f32), Pass::tokens_per_second),
            row(format!("{case}/grpc"), documents, (served, rival_f32), Pass::documents_per_second),
        ]
    }

    /// Where the scores, or the work that was done for them, are not the same.
    fn faults(&self, case: &str) -> Vec<String> {
        let mut faults = Vec::new();
        for (name, ours) in [("in process", &self.ours), ("over gRPC", &self.served)] {
            let difference = ours.largest_difference(&self.rival_f32);
            if difference > DIFFERENCE_MAX {
                faults.push(format!(
                    "{case}: a score {name} differs by {difference:.1e} from ONNX Runtime's, more than {DIFFERENCE_MAX}"
                ));
            }
            let tokens = |track: &Track| track.passes.first().map_or(0, |pass| pass.tokens);
            let (ours, rival) = (tokens(ours), tokens(&self.rival_f32));
            if ours != rival {
                faults.push(format!("{case}: {ours} tokens {name}, and {rival} of ONNX Runtime"));
            }
        }
        faults
    }

    fn summary(&self) -> String {
        let difference = |track: &Track| track.largest_difference(&self.rival_f32);
        let pass = self.rival_f32.passes.first().copied().unwrap_or_default();
        format!(
            "{:.1} tokens a document; scores within {:.1e} of the f32 rival's (over gRPC {:.1e}; the int8 rival's own \
             within {:.1e}); through the server {:.2} of the speed in process",
            pass.tokens as f64 / pass.documents as f64,
            difference(&self.ours),
            difference(&self.served),
            difference(&self.rival_int8),
            self.served.ratio(&self.ours, Pass::documents_per_second).median,
        )
    }
}

fn row(case: String, unit: &'static str, (ours, rival): (&Track, &Track), of: impl Fn(&Pass) -> f64 + Copy) -> Row {
    Row {
        case,
        unit,
        ours: ours.rate(of),
        rival: rival.name.clone(),
        rival_value: rival.rate(of),
        ratio: ours.ratio(rival, of),
        target: None,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::interleave::tests::{Paced, requests};

    fn tracks(our_score: f32, our_milliseconds: u64) -> Tracks {
        let log = RefCell::default();
        let paced = |name, milliseconds, score| Paced {
            name,
            per_document: Duration::from_millis(milliseconds),
            score,
            log: &log,
        };
        let contenders: &mut [&mut dyn Contender] = &mut [
            &mut paced("sluice", our_milliseconds, our_score),
            &mut paced("onnxruntime f32", 2, 0.5),
            &mut paced("sluice over grpc", 8, 0.5),
            &mut paced("onnxruntime int8", 1, 0.25),
        ];
        let tracks = interleave(contenders, &requests(&[10, 20]), 3, || {}).unwrap();
        let [ours, rival_f32, served, rival_int8] = tracks.try_into().unwrap();
        Tracks { ours, served, rival_f32, rival_int8 }
    }

    #[test]
    fn every_case_has_its_rows() {
        let rows = tracks(0.5, 4).rows("dense/natural");
        let found: Vec<_> = rows
            .iter()
            .map(|row| (row.case.as_str(), row.unit, row.ours.median, row.rival.as_str(), row.ratio.median))
            .collect();
        let expected = [
            ("dense/natural", "documents/s", 125.0, "onnxruntime f32", 0.5),
            ("dense/natural", "documents/s", 125.0, "onnxruntime int8", 0.25),
            ("dense/natural/encode", "tokens/s", 2500.0, "onnxruntime f32", 0.5),
            ("dense/natural/grpc", "documents/s", 62.5, "onnxruntime f32", 0.25),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn other_scores_or_other_work_are_faults() {
        for (score, faults) in [(0.5, 0), (0.5009, 0), (0.5011, 1), (f32::NAN, 1)] {
            assert_eq!(tracks(score, 1).faults("case").len(), faults, "{score}");
        }
        let mut other = tracks(0.5, 1);
        other.ours.passes[0].tokens += 1;
        assert_eq!(other.faults("case"), ["case: 301 tokens in process, and 300 of ONNX Runtime"]);
    }

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
