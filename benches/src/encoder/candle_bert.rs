//! candle's own BERT (`candle-transformers`), as its examples run it: padded batches, the layers one after the other.

use std::{cmp::Reverse, fs, iter::repeat_n, path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use candle_core::{D, DType, Device, Tensor};
use candle_nn::{Linear, Module, VarBuilder};
use candle_transformers::models::bert::{BertModel, Config};
use sluice_core::batch::Sequence;
use sluice_inference::TextEncoder;

use super::{
    Method,
    fastest::{BATCH_SIZES, fastest},
    in_process::{TokenLimits, tokenize},
};
use crate::interleave::{Answer, Contender, Request};

/// Its prefix in the merged folder.
const ENCODER: &str = "bert";

/// The model, the head beside it, and the tokenizer that all contenders share.
pub struct CandleBert {
    bert: BertModel,
    pooler: Linear,
    classifier: Linear,
    text: Arc<TextEncoder>,
    limits: TokenLimits,
    clock: fn() -> Duration,
}

impl CandleBert {
    /// Loads a merged folder. candle's threads are rayon's: as many as the machine has processors, unless
    /// `RAYON_NUM_THREADS` says otherwise.
    ///
    /// # Errors
    /// If it cannot be loaded.
    pub fn load(
        folder: &Path,
        (text, limits): (Arc<TextEncoder>, TokenLimits),
        clock: fn() -> Duration,
    ) -> anyhow::Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let config: Config = serde_json::from_slice(&read("config.json")?)?;
        let weights = VarBuilder::from_buffered_safetensors(read("model.safetensors")?, DType::F32, &Device::Cpu)?;
        let hidden = config.hidden_size;
        Ok(Self {
            bert: BertModel::load(weights.pp(ENCODER), &config)?,
            pooler: candle_nn::linear(hidden, hidden, weights.pp(ENCODER).pp("pooler.dense"))?,
            classifier: candle_nn::linear(hidden, 1, weights.pp("classifier"))?,
            text,
            limits,
            clock,
        })
    }

    /// The batch size at which it answers this request soonest.
    ///
    /// # Errors
    /// If it fails.
    pub fn best_batch(&self, method: Method, request: &Request) -> anyhow::Result<usize> {
        fastest(&BATCH_SIZES, |batch| Ok(self.contender(method, batch).rerank(request)?.total))
    }

    /// As a contender with one batch size.
    #[must_use]
    pub fn contender(&self, method: Method, batch: usize) -> impl Contender + '_ {
        Padded { model: self, method, batch }
    }

    fn scores(&self, method: Method, sequences: &[Sequence], batch: usize) -> anyhow::Result<Vec<f32>> {
        let (query, documents) = match method {
            Method::CrossEncoder => (None, sequences),
            Method::Dense | Method::LateInteraction => {
                let (query, documents) = sequences.split_first().context("no query")?;
                (Some(self.vectors(method, &[query])?), documents)
            }
        };
        // Sequences of about one length together.
        let mut order: Vec<usize> = (0..documents.len()).collect();
        order.sort_by_key(|&index| Reverse(documents[index].input_ids.len()));
        let mut scores = vec![0.0; documents.len()];
        for members in order.chunks(batch) {
            let sequences: Vec<&Sequence> = members.iter().map(|&index| &documents[index]).collect();
            let found = match &query {
                None => self.logits(&sequences)?,
                Some(query) => similarities(method, query, &self.vectors(method, &sequences)?)?,
            };
            for (&member, score) in members.iter().zip(found.to_vec1::<f32>()?) {
                scores[member] = score;
            }
        }
        Ok(scores)
    }

    /// Logits of pairs, `[batch]`.
    fn logits(&self, pairs: &[&Sequence]) -> candle_core::Result<Tensor> {
        let (hidden, _) = self.encode(pairs)?;
        let first = hidden.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?;
        self.classifier.forward(&self.pooler.forward(&first)?.tanh()?)?.squeeze(1)
    }

    /// Vectors of length 1 and which of them count: one of each sequence, or one of each token.
    fn vectors(&self, method: Method, sequences: &[&Sequence]) -> candle_core::Result<Vectors> {
        let (hidden, mask) = self.encode(sequences)?;
        let vectors = match method {
            Method::Dense => hidden.broadcast_mul(&mask.unsqueeze(2)?)?.sum(1)?,
            Method::LateInteraction | Method::CrossEncoder => hidden,
        };
        let lengths = vectors.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
        Ok(Vectors { vectors: vectors.broadcast_div(&lengths)?, mask })
    }

    /// The last hidden states, `[batch, longest, hidden]`, and the mask, `[batch, longest]`.
    fn encode(&self, sequences: &[&Sequence]) -> candle_core::Result<(Tensor, Tensor)> {
        let longest = sequences.iter().map(|sequence| sequence.input_ids.len()).max().unwrap_or(0);
        let shape = (sequences.len(), longest);
        let (mut ids, mut types, mut mask) = (Vec::new(), Vec::new(), Vec::new());
        for sequence in sequences {
            let length = sequence.input_ids.len();
            let second = sequence.second_segment_start as usize;
            let padding = longest - length;
            ids.extend(sequence.input_ids.iter().copied().chain(repeat_n(0, padding)));
            types.extend((0..length).map(|at| u32::from(at >= second)).chain(repeat_n(0, padding)));
            mask.extend((0..longest).map(|at| if at < length { 1.0_f32 } else { 0.0 }));
        }
        let mask = Tensor::from_vec(mask, shape, &Device::Cpu)?;
        let ids = Tensor::from_vec(ids, shape, &Device::Cpu)?;
        let types = Tensor::from_vec(types, shape, &Device::Cpu)?;
        let hidden = self.bert.forward(&ids, &types, Some(&mask))?;
        Ok((hidden, mask))
    }
}

/// Vectors of one batch.
struct Vectors {
    /// `[batch, hidden]`, or `[batch, longest, hidden]`.
    vectors: Tensor,
    /// `[batch, longest]`: 1 for a token, 0 for padding.
    mask: Tensor,
}

/// Of one query with each document, `[batch]`: the cosine, or the sum of each query token's largest.
fn similarities(method: Method, query: &Vectors, documents: &Vectors) -> candle_core::Result<Tensor> {
    let (query, mask) = (query.vectors.squeeze(0)?, &documents.mask);
    match method {
        Method::Dense => documents.vectors.matmul(&query.unsqueeze(1)?)?.squeeze(1),
        Method::LateInteraction | Method::CrossEncoder => {
            let found = documents.vectors.broadcast_matmul(&query.t()?)?;
            // A cosine is at least -1: what is padding is far below.
            let padding = mask.affine(1e4, -1e4)?.unsqueeze(2)?;
            found.broadcast_add(&padding)?.max(1)?.sum(1)
        }
    }
}

struct Padded<'a> {
    model: &'a CandleBert,
    method: Method,
    batch: usize,
}

impl Contender for Padded<'_> {
    fn name(&self) -> String {
        "candle-transformers".to_owned()
    }

    fn rerank(&mut self, request: &Request) -> anyhow::Result<Answer> {
        let CandleBert { text, limits, clock, .. } = self.model;
        let started = clock();
        let sequences = tokenize(text, *limits, self.method, request)?;
        let tokenized = clock();
        let scores = self.model.scores(self.method, &sequences, self.batch)?;
        let finished = clock();
        Ok(Answer {
            scores,
            tokens: sequences.iter().map(|sequence| sequence.input_ids.len() as u64).sum(),
            total: finished.saturating_sub(started),
            encode: Some(finished.saturating_sub(tokenized)),
        })
    }
}
