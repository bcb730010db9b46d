//! For tests of this workspace that need the real default model.

#![allow(clippy::disallowed_methods, reason = "tests are their own rim")]

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use safetensors::{SafeTensors, tensor::TensorView};

use crate::{
    resolve::{HubSettings, ModelFolder, Resolver, SilentProgress},
    source::Source,
};

/// Set to anything, it turns the absence of the default model from a skip into a failure.
pub const REQUIRE_MODEL: &str = "SLUICE_REQUIRE_MODEL";

/// The default model, from a cache that all tests of a user share; fetched the first time. `None`, with a
/// line on standard error, where no source has it: the test is then to be skipped.
///
/// # Panics
/// Instead of `None` if `SLUICE_REQUIRE_MODEL` is set.
#[must_use]
pub fn default_model() -> Option<ModelFolder> {
    static MODEL: OnceLock<Option<ModelFolder>> = OnceLock::new();
    MODEL.get_or_init(resolve).clone()
}

// A test's skips and failures are for whoever runs it.
#[expect(clippy::panic, clippy::print_stderr)]
fn resolve() -> Option<ModelFolder> {
    let hub = HubSettings::from_variables(|name| env::var(name).ok());
    match Resolver::new(cache(), Arc::new(SilentProgress)).with_hub(hub).resolve(&Source::Default) {
        Ok(folder) => Some(folder),
        Err(error) if env::var_os(REQUIRE_MODEL).is_some() => panic!("{REQUIRE_MODEL} is set, and {error}"),
        Err(error) => {
            eprintln!("skipped, for want of the default model: {error}");
            None
        }
    }
}

/// `sluice/models` in the user's cache folder: outside the workspace, so that a fresh clone finds it.
fn cache() -> PathBuf {
    let folder = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let user = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    user.unwrap_or_else(env::temp_dir).join(Path::new("sluice/models"))
}

/// Writes a cross-encoder folder into `target`: the encoder of `encoder`, each of its tensors' names with
/// `prefix` before it, and the tensors of the safetensors file `head` (`classifier.weight`, `[1, hidden]`, and
/// `classifier.bias`, `[1]`) in one `model.safetensors`; one label.
///
/// # Panics
/// If a file is missing or is not what it should be.
#[expect(clippy::unwrap_used)]
pub fn write_cross_encoder(target: &Path, encoder: &Path, head: &[u8], prefix: &str) {
    let weights = fs::read(encoder.join("model.safetensors")).unwrap();
    let (weights, head) = (SafeTensors::deserialize(&weights).unwrap(), SafeTensors::deserialize(head).unwrap());
    let mut tensors: BTreeMap<String, TensorView<'_>> =
        weights.iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)).collect();
    tensors.extend(head.iter().map(|(name, tensor)| (name.to_owned(), tensor)));
    safetensors::serialize_to_file(tensors, None, &target.join("model.safetensors")).unwrap();
    for file in ["tokenizer.json", "sentence_bert_config.json"] {
        fs::copy(encoder.join(file), target.join(file)).unwrap();
    }
    let mut config: serde_json::Value =
        serde_json::from_slice(&fs::read(encoder.join("config.json")).unwrap()).unwrap();
    config["architectures"] = serde_json::json!(["BertForSequenceClassification"]);
    config["id2label"] = serde_json::json!({"0": "LABEL_0"});
    fs::write(target.join("config.json"), config.to_string()).unwrap();
}
