//! Snapshots: the truth of one moment in a folder, and a collection made from it.
//!
//! A snapshot is a copy of the truth alone, taken in one read transaction while the collection is written and searched,
//! and a manifest with its checksum. Indexes are left out: they are larger than the truth, differ from version to
//! version, and are filled again from it when the collection is opened, beside its first searches.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Collection, truth_folder};
use crate::{
    identity::Lsn,
    truth::{DiskError, StorageError, Truth, disk, sync_folder},
};

/// The file that makes a folder a snapshot: written last.
pub const SNAPSHOT_MANIFEST: &str = "snapshot.json";
const COPY: &str = "data.mdb";
/// LMDB's, while the copy is looked at.
const LOCK: &str = "lock.mdb";
/// The manifest while it is written.
const UNNAMED_MANIFEST: &str = "snapshot.json.new";
/// The version of what a manifest says.
const FORMAT: u32 = 1;
/// Bytes that are read at a time.
const BLOCK_BYTES: usize = 1 << 20;

/// What a snapshot says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotManifest {
    /// The version of this file's layout.
    pub format: u32,
    /// The last batch in it.
    pub lsn: Lsn,
    /// Documents in it.
    pub documents: u64,
    /// Bytes of the copy.
    pub bytes: u64,
    /// SHA-256 of the copy, in hexadecimal.
    pub sha256: String,
}

/// A snapshot could not be taken or restored.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The folder that should be made for it is there.
    #[error("{} is there already", .0.display())]
    Exists(std::path::PathBuf),
    /// There is no manifest in the folder, or it does not say what it must.
    #[error("{} holds no snapshot", .0.display())]
    Missing(std::path::PathBuf),
    /// The copy is not what the manifest says.
    #[error("the snapshot is damaged: its copy has {what} {found}, not {expected}")]
    Damaged {
        /// `length` or `SHA-256`.
        what: &'static str,
        /// What the manifest says.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The system refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The store refused.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Collection {
    /// Copies the collection as it is now into a new folder.
    ///
    /// Free pages are left out. Pages that change meanwhile are not used again until it is done.
    ///
    /// # Errors
    /// [`SnapshotError`]; what was copied is removed.
    pub fn snapshot(&self, folder: &Path) -> Result<SnapshotManifest, SnapshotError> {
        fs::create_dir(folder).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => SnapshotError::Exists(folder.to_owned()),
            _ => disk("create", folder)(error).into(),
        })?;
        let taken = self.snapshot_into(folder).and_then(|manifest| {
            // The folder's own entry must outlive a crash as well.
            folder.parent().map_or(Ok(()), sync_folder)?;
            Ok(manifest)
        });
        if taken.is_err() {
            // It has no manifest, so it is no snapshot, even where removing it fails.
            let _ = fs::remove_dir_all(folder);
        }
        taken
    }

    fn snapshot_into(&self, folder: &Path) -> Result<SnapshotManifest, SnapshotError> {
        let copy = folder.join(COPY);
        self.truth().copy_to(&copy)?;
        // What the copy holds is asked of the copy: the collection may have gone on meanwhile.
        let (lsn, documents) = {
            let truth = Truth::open(folder, self.options.map_bytes)?;
            let reader = truth.read()?;
            (reader.lsn(), reader.documents())
        };
        // Opening it made a lock file, which is of this process.
        let lock = folder.join(LOCK);
        fs::remove_file(&lock).map_err(disk("remove", &lock))?;
        let (bytes, sha256) = checksum(&copy)?;
        let manifest = SnapshotManifest { format: FORMAT, lsn, documents, bytes, sha256 };
        let path = folder.join(UNNAMED_MANIFEST);
        let json = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
        fs::write(&path, json).map_err(disk("write", &path))?;
        File::open(&path).and_then(|file| file.sync_all()).map_err(disk("sync", &path))?;
        // Whole or not there.
        fs::rename(&path, folder.join(SNAPSHOT_MANIFEST)).map_err(disk("rename", &path))?;
        sync_folder(folder)?;
        Ok(manifest)
    }
}

/// Removes what crashes left of snapshots that were being taken: folders without a manifest, in which nothing is but what
/// taking a snapshot puts there. Not while one is taken.
///
/// # Errors
/// [`DiskError`].
pub(crate) fn remove_unfinished(snapshots: &Path) -> Result<(), DiskError> {
    let read = |folder: &Path| -> Result<Vec<_>, DiskError> {
        let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        entries.map_err(disk("read", folder))
    };
    for folder in read(snapshots)?.into_iter().map(|entry| entry.path()).filter(|path| path.is_dir()) {
        let ours = |entry: &fs::DirEntry| [COPY, LOCK, UNNAMED_MANIFEST].iter().any(|name| entry.file_name() == *name);
        if read(&folder)?.iter().all(ours) {
            fs::remove_dir_all(&folder).map_err(disk("remove", &folder))?;
        }
    }
    Ok(())
}

/// Makes the folder of a collection from a snapshot, to be opened like any other. The snapshot stays as it is.
///
/// # Errors
/// [`SnapshotError`]; nothing is left in `folder`, which must not be there before.
pub fn restore(snapshot: &Path, folder: &Path) -> Result<SnapshotManifest, SnapshotError> {
    let path = snapshot.join(SNAPSHOT_MANIFEST);
    let missing = || SnapshotError::Missing(snapshot.to_owned());
    let manifest = fs::read(&path).map_err(|_| missing())?;
    let manifest: SnapshotManifest = serde_json::from_slice(&manifest).map_err(|_| missing())?;
    if manifest.format != FORMAT {
        return Err(StorageError::Format { found: manifest.format, supported: FORMAT }.into());
    }
    fs::create_dir(folder).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => SnapshotError::Exists(folder.to_owned()),
        _ => disk("create", folder)(error).into(),
    })?;
    match copy_checked(snapshot, folder, &manifest) {
        Ok(()) => Ok(manifest),
        Err(fault) => {
            let _ = fs::remove_dir_all(folder);
            Err(fault)
        }
    }
}

fn copy_checked(snapshot: &Path, folder: &Path, manifest: &SnapshotManifest) -> Result<(), SnapshotError> {
    let truth = truth_folder(folder);
    fs::create_dir(&truth).map_err(disk("create", &truth))?;
    let copy = truth.join(COPY);
    fs::copy(snapshot.join(COPY), &copy).map_err(disk("copy", &snapshot.join(COPY)))?;
    // What arrived is checked, not what was sent.
    let (bytes, sha256) = checksum(&copy)?;
    if bytes != manifest.bytes {
        let (expected, found) = (manifest.bytes.to_string(), bytes.to_string());
        return Err(SnapshotError::Damaged { what: "length", expected, found });
    }
    if sha256 != manifest.sha256 {
        return Err(SnapshotError::Damaged { what: "SHA-256", expected: manifest.sha256.clone(), found: sha256 });
    }
    File::open(&copy).and_then(|file| file.sync_all()).map_err(disk("sync", &copy))?;
    sync_folder(&truth)?;
    Ok(sync_folder(folder)?)
}

/// Length and SHA-256 of a file.
fn checksum(path: &Path) -> Result<(u64, String), DiskError> {
    let mut file = File::open(path).map_err(disk("open", path))?;
    let (mut hasher, mut length, mut block) = (Sha256::new(), 0, vec![0; BLOCK_BYTES]);
    loop {
        match file.read(&mut block).map_err(disk("read", path))? {
            0 => break,
            read => {
                hasher.update(&block[..read]);
                length += read as u64;
            }
        }
    }
    let digest = hasher.finalize();
    Ok((length, digest.iter().map(|byte| format!("{byte:02x}")).collect()))
}
