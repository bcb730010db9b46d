//! The server end to end beside its own engine in process, both kept busy: what the network, the queue and the scheduler
//! cost where the device is fast.
//!
//! | contender | what it does |
//! |---|---|
//! | ours | callers of a closed loop over gRPC on loopback, a request of documents after the other |
//! | rival | the same requests without a server: threads tokenize, one packs batches across requests and keeps as many in flight as the device takes |
//!
//! Both have the same model, device, largest batch and number of threads that tokenize, and take turns, pass by pass. The
//! first request's scores must be the same bits; of dense vectors, whose cosine each side adds up in its own order, nearly.

mod pipeline;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, bail, ensure};
use sluice_client::Rerank;
use sluice_inference::{CpuOptions, CudaOptions, LoadedModel, load_folder, load_folder_cuda};
use sluice_server::{
    ServerConfig,
    config::{Device, ModelConfig},
};

use crate::{
    encoder::Method,
    interleave::Request,
    machine::Machine,
    report::{Report, Row, Spread},
    served::Served,
    texts::Texts,
};

/// What is measured, and how long.
#[derive(Debug, Clone)]
pub struct Options {
    /// The model's folder.
    pub model: PathBuf,
    /// `cpu`, `cuda` or `cuda:N`.
    pub device: Device,
    /// Documents of a request.
    pub documents: usize,
    /// Requests at a time.
    pub callers: usize,
    /// Threads that tokenize, and that compute on the processor.
    pub threads: usize,
    /// How long each contender works in a pass.
    pub time: Duration,
    /// Passes.
    pub passes: usize,
}

/// Requests that are asked again and again.
const REQUESTS: usize = 20;
/// The server's throughput, at least, as a part of that in process.
const TARGET: f64 = 0.9;
/// As the server has them where nothing is configured: tokens and sequences of a batch.
const CPU_BATCH: (u32, u32) = (1024, 256);
const CUDA_BATCH: (u32, u32) = (32_768, 1024);

/// Runs the scenario.
///
/// # Errors
/// If the model or the device is not to be had, or somebody fails.
pub fn run(options: &Options, machine: &Machine) -> anyhow::Result<Report> {
    let requests = Texts::Drawn.requests(REQUESTS, options.documents)?;
    (machine.progress)("loading the model twice");
    let model = load(options)?;
    let served = serve(options, machine)?;
    let mut report = Report {
        scenario: "end_to_end",
        host: machine.host(options.threads),
        commit: machine.commit(),
        rows: Vec::new(),
        notes: vec![
            Texts::Drawn.description(),
            format!(
                "{} callers, {} documents a request, {} threads tokenize, {} passes of {:?} each; {} on both sides",
                options.callers, options.documents, options.threads, options.passes, options.time, model.info.backend
            ),
        ],
        faults: Vec::new(),
    };
    let mut in_process = pipeline::Pipeline::new(model, options.threads, machine.clock);
    let name = options.model.file_name().unwrap_or(options.model.as_os_str()).to_string_lossy();
    for method in in_process.methods() {
        let case = format!("{name}/{}", method.name());
        (machine.progress)(&case);
        let (alone, through) = (in_process.scores(method, &requests[0])?, scores(&served, method, &requests[0])?);
        report.faults.extend(difference(method, &alone, &through).map(|fault| format!("{case}: {fault}")));
        let (mut ours, mut rivals) = (Vec::new(), Vec::new());
        for _ in 0..options.passes {
            rivals.push(in_process.documents_per_second(method, &requests, options.time)?);
            ours.push(documents_per_second(&served, method, &requests, options, machine.clock)?);
        }
        let ratios: Vec<f64> = ours.iter().zip(&rivals).map(|(ours, rival)| ours / rival).collect();
        report.rows.push(Row {
            case,
            unit: "documents/s",
            ours: Spread::of(ours),
            rival: "in process".to_owned(),
            rival_value: Spread::of(rivals),
            ratio: Spread::of(ratios),
            target: Some(TARGET),
        });
    }
    Ok(report)
}

fn load(options: &Options) -> anyhow::Result<LoadedModel> {
    let (folder, source) = (&options.model, options.model.display().to_string());
    Ok(match &options.device {
        Device::Cpu => {
            let cpu = CpuOptions { threads: options.threads, ..CpuOptions::new(CPU_BATCH.0, CPU_BATCH.1) };
            load_folder(folder, String::new(), source, &cpu)?
        }
        Device::Cuda(ordinals) => {
            let [ordinal] = ordinals[..] else { bail!("one device, and not {}", ordinals.len()) };
            let (batch_tokens_max, batch_sequences_max) = CUDA_BATCH;
            let cuda = CudaOptions { ordinal, batch_tokens_max, batch_sequences_max, memory_bytes_max: usize::MAX };
            load_folder_cuda(folder, String::new(), source, &cuda)?
        }
        Device::Auto | Device::CudaAll => bail!("the device is cpu, cuda or cuda:N"),
    })
}

fn serve(options: &Options, machine: &Machine) -> anyhow::Result<Served> {
    let config = ServerConfig {
        model: vec![ModelConfig { name: "default".to_owned(), source: options.model.display().to_string() }],
        device: options.device.clone(),
        compute_threads: options.threads,
        tokenizer_threads: options.threads,
        ..ServerConfig::default()
    };
    Served::start(config, options.threads, machine)
}

fn message(method: Method, request: &Request) -> Rerank {
    let documents = request.documents.iter().map(|text| ("", text.as_str()));
    Rerank::new(&request.query).documents(documents).method(method.on_the_wire())
}

/// In the order of the request.
fn scores(served: &Served, method: Method, request: &Request) -> anyhow::Result<Vec<f32>> {
    let response = served.runtime.block_on(served.client.rerank(message(method, request)))?;
    let mut scores = vec![f32::NAN; request.documents.len()];
    for result in &response.results {
        *scores.get_mut(result.index as usize).context("a result of no document")? = result.score;
    }
    Ok(scores)
}

fn difference(method: Method, alone: &[f32], through: &[f32]) -> Option<String> {
    // A sum of a few hundred products below 1.
    let most = if method == Method::Dense { 1e-5 } else { 0.0 };
    let near = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || (a - b).abs() <= most;
    let wrong = alone.iter().zip(through).filter(|pair| !near(*pair)).count();
    (wrong > 0 || alone.len() != through.len())
        .then(|| format!("{wrong} of {} scores of the server are not those in process", alone.len()))
}

/// Of callers that ask until the time is over.
fn documents_per_second(
    served: &Served,
    method: Method,
    requests: &[Request],
    options: &Options,
    clock: fn() -> Duration,
) -> anyhow::Result<f64> {
    let messages: Arc<[Rerank]> = requests.iter().map(|request| message(method, request)).collect();
    let begin = clock();
    let end = begin + options.time;
    let callers: Vec<_> = (0..options.callers)
        .map(|caller| {
            let (client, messages) = (served.client.clone(), Arc::clone(&messages));
            served.runtime.spawn(async move {
                let mut answered = 0;
                for message in messages.iter().cycle().skip(caller % messages.len()) {
                    if clock() >= end {
                        break;
                    }
                    answered += client.rerank(message.clone()).await?.results.len();
                }
                Ok::<_, sluice_client::ClientError>(answered)
            })
        })
        .collect();
    let mut answered = 0;
    for caller in callers {
        answered += served.runtime.block_on(caller).context("a caller panicked")??;
    }
    ensure!(answered > 0, "nothing was answered in {:?}", options.time);
    Ok(answered as f64 / clock().saturating_sub(begin).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_the_same_bits_but_for_cosines() {
        let near = 0.5 + f32::EPSILON;
        let check = |method, alone: &[f32], through: &[f32], sound: bool| {
            assert_eq!(difference(method, alone, through).is_none(), sound, "{method:?}: {alone:?}, {through:?}");
        };
        check(Method::CrossEncoder, &[0.5, -0.0], &[0.5, -0.0], true);
        check(Method::CrossEncoder, &[0.5], &[near], false);
        check(Method::LateInteraction, &[0.5], &[near], false);
        check(Method::Dense, &[0.5], &[near], true);
        check(Method::Dense, &[0.5], &[0.501], false);
        check(Method::Dense, &[0.5], &[f32::NAN], false);
        check(Method::Dense, &[0.5], &[], false);
    }

    #[test]
    fn a_device_is_named() {
        let options = |device: &str| Options {
            model: "nowhere".into(),
            device: device.parse().unwrap(),
            documents: 1,
            callers: 1,
            threads: 1,
            time: Duration::from_millis(1),
            passes: 1,
        };
        for device in ["auto", "cuda:all", "cuda:0,1"] {
            let refused = load(&options(device)).map(drop).unwrap_err().to_string();
            assert!(refused.contains("device"), "{device}: {refused}");
        }
        assert!(load(&options("cpu")).map(drop).unwrap_err().to_string().contains("nowhere"));
    }
}
