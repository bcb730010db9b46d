//! Reads the segments that a manifest lists into indexes.

use std::{
    collections::{HashMap, hash_map},
    sync::Arc,
};

use crate::{
    CorruptFile, OpenError,
    batch::{Body, Record},
    collection::{Collection, CollectionKey, index::Index},
    disk::StoreFile,
    manifest::{Folder, Listed, Manifest},
    map::Map,
    segment::{
        HEADER_BYTES, SegmentHeader,
        scan::{Extent, Scanned, scan},
    },
    store::Collections,
};

/// What the segments of a manifest say.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) collections: HashMap<CollectionKey, LoadedCollection>,
    /// The segments that are not sealed.
    pub(crate) growing: Vec<Growing>,
    /// Above every sequence that was read.
    pub(crate) next_sequence: u64,
}

/// A segment that is not sealed.
#[derive(Debug)]
pub(crate) struct Growing {
    pub(crate) file: StoreFile,
    pub(crate) header: SegmentHeader,
    pub(crate) scanned: Scanned,
}

/// A collection whose segments are read in any order.
#[derive(Debug)]
pub(crate) struct LoadedCollection {
    pub(crate) index: Index,
    header: SegmentHeader,
    /// The last tombstone of each id that has one.
    graves: HashMap<Box<str>, u64>,
}

/// Reads all segments, to write to those that grow if `write`.
pub(crate) fn load(folder: &Folder, manifest: &Manifest, write: bool) -> Result<Loaded, OpenError> {
    let mut loaded = Loaded::default();
    for listed in &manifest.segments {
        loaded.read(folder, *listed, write && listed.sealed.is_none())?;
    }
    loaded.next_sequence = loaded.next_sequence.max(manifest.next_sequence);
    Ok(loaded)
}

impl Loaded {
    fn read(&mut self, folder: &Folder, listed: Listed, write: bool) -> Result<(), OpenError> {
        let file = StoreFile::open(folder.segment(listed.id), write)?;
        let length = file.length()?;
        if length < listed.sealed.unwrap_or(HEADER_BYTES) {
            let expected = if listed.sealed.is_some() { "the length at which it was sealed" } else { "a header" };
            return Err(OpenError::CorruptSegment(CorruptFile::new(&file.path, length, expected)));
        }
        let mut bytes = [0; HEADER_BYTES as usize];
        file.read_zero_filled(&mut bytes, 0)?;
        let header = SegmentHeader::decode(&bytes, listed.id, &file.path)?;
        let collection = self.collection(&header, &file)?;

        let (extent, mapped) = listed.sealed.map_or((Extent::Growing, length), |end| (Extent::Sealed(end), end));
        let map = Map::new(&file.file, mapped, 0).map_err(|source| file.error("map", source))?;
        let map = Arc::new(map);
        let slot = collection.index.add_segment(listed.id, Arc::clone(&map));
        let mut sequence_max = 0;
        let scanned = scan(&file, &header, HEADER_BYTES, extent, |record| {
            sequence_max = sequence_max.max(record.sequence);
            collection.apply(slot, record);
        })?;
        map.publish(scanned.committed);
        self.next_sequence = self.next_sequence.max(sequence_max + 1);
        if listed.sealed.is_none() {
            self.growing.push(Growing { file, header, scanned });
        }
        Ok(())
    }

    fn collection(&mut self, header: &SegmentHeader, file: &StoreFile) -> Result<&mut LoadedCollection, OpenError> {
        let collection = match self.collections.entry(header.key.clone()) {
            hash_map::Entry::Occupied(known) => known.into_mut(),
            hash_map::Entry::Vacant(vacant) => vacant.insert(LoadedCollection {
                index: Index::new(header.layout),
                header: header.clone(),
                graves: HashMap::new(),
            }),
        };
        if collection.header.layout != header.layout {
            let expected = "the storage and dim of the collection's other segments";
            return Err(OpenError::CorruptSegment(CorruptFile::new(&file.path, 12, expected)));
        }
        Ok(collection)
    }

    /// The collections, for lookups.
    pub(crate) fn into_collections(self) -> Collections {
        let collection = |(key, loaded): (CollectionKey, LoadedCollection)| {
            let collection = Collection::new(key.clone(), loaded.header.layout, loaded.index);
            (key, Arc::new(collection))
        };
        self.collections.into_iter().map(collection).collect()
    }
}

impl LoadedCollection {
    fn apply(&mut self, slot: u32, record: &Record<'_>) {
        let grave = self.graves.get(record.id).copied();
        match record.body {
            Body::Tombstone => {
                if grave.is_none_or(|sequence| sequence < record.sequence) {
                    self.graves.insert(record.id.into(), record.sequence);
                }
                self.index.apply(slot, record);
            }
            Body::Document(_) if grave.is_some_and(|sequence| sequence >= record.sequence) => {
                self.index.apply_dead(slot, record);
            }
            Body::Document(_) => self.index.apply(slot, record),
        }
    }
}
