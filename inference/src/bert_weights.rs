//! A BERT's tensors by what they are for, read once for whichever engine computes with them.

mod tensors;

use std::path::Path;

use half::{f16, slice::HalfFloatSliceExt};
use sluice_core::batch::PackedBatch;
use sluice_kernels::layer_norm::LayerNorm;

use crate::{
    folder::{BertConfig, Family},
    load_error::LoadError,
};
use tensors::{Weights, read_weights};

/// A weights file in memory, with the sizes that it should have.
pub(crate) struct BertFile<'a> {
    weights: Weights<'a>,
    config: &'a BertConfig,
}

/// Tables of `hidden` columns; that of words is by far the largest.
pub(crate) struct Embeddings<W = f32> {
    pub(crate) words: Vec<W>,
    pub(crate) positions: Vec<f32>,
    pub(crate) token_types: Vec<f32>,
    pub(crate) norm: Norm,
}

/// The tensors of one layer.
pub(crate) struct LayerWeights {
    /// `hidden` → query, key and value, `3·hidden`.
    pub(crate) qkv: LinearWeights,
    pub(crate) attention_output: LinearWeights,
    pub(crate) attention_norm: Norm,
    pub(crate) intermediate: LinearWeights,
    pub(crate) output: LinearWeights,
    pub(crate) output_norm: Norm,
}

/// y = x·Wᵀ + b.
pub(crate) struct LinearWeights {
    /// `[outputs, inputs]`, row-major.
    pub(crate) weight: Vec<f32>,
    /// `[outputs]`.
    pub(crate) bias: Vec<f32>,
    /// Components of a row of x.
    pub(crate) inputs: usize,
}

/// Factor and offset of a layer normalisation.
pub(crate) struct Norm {
    gamma: Vec<f32>,
    beta: Vec<f32>,
    epsilon: f32,
}

/// logit = classifier · tanh(pooler(h)) + bias, for the vector h of the first token. RoBERTa calls them `out_proj` and
/// `dense`, and computes the same.
pub(crate) struct HeadWeights {
    pub(crate) pooler: LinearWeights,
    /// `[hidden]`.
    pub(crate) classifier: Vec<f32>,
    pub(crate) bias: f32,
}

impl<'a> BertFile<'a> {
    /// Reads the header of a safetensors file.
    pub(crate) fn read(path: &'a Path, bytes: &'a [u8], config: &'a BertConfig) -> Result<Self, LoadError> {
        Ok(Self { weights: read_weights(path, bytes)?, config })
    }

    /// Numbers stored in the file.
    pub(crate) fn parameters(&self) -> u64 {
        self.weights.parameters()
    }

    /// A fault of the file as a whole.
    pub(crate) fn fault(&self, reason: String) -> LoadError {
        self.weights.parse_error(reason)
    }

    /// Every number of the file is to be kept in f16.
    pub(crate) fn check_halves(&self) -> Result<(), LoadError> {
        self.weights.check_halves()
    }

    pub(crate) fn embeddings(&self) -> Result<Embeddings, LoadError> {
        let hidden = self.config.hidden_size as usize;
        let table = |name: &str, rows: u32| {
            self.weights.encoder(&format!("embeddings.{name}_embeddings.weight"), &[rows as usize, hidden])
        };
        let BertConfig { positions_skipped, max_positions, .. } = *self.config;
        let mut positions = table("position", positions_skipped + max_positions)?;
        positions.drain(..positions_skipped as usize * hidden);
        Ok(Embeddings {
            words: table("word", self.config.vocab_size)?,
            positions,
            token_types: table("token_type", self.config.type_vocab_size)?,
            norm: self.norm("embeddings.LayerNorm")?,
        })
    }

    pub(crate) fn layer(&self, index: u32) -> Result<LayerWeights, LoadError> {
        let (hidden, intermediate) = (self.config.hidden_size as usize, self.config.intermediate_size as usize);
        let linear = |name: &str, from, to| self.linear(&[&format!("encoder.layer.{index}.{name}")], from, to);
        let norm = |name: &str| self.norm(&format!("encoder.layer.{index}.{name}.LayerNorm"));
        let qkv = ["query", "key", "value"].map(|name| format!("encoder.layer.{index}.attention.self.{name}"));
        Ok(LayerWeights {
            qkv: self.linear(&qkv.each_ref().map(String::as_str), hidden, hidden)?,
            attention_output: linear("attention.output.dense", hidden, hidden)?,
            attention_norm: norm("attention.output")?,
            intermediate: linear("intermediate.dense", hidden, intermediate)?,
            output: linear("output.dense", intermediate, hidden)?,
            output_norm: norm("output")?,
        })
    }

    /// The head's tensors. `config_path` is for messages.
    pub(crate) fn head(&self, config_path: &Path) -> Result<HeadWeights, LoadError> {
        let hidden = self.config.hidden_size as usize;
        let classifier = match self.config.family {
            Family::Bert => "classifier",
            Family::Roberta => "classifier.out_proj",
        };
        if let Some(&[found, _]) = self.weights.shape(&format!("{classifier}.weight")).as_deref()
            && found != 1
        {
            return Err(LoadError::Labels { path: config_path.into(), found });
        }
        let pooler = match self.config.family {
            Family::Bert => self.linear(&["pooler.dense"], hidden, hidden)?,
            Family::Roberta => LinearWeights {
                weight: self.weights.top("classifier.dense.weight", &[hidden, hidden])?,
                bias: self.weights.top("classifier.dense.bias", &[hidden])?,
                inputs: hidden,
            },
        };
        Ok(HeadWeights {
            pooler,
            classifier: self.weights.top(&format!("{classifier}.weight"), &[1, hidden])?,
            bias: self.weights.top(&format!("{classifier}.bias"), &[1])?[0],
        })
    }

    /// Linear layers side by side: the outputs of the second follow those of the first.
    fn linear(&self, names: &[&str], inputs: usize, outputs: usize) -> Result<LinearWeights, LoadError> {
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for name in names {
            weight.extend(self.weights.encoder(&format!("{name}.weight"), &[outputs, inputs])?);
            bias.extend(self.weights.encoder(&format!("{name}.bias"), &[outputs])?);
        }
        Ok(LinearWeights { weight, bias, inputs })
    }

    fn norm(&self, name: &str) -> Result<Norm, LoadError> {
        let dim = self.config.hidden_size as usize;
        // Checkpoints that came from TensorFlow kept its names.
        let has_old_names = self.weights.has(&format!("{name}.gamma"));
        let [gamma, beta] = if has_old_names { ["gamma", "beta"] } else { ["weight", "bias"] };
        Ok(Norm {
            gamma: self.weights.encoder(&format!("{name}.{gamma}"), &[dim])?,
            beta: self.weights.encoder(&format!("{name}.{beta}"), &[dim])?,
            epsilon: self.config.layer_norm_epsilon,
        })
    }
}

/// A number of a table, as it is stored.
pub(crate) trait Stored: Sized {
    fn read(row: &[Self], out: &mut [f32]);
}

impl Stored for f32 {
    fn read(row: &[Self], out: &mut [f32]) {
        out.copy_from_slice(row);
    }
}

impl Stored for f16 {
    fn read(row: &[Self], out: &mut [f32]) {
        row.convert_to_f32_slice(out);
    }
}

impl<W: Stored> Embeddings<W> {
    /// The sum of a token's three embeddings into `out`, not yet normalised.
    pub(crate) fn sum(&self, id: u32, position: u32, token_type: u32, out: &mut [f32]) {
        let dim = out.len();
        let row = |index: u32| index as usize * dim..(index as usize + 1) * dim;
        W::read(&self.words[row(id)], out);
        let others = self.positions[row(position)].iter().zip(&self.token_types[row(token_type)]);
        for (out, (position, token_type)) in out.iter_mut().zip(others) {
            *out = *out + position + token_type;
        }
    }
}

impl Embeddings {
    /// With the table of words in f16.
    pub(crate) fn in_halves(self) -> Embeddings<f16> {
        let Self { words, positions, token_types, norm } = self;
        Embeddings { words: words.into_iter().map(f16::from_f32).collect(), positions, token_types, norm }
    }
}

impl Norm {
    /// How large each component of its output gets: three deviations of what it scales, and what it adds.
    pub(crate) fn magnitudes(&self) -> impl Iterator<Item = f32> + '_ {
        self.gamma.iter().zip(&self.beta).map(|(gamma, beta)| (3.0 * gamma).hypot(*beta))
    }

    /// For [`sluice_kernels::layer_norm::layer_norm`] of x + bias + residual.
    pub(crate) fn args<'a>(&'a self, bias: &'a [f32], residual: &'a [f32]) -> LayerNorm<'a> {
        LayerNorm { bias, residual, gamma: &self.gamma, beta: &self.beta, epsilon: self.epsilon }
    }
}

/// A token that the embeddings lack.
#[derive(Debug, thiserror::Error)]
#[error("{what} {found} of a token is not below {limit}")]
pub(crate) struct OutOfRange {
    what: &'static str,
    found: u32,
    limit: u32,
}

/// Every id, type and position must have its row.
pub(crate) fn check_tokens(config: &BertConfig, batch: &PackedBatch) -> Result<(), OutOfRange> {
    let below = |what, largest: Option<u32>, limit| match largest {
        Some(found) if found >= limit => Err(OutOfRange { what, found, limit }),
        _ => Ok(()),
    };
    below("id", batch.input_ids().iter().copied().max(), config.vocab_size)?;
    below("type", batch.token_type_ids().iter().copied().max(), config.type_vocab_size)?;
    let last_position = u32::try_from(batch.max_seqlen()).unwrap_or(u32::MAX).saturating_sub(1);
    below("position", Some(last_position), config.max_positions)
}
