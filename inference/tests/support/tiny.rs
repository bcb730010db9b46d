//! A small seeded BERT in the Hugging Face layout: every file that the loader reads, and nothing trained.

use std::{collections::BTreeMap, fs, path::Path};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};

/// Sizes that are all different, so that no two can be confused.
pub const HIDDEN: usize = 24;
pub const NUM_HEADS: usize = 3;
pub const NUM_LAYERS: usize = 2;
pub const INTERMEDIATE: usize = 40;
pub const MAX_POSITIONS: usize = 60;
pub const TOKEN_TYPES: usize = 2;

/// Sizes of a model.
#[derive(Clone, Copy)]
pub struct Sizes {
    pub hidden: usize,
    pub num_heads: usize,
    pub num_layers: usize,
    pub intermediate: usize,
    pub max_positions: usize,
}

/// The one that most tests use.
pub const SMALL: Sizes = Sizes {
    hidden: HIDDEN,
    num_heads: NUM_HEADS,
    num_layers: NUM_LAYERS,
    intermediate: INTERMEDIATE,
    max_positions: MAX_POSITIONS,
};
/// Sequences as long as a BERT's, and heads of the size that most models have.
pub const LONG: Sizes = Sizes { hidden: 64, num_heads: 2, num_layers: 3, intermediate: 100, max_positions: 512 };

/// Name to shape and values.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// The vocabulary: special tokens, punctuation, letters and digits at the beginning and inside of a word, some pieces.
pub fn vocabulary() -> Vec<String> {
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned);
    let characters: Vec<String> = ('a'..='z').chain('0'..='9').chain("é漢字水ßж".chars()).map(String::from).collect();
    let inside = characters.iter().map(|character| format!("##{character}"));
    let punctuation = "!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~。".chars().map(String::from);
    let pieces = ["black", "sand", "beach", "white", "the", "of", "in", "##es", "##ing", "##ch"].map(str::to_owned);
    special.into_iter().chain(punctuation).chain(characters.clone()).chain(inside).chain(pieces).collect()
}

/// A WordPiece tokenizer over [`vocabulary`], as BERT's: it truncates and pads, which the loader must undo.
pub fn tokenizer_json() -> Value {
    let vocabulary = vocabulary();
    let id = |token: &str| vocabulary.iter().position(|entry| entry == token).expect("the vocabulary has it");
    let special = |token: &str| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let added: Vec<Value> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        .map(|token| {
            json!({"id": id(token), "content": token, "special": true, "single_word": false,
                   "lstrip": false, "rstrip": false, "normalized": false})
        })
        .to_vec();
    let entry = |token: &str| json!({"id": token, "ids": [id(token)], "tokens": [token]});
    let numbered: BTreeMap<&str, usize> = vocabulary.iter().enumerate().map(|(i, token)| (token.as_str(), i)).collect();
    json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 12, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 12}, "direction": "Right", "pad_to_multiple_of": null,
                    "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                       "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special("[CLS]"), {"Sequence": {"id": "A", "type_id": 0}}, special("[SEP]")],
            "pair": [special("[CLS]"), {"Sequence": {"id": "A", "type_id": 0}}, special("[SEP]"),
                     {"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
            "special_tokens": {"[CLS]": entry("[CLS]"), "[SEP]": entry("[SEP]")},
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 20, "vocab": numbered},
    })
}

pub fn config_json(architecture: &str) -> Value {
    config_json_of(SMALL, architecture)
}

pub fn config_json_of(sizes: Sizes, architecture: &str) -> Value {
    let Sizes { hidden, num_heads, num_layers, intermediate, max_positions } = sizes;
    json!({
        "architectures": [architecture], "model_type": "bert", "hidden_act": "gelu", "hidden_size": hidden,
        "intermediate_size": intermediate, "layer_norm_eps": 1e-12, "max_position_embeddings": max_positions,
        "num_attention_heads": num_heads, "num_hidden_layers": num_layers, "position_embedding_type": "absolute",
        "type_vocab_size": TOKEN_TYPES, "vocab_size": vocabulary().len(),
    })
}

/// Every tensor of the encoder without prefix, the pooler, and a head of `labels` labels.
pub fn tensors(seed: u64, labels: usize) -> Tensors {
    tensors_of(SMALL, seed, labels)
}

pub fn tensors_of(sizes: Sizes, seed: u64, labels: usize) -> Tensors {
    let Sizes { hidden, num_layers, intermediate, max_positions, .. } = sizes;
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut tensors = Tensors::new();
    let mut add = |name: &str, shape: &[usize], center: f32, spread: f32| {
        let values = (0..shape.iter().product()).map(|_| center + rng.random_range(-spread..spread)).collect();
        tensors.insert(name.to_owned(), (shape.to_vec(), values));
    };
    for (name, rows) in [("word", vocabulary().len()), ("position", max_positions), ("token_type", TOKEN_TYPES)] {
        add(&format!("embeddings.{name}_embeddings.weight"), &[rows, hidden], 0.0, 1.0);
    }
    let mut norms = vec!["embeddings.LayerNorm".to_owned()];
    let mut linears = vec![("pooler.dense".to_owned(), hidden, hidden), ("classifier".to_owned(), hidden, labels)];
    for layer in 0..num_layers {
        let name = |part: &str| format!("encoder.layer.{layer}.{part}");
        norms.extend([name("attention.output.LayerNorm"), name("output.LayerNorm")]);
        linears.extend(["query", "key", "value"].map(|part| (name(&format!("attention.self.{part}")), hidden, hidden)));
        linears.push((name("attention.output.dense"), hidden, hidden));
        linears.push((name("intermediate.dense"), hidden, intermediate));
        linears.push((name("output.dense"), intermediate, hidden));
    }
    for name in norms {
        add(&format!("{name}.weight"), &[hidden], 1.0, 0.4);
        add(&format!("{name}.bias"), &[hidden], 0.0, 0.3);
    }
    for (name, from, to) in linears {
        add(&format!("{name}.weight"), &[to, from], 0.0, 0.35);
        add(&format!("{name}.bias"), &[to], 0.0, 0.2);
    }
    tensors
}

/// The same tensors with `bert.` before the encoder's names, as checkpoints with a head have it.
pub fn prefixed(tensors: &Tensors) -> Tensors {
    let name = |name: &String| if name.starts_with("classifier.") { name.clone() } else { format!("bert.{name}") };
    tensors.iter().map(|(key, tensor)| (name(key), tensor.clone())).collect()
}

/// Writes `model.safetensors` as f32.
pub fn write_tensors(folder: &Path, tensors: &Tensors) {
    write_tensors_as(folder, tensors, Dtype::F32, |x| x.to_le_bytes().to_vec());
}

/// Writes `model.safetensors` in another type.
pub fn write_tensors_as(folder: &Path, tensors: &Tensors, dtype: Dtype, bytes: impl Fn(f32) -> Vec<u8>) {
    let stored: Vec<(&String, &Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, (shape, values))| (name, shape, values.iter().flat_map(|&x| bytes(x)).collect()))
        .collect();
    let views = stored
        .iter()
        .map(|(name, shape, bytes)| (name.as_str(), TensorView::new(dtype, shape.to_vec(), bytes).expect("whole")));
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).expect("the folder is writable");
}

pub fn write_json(folder: &Path, name: &str, value: &Value) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("the folder is writable");
    fs::write(path, value.to_string()).expect("the folder is writable");
}

/// Writes a whole model folder.
pub fn write_model(folder: &Path, architecture: &str, tensors: &Tensors) {
    write_model_of(SMALL, folder, architecture, tensors);
}

pub fn write_model_of(sizes: Sizes, folder: &Path, architecture: &str, tensors: &Tensors) {
    write_json(folder, "config.json", &config_json_of(sizes, architecture));
    write_json(folder, "tokenizer.json", &tokenizer_json());
    write_tensors(folder, tensors);
}
