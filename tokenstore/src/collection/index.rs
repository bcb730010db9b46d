//! Where the documents of a collection are.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use crate::{
    ContentHash, Layout, Stored,
    batch::{Body, Record, Version, record_bytes},
    layout::ALIGNMENT,
    map::Map,
    stored::next_key,
};

/// An index of documents and of the segments that they lie in.
#[derive(Debug)]
pub(crate) struct Index {
    layout: Layout,
    documents: HashMap<Box<str>, Entry>,
    /// By slot. An entry names its segment by its slot, which is half as long as a pointer.
    segments: Vec<Option<SegmentView>>,
    /// Documents that lookups find, and their rows.
    pub(crate) live_documents: u64,
    pub(crate) live_rows: u64,
}

/// A segment as the index sees it.
#[derive(Clone, Debug)]
pub(crate) struct SegmentView {
    pub(crate) id: u64,
    pub(crate) map: Arc<Map>,
    /// Bytes of records that lookups find.
    pub(crate) live_bytes: u64,
    /// Bytes of records that none does: replaced, deleted, damaged, and tombstones.
    pub(crate) dead_bytes: u64,
    /// The lowest sequence of a document in it that does not count. A tombstone is needed as long as a document that it
    /// hides exists in some segment, and a document that is hidden does not count.
    pub(crate) oldest_dead: u64,
}

/// 72 bytes, beside 16 for the id's pointer and length.
#[derive(Debug)]
struct Entry {
    content_hash: ContentHash,
    sequence: u64,
    key: u64,
    slot: u32,
    /// In units of 64 bytes: segments reach to 256 GiB.
    at: u32,
    rows: u32,
    checksum: u32,
    truncated: bool,
    state: AtomicU8,
}

/// What is known of an entry's vectors in this process.
const UNREAD: u8 = 0;
const INTACT: u8 = 1;
const DAMAGED: u8 = 2;

impl Index {
    pub(crate) fn new(layout: Layout) -> Self {
        Self { layout, documents: HashMap::new(), segments: Vec::new(), live_documents: 0, live_rows: 0 }
    }

    /// The document, and whether its vectors were compared with their checksum; a damaged one is not found.
    pub(crate) fn find(&self, id: &str) -> Option<(Stored, bool)> {
        let entry = self.documents.get(id)?;
        let stored = self.stored(entry)?;
        Some((stored, entry.state.load(Ordering::Relaxed) == INTACT))
    }

    fn stored(&self, entry: &Entry) -> Option<Stored> {
        if entry.state.load(Ordering::Relaxed) == DAMAGED {
            return None;
        }
        let map = self.segments[entry.slot as usize].as_ref()?.map.clone();
        Some(Stored::new(map, self.layout, entry.version(), entry.key))
    }

    /// Every document that lookups find.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Arc<str>, Stored)> {
        self.documents.iter().filter_map(|(id, entry)| Some((Arc::from(&**id), self.stored(entry)?)))
    }

    /// Whether anything is stored, or known to be damaged, under the id.
    pub(crate) fn contains(&self, id: &str) -> bool {
        self.documents.contains_key(id)
    }

    /// Takes note that the vectors of this key are what was put.
    pub(crate) fn mark_intact(&self, id: &str, key: u64) {
        if let Some(entry) = self.documents.get(id).filter(|entry| entry.key == key) {
            // Never back from DAMAGED.
            let _ = entry.state.compare_exchange(UNREAD, INTACT, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Takes note that the vectors of this key are not what was put; its segment, if that was not known.
    pub(crate) fn condemn(&mut self, id: &str, key: u64) -> Option<u64> {
        let entry = self.documents.get(id).filter(|entry| entry.key == key)?;
        if entry.state.swap(DAMAGED, Ordering::Relaxed) == DAMAGED {
            return None;
        }
        let (slot, rows, sequence) = (entry.slot, entry.rows, entry.sequence);
        self.forget(id, slot, rows, sequence);
        self.segments[slot as usize].as_ref().map(|segment| segment.id)
    }

    /// Enters a segment, without its records.
    pub(crate) fn add_segment(&mut self, id: u64, map: Arc<Map>) -> u32 {
        let view = SegmentView { id, map, live_bytes: 0, dead_bytes: 0, oldest_dead: u64::MAX };
        let slot = self.segments.iter().position(Option::is_none).unwrap_or(self.segments.len());
        if slot == self.segments.len() {
            self.segments.push(None);
        }
        self.segments[slot] = Some(view);
        slot as u32
    }

    pub(crate) fn segments(&self) -> impl Iterator<Item = &SegmentView> {
        self.segments.iter().flatten()
    }

    /// The slot of a segment.
    pub(crate) fn slot(&self, id: u64) -> Option<u32> {
        let is_it = |segment: &Option<SegmentView>| segment.as_ref().is_some_and(|segment| segment.id == id);
        self.segments.iter().position(is_it).map(|slot| slot as u32)
    }

    /// The mapping that lookups from now on read a segment through.
    pub(crate) fn set_map(&mut self, slot: u32, map: &Arc<Map>) {
        if let Some(segment) = &mut self.segments[slot as usize] {
            segment.map = Arc::clone(map);
        }
    }

    /// Forgets a segment in which nothing is live.
    pub(crate) fn remove_segment(&mut self, slot: u32) {
        self.segments[slot as usize] = None;
    }

    /// Enters a record of a segment: it counts unless a later one of its id is known.
    pub(crate) fn apply(&mut self, slot: u32, record: &Record<'_>) {
        let Body::Document(version) = record.body else {
            self.apply_dead(slot, record);
            if self.documents.get(record.id).is_some_and(|entry| entry.sequence <= record.sequence) {
                self.retire(record.id);
                self.documents.remove(record.id);
            }
            return;
        };
        let known = self.documents.get(record.id).map(|entry| entry.sequence);
        if known.is_some_and(|sequence| sequence > record.sequence) {
            self.apply_dead(slot, record);
            return;
        }
        self.retire(record.id);
        let entry = Entry::new(slot, record.sequence, version);
        match self.documents.get_mut(record.id) {
            Some(known) => *known = entry,
            None => drop(self.documents.insert(record.id.into(), entry)),
        }
        self.live_documents += 1;
        self.live_rows += u64::from(version.rows);
        if let Some(segment) = &mut self.segments[slot as usize] {
            segment.live_bytes += record.bytes(self.layout);
        }
    }

    /// Enters a record that does not count.
    pub(crate) fn apply_dead(&mut self, slot: u32, record: &Record<'_>) {
        if let Some(segment) = &mut self.segments[slot as usize] {
            segment.dead_bytes += record.bytes(self.layout);
            if let Body::Document(_) = record.body {
                segment.oldest_dead = segment.oldest_dead.min(record.sequence);
            }
        }
    }

    /// What compaction does with a record of the segment in `slot`.
    pub(crate) fn fate(&self, slot: u32, record: &Record<'_>) -> Fate {
        let entry = self.documents.get(record.id);
        match (record.body, entry) {
            (Body::Document(version), Some(entry)) if entry.lies_at(slot, record.sequence, version) => {
                if entry.state.load(Ordering::Relaxed) == DAMAGED { Fate::Bury } else { Fate::Keep(entry.key) }
            }
            // Whatever is known of the id is later than its tombstone, and hides what it hides.
            (Body::Document(_), _) | (Body::Tombstone, Some(_)) => Fate::Drop,
            (Body::Tombstone, None) => Fate::Bury,
        }
    }

    /// Forgets a damaged document whose segment goes.
    pub(crate) fn forget_damaged(&mut self, id: &str, sequence: u64) {
        let is_it = |entry: &mut Entry| entry.sequence == sequence && *entry.state.get_mut() == DAMAGED;
        if self.documents.get_mut(id).is_some_and(is_it) {
            self.documents.remove(id);
        }
    }

    /// Points a document at its copy, unless it has been replaced, deleted or found damaged meanwhile.
    pub(crate) fn relocate(&mut self, slot: u32, record: &Record<'_>) {
        let layout = self.layout;
        let Body::Document(version) = record.body else {
            self.apply_dead(slot, record);
            return;
        };
        let same = self.documents.get_mut(record.id).filter(|entry| entry.sequence == record.sequence);
        let Some(entry) = same else {
            self.apply_dead(slot, record);
            return;
        };
        let bytes = record_bytes(layout, record.id, entry.rows);
        let left = std::mem::replace(&mut entry.slot, slot);
        entry.at = (version.at / ALIGNMENT) as u32;
        if *entry.state.get_mut() == DAMAGED {
            self.apply_dead(slot, record);
            return;
        }
        if let Some(segment) = &mut self.segments[left as usize] {
            segment.live_bytes -= bytes;
            segment.dead_bytes += bytes;
        }
        if let Some(segment) = &mut self.segments[slot as usize] {
            segment.live_bytes += bytes;
        }
    }

    /// Takes over keys, and what is known of vectors, from an index of the same collection.
    pub(crate) fn inherit(&mut self, before: &Self) {
        let mut damaged = Vec::new();
        for (id, entry) in &mut self.documents {
            if let Some(known) = before.documents.get(id).filter(|known| known.is_same_version(entry)) {
                entry.key = known.key;
                match known.state.load(Ordering::Relaxed) {
                    DAMAGED => damaged.push((id.clone(), entry.key)),
                    state => *entry.state.get_mut() = state,
                }
            }
        }
        for (id, key) in damaged {
            self.condemn(&id, key);
        }
    }

    /// Counts the document of an id, if there is one, as dead.
    fn retire(&mut self, id: &str) {
        let Some(entry) = self.documents.get_mut(id) else { return };
        if *entry.state.get_mut() != DAMAGED {
            let (slot, rows, sequence) = (entry.slot, entry.rows, entry.sequence);
            self.forget(id, slot, rows, sequence);
        }
    }

    fn forget(&mut self, id: &str, slot: u32, rows: u32, sequence: u64) {
        let bytes = record_bytes(self.layout, id, rows);
        if let Some(segment) = &mut self.segments[slot as usize] {
            segment.live_bytes -= bytes;
            segment.dead_bytes += bytes;
            segment.oldest_dead = segment.oldest_dead.min(sequence);
        }
        self.live_documents -= 1;
        self.live_rows -= u64::from(rows);
    }
}

/// What becomes of a record when its segment is compacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is copied, as the document of this key.
    Keep(u64),
    /// A tombstone is kept in its place, as long as an older document may exist.
    Bury,
    /// It is of no use any more.
    Drop,
}

impl Entry {
    fn new(slot: u32, sequence: u64, version: Version) -> Self {
        let Version { at, rows, truncated, content_hash, checksum } = version;
        let at = (at / ALIGNMENT) as u32;
        let state = AtomicU8::new(UNREAD);
        Self { content_hash, sequence, key: next_key(), slot, at, rows, checksum, truncated, state }
    }

    fn version(&self) -> Version {
        let Self { content_hash, rows, checksum, truncated, .. } = *self;
        Version { at: u64::from(self.at) * ALIGNMENT, rows, truncated, content_hash, checksum }
    }

    fn lies_at(&self, slot: u32, sequence: u64, version: Version) -> bool {
        self.slot == slot && self.sequence == sequence && self.version() == version
    }

    fn is_same_version(&self, other: &Self) -> bool {
        self.sequence == other.sequence && Version { at: 0, ..self.version() } == Version { at: 0, ..other.version() }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_entry_is_as_small_as_documented() {
        assert_eq!(std::mem::size_of::<super::Entry>(), 72);
    }
}
