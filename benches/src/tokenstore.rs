//! Reranking documents by id, from the token store over gRPC, beside sending their vectors along.
//!
//! | row | ours | beside |
//! |---|---|---|
//! | `/kernel share` | time in the MaxSim kernel | all of the server's time for the request, from its headers to its answer |
//! | `/one by one` | requests by id, one after the other | the same with f16 vectors in the request |
//! | `/memory` | bytes of stored vectors ÷ time in the kernel | what the same threads read from memory at most |
//! | `/closed loop` | requests by id, several callers at a time | 100 requests/s, which is what is asked for |
//!
//! Vectors are random, of unit length, drawn from a fixed seed; the query comes as vectors, so no model computes
//! anything. Every score of the first answer is compared with the formula in f64.

use std::time::Duration;

use anyhow::{Context, ensure};
use half::f16;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use rayon::prelude::*;
use sluice_client::{
    Client, DataType, Embedding, Matrix, Method, PutTokens, Rerank, RerankResponse, TokenStorage, content_hash,
};
use sluice_kernels::{Isa, peak};
use sluice_server::{
    ServerConfig,
    config::{ModelConfig, TokenStoreConfig},
};
use tempfile::TempDir;

use crate::{
    machine::Machine,
    report::{Report, Row, Spread},
    served::Served,
};

/// What is measured, and how long.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Threads for the network, and for the kernel.
    pub threads: usize,
    /// Requests of each kind, one after the other.
    pub requests: usize,
    /// Time of the closed loop.
    pub loop_time: Duration,
    /// Callers of the closed loop.
    pub callers: usize,
}

/// Documents by id, all alike.
#[derive(Debug, Clone, Copy)]
struct Shape {
    documents: usize,
    tokens: usize,
    dim: usize,
}

/// One request with a thousand documents, and a small one that is asked often.
const LARGE: Shape = Shape { documents: 1000, tokens: 180, dim: 384 };
const SMALL: Shape = Shape { documents: 100, tokens: 180, dim: 128 };
/// Rows of the query.
const QUERY_ROWS: usize = 32;
/// Documents of one put.
const PUT_DOCUMENTS: usize = 100;
const NAMESPACE: &str = "bench";
/// Of a score, beside f64 over the stored values.
const TOLERANCE: f64 = 1e-3;
const MESSAGE_BYTES_MAX: usize = 1 << 30;
/// Read once per pass: far more than any cache holds.
const MEMORY_BYTES: usize = 512 << 20;
const SEED: u64 = 20_261_122;

/// Runs the scenario.
///
/// # Errors
/// If the server does not start or a request fails.
pub fn run(options: &Options, machine: &Machine) -> anyhow::Result<Report> {
    let mut report = Report {
        scenario: "tokenstore",
        host: machine.host(options.threads),
        commit: machine.commit(),
        rows: Vec::new(),
        notes: Vec::new(),
        faults: Vec::new(),
    };
    (machine.progress)("what the memory gives");
    let memory = memory_speed(options.threads, machine.clock);
    for shape in [LARGE, SMALL] {
        (machine.progress)(&format!("{}: putting", shape.name()));
        let fixture = Fixture::start(shape, options, machine)?;
        fixture.check(&mut report)?;
        (machine.progress)(&format!("{}: one by one", shape.name()));
        one_by_one(&fixture, options, memory, &mut report)?;
        if shape.documents == SMALL.documents {
            (machine.progress)(&format!("{}: closed loop", shape.name()));
            closed_loop(&fixture, options, &mut report)?;
        }
    }
    Ok(report)
}

impl Shape {
    fn name(self) -> String {
        format!("{}x{}x{} f16", self.documents, self.tokens, self.dim)
    }

    fn bytes(self) -> f64 {
        (self.documents * self.tokens * self.dim * 2) as f64
    }
}

/// A server that keeps the documents of a shape.
struct Fixture {
    shape: Shape,
    served: Served,
    clock: fn() -> Duration,
    query: Matrix,
    documents: Vec<Matrix>,
    by_id: Rerank,
    with_vectors: Rerank,
    _folder: TempDir,
}

impl Fixture {
    fn start(shape: Shape, options: &Options, machine: &Machine) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let script = folder.path().join("model.toml");
        std::fs::write(&script, format!("dim = {}\n", shape.dim))?;
        let mut config = ServerConfig {
            model: vec![ModelConfig { name: "model".to_owned(), source: format!("scripted:{}", script.display()) }],
            token_store: TokenStoreConfig { dir: Some(folder.path().join("tokens")), ..TokenStoreConfig::default() },
            ..ServerConfig::default()
        };
        config.grpc.max_message_size = MESSAGE_BYTES_MAX;
        let served = Served::start(config, options.threads, machine)?;
        let mut rng = SmallRng::seed_from_u64(SEED);
        let query = unit_rows(&mut rng, QUERY_ROWS, shape.dim);
        let documents: Vec<Matrix> =
            (0..shape.documents).map(|_| unit_rows(&mut rng, shape.tokens, shape.dim)).collect();
        let vectors: Vec<Embedding> =
            documents.iter().map(|document| document.to_embedding(DataType::F16)).collect::<Result<_, _>>()?;
        served.runtime.block_on(put(&served.client, &vectors))?;
        let base = Rerank::default().query_embedding(query.to_embedding(DataType::F32)?);
        let base = base.method(Method::LateInteraction);
        let ids = (0..shape.documents).map(|id| id.to_string());
        let by_id = ids.clone().fold(base.clone(), |request, id| request.stored(id, NAMESPACE));
        let with_vectors =
            ids.zip(&vectors).fold(base, |request, (id, vectors)| request.embedding(id, vectors.clone()));
        let clock = machine.clock;
        Ok(Self { shape, served, clock, query, documents, by_id, with_vectors, _folder: folder })
    }

    fn ask(&self, request: &Rerank) -> anyhow::Result<(RerankResponse, Duration)> {
        let started = (self.clock)();
        let answer = self.served.runtime.block_on(self.served.client.rerank(request.clone()))?;
        Ok((answer, (self.clock)().saturating_sub(started)))
    }

    /// Compares both ways' scores with the formula over the stored values.
    fn check(&self, report: &mut Report) -> anyhow::Result<()> {
        let expected: Vec<f64> = self.documents.par_iter().map(|document| maxsim(&self.query, document)).collect();
        for request in [&self.by_id, &self.with_vectors] {
            let (answer, _) = self.ask(request)?;
            ensure!(answer.results.len() == expected.len() && !answer.partial, "not every document was scored");
            let worst =
                answer.results.iter().map(|result| (f64::from(result.score) - expected[result.index as usize]).abs());
            let worst = worst.fold(0.0, f64::max);
            if worst > TOLERANCE {
                report.faults.push(format!("{}: a score is {worst} away", self.shape.name()));
            }
        }
        Ok(())
    }
}

async fn put(client: &Client, documents: &[Embedding]) -> anyhow::Result<()> {
    for (batch, vectors) in documents.chunks(PUT_DOCUMENTS).enumerate() {
        let first = batch * PUT_DOCUMENTS;
        let request = vectors.iter().enumerate().fold(
            PutTokens::new(NAMESPACE).storage(TokenStorage::F16),
            |request, (at, vectors)| {
                let id = (first + at).to_string();
                let hash = content_hash(&id);
                request.embedding(id, vectors.clone(), hash)
            },
        );
        client.put_tokens(request).await?;
    }
    Ok(())
}

/// Both ways in turn, one request at a time.
fn one_by_one(fixture: &Fixture, options: &Options, memory: f64, report: &mut Report) -> anyhow::Result<()> {
    let name = fixture.shape.name();
    let mut stored = Vec::new();
    let mut sent = Vec::new();
    for _ in 0..options.requests {
        stored.push(Times::of(&fixture.ask(&fixture.by_id)?)?);
        sent.push(Times::of(&fixture.ask(&fixture.with_vectors)?)?);
    }
    let spread = |each: &dyn Fn(&Times) -> f64| Spread::of(stored.iter().map(each));
    let share = spread(&|times| times.kernel / times.server);
    report.rows.push(Row {
        case: format!("{name}/kernel share"),
        unit: "share",
        ours: share,
        rival: "all of the server's time".to_owned(),
        rival_value: Spread::of([1.0]),
        ratio: share,
        target: (fixture.shape.documents == LARGE.documents).then_some(0.7),
    });
    report.rows.push(Row {
        case: format!("{name}/one by one"),
        unit: "requests/s",
        ours: spread(&|times| 1.0 / times.caller),
        rival: "vectors in the request".to_owned(),
        rival_value: Spread::of(sent.iter().map(|times| 1.0 / times.caller)),
        ratio: Spread::of(stored.iter().zip(&sent).map(|(stored, sent)| sent.caller / stored.caller)),
        target: None,
    });
    let read = spread(&|times| fixture.shape.bytes() / times.kernel / 1e9);
    report.rows.push(Row {
        case: format!("{name}/memory"),
        unit: "GB/s",
        ours: read,
        rival: "reading alone".to_owned(),
        rival_value: Spread::of([memory]),
        ratio: Spread { median: read.median / memory, min: read.min / memory, max: read.max / memory },
        target: None,
    });
    let median = |each: &dyn Fn(&Times) -> f64| spread(each).median * 1e3;
    report.notes.push(format!(
        "{name}, by id, medians: {:.3} ms for the caller, {:.3} of them in the server: {:.3} in the kernel, {:.3} waiting \
         for a batch, {:.3} for everything else (decoding, validating, looking up, staging, ordering)",
        median(&|times| times.caller),
        median(&|times| times.server),
        median(&|times| times.kernel),
        median(&|times| times.queue),
        median(&|times| times.server - times.kernel - times.queue),
    ));
    Ok(())
}

/// Callers that ask again as soon as they are answered.
fn closed_loop(fixture: &Fixture, options: &Options, report: &mut Report) -> anyhow::Result<()> {
    let Served { runtime, client, .. } = &fixture.served;
    let clock = fixture.clock;
    let mut rates = Vec::new();
    for _ in 0..3 {
        let begin = clock();
        let end = begin + options.loop_time / 3;
        let callers: Vec<_> = (0..options.callers)
            .map(|_| {
                let (client, request) = (client.clone(), fixture.by_id.clone());
                runtime.spawn(async move {
                    let mut answered = 0_u64;
                    while clock() < end {
                        client.rerank(request.clone()).await?;
                        answered += 1;
                    }
                    Ok::<_, sluice_client::ClientError>(answered)
                })
            })
            .collect();
        let mut answered = 0;
        for caller in callers {
            answered += runtime.block_on(caller).context("a caller panicked")??;
        }
        rates.push(answered as f64 / clock().saturating_sub(begin).as_secs_f64());
    }
    let rate = Spread::of(rates);
    report.rows.push(Row {
        case: format!("{}/closed loop, {} callers", fixture.shape.name(), options.callers),
        unit: "requests/s",
        ours: rate,
        rival: "what is asked for".to_owned(),
        rival_value: Spread::of([100.0]),
        ratio: Spread { median: rate.median / 100.0, min: rate.min / 100.0, max: rate.max / 100.0 },
        target: Some(1.0),
    });
    Ok(())
}

/// Of one request, in seconds.
struct Times {
    caller: f64,
    server: f64,
    kernel: f64,
    queue: f64,
}

impl Times {
    fn of((answer, caller): &(RerankResponse, Duration)) -> anyhow::Result<Self> {
        let timing = answer.timing.context("an answer has timing")?;
        let seconds = |part: Option<_>| -> anyhow::Result<f64> {
            Ok(Duration::try_from(part.context("timing is whole")?)?.as_secs_f64())
        };
        Ok(Self {
            caller: caller.as_secs_f64(),
            server: seconds(timing.total)?,
            kernel: seconds(timing.compute)?,
            queue: seconds(timing.queue)?,
        })
    }
}

/// GB/s that so many threads read together; the best of some passes.
fn memory_speed(threads: usize, clock: fn() -> Duration) -> f64 {
    let words = vec![1_u64; MEMORY_BYTES / 8];
    let isa = Isa::best();
    let pass = || {
        let begin = clock();
        let sum: u64 = words.par_chunks(words.len().div_ceil(threads)).map(|part| peak::read(isa, part)).sum();
        std::hint::black_box(sum);
        MEMORY_BYTES as f64 / clock().saturating_sub(begin).as_secs_f64() / 1e9
    };
    (0..8).map(|_| pass()).fold(0.0, f64::max)
}

fn unit_rows(rng: &mut SmallRng, rows: usize, dim: usize) -> Matrix {
    let mut data: Vec<f32> = (0..rows * dim).map(|_| rng.random_range(-1.0..1.0)).collect();
    for row in data.chunks_exact_mut(dim) {
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter_mut().for_each(|x| *x /= norm);
    }
    Matrix { data, dim }
}

/// Σᵢ maxⱼ ⟨qᵢ, dⱼ⟩ in f64, over document components as f16 keeps them.
fn maxsim(query: &Matrix, document: &Matrix) -> f64 {
    let stored: Vec<f64> = document.data.iter().map(|x| f16::from_f32(*x).to_f64()).collect();
    let dot = |q: &[f32], d: &[f64]| q.iter().zip(d).map(|(q, d)| f64::from(*q) * d).sum::<f64>();
    let best = |q: &[f32]| stored.chunks_exact(document.dim).map(|d| dot(q, d)).fold(f64::NEG_INFINITY, f64::max);
    query.rows().map(best).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_unit_length_and_score_themselves() {
        let rows = unit_rows(&mut SmallRng::seed_from_u64(1), 5, 24);
        for row in rows.rows() {
            assert!((row.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
        }
        // Each row is most similar to itself; f16 costs it less than 2⁻¹¹ of its length.
        assert!((maxsim(&rows, &rows) - 5.0).abs() < 5.0 / 2048.0);
    }
}
