//! A small seeded BERT in the Hugging Face layout, to be spoilt.

use std::{collections::BTreeMap, fs, path::Path};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};

pub const HIDDEN: usize = 8;
const INTERMEDIATE: usize = 12;
const POSITIONS: usize = 32;
const VOCABULARY: [&str; 9] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "apple", "blue", "car", "a"];

/// Name to shape and values.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Writes a folder that can be served.
pub fn write(folder: &Path) {
    write_json(folder, "config.json", &config());
    write_json(folder, "tokenizer.json", &tokenizer());
    write_tensors(folder, &tensors());
}

pub fn write_json(folder: &Path, name: &str, value: &Value) {
    fs::write(folder.join(name), value.to_string()).expect("writable");
}

pub fn write_tensors(folder: &Path, tensors: &Tensors) {
    let bytes = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let stored: Vec<_> = tensors.iter().map(|(name, (shape, values))| (name, shape, bytes(values))).collect();
    let views = stored.iter().map(|(name, shape, bytes)| {
        (name.as_str(), TensorView::new(Dtype::F32, shape.to_vec(), bytes).expect("shape and bytes fit"))
    });
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).expect("writable");
}

pub fn config() -> Value {
    json!({
        "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu", "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE, "layer_norm_eps": 1e-12, "max_position_embeddings": POSITIONS,
        "num_attention_heads": 2, "num_hidden_layers": 1, "type_vocab_size": 2, "vocab_size": VOCABULARY.len(),
    })
}

pub fn tokenizer() -> Value {
    let numbered: BTreeMap<&str, usize> = VOCABULARY.into_iter().zip(0..).collect();
    let special = |token: &str, kind: u32| json!({"SpecialToken": {"id": token, "type_id": kind}});
    let entry = |token: &str| json!({"id": token, "ids": [numbered[token]], "tokens": [token]});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                       "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special("[CLS]", 0), {"Sequence": {"id": "A", "type_id": 0}}, special("[SEP]", 0)],
            "pair": [special("[CLS]", 0), {"Sequence": {"id": "A", "type_id": 0}}, special("[SEP]", 0),
                     {"Sequence": {"id": "B", "type_id": 1}}, special("[SEP]", 1)],
            "special_tokens": {"[CLS]": entry("[CLS]"), "[SEP]": entry("[SEP]")},
        },
        "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 20, "vocab": numbered},
    })
}

pub fn tensors() -> Tensors {
    let mut rng = SmallRng::seed_from_u64(7);
    let mut tensors = Tensors::new();
    let mut add = |name: String, shape: &[usize], center: f32| {
        let values = (0..shape.iter().product()).map(|_| center + rng.random_range(-0.5..0.5)).collect();
        tensors.insert(name, (shape.to_vec(), values));
    };
    for (name, rows) in [("word", VOCABULARY.len()), ("position", POSITIONS), ("token_type", 2)] {
        add(format!("embeddings.{name}_embeddings.weight"), &[rows, HIDDEN], 0.0);
    }
    let layer = |part: &str| format!("encoder.layer.0.{part}");
    for norm in ["embeddings.LayerNorm".to_owned(), layer("attention.output.LayerNorm"), layer("output.LayerNorm")] {
        add(format!("{norm}.weight"), &[HIDDEN], 1.0);
        add(format!("{norm}.bias"), &[HIDDEN], 0.0);
    }
    let linears = [
        ("attention.self.query", HIDDEN, HIDDEN),
        ("attention.self.key", HIDDEN, HIDDEN),
        ("attention.self.value", HIDDEN, HIDDEN),
        ("attention.output.dense", HIDDEN, HIDDEN),
        ("intermediate.dense", HIDDEN, INTERMEDIATE),
        ("output.dense", INTERMEDIATE, HIDDEN),
    ];
    for (part, from, to) in linears {
        add(layer(&format!("{part}.weight")), &[to, from], 0.0);
        add(layer(&format!("{part}.bias")), &[to], 0.0);
    }
    tensors
}
