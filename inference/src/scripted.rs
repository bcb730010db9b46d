//! A model that computes nothing: scores from words, service times and faults from a file.
//!
//! [`crate::model::load_scripted`] documents the file. The service time is a sleep of the thread that collects,
//! which stands for waiting on a device.

mod config;

use std::{path::Path, sync::Arc, thread, time::Duration};

use sha2::{Digest, Sha256};
use sluice_core::{
    DeviceIndex, Operation,
    backend::{Backend, BackendError, BackendLimits, BatchOutput, Ticket},
    batch::{PackedBatch, Role, TokenMatrix},
};

use crate::{
    folder::read_file,
    load_error::LoadError,
    model::{LoadedModel, ModelInfo},
    submitted::{Submitted, no_vectors_here},
    text::{END, START, TextEncoder, word_id},
};
use config::{Capability, Config, Fault, FaultKind, Moment};

/// See [`crate::model::load_scripted`].
pub(crate) fn load(file: &Path, device: DeviceIndex) -> Result<LoadedModel, LoadError> {
    let bytes = read_file(file)?;
    let mut config = Config::parse(file, &bytes)?;
    config.faults.retain(|fault| fault.device.is_none_or(|struck| struck == device.0));
    thread::sleep(config.load.delay.0);
    let has = |capability| config.capabilities.contains(&capability);
    let info = ModelInfo {
        source: format!("scripted:{}", file.display()),
        digest: Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect(),
        architecture: "scripted".to_owned(),
        backend: "scripted",
        late_interaction: has(Capability::LateInteraction),
        dense: has(Capability::Dense),
        cross_encoder: has(Capability::CrossEncoder),
        encode_tokens: has(Capability::EncodeTokens),
        encode_dense: has(Capability::EncodeDense),
        max_tokens: config.max_tokens,
        embedding_dim: config.dim,
        parameters: 0,
    };
    let devices = config.devices;
    let backend = Box::new(ScriptedBackend::new(config));
    Ok(LoadedModel { info, text: Arc::new(TextEncoder::words()), backend, devices })
}

struct ScriptedBackend {
    config: Config,
    poison: Option<u32>,
    submitted: Submitted<Job>,
    /// Batches submitted so far, refused ones too.
    batches: u64,
    lost: bool,
}

struct Job {
    batch: Arc<PackedBatch>,
    /// Its number among all that were submitted, from 1.
    number: u64,
    fault: Option<FaultKind>,
}

impl ScriptedBackend {
    fn new(config: Config) -> Self {
        let limits = BackendLimits {
            batch_tokens_max: config.batch_tokens_max,
            batch_sequences_max: config.batch_sequences_max,
            in_flight_batches_max: config.in_flight_batches_max,
        };
        let poison = config.poison.as_deref().map(word_id);
        Self { config, poison, submitted: Submitted::new(limits), batches: 0, lost: false }
    }

    /// The fault that strikes batch `number` of so many sequences at this moment.
    fn fault(&self, number: u64, sequences: usize, moment: Moment) -> Option<FaultKind> {
        let strikes = |fault: &&Fault| {
            let numbers = fault.at_batch..fault.at_batch.saturating_add(fault.repeat);
            fault.when == moment && numbers.contains(&number) && sequences > fault.sequences_above
        };
        self.config.faults.iter().find(strikes).map(|fault| fault.kind)
    }

    // A panic is what the file asks for: it stands for a bug.
    #[expect(clippy::panic)]
    fn strike(&mut self, fault: FaultKind, number: u64) -> BackendError {
        match fault {
            FaultKind::Failed => BackendError::Failed(format!("scripted fault at batch {number}")),
            FaultKind::OutOfMemory => BackendError::OutOfMemory,
            FaultKind::DeviceLost => {
                self.lost = true;
                self.submitted.clear();
                device_lost()
            }
            FaultKind::Panic => panic!("scripted panic at batch {number}"),
        }
    }

    /// per_batch + per_token · tokens, times a number within the jitter around 1 that the batch's number and the seed
    /// determine.
    fn service_time(&self, number: u64, tokens: usize) -> Duration {
        let config = &self.config.service_time;
        let nominal = config.per_batch.0.as_secs_f64() + config.per_token.0.as_secs_f64() * tokens as f64;
        let jitter = config.jitter * (2.0 * unit(mix(config.seed ^ mix(number))) - 1.0);
        Duration::from_secs_f64(nominal * (1.0 + jitter))
    }
}

impl Backend for ScriptedBackend {
    fn limits(&self) -> BackendLimits {
        self.submitted.limits()
    }

    fn submit(&mut self, batch: Arc<PackedBatch>) -> Result<Ticket, BackendError> {
        self.submitted.check(&batch)?;
        if self.lost {
            return Err(device_lost());
        }
        self.batches += 1;
        let number = self.batches;
        if let Some(fault) = self.fault(number, batch.len(), Moment::Submit) {
            return Err(self.strike(fault, number));
        }
        let fault = self.fault(number, batch.len(), Moment::Collect);
        self.submitted.push(Job { batch, number, fault })
    }

    fn collect(&mut self, ticket: Ticket) -> Result<BatchOutput, BackendError> {
        if self.lost {
            return Err(device_lost());
        }
        let Job { batch, number, fault } = self.submitted.pop(&ticket)?;
        thread::sleep(self.service_time(number, batch.total_tokens()));
        if let Some(fault) = fault {
            return Err(self.strike(fault, number));
        }
        if self.poison.is_some_and(|word| batch.input_ids().contains(&word)) {
            return Err(BackendError::Failed("poisoned input".to_owned()));
        }
        compute(&batch, self.config.dim as usize)
    }

    fn rebuild(&mut self) -> Result<(), BackendError> {
        self.submitted.clear();
        self.lost = false;
        Ok(())
    }
}

fn device_lost() -> BackendError {
    BackendError::DeviceLost("scripted".to_owned())
}

fn compute(batch: &PackedBatch, dim: usize) -> Result<BatchOutput, BackendError> {
    let sequences = batch.ranges().map(|range| &batch.input_ids()[range]);
    Ok(match batch.lane().operation {
        Operation::EncodeTokens => BatchOutput::TokenMatrices(sequences.map(|ids| token_matrix(ids, dim)).collect()),
        Operation::EncodeDense => BatchOutput::DenseVectors(sequences.map(|ids| dense_vector(ids, dim)).collect()),
        Operation::LateInteraction => BatchOutput::Scores(late_interaction(batch, dim)?),
        Operation::CrossEncode => {
            let types = batch.ranges().map(|range| &batch.token_type_ids()[range]);
            let scores = sequences.zip(types).map(|(ids, types)| {
                let (query, document) = ids.split_at(types.iter().take_while(|&&kind| kind == 0).count());
                let (query, document): (Vec<u32>, Vec<u32>) = (words(query).collect(), words(document).collect());
                score(query.len(), |i| !query[..i].contains(&query[i]) && document.contains(&query[i]), document.len())
            });
            BatchOutput::Scores(scores.collect())
        }
        operation @ (Operation::MaxSim | Operation::Align) => return Err(no_vectors_here(operation)),
    })
}

/// As for a pair. Of the query only its vectors are known; a word is in the document if its vector is.
fn late_interaction(batch: &PackedBatch, dim: usize) -> Result<Vec<f32>, BackendError> {
    let sequences = || batch.ranges().map(|range| &batch.input_ids()[range]).zip(batch.roles());
    for (ids, role) in sequences() {
        if let Role::Query(slot) = role {
            slot.fill(token_matrix(ids, dim));
        }
    }
    let special = [vector(START, dim), vector(END, dim)];
    sequences()
        .map(|(ids, role)| match role {
            Role::Query(_) => Ok(0.0),
            Role::Plain | Role::Compared(_) => {
                Err(BackendError::Failed("a sequence is neither query nor document".to_owned()))
            }
            Role::Document(slot) => {
                let query = slot.get().ok_or_else(|| BackendError::Failed("a query is not computed".to_owned()))?;
                let rows: Vec<&[f32]> =
                    query.data.chunks_exact(dim).filter(|row| !special.iter().any(|s| s == row)).collect();
                let document: Vec<Vec<f32>> = words(ids).map(|id| vector(id, dim)).collect();
                let found = |i: usize| !rows[..i].contains(&rows[i]) && document.iter().any(|v| v == rows[i]);
                Ok(score(rows.len(), found, document.len()))
            }
        })
        .collect()
}

/// Distinct query words that the document contains, plus less than 1 for a short document.
fn score(query_words: usize, is_first_and_found: impl Fn(usize) -> bool, document_words: usize) -> f32 {
    let matches = (0..query_words).filter(|&i| is_first_and_found(i)).count();
    matches as f32 + 1.0 / (2.0 + document_words as f32)
}

fn words(ids: &[u32]) -> impl Iterator<Item = u32> {
    ids.iter().copied().filter(|&id| id != START && id != END)
}

fn token_matrix(ids: &[u32], dim: usize) -> TokenMatrix {
    TokenMatrix { data: ids.iter().flat_map(|&id| vector(id, dim)).collect(), dim }
}

/// The normalised sum over words, or over special tokens where there is no word.
fn dense_vector(ids: &[u32], dim: usize) -> Vec<f32> {
    let mut sum = vec![0.0; dim];
    let only_special = words(ids).next().is_none();
    for &id in ids.iter().filter(|&&id| only_special || (id != START && id != END)) {
        sum.iter_mut().zip(vector(id, dim)).for_each(|(sum, x)| *sum += x);
    }
    normalized(sum)
}

/// A token's unit vector, a function of its id alone.
fn vector(id: u32, dim: usize) -> Vec<f32> {
    let components = (0..dim as u64).map(|i| (2.0 * unit(mix(u64::from(id) << 32 | i)) - 1.0) as f32);
    normalized(components.collect())
}

fn normalized(mut vector: Vec<f32>) -> Vec<f32> {
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|x| *x /= norm);
    }
    vector
}

/// Scatters bits; the finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A number in [0, 1) from 53 bits.
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}
