//! The one who writes: the lock, the manifest, and every collection's growing segment.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File, OpenOptions, TryLockError},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    CorruptFile, DiskError, Layout, OpenError, Options,
    batch::{Batch, PlacedBatch},
    collection::CollectionKey,
    disk::Disk,
    manifest::{Folder, Listed, Manifest},
    map::Map,
    segment::{
        HEADER_BYTES, SegmentHeader,
        active::{ActiveSegment, AppendError},
    },
    store::{
        Collections,
        load::{Growing, load},
    },
};

/// What it takes to write to a store.
#[derive(Debug)]
pub(crate) struct Writer {
    /// Held as long as this lives.
    _lock: File,
    folder: Folder,
    disk: Disk,
    segment_bytes_max: u64,
    pub(crate) manifest: Manifest,
    /// Whether the manifest on disk may be another than the one here. Nothing is written before it is not.
    unsettled: bool,
    active: HashMap<CollectionKey, ActiveSegment>,
    /// Files that the next manifest on disk does not list, to be removed after it.
    garbage: Vec<PathBuf>,
}

/// A batch that is durable.
#[derive(Debug)]
pub(crate) struct Appended<'a> {
    pub(crate) segment: u64,
    pub(crate) map: Arc<Map>,
    pub(crate) batch: PlacedBatch<'a>,
}

impl Writer {
    pub(crate) fn open(disk: &Disk, folder: &Folder, options: Options) -> Result<(Self, Collections), OpenError> {
        let segments = folder.segments();
        if !segments.is_dir() {
            disk.create_folder(&segments)?;
            disk.sync_folder(&folder.0)?;
            let above = folder.0.parent().filter(|above| !above.as_os_str().is_empty());
            disk.sync_folder(above.unwrap_or(Path::new(".")))?;
        }
        let lock = lock(folder)?;
        let manifest = manifest(disk, folder)?;
        let mut loaded = load(folder, &manifest, true)?;
        let mut writer = Self {
            _lock: lock,
            folder: folder.clone(),
            disk: disk.clone(),
            segment_bytes_max: options.segment_bytes_max,
            manifest: Manifest { next_sequence: loaded.next_sequence, ..manifest },
            unsettled: false,
            active: HashMap::new(),
            garbage: Vec::new(),
        };
        for growing in std::mem::take(&mut loaded.growing) {
            let key = growing.header.key.clone();
            let resumed = writer.resume(growing)?;
            let collection = loaded.collections.get_mut(&key).expect("its segment was read");
            let slot = collection.index.slot(resumed.header.id).expect("its segment was read");
            if resumed.is_empty() {
                collection.index.remove_segment(slot);
                writer.abandon(&resumed);
            } else {
                collection.index.set_map(slot, resumed.map());
                writer.active.insert(key, resumed);
            }
        }
        loaded.collections.retain(|_, collection| collection.index.segments().next().is_some());
        writer.settle()?;
        writer.remove_orphans()?;
        Ok((writer, loaded.into_collections()))
    }

    fn resume(&self, growing: Growing) -> Result<ActiveSegment, OpenError> {
        let Growing { file, header, scanned } = growing;
        if self.active.contains_key(&header.key) {
            let expected = "one growing segment for each collection";
            return Err(OpenError::CorruptManifest(CorruptFile::new(&self.folder.manifest(), 0, expected)));
        }
        let (committed, torn) = (scanned.committed, scanned.torn);
        Ok(ActiveSegment::resume(&self.disk, file, header, committed, torn, self.segment_bytes_max)?)
    }

    /// Removes segments that no manifest lists: of a process that died between writing one and listing it, or between
    /// no longer listing it and removing it.
    fn remove_orphans(&self) -> Result<(), OpenError> {
        let segments = self.folder.segments();
        let failed = |source| DiskError { action: "list", path: segments.clone(), source };
        let listed: HashSet<PathBuf> =
            self.manifest.segments.iter().map(|listed| self.folder.segment(listed.id)).collect();
        for entry in fs::read_dir(&segments).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == "seg") && !listed.contains(&path) {
                self.disk.remove(&path)?;
            }
        }
        Ok(())
    }

    /// Makes a batch durable, or leaves no trace of it.
    pub(crate) fn append<'a>(
        &mut self,
        key: &CollectionKey,
        layout: Layout,
        batch: &'a Batch,
    ) -> Result<Appended<'a>, DiskError> {
        self.settle()?;
        let mut active = match self.active.remove(key) {
            Some(active) if active.fits(batch.bytes()) => active,
            full => self.start_segment(key, layout, full)?,
        };
        let next_sequence = self.manifest.next_sequence;
        // A failed batch's sequences are not used again: another process may have seen it for a moment.
        self.manifest.next_sequence += batch.records() as u64;
        match active.append(&self.disk, batch, next_sequence) {
            Ok(batch) => {
                let appended = Appended { segment: active.header.id, map: Arc::clone(active.map()), batch };
                self.active.insert(key.clone(), active);
                Ok(appended)
            }
            Err(AppendError { error, wounded }) => {
                if active.is_empty() {
                    self.abandon(&active);
                } else if wounded {
                    self.seal(&active);
                } else {
                    self.active.insert(key.clone(), active);
                }
                // If this fails, whoever writes next tries again.
                let _ = self.settle();
                Err(error)
            }
        }
    }

    /// Begins a segment, and seals the one that is full.
    fn start_segment(
        &mut self,
        key: &CollectionKey,
        layout: Layout,
        full: Option<ActiveSegment>,
    ) -> Result<ActiveSegment, DiskError> {
        let header = SegmentHeader { id: self.manifest.number(), key: key.clone(), layout };
        let path = self.folder.segment(header.id);
        let created = self.disk.create(&path).and_then(|file| {
            let active = ActiveSegment::create(&self.disk, file, header.clone(), self.segment_bytes_max)?;
            self.disk.sync_folder(&self.folder.segments())?;
            Ok(active)
        });
        let active = match created {
            Ok(active) => active,
            Err(error) => {
                // No manifest has listed it.
                if self.disk.remove(&path).is_err() {
                    self.garbage.push(path);
                }
                self.active.extend(full.map(|full| (key.clone(), full)));
                return Err(error);
            }
        };
        self.manifest.segments.push(Listed { id: header.id, sealed: None });
        if let Some(full) = &full {
            self.seal(full);
        }
        if let Err(error) = self.replace_manifest() {
            self.abandon(&active);
            return Err(error);
        }
        if let Some(full) = full {
            // What is reserved and not written is a hole: it costs nothing if it stays.
            let _ = full.trim(&self.disk);
        }
        Ok(active)
    }

    /// Seals the growing segment of a collection, if it is this one.
    pub(crate) fn seal_active(&mut self, key: &CollectionKey, id: u64) -> Result<(), DiskError> {
        let Some(active) = self.active.remove(key) else { return Ok(()) };
        if active.header.id == id {
            self.seal(&active);
            self.replace_manifest()?;
            let _ = active.trim(&self.disk);
        } else {
            self.active.insert(key.clone(), active);
        }
        Ok(())
    }

    /// Lists a segment that grew as sealed.
    fn seal(&mut self, active: &ActiveSegment) {
        self.manifest.seal(active.header.id, active.committed());
        self.unsettled = true;
    }

    /// No longer lists a segment that nothing was committed to.
    fn abandon(&mut self, active: &ActiveSegment) {
        debug_assert_eq!(active.committed(), HEADER_BYTES, "nothing committed is abandoned");
        self.manifest.segments.retain(|listed| listed.id != active.header.id);
        self.garbage.push(self.folder.segment(active.header.id));
        self.unsettled = true;
    }

    /// Puts sealed segments in the place of others. Either all of it happened, or none of it and the next to write sees
    /// to it that it does not happen later.
    pub(crate) fn swap(&mut self, old: &[u64], new: &[Listed]) -> Result<(), DiskError> {
        let before = self.manifest.segments.clone();
        self.manifest.segments.retain(|listed| !old.contains(&listed.id));
        self.manifest.segments.extend_from_slice(new);
        if let Err(error) = self.replace_manifest() {
            self.manifest.segments = before;
            return Err(error);
        }
        self.garbage.extend(old.iter().map(|id| self.folder.segment(*id)));
        self.remove_garbage();
        Ok(())
    }

    /// Removes segments that are not listed here, once they certainly are not on disk.
    pub(crate) fn discard(&mut self, ids: &[u64]) {
        self.garbage.extend(ids.iter().map(|id| self.folder.segment(*id)));
        if self.settle().is_ok() {
            self.remove_garbage();
        }
    }

    /// Makes sure that the manifest on disk is the one here.
    pub(crate) fn settle(&mut self) -> Result<(), DiskError> {
        if self.unsettled { self.replace_manifest() } else { Ok(()) }
    }

    fn replace_manifest(&mut self) -> Result<(), DiskError> {
        self.unsettled = true;
        self.manifest.generation += 1;
        self.manifest.replace(&self.disk, &self.folder)?;
        self.unsettled = false;
        self.remove_garbage();
        Ok(())
    }

    /// Files that cannot be removed now are tried again, and in the end when the store is opened.
    fn remove_garbage(&mut self) {
        let disk = &self.disk;
        self.garbage.retain(|path| disk.remove(path).is_err());
    }
}

fn lock(folder: &Folder) -> Result<File, OpenError> {
    let path = folder.lock();
    let failed = |action, source| OpenError::Disk(DiskError { action, path: path.clone(), source });
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(|source| failed("open", source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { folder: folder.0.clone() }),
        Err(TryLockError::Error(source)) => Err(failed("lock", source)),
    }
}

/// The manifest, created where there is nothing yet.
fn manifest(disk: &Disk, folder: &Folder) -> Result<Manifest, OpenError> {
    let path = folder.manifest();
    if let Some(manifest) = Manifest::read(&path)? {
        return Ok(manifest);
    }
    let segments = folder.segments();
    let failed = |source| DiskError { action: "list", path: segments.clone(), source };
    if fs::read_dir(&segments).map_err(failed)?.next().is_some() {
        return Err(OpenError::CorruptManifest(CorruptFile::new(&path, 0, "a manifest, since there are segments")));
    }
    let manifest = Manifest::empty();
    manifest.replace(disk, folder)?;
    Ok(manifest)
}
