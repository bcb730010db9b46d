//! Follows a store that another process writes to.

use std::{io, sync::Arc};

use crate::{
    DiskError, OpenError,
    batch::Record,
    manifest::{Folder, Manifest},
    map::Map,
    segment::scan::{Extent, scan},
    store::{
        Collections,
        load::{Growing, load},
    },
};

/// How often reading is tried, since a writer may at any moment remove a segment that was listed a moment ago, or
/// commit a batch that had no commit when its place was looked at.
const ATTEMPTS_MAX: usize = 5;

/// What was seen last.
#[derive(Debug)]
pub(crate) struct Reader {
    generation: u64,
    growing: Vec<Growing>,
}

impl Reader {
    pub(crate) fn open(folder: &Folder) -> Result<(Self, Collections), OpenError> {
        retry(|| {
            let manifest = manifest(folder)?;
            let mut loaded = load(folder, &manifest, false)?;
            let growing = std::mem::take(&mut loaded.growing);
            Ok((Self { generation: manifest.generation, growing }, loaded.into_collections()))
        })
    }

    /// Enters what was appended; or returns new collections, if other segments count than before.
    pub(crate) fn refresh(&mut self, folder: &Folder, before: &Collections) -> Result<Option<Collections>, OpenError> {
        retry(|| {
            if manifest(folder)?.generation == self.generation {
                self.follow(before)?;
                return Ok(None);
            }
            let (reader, after) = Self::open(folder)?;
            for (key, collection) in &after {
                if let Some(before) = before.get(key).filter(|before| before.layout == collection.layout) {
                    collection.index_mut().inherit(&before.index());
                }
            }
            *self = reader;
            Ok(Some(after))
        })
    }

    /// Enters what was appended to the segments that grow.
    fn follow(&mut self, collections: &Collections) -> Result<(), OpenError> {
        for Growing { file, header, scanned } in &mut self.growing {
            let Some(collection) = collections.get(&header.key) else { continue };
            let mut records = Vec::new();
            let after = scan(file, header, scanned.committed, Extent::Growing, |record| {
                records.push((record.id.to_owned(), record.sequence, record.body));
            })?;
            if after.committed == scanned.committed {
                continue;
            }
            let map = Map::new(&file.file, after.committed, after.committed);
            let map = Arc::new(map.map_err(|source| file.error("map", source))?);
            let mut index = collection.index_mut();
            let slot = index.slot(header.id).unwrap_or_else(|| index.add_segment(header.id, Arc::clone(&map)));
            index.set_map(slot, &map);
            for (id, sequence, body) in records {
                index.apply(slot, &Record { id: &id, sequence, body });
            }
            *scanned = after;
        }
        Ok(())
    }
}

fn manifest(folder: &Folder) -> Result<Manifest, OpenError> {
    let path = folder.manifest();
    let missing = || DiskError { action: "open", path: path.clone(), source: io::ErrorKind::NotFound.into() };
    Manifest::read(&path)?.ok_or_else(|| missing().into())
}

fn retry<T>(mut run: impl FnMut() -> Result<T, OpenError>) -> Result<T, OpenError> {
    let mut attempts = 1;
    loop {
        match run() {
            Err(OpenError::CorruptSegment(_)) if attempts < ATTEMPTS_MAX => attempts += 1,
            Err(OpenError::Disk(error))
                if attempts < ATTEMPTS_MAX && error.source.kind() == io::ErrorKind::NotFound =>
            {
                attempts += 1;
            }
            result => return result,
        }
    }
}
