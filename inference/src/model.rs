//! What a model can do, and how it is loaded.

use std::{path::Path, sync::Arc};

use sluice_core::backend::{Backend, BackendLimits};

use crate::{
    bert::Bert,
    candle_backend::CandleBackend,
    folder::{self, FolderConfig},
    load_error::LoadError,
    scripted,
    text::TextEncoder,
};

/// A model's description, as callers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// Where it was taken from, as configured.
    pub source: String,
    /// Hex SHA-256 of what it was made from.
    pub digest: String,
    /// Architecture named by the folder, e.g. `BertModel`; `scripted` for a scripted model.
    pub architecture: String,
    /// What computes it: `candle-cpu` or `scripted`.
    pub backend: &'static str,
    /// Reranks by MaxSim over token vectors.
    pub late_interaction: bool,
    /// Reranks by the cosine of pooled vectors.
    pub dense: bool,
    /// Reranks by a classification head over the pair.
    pub cross_encoder: bool,
    /// Returns token embeddings.
    pub encode_tokens: bool,
    /// Returns dense embeddings.
    pub encode_dense: bool,
    /// Longest sequence, special tokens included; a pair counts as one sequence.
    pub max_tokens: u32,
    /// Components of a token vector and of a dense vector.
    pub embedding_dim: u32,
    /// Parameters stored in the weights file; 0 for a scripted model.
    pub parameters: u64,
}

/// A model that is ready to compute.
pub struct LoadedModel {
    /// What it is.
    pub info: ModelInfo,
    /// Turns its texts into tokens; shared by the threads that tokenize.
    pub text: Arc<TextEncoder>,
    /// Computes its batches; owned by the thread of its device.
    pub backend: Box<dyn Backend>,
}

/// How much the CPU takes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuOptions {
    /// Tokens of one batch; at least the model's longest sequence.
    pub batch_tokens_max: u32,
    /// Sequences of one batch; at least 1.
    pub batch_sequences_max: u32,
}

/// Loads a model folder in the Hugging Face layout for the CPU. `digest` and `source` are passed on in its
/// description.
///
/// A folder with a classification head also offers what the encoder below the head can do.
///
/// # Errors
/// [`LoadError`] names the file and what was expected of it; nothing is half loaded.
pub fn load_folder(
    path: &Path,
    digest: String,
    source: String,
    options: &CpuOptions,
) -> Result<LoadedModel, LoadError> {
    let folder = FolderConfig::read(path)?;
    let text = folder::read_tokenizer(&folder.tokenizer)?;
    check_tokenizer(&folder, &text)?;
    folder::check_batch(&folder.config, options, folder.max_tokens)?;
    let bert = Bert::load(&folder.weights, &folder.config, &folder.bert, folder.cross_encoder)?;
    let info = ModelInfo {
        source,
        digest,
        architecture: folder.architecture,
        backend: "candle-cpu",
        late_interaction: true,
        dense: true,
        cross_encoder: folder.cross_encoder,
        encode_tokens: true,
        encode_dense: true,
        max_tokens: folder.max_tokens,
        embedding_dim: folder.bert.hidden_size,
        parameters: bert.parameters(),
    };
    let limits = BackendLimits {
        batch_tokens_max: options.batch_tokens_max,
        batch_sequences_max: options.batch_sequences_max,
        in_flight_batches_max: 1,
    };
    let backend = Box::new(CandleBackend::new(bert, folder.pooling, limits));
    Ok(LoadedModel { info, text: Arc::new(text), backend })
}

/// Loads a model whose scores, service times and faults a TOML file describes. It computes nothing; it is for
/// tests and load experiments. Blocks for the load delay that the file asks for.
///
/// | key | meaning | default |
/// |---|---|---|
/// | `max_tokens` | longest sequence, special tokens included | 512 |
/// | `dim` | components of its vectors | 16 |
/// | `batch_tokens_max`, `batch_sequences_max`, `in_flight_batches_max` | limits of the backend | 16384, 256, 1 |
/// | `capabilities` | of `late_interaction`, `dense`, `cross_encoder`, `encode_tokens`, `encode_dense` | all |
/// | `poison` | a word; a batch that contains it fails | none |
/// | `[service_time] per_batch`, `per_token` | how long a batch takes, e.g. `"2ms"`, `"1.5us"` | 0 |
/// | `[service_time] jitter`, `seed` | that time is multiplied by a number from 1 − jitter to 1 + jitter | 0 |
/// | `[[fault]] at_batch` | the batch it strikes, counting submitted ones from 1 | required |
/// | `[[fault]] kind` | `failed`, `out_of_memory`, `device_lost` or `panic` | required |
/// | `[[fault]] when` | `submit` or `collect` | `collect` |
/// | `[[fault]] repeat` | how many batches in a row it strikes | 1 |
/// | `[load] delay` | how long loading takes | 0 |
///
/// Tokens are the words between white space, without regard to case. A pair's score, and that of late
/// interaction, is the number of the query's distinct words that the document contains, plus
/// 1 / (2 + words of the document): more matches first, then shorter documents. Token vectors are pseudo-random unit
/// vectors, one for each word; a dense vector is the normalised sum of its words' vectors, so that its cosine grows
/// with the share of common words, not with their number.
///
/// # Errors
/// [`LoadError`] if the file cannot be read or says what makes no sense.
pub fn load_scripted(file: &Path) -> Result<LoadedModel, LoadError> {
    scripted::load(file)
}

/// The tokenizer must name no row that the weights lack, and do what the encoder was trained with.
fn check_tokenizer(folder: &FolderConfig, text: &TextEncoder) -> Result<(), LoadError> {
    let fault = |reason: String| LoadError::Tokenizer { path: folder.tokenizer.clone(), reason };
    let largest = text.largest_id();
    if largest >= folder.bert.vocab_size {
        let rows = folder.bert.vocab_size;
        return Err(fault(format!("has id {largest}, and the model's vocabulary has {rows} entries")));
    }
    if folder.lowercase && !text.lowercases() {
        return Err(fault("keeps upper case, and sentence_bert_config.json says do_lower_case".to_owned()));
    }
    let special = text.special_tokens_single().max(text.special_tokens_pair());
    if special >= folder.max_tokens as usize {
        let max_tokens = folder.max_tokens;
        return Err(fault(format!("adds {special} special tokens, which leaves nothing of {max_tokens} for the text")));
    }
    if folder.cross_encoder && text.has_second_segment() && folder.bert.type_vocab_size < 2 {
        return Err(fault("gives pairs two token types, and the model has one".to_owned()));
    }
    Ok(())
}
