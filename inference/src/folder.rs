//! A model folder's configuration files.
//!
//! | file | read for | if absent |
//! |---|---|---|
//! | `config.json` | architecture and sizes | refused |
//! | `modules.json` | which modules follow the encoder | encoder, then mean pooling |
//! | `1_Pooling/config.json`, or what `modules.json` names | how a sequence becomes one vector | mean |
//! | `sentence_bert_config.json` | `max_seq_length`, `do_lower_case` | no limit of its own |
//! | `tokenizer_config.json` | `model_max_length` | no limit of its own |
//! | `tokenizer.json`, `model.safetensors` | by [`crate::text`] and [`crate::bert_weights`] | refused |

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeOwned};
use sluice_core::backend::BackendLimits;
use sluice_kernels::{activation::Activation, pool::Pooling};

use crate::{
    load_error::LoadError,
    text::{InvalidTokenizer, TextEncoder},
};

/// Which architectures have an encoder that is known: their `model_type`, and how their names begin.
const FAMILIES: [(&str, &str, Family); 3] = [
    ("bert", "Bert", Family::Bert),
    ("roberta", "Roberta", Family::Roberta),
    ("xlm-roberta", "XLMRoberta", Family::Roberta),
];
/// How the names of architectures end whose head is left out, if they have one.
const ENCODERS: [&str; 3] = ["Model", "ForMaskedLM", "ForPreTraining"];
/// And of the one whose head makes it a cross-encoder.
const CLASSIFIER: &str = "ForSequenceClassification";
const SUPPORTED_ARCHITECTURES: &str = "BertModel, BertForMaskedLM, BertForPreTraining and BertForSequenceClassification \
     with model_type \"bert\", and the same of Roberta (\"roberta\") and XLMRoberta (\"xlm-roberta\")";

/// A folder's configuration, checked.
#[derive(Debug)]
pub(crate) struct FolderConfig {
    /// Path of `config.json`, for messages.
    pub(crate) config: PathBuf,
    /// Path of the tokenizer.
    pub(crate) tokenizer: PathBuf,
    /// Path of the weights.
    pub(crate) weights: PathBuf,
    /// Architecture by name.
    pub(crate) architecture: String,
    /// Sizes of the encoder.
    pub(crate) bert: BertConfig,
    /// Whether there is a classification head of one label.
    pub(crate) cross_encoder: bool,
    /// How a sequence becomes one vector.
    pub(crate) pooling: Pooling,
    /// Longest sequence, special tokens included.
    pub(crate) max_tokens: u32,
    /// The text is to be lowercased whatever the tokenizer does.
    pub(crate) lowercase: bool,
}

/// Encoders of the same layers, whose folders differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// Positions count from the table's first row; the head is `pooler.dense` and `classifier`.
    Bert,
    /// RoBERTa and XLM-RoBERTa: positions count from the row after the padding token's; the head is `classifier.dense`
    /// and `classifier.out_proj`.
    Roberta,
}

/// Sizes of a BERT encoder.
#[derive(Clone, Debug)]
pub(crate) struct BertConfig {
    /// How its folder is laid out.
    pub(crate) family: Family,
    /// Rows of the word embeddings.
    pub(crate) vocab_size: u32,
    /// Components of a token vector; a multiple of `num_heads`.
    pub(crate) hidden_size: u32,
    /// Layers.
    pub(crate) num_layers: u32,
    /// Attention heads of a layer.
    pub(crate) num_heads: u32,
    /// Components between the two feed-forward matrices.
    pub(crate) intermediate_size: u32,
    /// Rows of the position embeddings before that of a sequence's first token.
    pub(crate) positions_skipped: u32,
    /// Rows of the position embeddings from there on.
    pub(crate) max_positions: u32,
    /// Rows of the token-type embeddings.
    pub(crate) type_vocab_size: u32,
    /// Added to variances.
    pub(crate) layer_norm_epsilon: f32,
    /// Between the two feed-forward matrices.
    pub(crate) activation: Activation,
}

impl FolderConfig {
    /// Reads and checks everything but tokenizer and weights.
    pub(crate) fn read(root: &Path) -> Result<Self, LoadError> {
        let modules = Modules::read(root)?;
        let encoder = modules.encoder;
        let config = encoder.join("config.json");
        let parsed: ConfigFile = read_json(&config)?;
        let (family, architecture) = parsed.check_architecture(&config)?;
        let cross_encoder = architecture.ends_with(CLASSIFIER);
        if cross_encoder && let Some(found) = parsed.labels().filter(|&labels| labels != 1) {
            return Err(LoadError::Labels { path: config, found });
        }
        let bert = parsed.bert(family, &config)?;
        let sentence_bert: SentenceBertFile =
            read_json_if_there(&encoder.join("sentence_bert_config.json"))?.unwrap_or_default();
        let tokenizer_config: TokenizerConfigFile =
            read_json_if_there(&encoder.join("tokenizer_config.json"))?.unwrap_or_default();
        let limits = [sentence_bert.max_seq_length, tokenizer_config.model_max_length];
        let max_tokens = limits.into_iter().flatten().filter_map(sane_length).fold(bert.max_positions, u32::min);
        Ok(Self {
            tokenizer: encoder.join("tokenizer.json"),
            weights: encoder.join("model.safetensors"),
            config,
            architecture,
            bert,
            cross_encoder,
            pooling: modules.pooling,
            max_tokens,
            lowercase: sentence_bert.do_lower_case.unwrap_or(false),
        })
    }
}

/// Reads `tokenizer.json`.
pub(crate) fn read_tokenizer(path: &Path) -> Result<TextEncoder, LoadError> {
    let bytes = read_file(path)?;
    TextEncoder::from_json(&bytes)
        .map_err(|InvalidTokenizer(reason)| LoadError::Tokenizer { path: path.into(), reason })
}

/// A batch must hold at least one sequence of the greatest length, or that sequence could never be computed.
pub(crate) fn check_batch(path: &Path, limits: &BackendLimits, max_tokens: u32) -> Result<(), LoadError> {
    let &BackendLimits { batch_tokens_max, batch_sequences_max, .. } = limits;
    if batch_tokens_max < max_tokens || batch_sequences_max == 0 {
        return Err(LoadError::Batch { path: path.into(), max_tokens, batch_tokens_max, batch_sequences_max });
    }
    Ok(())
}

/// Reads a whole file.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, LoadError> {
    fs::read(path).map_err(|source| LoadError::Read { path: path.into(), source })
}

/// `config.json`, as far as it is read.
#[derive(Deserialize)]
struct ConfigFile {
    architectures: Option<Vec<String>>,
    model_type: Option<String>,
    vocab_size: u32,
    hidden_size: u32,
    num_hidden_layers: u32,
    num_attention_heads: u32,
    intermediate_size: u32,
    max_position_embeddings: u32,
    type_vocab_size: Option<u32>,
    pad_token_id: Option<u32>,
    layer_norm_eps: Option<f32>,
    hidden_act: Option<String>,
    position_embedding_type: Option<String>,
    is_decoder: Option<bool>,
    num_labels: Option<usize>,
    id2label: Option<serde_json::Map<String, serde_json::Value>>,
}

impl ConfigFile {
    fn check_architecture(&self, path: &Path) -> Result<(Family, String), LoadError> {
        let model_type = self.model_type.as_deref().unwrap_or("bert");
        let named = self.architectures.as_ref().and_then(|names| names.first().map(String::as_str));
        let known = FAMILIES.into_iter().find(|&(name, ..)| name == model_type);
        if let Some((_, prefix, family)) = known {
            let architecture = named.map_or_else(|| format!("{prefix}Model"), str::to_owned);
            if is_of(prefix, &architecture) {
                return Ok((family, architecture));
            }
        }
        let architecture = match named {
            Some(name) if !FAMILIES.iter().any(|(_, prefix, _)| is_of(prefix, name)) => name.to_owned(),
            _ => format!("{} of model_type {model_type:?}", named.unwrap_or(model_type)),
        };
        Err(LoadError::Architecture { path: path.into(), architecture, supported: SUPPORTED_ARCHITECTURES })
    }

    /// Labels of the head, where the file says it.
    fn labels(&self) -> Option<usize> {
        self.num_labels.or_else(|| self.id2label.as_ref().map(serde_json::Map::len))
    }

    fn bert(&self, family: Family, path: &Path) -> Result<BertConfig, LoadError> {
        let unsupported = |field, found: String, supported| {
            Err(LoadError::Unsupported { path: path.into(), field, found, supported })
        };
        let hidden_act = self.hidden_act.as_deref().unwrap_or("gelu");
        let activation = match hidden_act {
            "gelu" => Activation::GeluErf,
            "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
            "relu" => Activation::Relu,
            other => return unsupported("hidden_act", other.into(), "gelu, gelu_new, gelu_pytorch_tanh, relu"),
        };
        let positions = self.position_embedding_type.as_deref().unwrap_or("absolute");
        if positions != "absolute" {
            return unsupported("position_embedding_type", positions.into(), "absolute");
        }
        if self.is_decoder == Some(true) {
            return unsupported("is_decoder", "true".into(), "false");
        }
        let (hidden, heads) = (self.hidden_size, self.num_attention_heads);
        if heads == 0 || hidden == 0 || !hidden.is_multiple_of(heads) {
            return unsupported("hidden_size", format!("{hidden} with {heads} heads"), "a multiple of the heads");
        }
        if self.intermediate_size == 0 {
            return unsupported("intermediate_size", "0".into(), "at least 1");
        }
        let positions_skipped = match family {
            Family::Bert => 0,
            Family::Roberta => self.pad_token_id.unwrap_or(1).saturating_add(1),
        };
        let max_positions = self.max_position_embeddings.saturating_sub(positions_skipped);
        if max_positions == 0 {
            let found = self.max_position_embeddings.to_string();
            return unsupported("max_position_embeddings", found, "positions for one token at least");
        }
        Ok(BertConfig {
            family,
            vocab_size: self.vocab_size,
            hidden_size: hidden,
            num_layers: self.num_hidden_layers,
            num_heads: heads,
            intermediate_size: self.intermediate_size,
            positions_skipped,
            max_positions,
            type_vocab_size: self.type_vocab_size.unwrap_or(2),
            layer_norm_epsilon: self.layer_norm_eps.unwrap_or(1e-12),
            activation,
        })
    }
}

/// Whether an architecture's name is one of those that begin so.
fn is_of(prefix: &str, architecture: &str) -> bool {
    architecture.strip_prefix(prefix).is_some_and(|end| end == CLASSIFIER || ENCODERS.contains(&end))
}

#[derive(Default, Deserialize)]
struct SentenceBertFile {
    max_seq_length: Option<f64>,
    do_lower_case: Option<bool>,
}

#[derive(Default, Deserialize)]
struct TokenizerConfigFile {
    /// Some tools write 10³⁰ for "no limit".
    model_max_length: Option<f64>,
}

/// A length in tokens, unless it stands for "no limit".
fn sane_length(length: f64) -> Option<u32> {
    (1.0..=f64::from(u32::MAX)).contains(&length).then_some(length as u32)
}

/// Where the encoder is, and what follows it.
struct Modules {
    encoder: PathBuf,
    pooling: Pooling,
}

#[derive(Deserialize)]
struct ModuleEntry {
    path: String,
    r#type: String,
}

impl Modules {
    fn read(root: &Path) -> Result<Self, LoadError> {
        let path = root.join("modules.json");
        let Some(entries) = read_json_if_there::<Vec<ModuleEntry>>(&path)? else {
            let pooling = root.join("1_Pooling/config.json");
            let pooling = if pooling.is_file() { read_pooling(&pooling)? } else { Pooling::Mean };
            return Ok(Self { encoder: root.into(), pooling });
        };
        let mut modules = Self { encoder: root.into(), pooling: Pooling::Mean };
        for entry in entries {
            let folder = subfolder(root, &entry.path).ok_or_else(|| LoadError::Unsupported {
                path: path.clone(),
                field: "path",
                found: entry.path.clone(),
                supported: "a folder below the model's",
            })?;
            // Old and new releases put their modules into different packages.
            match entry.r#type.rsplit('.').next().unwrap_or_default() {
                "Transformer" => modules.encoder = folder,
                "Pooling" => modules.pooling = read_pooling(&folder.join("config.json"))?,
                // Dense vectors are normalised whether the folder asks for it or not: they are compared by cosine.
                "Normalize" => {}
                _ => {
                    let supported = "Transformer, Pooling, Normalize";
                    return Err(LoadError::Unsupported { path, field: "type", found: entry.r#type, supported });
                }
            }
        }
        Ok(modules)
    }
}

/// `name` below `root`, unless it leads out of it.
fn subfolder(root: &Path, name: &str) -> Option<PathBuf> {
    let name = Path::new(name);
    name.components().all(|part| matches!(part, Component::Normal(_))).then(|| root.join(name))
}

fn read_pooling(path: &Path) -> Result<Pooling, LoadError> {
    let file: serde_json::Map<String, serde_json::Value> = read_json(path)?;
    let mut modes: Vec<&str> = file
        .iter()
        .filter(|(_, value)| value.as_bool() == Some(true))
        .filter_map(|(name, _)| name.strip_prefix("pooling_mode_"))
        .collect();
    modes.extend(file.get("pooling_mode").and_then(serde_json::Value::as_str));
    match modes.as_slice() {
        ["mean_tokens" | "mean"] => Ok(Pooling::Mean),
        ["cls_token" | "cls"] => Ok(Pooling::First),
        other => Err(LoadError::Unsupported {
            path: path.into(),
            field: "pooling_mode",
            found: if other.is_empty() { "not given".to_owned() } else { other.join(" + ") },
            supported: "mean_tokens, cls_token",
        }),
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, LoadError> {
    serde_json::from_slice(&read_file(path)?)
        .map_err(|error| LoadError::Parse { path: path.into(), reason: error.to_string() })
}

fn read_json_if_there<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, LoadError> {
    match read_json(path) {
        Ok(value) => Ok(Some(value)),
        Err(LoadError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
