//! The BERT encoder over packed sequences, on candle's CPU tensors.
//!
//! Every matrix product is over all tokens of a part of the batch at once, and attention is per sequence: no padding
//! is computed. candle multiplies; everything between the products is a kernel of ours that works in place on a
//! tensor's memory, because candle's own element-wise operations are scalar and allocate.
//!
//! A batch is computed in parts of whole sequences, side by side. A part of 512 tokens and an intermediate size of
//! 1536 has 3 MiB of activations, which stay in cache between one operation and the next, and the parts keep all cores
//! busy through what a matrix product does not cover. Scratch memory is bounded by the cores, not by the batch.
//!
//! Cost of a token: `2·layers·(4·hidden² + 2·hidden·intermediate)` FLOPs in products, and `4·layers·hidden` more for
//! each token of its sequence in attention: 21 MFLOP and 9 kFLOP for MiniLM-L6.

mod ops;
mod weights;

use std::{ops::Range, path::Path};

use candle_core::{Device, Tensor};
use rayon::prelude::*;
use sluice_core::batch::PackedBatch;
use sluice_kernels::{
    activation::{Activation, add_bias, bias_activation},
    layer_norm::{LayerNorm, layer_norm},
};

use crate::{folder::BertConfig, load_error::LoadError};
use ops::{AttentionOp, in_place, with_values};
use weights::{Weights, read_weights};

/// Tokens of a part, unless a single sequence is longer.
const PART_TOKENS_MAX: usize = 512;
/// Below that, a part's products are too thin to be worth a core.
const PART_TOKENS_MIN: usize = 128;

/// Why a batch was not computed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BertError {
    /// A token that the embeddings lack.
    #[error("{what} {found} of a token is not below {limit}")]
    OutOfRange { what: &'static str, found: u32, limit: u32 },
    /// Asked of a model without a head.
    #[error("the model has no classification head")]
    NoHead,
    /// What candle says.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// An encoder and perhaps its classification head.
pub(crate) struct Bert {
    config: BertConfig,
    embeddings: Embeddings,
    layers: Vec<Layer>,
    head: Option<Head>,
    parameters: u64,
}

/// Tables of `hidden` columns.
struct Embeddings {
    words: Vec<f32>,
    positions: Vec<f32>,
    token_types: Vec<f32>,
    norm: Norm,
}

struct Layer {
    /// `hidden` → query, key and value, `3·hidden`.
    qkv: Linear,
    attention_output: Linear,
    attention_norm: Norm,
    intermediate: Linear,
    output: Linear,
    output_norm: Norm,
}

/// y = x·W + b.
struct Linear {
    /// `[in, out]`.
    weight: Tensor,
    bias: Vec<f32>,
}

struct Norm {
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

/// logit = classifier · tanh(pooler(h)) + bias, for the vector h of the first token.
struct Head {
    pooler: Linear,
    /// `[hidden]`.
    classifier: Vec<f32>,
    bias: f32,
}

impl Bert {
    /// Reads every tensor of the architecture, and the head's if `with_head`. `config_path` is for messages.
    pub(crate) fn load(
        path: &Path,
        config_path: &Path,
        config: &BertConfig,
        with_head: bool,
    ) -> Result<Self, LoadError> {
        let bytes = crate::folder::read_file(path)?;
        let weights = read_weights(path, &bytes)?;
        let (hidden, rows) = (config.hidden_size as usize, |count: u32| count as usize);
        let embeddings = Embeddings {
            words: weights.encoder("embeddings.word_embeddings.weight", &[rows(config.vocab_size), hidden])?,
            positions: weights
                .encoder("embeddings.position_embeddings.weight", &[rows(config.max_positions), hidden])?,
            token_types: weights
                .encoder("embeddings.token_type_embeddings.weight", &[rows(config.type_vocab_size), hidden])?,
            norm: Norm::load(&weights, "embeddings.LayerNorm", hidden)?,
        };
        let layers = (0..config.num_layers).map(|i| Layer::load(&weights, i, config)).collect::<Result<_, _>>()?;
        let head = if with_head { Some(Head::load(&weights, config_path, hidden)?) } else { None };
        Ok(Self { config: config.clone(), embeddings, layers, head, parameters: weights.parameters() })
    }

    /// Numbers stored in the weights file.
    pub(crate) fn parameters(&self) -> u64 {
        self.parameters
    }

    /// Components of a token vector.
    pub(crate) fn hidden_size(&self) -> usize {
        self.config.hidden_size as usize
    }

    /// The last hidden state of every token of a batch, `[total_tokens, hidden]`.
    pub(crate) fn encode(&self, batch: &PackedBatch) -> Result<Vec<f32>, BertError> {
        self.check(batch)?;
        let share = batch.total_tokens().div_ceil(rayon::current_num_threads());
        let parts = parts(batch.cu_seqlens(), share.clamp(PART_TOKENS_MIN, PART_TOKENS_MAX));
        let parts: Vec<Tensor> =
            parts.into_par_iter().map(|part| self.encode_part(batch, part)).collect::<Result<_, BertError>>()?;
        let mut hidden = Vec::with_capacity(batch.total_tokens() * self.hidden_size());
        for part in parts {
            with_values(&part, |values| hidden.extend_from_slice(values))?;
        }
        Ok(hidden)
    }

    /// The classification head's logit of every sequence, from its tokens' hidden state.
    pub(crate) fn logits(&self, batch: &PackedBatch, hidden: &[f32]) -> Result<Vec<f32>, BertError> {
        let head = self.head.as_ref().ok_or(BertError::NoHead)?;
        let dim = self.hidden_size();
        let first: Vec<f32> =
            batch.ranges().flat_map(|range| hidden[range.start * dim..][..dim].iter().copied()).collect();
        let pooled = head.pooler.forward(&matrix(first, dim)?)?;
        Ok(with_values(&pooled, |pooled| {
            pooled
                .chunks_exact(dim)
                .map(|row| {
                    let dot = |sum: f64, (x, w): (f32, f32)| sum + f64::from(x.tanh()) * f64::from(w);
                    let pairs =
                        row.iter().zip(&head.pooler.bias).map(|(x, b)| x + b).zip(head.classifier.iter().copied());
                    (pairs.fold(0.0, dot) + f64::from(head.bias)) as f32
                })
                .collect()
        })?)
    }

    /// Every id, type and position must have its row.
    fn check(&self, batch: &PackedBatch) -> Result<(), BertError> {
        let below = |what, largest: Option<u32>, limit| match largest {
            Some(found) if found >= limit => Err(BertError::OutOfRange { what, found, limit }),
            _ => Ok(()),
        };
        below("id", batch.input_ids().iter().copied().max(), self.config.vocab_size)?;
        below("type", batch.token_type_ids().iter().copied().max(), self.config.type_vocab_size)?;
        let last_position = u32::try_from(batch.max_seqlen()).unwrap_or(u32::MAX).saturating_sub(1);
        below("position", Some(last_position), self.config.max_positions)
    }

    /// The hidden state of some whole sequences.
    fn encode_part(&self, batch: &PackedBatch, sequences: Range<usize>) -> Result<Tensor, BertError> {
        let cu_seqlens = &batch.cu_seqlens()[sequences.start..=sequences.end];
        let tokens = cu_seqlens[0] as usize..cu_seqlens[cu_seqlens.len() - 1] as usize;
        let cu_seqlens: Vec<u32> = cu_seqlens.iter().map(|end| end - cu_seqlens[0]).collect();
        let input_ids = &batch.input_ids()[tokens.clone()];
        let mut x = self.embed(input_ids, &batch.token_type_ids()[tokens], &cu_seqlens)?;
        let num_heads = self.config.num_heads as usize;
        let attention = AttentionOp { cu_seqlens, num_heads, head_dim: self.hidden_size() / num_heads };
        for layer in &self.layers {
            x = layer.forward(&x, &attention, &self.config)?;
        }
        Ok(x)
    }

    /// Sums of the three embeddings, normalised.
    fn embed(&self, input_ids: &[u32], token_type_ids: &[u32], cu_seqlens: &[u32]) -> Result<Tensor, BertError> {
        let dim = self.hidden_size();
        let row = |index: u32| index as usize * dim..(index as usize + 1) * dim;
        let positions = cu_seqlens.windows(2).flat_map(|pair| 0..pair[1] - pair[0]);
        let Embeddings { words, positions: table, token_types, norm } = &self.embeddings;
        let mut x = Vec::with_capacity(input_ids.len() * dim);
        for ((&id, &token_type), position) in input_ids.iter().zip(token_type_ids).zip(positions) {
            let rows = words[row(id)].iter().zip(&table[row(position)]);
            let rows = rows.zip(&token_types[row(token_type)]);
            x.extend(rows.map(|((word, position), token_type)| word + position + token_type));
        }
        layer_norm(norm.args(&[], &[], &self.config), &mut x).map_err(candle_core::Error::wrap)?;
        Ok(matrix(x, dim)?)
    }
}

impl Layer {
    fn load(weights: &Weights<'_>, index: u32, config: &BertConfig) -> Result<Self, LoadError> {
        let (hidden, intermediate) = (config.hidden_size as usize, config.intermediate_size as usize);
        let linear =
            |name: &str, from, to| Linear::load(weights, &[&format!("encoder.layer.{index}.{name}")], from, to);
        let norm = |name: &str| Norm::load(weights, &format!("encoder.layer.{index}.{name}.LayerNorm"), hidden);
        let qkv = ["query", "key", "value"].map(|name| format!("encoder.layer.{index}.attention.self.{name}"));
        Ok(Self {
            qkv: Linear::load(weights, &qkv.each_ref().map(String::as_str), hidden, hidden)?,
            attention_output: linear("attention.output.dense", hidden, hidden)?,
            attention_norm: norm("attention.output")?,
            intermediate: linear("intermediate.dense", hidden, intermediate)?,
            output: linear("output.dense", intermediate, hidden)?,
            output_norm: norm("output")?,
        })
    }

    fn forward(&self, x: &Tensor, attention: &AttentionOp, config: &BertConfig) -> candle_core::Result<Tensor> {
        let qkv = self.qkv.forward(x)?;
        in_place("add_bias", &qkv, |qkv| add_bias(qkv, &self.qkv.bias))?;
        let attended = self.attention_output.forward(&qkv.apply_op1_no_bwd(attention)?)?;
        let attended = self.attention_norm.forward(attended, &self.attention_output.bias, x, config)?;

        let intermediate = self.intermediate.forward(&attended)?;
        let activation: Activation = config.activation;
        in_place("bias_activation", &intermediate, |x| bias_activation(x, &self.intermediate.bias, activation))?;
        let output = self.output.forward(&intermediate)?;
        self.output_norm.forward(output, &self.output.bias, &attended, config)
    }
}

impl Linear {
    /// Linear layers side by side: the columns of the second follow those of the first.
    fn load(weights: &Weights<'_>, names: &[&str], from: usize, to: usize) -> Result<Self, LoadError> {
        let columns = names.len() * to;
        let (mut transposed, mut bias) = (vec![0.0; from * columns], Vec::with_capacity(columns));
        for (i, name) in names.iter().enumerate() {
            let weight = weights.encoder(&format!("{name}.weight"), &[to, from])?;
            for (column, row) in weight.chunks_exact(from).enumerate() {
                for (k, &x) in row.iter().enumerate() {
                    transposed[k * columns + i * to + column] = x;
                }
            }
            bias.extend(weights.encoder(&format!("{name}.bias"), &[to])?);
        }
        let weight = matrix(transposed, columns).map_err(|error| weights.parse_error(error.to_string()))?;
        Ok(Self { weight, bias })
    }

    /// x·W, `[tokens, out]`: whoever comes next adds the bias in the same pass.
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        x.matmul(&self.weight)
    }
}

impl Norm {
    fn load(weights: &Weights<'_>, name: &str, dim: usize) -> Result<Self, LoadError> {
        // Checkpoints that came from TensorFlow kept its names.
        let [gamma, beta] = if weights.has(&format!("{name}.gamma")) { ["gamma", "beta"] } else { ["weight", "bias"] };
        Ok(Self {
            gamma: weights.encoder(&format!("{name}.{gamma}"), &[dim])?,
            beta: weights.encoder(&format!("{name}.{beta}"), &[dim])?,
        })
    }

    /// The norm of x + bias + residual, in x's memory.
    fn forward(&self, x: Tensor, bias: &[f32], residual: &Tensor, config: &BertConfig) -> candle_core::Result<Tensor> {
        with_values(residual, |residual| {
            in_place("layer_norm", &x, |x| layer_norm(self.args(bias, residual, config), x))
        })??;
        Ok(x)
    }

    fn args<'a>(&'a self, bias: &'a [f32], residual: &'a [f32], config: &BertConfig) -> LayerNorm<'a> {
        LayerNorm { bias, residual, gamma: &self.gamma, beta: &self.beta, epsilon: config.layer_norm_epsilon }
    }
}

impl Head {
    fn load(weights: &Weights<'_>, config_path: &Path, hidden: usize) -> Result<Self, LoadError> {
        if let Some([found, _]) =
            weights.shape("classifier.weight").as_deref().and_then(|s| <[usize; 2]>::try_from(s).ok())
            && found != 1
        {
            return Err(LoadError::Labels { path: config_path.into(), found });
        }
        Ok(Self {
            pooler: Linear::load(weights, &["pooler.dense"], hidden, hidden)?,
            classifier: weights.top("classifier.weight", &[1, hidden])?,
            bias: weights.top("classifier.bias", &[1])?[0],
        })
    }
}

/// Whole sequences, in order, of at most `tokens_max` tokens together, or a single one.
fn parts(cu_seqlens: &[u32], tokens_max: usize) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    for i in 0..cu_seqlens.len() - 1 {
        match parts.last_mut() {
            Some(part) if (cu_seqlens[i + 1] - cu_seqlens[part.start]) as usize <= tokens_max => part.end = i + 1,
            _ => parts.push(i..i + 1),
        }
    }
    parts
}

/// A row-major matrix of `columns` columns.
fn matrix(values: Vec<f32>, columns: usize) -> candle_core::Result<Tensor> {
    let rows = values.len() / columns;
    Tensor::from_vec(values, (rows, columns), &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_whole_sequences() {
        let cases: [(&[u32], usize, &[Range<usize>]); 5] = [
            (&[0], 8, &[]),
            (&[0, 3, 9], 8, &[0..1, 1..2]),
            (&[0, 3, 8, 9], 8, &[0..2, 2..3]),
            (&[0, 20, 21, 40], 8, &[0..1, 1..2, 2..3]),
            (&[0, 1, 2, 3, 4], 2, &[0..2, 2..4]),
        ];
        for (cu_seqlens, tokens_max, expected) in cases {
            assert_eq!(parts(cu_seqlens, tokens_max), expected, "{cu_seqlens:?} by {tokens_max}");
        }
    }
}
