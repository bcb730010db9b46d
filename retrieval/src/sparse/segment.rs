//! Some ten thousands of documents, in blocks, with their postings by dimension.

use std::collections::HashMap;

use crate::{document::SparseVector, identity::DocId};

/// Documents of a block: as many as a mask has bits.
pub(crate) const BLOCK: usize = 64;
/// Documents of a segment: what compaction writes again at once, and holds twice meanwhile.
pub(crate) const SEGMENT: usize = 1 << 16;

/// Postings of one dimension.
#[derive(Debug, Default)]
pub(crate) struct Postings {
    /// The blocks that have it, ascending.
    pub(crate) blocks: Vec<BlockBound>,
    /// Place within the block, posting by posting.
    pub(crate) places: Vec<u8>,
    /// Value, posting by posting.
    pub(crate) values: Vec<f32>,
    /// Postings of documents that are not gone.
    pub(crate) live: u32,
}

/// A dimension in a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockBound {
    pub(crate) block: u32,
    /// Its first posting.
    pub(crate) start: u32,
    /// The largest |value|, of those that are gone too.
    pub(crate) bound: f32,
}

impl Postings {
    /// Places and values of the n-th of its blocks.
    pub(crate) fn of(&self, nth: usize) -> (&[u8], &[f32]) {
        let start = self.blocks[nth].start as usize;
        let end = self.blocks.get(nth + 1).map_or(self.places.len(), |next| next.start as usize);
        (&self.places[start..end], &self.values[start..end])
    }

    fn push(&mut self, slot: usize, value: f32) {
        let block = (slot / BLOCK) as u32;
        match self.blocks.last_mut() {
            Some(last) if last.block == block => last.bound = last.bound.max(value.abs()),
            _ => self.blocks.push(BlockBound { block, start: self.places.len() as u32, bound: value.abs() }),
        }
        self.places.push((slot % BLOCK) as u8);
        self.values.push(value);
        self.live += 1;
    }

    fn bytes(&self) -> usize {
        self.blocks.capacity() * size_of::<BlockBound>() + self.places.capacity() * 5
    }
}

/// Dimensions and their values.
pub(crate) fn entries(vector: &SparseVector) -> impl Iterator<Item = (u32, f32)> {
    vector.indices.iter().copied().zip(vector.values.iter().copied())
}

/// Documents in slots 0, 1, 2 … in order of arrival; only the last segment of an index grows.
#[derive(Debug, Default)]
pub(crate) struct Segment {
    /// By slot; also of those that are gone.
    pub(crate) documents: Vec<DocId>,
    /// By slot: the dimensions of its postings.
    dimensions: Vec<Box<[u32]>>,
    /// By block: which of its documents are not gone.
    pub(crate) live: Vec<u64>,
    pub(crate) postings: HashMap<u32, Postings>,
    gone: usize,
}

impl Segment {
    pub(crate) fn slots(&self) -> usize {
        self.documents.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.documents.len() >= SEGMENT
    }

    /// Documents that are not gone.
    pub(crate) fn live(&self) -> usize {
        self.documents.len() - self.gone
    }

    pub(crate) fn is_live(&self, slot: usize) -> bool {
        self.live[slot / BLOCK] >> (slot % BLOCK) & 1 == 1
    }

    /// Whether it is worth being written again: a quarter is gone, of more than a few blocks.
    pub(crate) fn wants_compaction(&self) -> bool {
        self.gone * 4 >= self.documents.len() && self.gone >= 4 * BLOCK
    }

    /// Memory, in bytes, about.
    pub(crate) fn bytes(&self) -> usize {
        let dimensions: usize = self.dimensions.iter().map(|row| size_of_val(&**row) + size_of::<Box<[u32]>>()).sum();
        let postings: usize = self.postings.values().map(|postings| postings.bytes() + size_of::<Postings>() + 8).sum();
        dimensions + postings + self.documents.capacity() * size_of::<DocId>() + self.live.capacity() * 8
    }

    /// The slot that it got. The segment is not full.
    pub(crate) fn push(&mut self, document: DocId, vector: &SparseVector) -> u32 {
        let slot = self.documents.len();
        self.documents.push(document);
        if slot.is_multiple_of(BLOCK) {
            self.live.push(0);
        }
        self.live[slot / BLOCK] |= 1 << (slot % BLOCK);
        for (dimension, value) in entries(vector) {
            self.postings.entry(dimension).or_default().push(slot, value);
        }
        self.dimensions.push(entries(vector).map(|(dimension, _)| dimension).collect());
        slot as u32
    }

    /// Marks a slot as gone.
    pub(crate) fn remove(&mut self, slot: u32) {
        let slot = slot as usize;
        let bit = 1 << (slot % BLOCK);
        if self.live[slot / BLOCK] & bit == 0 {
            return;
        }
        self.live[slot / BLOCK] &= !bit;
        self.gone += 1;
        for dimension in &self.dimensions[slot] {
            if let Some(postings) = self.postings.get_mut(dimension) {
                postings.live -= 1;
            }
        }
    }

    /// The same without what is gone.
    pub(crate) fn compacted(&self) -> Self {
        let mut new = Self::default();
        let mut slots = vec![u32::MAX; self.documents.len()];
        for (slot, &document) in self.documents.iter().enumerate() {
            if !self.is_live(slot) {
                continue;
            }
            let at = new.documents.len();
            slots[slot] = at as u32;
            new.documents.push(document);
            new.dimensions.push(self.dimensions[slot].clone());
            if at.is_multiple_of(BLOCK) {
                new.live.push(0);
            }
            new.live[at / BLOCK] |= 1 << (at % BLOCK);
        }
        for (&dimension, postings) in self.postings.iter().filter(|(_, postings)| postings.live > 0) {
            let mut rest = Postings::default();
            for (nth, bound) in postings.blocks.iter().enumerate() {
                let (places, values) = postings.of(nth);
                for (&place, &value) in places.iter().zip(values) {
                    let slot = slots[bound.block as usize * BLOCK + usize::from(place)];
                    if slot != u32::MAX {
                        rest.push(slot as usize, value);
                    }
                }
            }
            new.postings.insert(dimension, rest);
        }
        new
    }
}
