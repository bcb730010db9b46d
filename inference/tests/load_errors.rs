//! A folder that cannot be loaded says which file and what was expected of it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "helper functions of tests")]

mod support;

use std::{fs, path::Path};

use safetensors::Dtype;
use serde_json::{Value, json};
use sluice_inference::{CpuOptions, LoadError, LoadedModel, load_folder, load_scripted};
use support::{ROOMY, tiny};
use tempfile::TempDir;

/// A whole classifier's folder, spoilt in one way.
fn load(spoil: impl FnOnce(&Path)) -> Result<LoadedModel, LoadError> {
    let folder = TempDir::new().unwrap();
    tiny::write_model(folder.path(), "BertForSequenceClassification", &tiny::prefixed(&tiny::tensors(1, 1)));
    spoil(folder.path());
    load_folder(folder.path(), String::new(), String::new(), &ROOMY)
}

#[track_caller]
fn check(file: &str, parts: &[&str], spoil: impl FnOnce(&Path)) {
    let error = load(spoil).err().unwrap_or_else(|| panic!("{file}: loaded, expected {parts:?}")).to_string();
    let (path, rest) = error.split_once(": ").unwrap();
    assert!(path.ends_with(file), "{file}: {error}");
    assert!(parts.iter().all(|part| rest.contains(part)), "{file}: {error}, expected {parts:?}");
}

fn with_config(key: &str, value: Value) -> impl FnOnce(&Path) {
    move |folder| {
        let mut config = tiny::config_json("BertForSequenceClassification");
        config[key] = value;
        tiny::write_json(folder, "config.json", &config);
    }
}

fn with_tensors(change: impl FnOnce(&mut tiny::Tensors)) -> impl FnOnce(&Path) {
    |folder| {
        let mut tensors = tiny::prefixed(&tiny::tensors(1, 1));
        change(&mut tensors);
        tiny::write_tensors(folder, &tensors);
    }
}

fn with_file<'a>(name: &'a str, value: Value) -> impl FnOnce(&Path) + 'a {
    move |folder| tiny::write_json(folder, name, &value)
}

fn with_tokenizer(change: impl FnOnce(&mut Value)) -> impl FnOnce(&Path) {
    |folder| {
        let mut tokenizer = tiny::tokenizer_json();
        change(&mut tokenizer);
        tiny::write_json(folder, "tokenizer.json", &tokenizer);
    }
}

#[test]
fn missing_and_broken_files() {
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        check(file, &["No such file"], |folder| fs::remove_file(folder.join(file)).unwrap());
        check(file, &[], |folder| fs::write(folder.join(file), [0xff, 0x00, 0x7b]).unwrap());
        check(file, &[], |folder| {
            let bytes = fs::read(folder.join(file)).unwrap();
            fs::write(folder.join(file), &bytes[..bytes.len() / 2]).unwrap();
        });
    }
    for file in ["modules.json", "1_Pooling/config.json", "sentence_bert_config.json", "tokenizer_config.json"] {
        check(file, &["expected"], with_file(file, json!("text")));
    }
}

#[test]
fn other_models() {
    let supported = "supported: BertModel";
    for (key, value, parts) in [
        ("architectures", json!(["XLMRobertaModel"]), &["XLMRobertaModel of model_type \"bert\"", supported][..]),
        ("architectures", json!(["BertForTokenClassification"]), &["BertForTokenClassification", supported]),
        ("model_type", json!("distilbert"), &["model_type \"distilbert\"", supported]),
        ("hidden_act", json!("silu"), &["hidden_act is silu", "gelu_new"]),
        ("position_embedding_type", json!("relative_key"), &["position_embedding_type is relative_key", "absolute"]),
        ("is_decoder", json!(true), &["is_decoder is true"]),
        ("num_attention_heads", json!(5), &["hidden_size is 24 with 5 heads"]),
        ("num_attention_heads", json!(0), &["hidden_size is 24 with 0 heads"]),
        ("intermediate_size", json!(0), &["intermediate_size is 0"]),
        ("vocab_size", json!("many"), &["invalid type", "u32"]),
        ("id2label", json!({"0": "no", "1": "maybe", "2": "yes"}), &["has 3 labels", "has 1"]),
        ("num_labels", json!(2), &["has 2 labels"]),
    ] {
        check("config.json", parts, with_config(key, value));
    }
    check("config.json", &["has 2 labels"], |folder| {
        tiny::write_tensors(folder, &tiny::prefixed(&tiny::tensors(1, 2)));
    });
}

#[test]
fn other_modules() {
    let module = |kind: &str, path: &str| json!([{"idx": 0, "name": "0", "path": path, "type": kind}]);
    let dense = "sentence_transformers.models.Dense";
    check(
        "modules.json",
        &["type is sentence_transformers.models.Dense", "Pooling"],
        with_file("modules.json", module(dense, "2_Dense")),
    );
    for path in ["../elsewhere", "/etc"] {
        let modules = module("sentence_transformers.models.Transformer", path);
        check("modules.json", &["path is", path, "below the model's"], with_file("modules.json", modules));
    }
    for (pooling, found) in [
        (json!({"pooling_mode_max_tokens": true}), "pooling_mode is max_tokens"),
        (json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true}), "cls_token + mean_tokens"),
        (json!({"pooling_mode": "lasttoken"}), "pooling_mode is lasttoken"),
        (json!({}), "pooling_mode is not given"),
    ] {
        check(
            "1_Pooling/config.json",
            &[found, "supported: mean_tokens, cls_token"],
            with_file("1_Pooling/config.json", pooling),
        );
    }
}

#[test]
fn missing_and_misshapen_tensors() {
    let names: Vec<String> = tiny::prefixed(&tiny::tensors(1, 1)).into_keys().collect();
    assert_eq!(names.len(), 3 + 2 + 2 * 16 + 2 + 2);
    // Sizes beyond any memory are compared, not allocated.
    for key in ["vocab_size", "intermediate_size"] {
        check("model.safetensors", &["has shape", "4000000000"], with_config(key, json!(4_000_000_000_u32)));
    }
    check(
        "model.safetensors",
        &["has no tensor bert.encoder.layer.2."],
        with_config("num_hidden_layers", json!(4_000_000_000_u32)),
    );
    for name in &names {
        check("model.safetensors", &["has no tensor", name], with_tensors(|tensors| drop(tensors.remove(name))));
        if name != "classifier.weight" {
            check(
                "model.safetensors",
                &["tensor", name, "has shape", "expected"],
                with_tensors(|tensors| {
                    let (shape, values) = tensors.get_mut(name).unwrap();
                    let columns = values.len() / shape[0];
                    values.extend(vec![0.0; columns]);
                    shape[0] += 1;
                }),
            );
        }
    }
    check("model.safetensors", &["embeddings.weight is stored as I32", "F32, F16, BF16"], |folder| {
        let tensors = tiny::prefixed(&tiny::tensors(1, 1));
        tiny::write_tensors_as(folder, &tensors, Dtype::I32, |x| x.to_le_bytes().to_vec());
    });
}

#[test]
fn tokenizers_that_do_not_fit() {
    let file = "tokenizer.json";
    check(
        file,
        &["has id 500", "vocabulary has"],
        with_tokenizer(|json| json["model"]["vocab"]["beyond"] = json!(500)),
    );
    check(
        file,
        &["lays a pair out as"],
        with_tokenizer(|json| {
            let pair = json["post_processor"]["pair"].as_array_mut().unwrap();
            pair.swap(1, 3);
        }),
    );
    check(file, &["keeps upper case", "do_lower_case"], |folder| {
        with_tokenizer(|json| json["normalizer"]["lowercase"] = json!(false))(folder);
        tiny::write_json(folder, "sentence_bert_config.json", &json!({"do_lower_case": true}));
    });
    // With either template empty, nothing would stand where a text is empty.
    for template in ["single", "pair"] {
        check(
            file,
            &["adds no special tokens"],
            with_tokenizer(|json| {
                let parts = json["post_processor"][template].as_array_mut().unwrap();
                parts.retain(|part| part.get("Sequence").is_some());
            }),
        );
    }
    check(file, &["adds no special tokens"], with_tokenizer(|json| json["post_processor"] = Value::Null));
    check(file, &["adds 3 special tokens"], with_file("sentence_bert_config.json", json!({"max_seq_length": 3})));
    check(file, &["two token types"], |folder| {
        let mut tensors = tiny::prefixed(&tiny::tensors(1, 1));
        let (shape, values) = tensors.get_mut("bert.embeddings.token_type_embeddings.weight").unwrap();
        shape[0] = 1;
        values.truncate(tiny::HIDDEN);
        tiny::write_tensors(folder, &tensors);
        with_config("type_vocab_size", json!(1))(folder);
    });
}

#[test]
fn a_batch_must_hold_the_longest_sequence() {
    for (batch_tokens_max, batch_sequences_max) in [(59, 8), (60, 0)] {
        let folder = TempDir::new().unwrap();
        tiny::write_model(folder.path(), "BertModel", &tiny::tensors(1, 1));
        let options = CpuOptions::new(batch_tokens_max, batch_sequences_max);
        let error = load_folder(folder.path(), String::new(), String::new(), &options).err().unwrap();
        assert!(matches!(error, LoadError::Batch { max_tokens: 60, .. }), "{error}");
    }
}

#[test]
fn the_smallest_limit_counts() {
    let no_limit = json!(1e30);
    for (sentence_bert, tokenizer, expected) in [
        (json!({}), json!({}), 60),
        (json!({"max_seq_length": 17}), json!({"model_max_length": 40}), 17),
        (json!({"max_seq_length": 50, "do_lower_case": true}), json!({"model_max_length": 40}), 40),
        (json!({"max_seq_length": null}), json!({"model_max_length": no_limit}), 60),
        (json!({"max_seq_length": 512}), json!({"model_max_length": -1}), 60),
    ] {
        let model = load(|folder| {
            tiny::write_json(folder, "sentence_bert_config.json", &sentence_bert);
            tiny::write_json(folder, "tokenizer_config.json", &tokenizer);
        });
        assert_eq!(model.unwrap().info.max_tokens, expected, "{sentence_bert} {tokenizer}");
    }
}

#[test]
fn what_is_left_out_has_a_default() {
    let model = load(|folder| {
        let mut config = tiny::config_json("BertModel");
        let keys = config.as_object_mut().unwrap();
        for key in ["architectures", "hidden_act", "position_embedding_type", "type_vocab_size", "layer_norm_eps"] {
            keys.remove(key).unwrap();
        }
        tiny::write_json(folder, "config.json", &config);
    });
    assert_eq!(model.unwrap().info.architecture, "BertModel");
    let encoder_in_a_folder = load(|folder| {
        fs::create_dir(folder.join("0_Transformer")).unwrap();
        for file in ["config.json", "tokenizer.json", "model.safetensors"] {
            fs::rename(folder.join(file), folder.join("0_Transformer").join(file)).unwrap();
        }
        let modules = json!([
            {"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"},
            {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
        ]);
        tiny::write_json(folder, "modules.json", &modules);
        tiny::write_json(folder, "1_Pooling/config.json", &json!({"pooling_mode_mean_tokens": true}));
    });
    assert!(encoder_in_a_folder.unwrap().info.cross_encoder);
}

#[test]
fn a_scripted_file_that_is_not_there_is_named() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("absent.toml");
    let error = load_scripted(&file).err().unwrap().to_string();
    assert!(error.contains("absent.toml"), "{error}");
}
