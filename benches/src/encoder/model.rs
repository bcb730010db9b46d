//! The default model with a classification head, in a folder of its own: one model for all three methods.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context;
use rand::{Rng, SeedableRng, rngs::StdRng};
use safetensors::{
    SafeTensors,
    tensor::{Dtype, TensorView, serialize_to_file},
};
use serde_json::json;

/// Where the head's weights come from. They are random either way: speed does not depend on them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    /// A file with `classifier.weight` `[1, hidden]` and `classifier.bias` `[1]`.
    File(PathBuf),
    /// Drawn from a fixed seed.
    Drawn,
}

const WEIGHTS: &str = "model.safetensors";
const CONFIG: &str = "config.json";
const WEIGHT: &str = "classifier.weight";
const BIAS: &str = "classifier.bias";
const SEED: u64 = 1;

/// Writes the BERT of `folder` with that head to `out`, a classifier of one label.
///
/// # Errors
/// If the folder is no BERT with a pooler, or a file cannot be read or written.
pub fn merge(folder: &Path, head: &Head, out: &Path) -> anyhow::Result<()> {
    copy(folder, out).with_context(|| format!("cannot copy {} to {}", folder.display(), out.display()))?;
    let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));

    let mut config: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&read(&folder.join(CONFIG))?)?;
    config.insert("architectures".to_owned(), json!(["BertForSequenceClassification"]));
    config.insert("id2label".to_owned(), json!({"0": "LABEL_0"}));
    config.insert("label2id".to_owned(), json!({"LABEL_0": 0}));
    fs::write(out.join(CONFIG), serde_json::to_vec_pretty(&config)?)?;

    let weights = read(&folder.join(WEIGHTS))?;
    let weights = SafeTensors::deserialize(&weights)?;
    let hidden = weights.tensor("pooler.dense.weight").context("the model has no pooler")?.shape()[0];
    let head = match head {
        Head::File(path) => read(path)?,
        Head::Drawn => draw(hidden)?,
    };
    let head = SafeTensors::deserialize(&head)?;
    // As transformers names them in a classifier: the encoder's tensors below `bert`, the head's as they are.
    let mut tensors: Vec<(String, TensorView<'_>)> =
        weights.tensors().into_iter().map(|(name, view)| (format!("bert.{name}"), view)).collect();
    tensors.extend([(WEIGHT.to_owned(), head.tensor(WEIGHT)?), (BIAS.to_owned(), head.tensor(BIAS)?)]);
    serialize_to_file(tensors, None, &out.join(WEIGHTS))?;
    Ok(())
}

/// Copies a folder, without the weights: they are written anew.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy(&source, &target)?;
        } else if entry.file_name() != WEIGHTS {
            fs::copy(&source, &target)?;
        }
    }
    Ok(())
}

/// A head as a file's bytes: weights of ±0.1, so that logits are of the order of 1.
fn draw(hidden: usize) -> anyhow::Result<Vec<u8>> {
    let mut rng = StdRng::seed_from_u64(SEED);
    let weight: Vec<u8> = (0..hidden).flat_map(|_| rng.random_range(-0.1_f32..0.1).to_le_bytes()).collect();
    let bias = 0_f32.to_le_bytes();
    let tensors = [
        (WEIGHT, TensorView::new(Dtype::F32, vec![1, hidden], &weight)?),
        (BIAS, TensorView::new(Dtype::F32, vec![1], &bias)?),
    ];
    Ok(safetensors::serialize(tensors, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bert(folder: &Path) {
        let pooler = [0_u8; 16];
        let view = TensorView::new(Dtype::F32, vec![2, 2], &pooler).unwrap();
        serialize_to_file([("pooler.dense.weight", view)], None, &folder.join(WEIGHTS)).unwrap();
        fs::write(folder.join(CONFIG), r#"{"architectures":["BertModel"],"hidden_size":2}"#).unwrap();
        fs::create_dir(folder.join("1_Pooling")).unwrap();
        fs::write(folder.join("1_Pooling/config.json"), "{}").unwrap();
    }

    #[test]
    fn a_merged_folder_has_everything() {
        let (folder, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        bert(folder.path());
        merge(folder.path(), &Head::Drawn, out.path()).unwrap();
        let bytes = fs::read(out.path().join(WEIGHTS)).unwrap();
        let weights = SafeTensors::deserialize(&bytes).unwrap();
        for (name, shape) in [("bert.pooler.dense.weight", vec![2, 2]), (WEIGHT, vec![1, 2]), (BIAS, vec![1])] {
            assert_eq!(weights.tensor(name).unwrap().shape(), shape, "{name}");
        }
        let config: serde_json::Value = serde_json::from_slice(&fs::read(out.path().join(CONFIG)).unwrap()).unwrap();
        assert_eq!(config["architectures"], json!(["BertForSequenceClassification"]));
        assert_eq!(config["hidden_size"], json!(2));
        assert!(out.path().join("1_Pooling/config.json").is_file());
    }

    #[test]
    fn a_head_of_a_file_is_taken_as_it_is() {
        let (folder, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        bert(folder.path());
        let head = folder.path().join("head.safetensors");
        let drawn = draw(2).unwrap();
        fs::write(&head, &drawn).unwrap();
        merge(folder.path(), &Head::File(head), out.path()).unwrap();
        let bytes = fs::read(out.path().join(WEIGHTS)).unwrap();
        let merged = SafeTensors::deserialize(&bytes).unwrap();
        let drawn = SafeTensors::deserialize(&drawn).unwrap();
        assert_eq!(merged.tensor(WEIGHT).unwrap().data(), drawn.tensor(WEIGHT).unwrap().data());
    }
}
