//! Our engine without the server: tokenizer, packed batches, backend.

use std::{path::Path, sync::Arc, thread, time::Duration};

use anyhow::{Context, bail};
use sluice_core::{
    Lane, ModelIndex, Operation, RequestId, UnitId,
    backend::{Backend, BatchOutput},
    batch::{PackedBatch, QueryVectors, Role, Sequence},
};
use sluice_inference::{CpuOptions, LoadedModel, TextEncoder, load_folder};

use super::Method;
use crate::interleave::{Answer, Contender, Request};

/// A loaded model and the threads that tokenize for it.
pub struct InProcess {
    name: &'static str,
    model: LoadedModel,
    threads: usize,
    clock: fn() -> Duration,
}

impl InProcess {
    /// Loads a model folder; `name` is for the table.
    ///
    /// # Errors
    /// If it cannot be loaded.
    pub fn load(
        name: &'static str,
        folder: &Path,
        options: &CpuOptions,
        clock: fn() -> Duration,
    ) -> anyhow::Result<Self> {
        let model = load_folder(folder, String::new(), folder.display().to_string(), options)?;
        Ok(Self::of(name, model, options.threads, clock))
    }

    /// A model that is loaded, for which so many threads tokenize.
    #[must_use]
    pub fn of(name: &'static str, model: LoadedModel, threads: usize, clock: fn() -> Duration) -> Self {
        Self { name, model, threads, clock }
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &LoadedModel {
        &self.model
    }

    /// What computes it.
    pub fn backend(&mut self) -> &mut dyn Backend {
        &mut *self.model.backend
    }

    /// What computes it, and how large its batches are, for the report.
    #[must_use]
    pub fn description(&self) -> String {
        let limits = self.model.backend.limits();
        let Self { name, model, .. } = self;
        format!("{name}: {}, packed batches of at most {} tokens", model.info.backend, limits.batch_tokens_max)
    }

    /// Longest sequence of the model.
    #[must_use]
    pub fn max_tokens(&self) -> usize {
        self.model.info.max_tokens as usize
    }

    /// Its tokenizer, and how it is used.
    #[must_use]
    pub fn tokenizer(&self) -> (Arc<TextEncoder>, TokenLimits) {
        let limits = TokenLimits { max_tokens: self.max_tokens(), threads: self.threads };
        (Arc::clone(&self.model.text), limits)
    }

    /// As a contender for one method.
    pub(crate) fn contender(&mut self, method: Method) -> impl Contender + '_ {
        Scoring { engine: self, method }
    }

    /// Dense vectors of texts, in their order.
    ///
    /// # Errors
    /// If a text has no tokens, or the backend fails.
    pub fn encode(&mut self, texts: &[String]) -> anyhow::Result<Vec<Vec<f32>>> {
        let max_tokens = self.max_tokens();
        let text = |text: &String| single(&self.model.text, text, max_tokens, Role::Plain);
        let sequences: Vec<Sequence> = texts.iter().map(text).collect::<anyhow::Result<_>>()?;
        Ok(self.compute(Operation::EncodeDense, &sequences)?.vectors)
    }

    fn compute(&mut self, operation: Operation, sequences: &[Sequence]) -> anyhow::Result<Outputs> {
        let mut outputs = Outputs::default();
        let limits = self.model.backend.limits();
        let lane = Lane { model: ModelIndex(0), operation };
        let mut rest = sequences;
        while !rest.is_empty() {
            let mut batch = PackedBatch::with_capacity(lane, rest.len(), limits.batch_tokens_max as usize);
            while let Some((sequence, others)) = rest.split_first() {
                let tokens = batch.total_tokens() + sequence.input_ids.len();
                let full = batch.len() == limits.batch_sequences_max as usize;
                if full || (tokens > limits.batch_tokens_max as usize && !batch.is_empty()) {
                    break;
                }
                let index = u32::try_from(sequences.len() - rest.len()).context("too many sequences")?;
                batch.push(UnitId { request: RequestId(0), index }, sequence);
                rest = others;
            }
            let ticket = self.model.backend.submit(Arc::new(batch))?;
            outputs.add(self.model.backend.collect(ticket)?);
        }
        Ok(outputs)
    }
}

/// Longest sequence, and threads that tokenize.
#[derive(Debug, Clone, Copy)]
pub struct TokenLimits {
    /// Tokens of a sequence.
    pub max_tokens: usize,
    /// Documents are divided among so many.
    pub threads: usize,
}

/// The sequences of a request: the query's, except for a cross-encoder, and then one for each document.
///
/// # Errors
/// If a text has no tokens, or the query does not fit.
pub fn tokenize(
    text: &TextEncoder,
    TokenLimits { max_tokens, threads }: TokenLimits,
    method: Method,
    request: &Request,
) -> anyhow::Result<Vec<Sequence>> {
    let query = text.tokens(&request.query, None)?.ids;
    let slot = Arc::new(QueryVectors::default());
    let sequence = |document: &String| -> anyhow::Result<Sequence> {
        Ok(match method {
            Method::CrossEncoder => pair(text, &query, document, max_tokens)?,
            Method::Dense => single(text, document, max_tokens, Role::Plain)?,
            Method::LateInteraction => single(text, document, max_tokens, Role::Document(Arc::clone(&slot)))?,
        })
    };
    let mut sequences = match method {
        Method::CrossEncoder => Vec::new(),
        Method::Dense => vec![Sequence::single(text.single(&query), Role::Plain)],
        Method::LateInteraction => vec![Sequence::single(text.single(&query), Role::Query(Arc::clone(&slot)))],
    };
    let share = request.documents.len().div_ceil(threads).max(1);
    let parts: Vec<anyhow::Result<Vec<Sequence>>> = thread::scope(|scope| {
        let parts = request.documents.chunks(share);
        let threads: Vec<_> = parts.map(|part| scope.spawn(|| part.iter().map(sequence).collect())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| bail!("the tokenizer panicked"))).collect()
    });
    for part in parts {
        sequences.extend(part?);
    }
    Ok(sequences)
}

fn single(text: &TextEncoder, document: &str, max_tokens: usize, role: Role) -> anyhow::Result<Sequence> {
    let limit = max_tokens - text.special_tokens_single();
    Ok(Sequence::single(text.single(&text.tokens(document, Some(limit))?.ids), role))
}

fn pair(text: &TextEncoder, query: &[u32], document: &str, max_tokens: usize) -> anyhow::Result<Sequence> {
    let taken = text.special_tokens_pair() + query.len();
    let limit = max_tokens.checked_sub(taken).context("the query does not fit")?;
    let document = text.tokens(document, Some(limit))?.ids;
    let (input_ids, second_segment_start) = text.pair(query, &document);
    Ok(Sequence { input_ids, second_segment_start, role: Role::Plain })
}

/// Outputs of a request's batches, end to end.
#[derive(Default)]
struct Outputs {
    scores: Vec<f32>,
    vectors: Vec<Vec<f32>>,
}

impl Outputs {
    fn add(&mut self, output: BatchOutput) {
        match output {
            BatchOutput::Scores(scores) => self.scores.extend(scores),
            BatchOutput::DenseVectors(vectors) => self.vectors.extend(vectors),
            BatchOutput::TokenMatrices(_) | BatchOutput::Alignments(_) => {}
        }
    }

    /// Scores of the documents, without the query's own place.
    fn into_scores(self, method: Method) -> Vec<f32> {
        match method {
            Method::CrossEncoder => self.scores,
            Method::LateInteraction => self.scores.into_iter().skip(1).collect(),
            Method::Dense => match self.vectors.split_first() {
                Some((query, documents)) => documents.iter().map(|document| dot(query, document)).collect(),
                None => Vec::new(),
            },
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

struct Scoring<'a> {
    engine: &'a mut InProcess,
    method: Method,
}

impl Contender for Scoring<'_> {
    fn name(&self) -> String {
        self.engine.name.to_owned()
    }

    fn rerank(&mut self, request: &Request) -> anyhow::Result<Answer> {
        let clock = self.engine.clock;
        let started = clock();
        let (text, limits) = self.engine.tokenizer();
        let sequences = tokenize(&text, limits, self.method, request)?;
        let tokenized = clock();
        let outputs = self.engine.compute(self.method.operation(), &sequences)?;
        let scores = outputs.into_scores(self.method);
        let finished = clock();
        Ok(Answer {
            scores,
            tokens: sequences.iter().map(|sequence| sequence.input_ids.len() as u64).sum(),
            total: finished.saturating_sub(started),
            encode: Some(finished.saturating_sub(tokenized)),
        })
    }
}
