//! Compaction: what is live of some segments is copied into new ones, which take their place.
//!
//! Copying holds no lock, so documents may be put and deleted meanwhile; what they replace is dead in the copy. The
//! exchange is one replacement of the manifest: whoever opens the store finds the old segments or the new ones, never
//! both and never neither. Lookups find documents throughout, through one mapping or the other.

use std::sync::PoisonError;

use crate::{
    CompactError, DiskError, Namespace, TokenStore,
    batch::{Body, Record, Version, checksum},
    collection::{
        Collection, CollectionKey, Damage,
        index::{Fate, SegmentView},
    },
    disk::StoreFile,
    manifest::Listed,
    segment::{
        HEADER_BYTES, SegmentHeader,
        rewrite::{Rewrite, Rewritten},
        scan::{Extent, scan},
    },
    store::lock,
};

/// Which segments are rewritten.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Compact {
    /// All.
    All,
    /// Those of whose records' bytes at least this share is dead, 0 to 1; never one without dead bytes.
    DeadShare(f64),
}

/// What a compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Segments removed.
    pub segments_before: usize,
    /// Segments written in their place.
    pub segments_after: usize,
    /// Bytes of those removed.
    pub bytes_before: u64,
    /// Bytes of those written.
    pub bytes_after: u64,
}

/// Documents moved under one hold of an index's lock: some 100 µs.
const RELOCATIONS_MAX: usize = 1_024;

impl TokenStore {
    /// Frees what replaced and deleted documents occupy. May run beside puts, deletes and lookups; a second compaction
    /// waits for the first. What was looked up before stays readable.
    ///
    /// Needs room for one more segment on disk, and in memory for a batch of 4 MiB or the largest document, and 100
    /// bytes and the id for each document of a segment.
    ///
    /// # Errors
    /// [`CompactError`]. Nothing is lost; segments that were already exchanged stay so.
    pub fn compact(&self, which: Compact) -> Result<Compacted, CompactError> {
        self.compact_where(which, |_| true)
    }

    /// As [`compact`](Self::compact), in one namespace alone.
    ///
    /// # Errors
    /// As for [`compact`](Self::compact).
    pub fn compact_namespace(&self, namespace: &Namespace, which: Compact) -> Result<Compacted, CompactError> {
        self.compact_where(which, |key| key.namespace == *namespace)
    }

    fn compact_where(
        &self,
        which: Compact,
        wanted: impl Fn(&CollectionKey) -> bool,
    ) -> Result<Compacted, CompactError> {
        drop(self.writer().ok_or(CompactError::ReadOnly)?);
        let _one_at_a_time = lock(&self.compaction);
        let mut keys: Vec<_> = self.collections().into_keys().filter(wanted).collect();
        keys.sort_unstable();
        let mut done = Compacted::default();
        for key in keys {
            let Some(collection) = self.collection(&key) else { continue };
            for group in groups(self.candidates(&collection, which)?, self.options.segment_bytes_max) {
                self.compact_group(&collection, &group, &mut done)?;
            }
            self.remove_if_empty(&collection);
        }
        Ok(done)
    }

    /// The segments to rewrite, sealed, oldest first.
    fn candidates(&self, collection: &Collection, which: Compact) -> Result<Vec<SegmentView>, CompactError> {
        let mut writer = self.writer().ok_or(CompactError::ReadOnly)?;
        writer.settle()?;
        let chosen = |segment: &SegmentView| match which {
            Compact::All => true,
            Compact::DeadShare(share) => {
                let (dead, all) = (segment.dead_bytes as f64, (segment.dead_bytes + segment.live_bytes) as f64);
                segment.dead_bytes > 0 && dead >= share * all
            }
        };
        let select = || {
            let index = collection.index();
            let mut selected: Vec<_> = index.segments().filter(|segment| chosen(segment)).cloned().collect();
            selected.sort_unstable_by_key(|segment| segment.id);
            selected
        };
        let selected = select();
        for segment in &selected {
            writer.seal_active(&collection.key, segment.id)?;
        }
        Ok(selected)
    }

    fn compact_group(
        &self,
        collection: &Collection,
        group: &[SegmentView],
        done: &mut Compacted,
    ) -> Result<(), CompactError> {
        let mut copying = Copying::new(self, collection, group);
        let copied = group.iter().try_for_each(|segment| copying.copy_segment(segment));
        let finished = copied.and_then(|()| Ok(copying.finish_output()?));
        let Copying { outputs, files, forgotten, damaged, .. } = copying;
        self.corrupt.extend(&self.folder, &collection.key, damaged);
        let exchanged = finished.and_then(|()| {
            self.disk.sync_folder(&self.folder.segments())?;
            Ok(self.exchange(collection, group, &outputs, &forgotten)?)
        });
        if let Err(error) = exchanged {
            // What the manifest may list must stay until it certainly does not.
            let mut writer = self.writer().ok_or(CompactError::ReadOnly)?;
            writer.discard(&files);
            return Err(error);
        }
        done.segments_before += group.len();
        done.segments_after += outputs.len();
        done.bytes_before += group.iter().map(|segment| segment.map.readable()).sum::<u64>();
        done.bytes_after += outputs.iter().map(|output| output.length).sum::<u64>();
        Ok(())
    }

    /// Puts the outputs in the place of the group.
    fn exchange(
        &self,
        collection: &Collection,
        group: &[SegmentView],
        outputs: &[Rewritten],
        forgotten: &[(Box<str>, u64)],
    ) -> Result<(), DiskError> {
        let Some(mut writer) = self.writer() else { return Ok(()) };
        writer.settle()?;
        let old: Vec<u64> = group.iter().map(|segment| segment.id).collect();
        let new: Vec<_> = outputs.iter().map(|output| Listed { id: output.id, sealed: Some(output.length) }).collect();
        writer.swap(&old, &new)?;
        for output in outputs {
            let slot = collection.index_mut().add_segment(output.id, output.map.clone());
            for records in output.records.chunks(RELOCATIONS_MAX) {
                let mut index = collection.index_mut();
                records.iter().for_each(|record| index.relocate(slot, &record.borrowed()));
            }
        }
        let mut index = collection.index_mut();
        forgotten.iter().for_each(|(id, sequence)| index.forget_damaged(id, *sequence));
        old.iter().filter_map(|id| index.slot(*id)).collect::<Vec<_>>().into_iter().for_each(|slot| {
            index.remove_segment(slot);
        });
        Ok(())
    }

    fn remove_if_empty(&self, collection: &Collection) {
        // Nobody appends to it meanwhile.
        let Some(_writer) = self.writer() else { return };
        let mut collections = self.collections.write().unwrap_or_else(PoisonError::into_inner);
        if collection.index().segments().next().is_none() {
            collections.remove(&collection.key);
        }
    }
}

/// Segments whose live bytes fit one together, in their order: each group is exchanged by itself, so that room for one
/// segment is enough.
fn groups(segments: Vec<SegmentView>, bytes_max: u64) -> Vec<Vec<SegmentView>> {
    let mut groups: Vec<Vec<SegmentView>> = Vec::new();
    let mut bytes = 0;
    for segment in segments {
        bytes += segment.live_bytes;
        match groups.last_mut() {
            Some(group) if bytes <= bytes_max => group.push(segment),
            _ => {
                bytes = segment.live_bytes;
                groups.push(vec![segment]);
            }
        }
    }
    groups
}

/// A group's records on their way into new segments.
struct Copying<'a> {
    store: &'a TokenStore,
    collection: &'a Collection,
    /// The lowest sequence of a document that does not count, in segments outside the group: tombstones above it stay.
    oldest_dead: u64,
    output: Option<Rewrite>,
    outputs: Vec<Rewritten>,
    /// Numbers of all files created.
    files: Vec<u64>,
    /// Damaged documents, by id and sequence.
    forgotten: Vec<(Box<str>, u64)>,
    damaged: Vec<Damage>,
}

impl<'a> Copying<'a> {
    fn new(store: &'a TokenStore, collection: &'a Collection, group: &[SegmentView]) -> Self {
        let index = collection.index();
        let outside = index.segments().filter(|segment| group.iter().all(|member| member.id != segment.id));
        let oldest_dead = outside.map(|segment| segment.oldest_dead).min().unwrap_or(u64::MAX);
        drop(index);
        let (outputs, files) = (Vec::new(), Vec::new());
        let (forgotten, damaged) = (Vec::new(), Vec::new());
        Self { store, collection, oldest_dead, output: None, outputs, files, forgotten, damaged }
    }

    fn copy_segment(&mut self, segment: &SegmentView) -> Result<(), CompactError> {
        let file = StoreFile::open(self.store.folder.segment(segment.id), false)?;
        let header = self.header(segment.id);
        let Some(slot) = self.collection.index().slot(segment.id) else { return Ok(()) };
        let mut copied = Ok(());
        scan(&file, &header, HEADER_BYTES, Extent::Sealed(segment.map.readable()), |record| {
            if copied.is_ok() {
                copied = self.copy_record(segment, slot, record);
            }
        })?;
        Ok(copied?)
    }

    fn copy_record(&mut self, segment: &SegmentView, slot: u32, record: &Record<'_>) -> Result<(), DiskError> {
        let fate = self.collection.index().fate(slot, record);
        match (fate, record.body) {
            (Fate::Drop, _) => Ok(()),
            (Fate::Keep(key), Body::Document(version)) => self.copy_document(segment, key, record, version),
            (Fate::Keep(_) | Fate::Bury, _) => self.bury(record),
        }
    }

    fn copy_document(
        &mut self,
        segment: &SegmentView,
        key: u64,
        record: &Record<'_>,
        version: Version,
    ) -> Result<(), DiskError> {
        let vectors = segment.map.bytes(version.at, self.collection.layout.vector_bytes(version.rows));
        let Version { rows, truncated, content_hash, .. } = version;
        if checksum(record.id, content_hash, rows, truncated, vectors) != version.checksum {
            self.collection.condemn(&[(record.id, key)], &mut self.damaged);
            return self.bury(record);
        }
        let disk = &self.store.disk;
        self.output(record)?.copy(disk, record, version, vectors)
    }

    /// Keeps a tombstone as long as it hides something, also in the place of a damaged document.
    fn bury(&mut self, record: &Record<'_>) -> Result<(), DiskError> {
        if let Body::Document(_) = record.body {
            self.forgotten.push((record.id.into(), record.sequence));
        }
        if self.oldest_dead > record.sequence {
            return Ok(());
        }
        let disk = &self.store.disk;
        self.output(record)?.bury(disk, record)
    }

    /// The segment that a record goes to.
    fn output(&mut self, record: &Record<'_>) -> Result<&mut Rewrite, DiskError> {
        let bytes = record.bytes(self.collection.layout);
        let bytes_max = self.store.options.segment_bytes_max;
        if self.output.as_ref().is_some_and(|output| !output.fits(bytes, bytes_max)) {
            self.finish_output()?;
        }
        if self.output.is_none() {
            let id = self.store.writer().map_or(0, |mut writer| writer.manifest.number());
            self.files.push(id);
            let file = self.store.disk.create(&self.store.folder.segment(id))?;
            self.output = Some(Rewrite::create(&self.store.disk, file, self.header(id))?);
        }
        Ok(self.output.as_mut().expect("just created"))
    }

    fn finish_output(&mut self) -> Result<(), DiskError> {
        if let Some(output) = self.output.take() {
            self.outputs.push(output.finish(&self.store.disk)?);
        }
        Ok(())
    }

    fn header(&self, id: u64) -> SegmentHeader {
        SegmentHeader { id, key: self.collection.key.clone(), layout: self.collection.layout }
    }
}
