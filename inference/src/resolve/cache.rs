//! Models on disk, by source and digest.
//!
//! ```text
//! ROOT/ENTRY/DIGEST/config.json …   a model; ENTRY comes from the source, DIGEST from the files
//! ROOT/commits/ENTRY                the commit that a branch or tag of the hub pointed to last
//! ROOT/staging/RANDOM/              work under way; its `.lock` is locked while its owner lives
//! ```
//!
//! A model comes into its place by one rename of a complete, verified folder, so that whoever looks sees
//! all of it or nothing, and the first of several writers wins. Because a folder is named by its digest, it
//! proves itself: what a crash or a disk has damaged is not found, and fetched again.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use tempfile::{NamedTempFile, TempDir};

use super::{
    FetchError, Progress,
    files::{digest_of, hash_folder},
};

/// A model in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) digest: String,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Cache {
    root: PathBuf,
}

impl Cache {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The model of an entry, read and verified; with `digest`, that one alone.
    pub(crate) fn find(&self, entry: &str, digest: Option<&str>, progress: &dyn Progress) -> Option<Found> {
        let entry = self.root.join(entry);
        let mut digests: Vec<String> = match digest {
            Some(digest) => vec![digest.to_owned()],
            None => fs::read_dir(&entry).ok()?.filter_map(|item| item.ok()?.file_name().into_string().ok()).collect(),
        };
        digests.sort_unstable();
        digests.into_iter().find_map(|digest| {
            let path = entry.join(&digest);
            is_intact(&path, &digest, progress).then_some(Found { path, digest })
        })
    }

    /// A fresh folder to work in, removed with the value. Removes those whose owners have died.
    pub(crate) fn stage(&self) -> Result<Staging, FetchError> {
        let root = self.root.join("staging");
        let failed = |error| FetchError::Cache { path: root.clone(), error };
        fs::create_dir_all(&root).map_err(failed)?;
        sweep(&root);
        let folder = TempDir::new_in(&root).map_err(failed)?;
        for name in [Staging::DOWNLOAD, Staging::MODEL] {
            fs::create_dir(folder.path().join(name)).map_err(failed)?;
        }
        let lock = lock_in(folder.path()).map_err(failed)?;
        Ok(Staging { folder, _lock: lock })
    }

    /// Moves the staged model to its place. If another got there first, theirs is used.
    pub(crate) fn keep(
        &self,
        staging: &Staging,
        (entry, digest): (&str, &str),
        progress: &dyn Progress,
    ) -> Result<Found, FetchError> {
        /// Each further one needs a damaged folder to appear again.
        const ATTEMPTS_MAX: usize = 3;
        let entry = self.root.join(entry);
        let path = entry.join(digest);
        let failed = |error| FetchError::Cache { path: path.clone(), error };
        fs::create_dir_all(&entry).map_err(failed)?;
        let found = || Found { path: path.clone(), digest: digest.to_owned() };
        let mut attempts = 0;
        loop {
            let Err(error) = fs::rename(staging.model(), &path) else { return Ok(found()) };
            if is_intact(&path, digest, progress) {
                return Ok(found());
            }
            attempts += 1;
            if attempts == ATTEMPTS_MAX {
                return Err(failed(error));
            }
            // What lies there is damaged. It goes away with the staging folder.
            let _ = fs::rename(&path, staging.folder.path().join(format!("damaged-{attempts}")));
        }
    }

    /// The commit noted for an entry.
    pub(crate) fn commit(&self, entry: &str) -> Option<String> {
        fs::read_to_string(self.root.join("commits").join(entry)).ok()
    }

    /// Notes the commit that an entry points to.
    pub(crate) fn note_commit(&self, entry: &str, commit: &str) -> Result<(), FetchError> {
        let folder = self.root.join("commits");
        let path = folder.join(entry);
        let write = || {
            fs::create_dir_all(&folder)?;
            let mut file = NamedTempFile::new_in(&folder)?;
            file.write_all(commit.as_bytes())?;
            file.persist(&path)?;
            Ok(())
        };
        write().map_err(|error| FetchError::Cache { path: path.clone(), error })
    }
}

/// A folder of one fetch.
#[derive(Debug)]
pub(crate) struct Staging {
    folder: TempDir,
    _lock: Option<File>,
}

impl Staging {
    const DOWNLOAD: &'static str = "download";
    const MODEL: &'static str = "model";

    /// Where the model is put together.
    pub(crate) fn model(&self) -> PathBuf {
        self.folder.path().join(Self::MODEL)
    }

    /// Where anything else goes.
    pub(crate) fn download(&self) -> PathBuf {
        self.folder.path().join(Self::DOWNLOAD)
    }
}

fn is_intact(path: &Path, digest: &str, progress: &dyn Progress) -> bool {
    if !path.exists() {
        return false;
    }
    match hash_folder(path, progress) {
        Ok(files) if digest_of(&files) == digest => true,
        Ok(_) => {
            tracing::warn!(path = %path.display(), "cached model is damaged: its digest has changed");
            false
        }
        Err(fault) => {
            tracing::warn!(path = %path.display(), %fault, "cached model is damaged");
            false
        }
    }
}

const LOCK: &str = ".lock";

/// Marks a staging folder as alive. `None` on a file system without locks: such a folder is never swept.
///
/// The lock is taken under another name, so that [`sweep`] never sees the lock of a living owner free.
fn lock_in(folder: &Path) -> io::Result<Option<File>> {
    let fresh = folder.join(".lock-fresh");
    let lock = File::create(&fresh)?;
    if lock.try_lock().is_err() {
        return Ok(None);
    }
    fs::rename(&fresh, folder.join(LOCK))?;
    Ok(Some(lock))
}

/// Removes what owners that died have left. Best effort: another may be sweeping too.
fn sweep(root: &Path) {
    let Ok(folders) = fs::read_dir(root) else { return };
    for folder in folders.flatten() {
        let Ok(lock) = File::open(folder.path().join(LOCK)) else { continue };
        if lock.try_lock().is_ok() {
            let _ = fs::remove_dir_all(folder.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{SilentProgress, files},
        *,
    };

    fn fill(folder: &Path, weights: &str) -> String {
        for (name, content) in [(files::CONFIG, "{}"), (files::TOKENIZER, "{}"), (files::WEIGHTS, weights)] {
            fs::write(folder.join(name), content).expect("writable");
        }
        digest_of(&hash_folder(folder, &SilentProgress).expect("complete"))
    }

    fn staged(root: &Path) -> usize {
        fs::read_dir(root.join("staging")).map_or(0, Iterator::count)
    }

    fn keep(cache: &Cache, weights: &str) -> Found {
        let staging = cache.stage().expect("writable");
        let digest = fill(&staging.model(), weights);
        cache.keep(&staging, ("entry", &digest), &SilentProgress).expect("writable")
    }

    #[test]
    fn a_kept_model_is_found_and_a_damaged_one_replaced() {
        let root = TempDir::new().expect("writable");
        let cache = Cache::new(root.path().to_owned());
        assert_eq!(cache.find("entry", None, &SilentProgress), None);
        let kept = keep(&cache, "weights");
        assert_eq!(cache.find("entry", None, &SilentProgress), Some(kept.clone()));
        assert_eq!(cache.find("entry", Some(&kept.digest), &SilentProgress), Some(kept.clone()));
        assert_eq!(cache.find("entry", Some("0"), &SilentProgress), None);
        assert_eq!(keep(&cache, "weights"), kept, "the second uses the first's");

        fs::write(kept.path.join(files::WEIGHTS), "damaged").expect("writable");
        assert_eq!(cache.find("entry", None, &SilentProgress), None);
        assert_eq!(keep(&cache, "weights"), kept);
        assert_eq!(fs::read_to_string(kept.path.join(files::WEIGHTS)).expect("there"), "weights");

        fs::remove_file(kept.path.join(files::TOKENIZER)).expect("there");
        assert_eq!(cache.find("entry", None, &SilentProgress), None);
        assert_eq!(keep(&cache, "weights"), kept);
        assert_eq!(staged(root.path()), 0);
    }

    #[test]
    fn commits_are_noted() {
        let root = TempDir::new().expect("writable");
        let cache = Cache::new(root.path().to_owned());
        assert_eq!(cache.commit("entry"), None);
        for commit in ["first", "second"] {
            cache.note_commit("entry", commit).expect("writable");
            assert_eq!(cache.commit("entry").as_deref(), Some(commit));
        }
        assert_eq!(staged(root.path()), 0);
    }

    #[test]
    fn the_staging_of_the_dead_is_swept_and_of_the_living_kept() {
        let root = TempDir::new().expect("writable");
        let cache = Cache::new(root.path().to_owned());
        let dead = root.path().join("staging/dead");
        fs::create_dir_all(&dead).expect("writable");
        fs::write(dead.join(LOCK), "").expect("writable");
        let living = cache.stage().expect("writable");
        assert!(!dead.exists());
        let other = cache.stage().expect("writable");
        assert!(living.model().exists() && other.model().exists());
        drop((living, other));
        assert_eq!(staged(root.path()), 0);
    }
}
