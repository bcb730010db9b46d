//! XLM-RoBERTa folders (the BGE rerankers are such) against `candle-transformers`' model of the same tensors: small and
//! random, padded batches there, packed ones here.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "helper functions of tests")]

mod support;

use std::{collections::HashMap, path::Path};

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::xlm_roberta::{Config, XLMRobertaForSequenceClassification, XLMRobertaModel};
use serde_json::{Value, json};
use sluice_core::{
    Operation,
    batch::{Role, Sequence},
};
use sluice_inference::{CpuEngine, CpuOptions, LoadedModel, load_folder};
use sluice_kernels::Isa;
use support::{ROOMY, assert_close, batch, plain, run, scores, tiny, tokens};
use tempfile::TempDir;
use tiny::{SMALL, Sizes};

/// Two rows of the position embeddings come before the first token's: 60 tokens are the most.
const SIZES: Sizes = Sizes { max_positions: 62, ..SMALL };
const CLASSIFIER: &str = "XLMRobertaForSequenceClassification";
const QUERY: &str = "black sand beach";
/// Of one token, of some, of words that the vocabulary lacks, and longer than what the model reads.
const DOCUMENTS: [&str; 4] = ["sand", "the beach of black sand", "seen in Ωmega", LONG];
const LONG: &str = "the beaches of the sands of the beaches of the sands of the beaches of the sands of the beaches of \
    the sands of the beaches of the sands of the beaches of the sands of the beaches of the sands of the beaches";

#[test]
fn logits_and_token_vectors_equal_those_of_candle_transformers() {
    let folder = model();
    let (weights, config) = (variables(), serde_json::from_value::<Config>(config_json()).unwrap());
    let classifier = XLMRobertaForSequenceClassification::new(1, &config, weights.clone()).unwrap();
    let encoder = XLMRobertaModel::new(&config, weights.pp("roberta")).unwrap();
    for options in engines() {
        let mut model = load(folder.path(), &options);
        assert!(model.info.cross_encoder && model.info.max_tokens == 60 && model.info.architecture == CLASSIFIER);
        let pairs = pairs(&model);
        let (ids, mask, types) = padded(&pairs);
        let expected =
            classifier.forward(&ids, &mask, &types).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let found = scores(run(&mut *model.backend, &batch(Operation::CrossEncode, &pairs)).unwrap());
        let what = model.info.backend;
        assert_close(&found, expected.iter().copied().map(f64::from), 2e-4, what);
        let spread = found.iter().fold(0.0_f32, |spread, score| spread.max((score - found[0]).abs()));
        assert!(spread > 0.05, "{what}: all pairs look alike: {found:?}");

        let hidden = encoder.forward(&ids, &mask, &types, None, None, None).unwrap();
        let texts: Vec<Sequence> = pairs.iter().map(|pair| plain(pair.input_ids.clone())).collect();
        let found = tokens(run(&mut *model.backend, &batch(Operation::EncodeTokens, &texts)).unwrap());
        for (row, (pair, found)) in pairs.iter().zip(&found).enumerate() {
            let expected = unit_rows(&hidden.get(row).unwrap().narrow(0, 0, pair.input_ids.len()).unwrap()).unwrap();
            assert_close(found, expected.into_iter().flatten().map(f64::from), 2e-4, what);
        }
    }
}

#[test]
fn pairs_are_laid_out_as_the_tokenizer_says() {
    let model = load(model().path(), &ROOMY);
    let ids = |text: &str| model.text.tokens(text, None).unwrap().ids;
    let (sand, beach) = (ids("sand"), ids("beach"));
    assert_eq!((sand.len(), beach.len()), (1, 1), "they are words of the vocabulary");
    assert_eq!(model.text.single(&sand), [0, sand[0], 2]);
    assert_eq!(model.text.pair(&sand, &beach), (vec![0, sand[0], 2, 2, beach[0], 2], 6), "no token has type 1");
    assert_eq!(ids("Ω"), ids("Ж"), "the unknown token");
}

#[test]
fn a_roberta_is_the_same_model_by_another_name() {
    let folder = model();
    let mut config = config_json();
    (config["model_type"], config["architectures"]) = (json!("roberta"), json!(["RobertaForSequenceClassification"]));
    let pairs = |model: &mut LoadedModel| {
        let pairs = pairs(model);
        scores(run(&mut *model.backend, &batch(Operation::CrossEncode, &pairs)).unwrap())
    };
    let first = pairs(&mut load(folder.path(), &ROOMY));
    tiny::write_json(folder.path(), "config.json", &config);
    assert_eq!(pairs(&mut load(folder.path(), &ROOMY)), first);
    // RoBERTa's own padding token is the default.
    config.as_object_mut().unwrap().remove("pad_token_id");
    tiny::write_json(folder.path(), "config.json", &config);
    assert_eq!(pairs(&mut load(folder.path(), &ROOMY)), first);
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let cases: [(&str, Value, &str); 4] = [
        ("max_position_embeddings", json!(2), "max_position_embeddings is 2; supported: positions for one token"),
        ("pad_token_id", json!(u32::MAX), "max_position_embeddings is 62"),
        ("max_position_embeddings", json!(60), "position_embeddings.weight"),
        ("architectures", json!(["BertModel"]), "architecture BertModel of model_type \"xlm-roberta\""),
    ];
    for (key, value, part) in cases {
        let folder = model();
        let mut config = config_json();
        config[key] = value;
        tiny::write_json(folder.path(), "config.json", &config);
        let error = load_folder(folder.path(), String::new(), String::new(), &ROOMY).err().unwrap().to_string();
        assert!(error.contains(part), "{key}: {error}");
    }
}

/// The query with every document, cut to what the model reads.
fn pairs(model: &LoadedModel) -> Vec<Sequence> {
    let ids = |text: &str| model.text.tokens(text, None).unwrap().ids;
    let query = ids(QUERY);
    let room = model.info.max_tokens as usize - model.text.special_tokens_pair() - query.len();
    let pair = |document: &&str| {
        let document = ids(document);
        let (input_ids, second_segment_start) = model.text.pair(&query, &document[..document.len().min(room)]);
        Sequence { input_ids, second_segment_start, role: Role::Plain }
    };
    let pairs: Vec<Sequence> = DOCUMENTS.iter().map(pair).collect();
    assert_eq!(pairs[3].input_ids.len(), 60, "the last position is used");
    pairs
}

/// Ids, mask and types, `[sequences, longest]`.
fn padded(pairs: &[Sequence]) -> (Tensor, Tensor, Tensor) {
    let longest = pairs.iter().map(|pair| pair.input_ids.len()).max().unwrap();
    let rows = |of: &dyn Fn(&Sequence, usize) -> u32| {
        let values: Vec<u32> = pairs.iter().flat_map(|pair| (0..longest).map(move |i| of(pair, i))).collect();
        Tensor::from_vec(values, (pairs.len(), longest), &Device::Cpu).unwrap()
    };
    let ids = rows(&|pair, i| pair.input_ids.get(i).copied().unwrap_or(1));
    (ids, rows(&|pair, i| u32::from(i < pair.input_ids.len())), rows(&|_, _| 0))
}

fn load(folder: &Path, options: &CpuOptions) -> LoadedModel {
    load_folder(folder, String::new(), String::new(), options).unwrap()
}

/// Our own engine with every instruction set that the machine has, and the other one.
fn engines() -> Vec<CpuOptions> {
    let own = Isa::available().map(|isa| CpuOptions { isa: Some(isa), ..ROOMY });
    own.chain([CpuOptions { engine: CpuEngine::Candle, ..ROOMY }]).collect()
}

fn model() -> TempDir {
    let folder = TempDir::new().unwrap();
    tiny::write_json(folder.path(), "config.json", &config_json());
    tiny::write_json(folder.path(), "tokenizer.json", &tokenizer_json());
    tiny::write_tensors(folder.path(), &tensors());
    folder
}

fn config_json() -> Value {
    let mut config = tiny::config_json_of(SIZES, CLASSIFIER);
    for (key, value) in [
        ("model_type", json!("xlm-roberta")),
        ("layer_norm_eps", json!(1e-5)),
        ("type_vocab_size", json!(1)),
        ("pad_token_id", json!(1)),
        ("hidden_dropout_prob", json!(0.1)),
        ("attention_probs_dropout_prob", json!(0.1)),
    ] {
        config[key] = value;
    }
    config
}

/// A BERT's random tensors under XLM-RoBERTa's names, with one token type.
fn tensors() -> tiny::Tensors {
    let mut tensors = tiny::tensors_of(SIZES, 21, 1);
    let (shape, values) = tensors.get_mut("embeddings.token_type_embeddings.weight").unwrap();
    shape[0] = 1;
    values.truncate(shape[1]);
    let name = |name: &str| match name.split_once('.').unwrap() {
        ("pooler", rest) => format!("classifier.{rest}"),
        ("classifier", rest) => format!("classifier.out_proj.{rest}"),
        _ => format!("roberta.{name}"),
    };
    tensors.into_iter().map(|(key, tensor)| (name(&key), tensor)).collect()
}

/// A SentencePiece tokenizer as XLM-RoBERTa's, with as many entries as the tensors have rows.
fn tokenizer_json() -> Value {
    let special = ["<s>", "<pad>", "</s>", "<unk>"];
    let added = special.iter().enumerate().map(|(id, token)| {
        json!({"id": id, "content": token, "special": true, "single_word": false,
               "lstrip": false, "rstrip": false, "normalized": false})
    });
    let words = ["▁black", "▁sand", "▁beach", "▁the", "▁of", "▁in", "es", "s", "▁"].map(str::to_owned);
    let letters = ('a'..='r').chain('t'..='z').map(String::from);
    let pieces = special.iter().map(|&token| token.to_owned()).chain(words).chain(letters);
    let mut vocabulary: Vec<Value> =
        pieces.map(|piece| json!([piece, if piece.chars().count() > 1 { -2.0 } else { -6.0 }])).collect();
    let rows = tiny::vocabulary().len();
    vocabulary.extend((vocabulary.len()..rows).map(|id| json!([format!("▁{id}"), -9.0])));
    let token = |id: &str| json!({"SpecialToken": {"id": id, "type_id": 0}});
    let text = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    let entry = |id: usize| json!({"id": special[id], "ids": [id], "tokens": [special[id]]});
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": {"type": "NFKC"},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [token("<s>"), text("A"), token("</s>")],
            "pair": [token("<s>"), text("A"), token("</s>"), token("</s>"), text("B"), token("</s>")],
            "special_tokens": {"<s>": entry(0), "</s>": entry(2)},
        },
        "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
        "model": {"type": "Unigram", "unk_id": 3, "vocab": vocabulary, "byte_fallback": false},
    })
}

fn variables() -> VarBuilder<'static> {
    let tensors: HashMap<String, Tensor> = tensors()
        .into_iter()
        .map(|(name, (shape, values))| (name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap()))
        .collect();
    VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu)
}

fn unit_rows(x: &Tensor) -> Result<Vec<Vec<f32>>> {
    x.broadcast_div(&x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)?.to_vec2()
}
