//! The BERT encoder over packed sequences, on candle's CPU tensors.
//!
//! Every matrix product is over all tokens of a part of the batch at once, and attention is per sequence: no padding
//! is computed. candle multiplies; everything between the products is a kernel of ours that works in place on a
//! tensor's memory, because candle's own element-wise operations are scalar and allocate. It is the second opinion on
//! [`crate::cpu_encoder`]'s products and on its division of the work.
//!
//! A batch is computed in parts of whole sequences, side by side, so that all cores are busy with what a matrix product
//! does not cover, and scratch memory is bounded by the cores and not by the batch: a part of 2048 tokens with an
//! intermediate size of 1536 has at most 30 MiB of activations at once.
//!
//! Cost of a token: `2·layers·(4·hidden² + 2·hidden·intermediate)` FLOPs in products, and `4·layers·hidden` more for
//! each token of its sequence in attention: 21 MFLOP and 9 kFLOP for MiniLM-L6.

mod ops;

use std::{ops::Range, path::Path};

use candle_core::{Device, Tensor};
use rayon::prelude::*;
use sluice_core::batch::PackedBatch;
use sluice_kernels::{
    Isa,
    activation::{add_bias, bias_activation},
    layer_norm::layer_norm,
};

use crate::{
    bert_weights::{BertFile, Embeddings, HeadWeights, LayerWeights, LinearWeights, Norm, OutOfRange, check_tokens},
    folder::BertConfig,
    load_error::LoadError,
};
use ops::{AttentionOp, in_place, with_values};

/// Tokens of a part, unless a single sequence is longer. Parts of 512 took a tenth more CPU time on 2 cores: candle
/// divides each product among the cores once more.
const PART_TOKENS_MAX: usize = 2048;
/// Below that, a part's products are too thin to be worth a core.
const PART_TOKENS_MIN: usize = 128;

/// Why a batch was not computed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BertError {
    /// A token that the embeddings lack.
    #[error(transparent)]
    Token(#[from] OutOfRange),
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
        let file = BertFile::read(path, &bytes, config)?;
        let embeddings = file.embeddings()?;
        let layers = (0..config.num_layers)
            .map(|i| Layer::of(file.layer(i)?).map_err(|error| file.fault(error.to_string())))
            .collect::<Result<_, _>>()?;
        let head = if with_head { Some(file.head(config_path)?) } else { None };
        let head = head.map(Head::of).transpose().map_err(|error| file.fault(error.to_string()))?;
        Ok(Self { config: config.clone(), embeddings, layers, head, parameters: file.parameters() })
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
        check_tokens(&self.config, batch)?;
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
        let positions = cu_seqlens.windows(2).flat_map(|pair| 0..pair[1] - pair[0]);
        let mut x = vec![0.0; input_ids.len() * dim];
        let tokens = input_ids.iter().zip(token_type_ids).zip(positions);
        for (out, ((&id, &token_type), position)) in x.chunks_exact_mut(dim).zip(tokens) {
            self.embeddings.sum(id, position, token_type, out);
        }
        layer_norm(Isa::best(), self.embeddings.norm.args(&[], &[]), &mut x).map_err(candle_core::Error::wrap)?;
        Ok(matrix(x, dim)?)
    }
}

impl Layer {
    fn of(weights: LayerWeights) -> candle_core::Result<Self> {
        Ok(Self {
            qkv: Linear::of(weights.qkv)?,
            attention_output: Linear::of(weights.attention_output)?,
            attention_norm: weights.attention_norm,
            intermediate: Linear::of(weights.intermediate)?,
            output: Linear::of(weights.output)?,
            output_norm: weights.output_norm,
        })
    }

    fn forward(&self, x: &Tensor, attention: &AttentionOp, config: &BertConfig) -> candle_core::Result<Tensor> {
        let qkv = self.qkv.forward(x)?;
        in_place("add_bias", &qkv, |qkv| add_bias(Isa::best(), qkv, &self.qkv.bias))?;
        let attended = self.attention_output.forward(&qkv.apply_op1_no_bwd(attention)?)?;
        let attended = normalized(&self.attention_norm, attended, &self.attention_output.bias, x)?;

        let intermediate = self.intermediate.forward(&attended)?;
        in_place("bias_activation", &intermediate, |x| {
            bias_activation(Isa::best(), x, &self.intermediate.bias, config.activation)
        })?;
        let output = self.output.forward(&intermediate)?;
        normalized(&self.output_norm, output, &self.output.bias, &attended)
    }
}

impl Linear {
    fn of(LinearWeights { weight, bias, inputs }: LinearWeights) -> candle_core::Result<Self> {
        let columns = bias.len();
        let mut transposed = vec![0.0; weight.len()];
        for (column, row) in weight.chunks_exact(inputs).enumerate() {
            for (k, &x) in row.iter().enumerate() {
                transposed[k * columns + column] = x;
            }
        }
        Ok(Self { weight: matrix(transposed, columns)?, bias })
    }

    /// x·W, `[tokens, out]`: whoever comes next adds the bias in the same pass.
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        x.matmul(&self.weight)
    }
}

/// The norm of x + bias + residual, in x's memory.
fn normalized(norm: &Norm, x: Tensor, bias: &[f32], residual: &Tensor) -> candle_core::Result<Tensor> {
    with_values(residual, |residual| {
        in_place("layer_norm", &x, |x| layer_norm(Isa::best(), norm.args(bias, residual), x))
    })??;
    Ok(x)
}

impl Head {
    fn of(HeadWeights { pooler, classifier, bias }: HeadWeights) -> candle_core::Result<Self> {
        Ok(Self { pooler: Linear::of(pooler)?, classifier, bias })
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
        let cases: [(&[u32], usize, &[(usize, usize)]); 5] = [
            (&[0], 8, &[]),
            (&[0, 3], 8, &[(0, 1)]),
            (&[0, 3, 8, 9], 8, &[(0, 2), (2, 3)]),
            (&[0, 20, 21, 40], 8, &[(0, 1), (1, 2), (2, 3)]),
            (&[0, 1, 2, 3, 4], 2, &[(0, 2), (2, 4)]),
        ];
        for (cu_seqlens, tokens_max, expected) in cases {
            let parts: Vec<(usize, usize)> =
                parts(cu_seqlens, tokens_max).into_iter().map(|part| (part.start, part.end)).collect();
            assert_eq!(parts, expected, "{cu_seqlens:?} by {tokens_max}");
        }
    }
}
