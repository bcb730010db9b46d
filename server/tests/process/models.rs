//! Models that can be served, and folders that cannot: the process says which file and what was expected, and ends.

use std::{fs, path::Path};

use serde_json::json;
use sluice_proto::{
    model::v1::{GetModelRequest, model_service_client::ModelServiceClient},
    rerank::v1::rerank_service_client::RerankServiceClient,
};

use crate::{
    common::{
        child::{PATIENCE, ServerProcess, event, script},
        request,
    },
    tiny_model::{self, HIDDEN, Tensors},
};

/// A folder spoilt in one way: the process must end with 1, having served nothing, and say all of `says` at last.
#[track_caller]
fn check(case: &str, says: &[&str], spoil: impl FnOnce(&Path)) {
    let folder = tempfile::tempdir().expect("a folder");
    tiny_model::write(folder.path());
    spoil(folder.path());
    let model = format!("spoilt={}", folder.path().display());
    refused(case, &["--model", &model], says);
}

#[track_caller]
fn refused(case: &str, arguments: &[&str], says: &[&str]) {
    let output = ServerProcess::output(&[&["--listen", "127.0.0.1:0"], arguments].concat(), |_| ());
    assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{case}: {}", output.stderr);
    assert!(!output.stderr.lines().any(|line| event(line, "serving").is_some()), "{case}: {}", output.stderr);
    assert!(!output.stderr.contains("panicked"), "{case}: {}", output.stderr);
    let (_, message) = output.stderr.split_once("sluice-server: model ").unwrap_or_else(|| panic!("{output:?}"));
    for part in says {
        assert_eq!(message.matches(part).count(), 1, "{case}: {part:?}, once, in {message}");
    }
}

fn with_tensors(change: impl FnOnce(&mut Tensors)) -> impl FnOnce(&Path) {
    |folder| {
        let mut tensors = tiny_model::tensors();
        change(&mut tensors);
        tiny_model::write_tensors(folder, &tensors);
    }
}

fn cut_short(file: &'static str) -> impl FnOnce(&Path) {
    move |folder| {
        let bytes = fs::read(folder.join(file)).expect("it is there");
        fs::write(folder.join(file), &bytes[..bytes.len() / 2]).expect("writable");
    }
}

#[test]
fn what_is_not_there_is_named() {
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        check(file, &[&format!("{file} is missing")], |folder| {
            fs::remove_file(folder.join(file)).expect("it was there");
        });
    }
    refused("no folder", &["--model", "m=./nowhere"], &["model folder ./nowhere: no such folder"]);
    refused("no script", &["--model", "m=scripted:/nonexistent/x.toml"], &["/nonexistent/x.toml: No such file"]);
}

#[test]
fn corrupt_weights_are_named_with_what_was_expected() {
    check("cut short", &["model.safetensors: not a safetensors file"], cut_short("model.safetensors"));
    check("no weights at all", &["model.safetensors: not a safetensors file"], |folder| {
        fs::write(folder.join("model.safetensors"), "").expect("writable");
    });
    let name = "encoder.layer.0.attention.self.query.weight";
    let shape = format!("tensor {name} has shape [{HIDDEN}, 7]; expected [{HIDDEN}, {HIDDEN}]");
    let narrow = with_tensors(|tensors| {
        tensors.insert(name.to_owned(), (vec![HIDDEN, 7], vec![0.0; HIDDEN * 7]));
    });
    check("another shape", &["model.safetensors: ", &shape], narrow);
    let missing = with_tensors(|tensors| drop(tensors.remove(name)));
    check("a tensor less", &[&format!("model.safetensors: has no tensor {name}")], missing);
}

#[test]
fn corrupt_configuration_and_tokenizer_are_named() {
    check("config cut short", &["config.json: ", "EOF while parsing"], cut_short("config.json"));
    check("tokenizer cut short", &["tokenizer.json: the tokenizer cannot be read: "], cut_short("tokenizer.json"));
    check("another architecture", &["config.json: architecture GPT2Model is not supported; supported: "], |folder| {
        let mut config = tiny_model::config();
        config["architectures"] = json!(["GPT2Model"]);
        tiny_model::write_json(folder, "config.json", &config);
    });
    check(
        "a token too many",
        &["tokenizer.json: the tokenizer has id 9, and the model's vocabulary has 9"],
        |folder| {
            let mut tokenizer = tiny_model::tokenizer();
            tokenizer["model"]["vocab"]["pear"] = json!(9);
            tiny_model::write_json(folder, "tokenizer.json", &tokenizer);
        },
    );
    let folder = tempfile::tempdir().expect("a folder");
    let broken = format!("m={}", script(folder.path(), "max_token = 64\n"));
    refused("a script's key", &["--model", &broken], &["unknown field `max_token`"]);
}

#[test]
fn a_batch_must_hold_the_longest_sequence() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = format!("m={}", script(folder.path(), "max_tokens = 64\n"));
    let output = ServerProcess::output(&["--listen", "127.0.0.1:0", "--model", &model], |command| {
        command.env("SLUICE_SCHEDULER__BATCH_TOKENS_MAX", "63");
    });
    assert_eq!(output.code, Some(1), "{}", output.stderr);
    assert!(output.stderr.contains("model \"m\" takes 64 tokens, more than a batch of 63"), "{}", output.stderr);
}

#[test]
fn one_broken_model_keeps_the_others_from_being_half_served() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = format!("whole={}", script(folder.path(), ""));
    let broken = format!("broken={}", folder.path().join("nowhere").display());
    refused("the second of two", &["--model", &whole, "--model", &broken], &["\"broken\" (", "no such folder"]);
}

/// What the spoilt ones differ from.
#[tokio::test(flavor = "multi_thread")]
async fn whole_models_are_served_side_by_side() {
    let folder = tempfile::tempdir().expect("a folder");
    tiny_model::write(folder.path());
    let tiny = format!("tiny={}", folder.path().display());
    let scripted = format!("scripted={}", script(folder.path(), "max_tokens = 64\n"));
    let mut process = ServerProcess::start(&["--model", &tiny, "--model", &scripted]);
    let ports = process.serving();
    for (name, backend, answers) in
        [("tiny", "cpu-f32-", "tiny"), ("scripted", "scripted", "scripted"), ("", "", "tiny")]
    {
        let mut ask = request("red apple", &["blue car", "a red apple"]);
        ask.model = name.to_owned();
        let answer = RerankServiceClient::new(ports.channel().await).rerank(ask).await.expect("served").into_inner();
        assert_eq!((answer.model.as_str(), answer.results[0].index), (answers, 1), "{name:?}");
        if !name.is_empty() {
            let get = GetModelRequest { name: name.to_owned() };
            let model =
                ModelServiceClient::new(ports.channel().await).get_model(get).await.expect("known").into_inner();
            // The rest of the name is the instructions that the machine has.
            let found = model.model.expect("described").backend;
            assert!(found.starts_with(backend), "{found}, expected {backend}…");
        }
    }
    process.signal("TERM");
    assert_eq!(process.ended(PATIENCE).code(), Some(0));
}
