//! The models of a server, by name.

use std::sync::Arc;

use sluice_core::{ModelIndex, backend::Backend};
use sluice_inference::{LoadedModel, ModelInfo, TextEncoder};
use sluice_tokenstore::{ContentHash, ModelDigest};

use crate::job::Method;

/// A loaded model, without what computes it: the executor owns that.
#[derive(Clone)]
pub struct Model {
    /// Name that requests use.
    pub name: String,
    /// What it is and can do.
    pub info: ModelInfo,
    /// Its digest, as bytes.
    pub digest: ModelDigest,
    /// Its tokenizer.
    pub text: Arc<TextEncoder>,
}

impl Model {
    /// The method of a request that names none.
    #[must_use]
    pub fn default_method(&self) -> Method {
        if self.info.cross_encoder { Method::CrossEncoder } else { Method::LateInteraction }
    }

    /// Whether it can score that way.
    #[must_use]
    pub fn supports(&self, method: Method) -> bool {
        match method {
            Method::LateInteraction => self.info.late_interaction,
            Method::Dense => self.info.dense,
            Method::CrossEncoder => self.info.cross_encoder,
        }
    }

    /// Longest sequence, special tokens included.
    #[must_use]
    pub fn tokens_max(&self) -> usize {
        self.info.max_tokens as usize
    }
}

/// Every model of a server, in the order of the configuration. The first is the default.
#[derive(Clone, Default)]
pub struct Models(Vec<Model>);

impl Models {
    /// Splits loaded models into what requests ask about and what the executor runs, in one order.
    #[must_use]
    pub fn split(loaded: Vec<(String, LoadedModel)>) -> (Self, Vec<Box<dyn Backend>>) {
        let (models, backends) = loaded
            .into_iter()
            .map(|(name, LoadedModel { info, text, backend, .. })| {
                let digest = model_digest(&info);
                (Model { name, info, digest, text }, backend)
            })
            .unzip();
        (Self(models), backends)
    }

    /// The model of that name; the default one for an empty name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<(ModelIndex, &Model)> {
        let position = if name.is_empty() { 0 } else { self.0.iter().position(|model| model.name == name)? };
        let index = ModelIndex(u16::try_from(position).ok()?);
        Some((index, self.0.get(position)?))
    }

    /// A model of this server by its index.
    ///
    /// # Panics
    /// If the index is not one that [`find`](Self::find) gave out.
    #[must_use]
    pub fn get(&self, index: ModelIndex) -> &Model {
        &self.0[index.0 as usize]
    }

    /// All of them with their indices, the default first.
    pub fn iter(&self) -> impl Iterator<Item = (ModelIndex, &Model)> {
        (0_u16..).map(ModelIndex).zip(&self.0)
    }
}

/// Digests are SHA-256 in hexadecimal; whatever else names a model by its content is as good once hashed.
fn model_digest(info: &ModelInfo) -> ModelDigest {
    ModelDigest::from_hex(&info.digest).unwrap_or_else(|| ModelDigest(ContentHash::of_text(&info.digest).0))
}
