//! The index: segments, and where each document lies.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use roaring::RoaringBitmap;

use super::{
    search::{self, Search},
    segment::{Segment, entries},
};
use crate::{
    document::SparseVector,
    identity::{DocId, Lsn},
    vector_index::{Change, Hit, IndexError, Stop, VectorIndex},
};

/// What a query's weights are multiplied by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Weighting {
    /// Nothing: the dot product as it is.
    #[default]
    None,
    /// ln(1 + (N − n + 0.5) / (n + 0.5)) with N documents in the index, n of them with the dimension: BM25's, as Lucene
    /// and Qdrant have it.
    Idf,
}

impl Weighting {
    fn of(self, documents: u64, with_it: u64) -> f64 {
        match self {
            Self::None => 1.0,
            Self::Idf => {
                let with_it = with_it as f64;
                ((documents as f64 - with_it + 0.5) / (with_it + 0.5)).ln_1p()
            }
        }
    }
}

/// Sparse vectors in an inverted index, searched exactly. See the [module](super).
///
/// Keeps nothing on disk: it is filled from the truth.
#[derive(Debug)]
pub struct SparseIndex {
    weighting: Weighting,
    state: RwLock<State>,
    applying: Mutex<()>,
    applied: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    segments: Vec<Segment>,
    places: HashMap<DocId, Place>,
}

/// Where a document lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) segment: u32,
    pub(crate) slot: u32,
}

impl SparseIndex {
    /// An empty index.
    #[must_use]
    pub fn new(weighting: Weighting) -> Self {
        Self { weighting, state: RwLock::default(), applying: Mutex::default(), applied: AtomicU64::new(0) }
    }

    /// Writes segments again of which much is gone. The new one is made while searches go on; only they and this
    /// thread, which holds the turn to apply, look at the old.
    fn compact(&self) {
        loop {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            let Some(number) = state.segments.iter().position(Segment::wants_compaction) else { return };
            let new = state.segments[number].compacted();
            drop(state);
            self.state.write().unwrap_or_else(PoisonError::into_inner).replace(number, new);
        }
    }
}

impl State {
    fn insert(&mut self, document: DocId, vector: &SparseVector) {
        self.remove(document);
        if self.segments.last().is_none_or(Segment::is_full) {
            self.segments.push(Segment::default());
        }
        let segment = self.segments.len() - 1;
        let slot = self.segments[segment].push(document, vector);
        self.places.insert(document, Place { segment: segment as u32, slot });
    }

    fn remove(&mut self, document: DocId) {
        if let Some(place) = self.places.remove(&document) {
            self.segments[place.segment as usize].remove(place.slot);
        }
    }

    /// Puts a compacted segment in the place of the old one. An empty one goes altogether, and those behind it move up.
    fn replace(&mut self, number: usize, new: Segment) {
        let empty = new.live() == 0;
        self.segments[number] = new;
        if empty {
            self.segments.remove(number);
        }
        let moved = if empty { number..self.segments.len() } else { number..number + 1 };
        for number in moved {
            let segment = &self.segments[number];
            for slot in (0..segment.slots()).filter(|&slot| segment.is_live(slot)) {
                let place = Place { segment: number as u32, slot: slot as u32 };
                self.places.insert(segment.documents[slot], place);
            }
        }
    }

    /// Dimensions and weights, ascending.
    fn weigh(&self, weighting: Weighting, query: &SparseVector) -> Vec<(u32, f64)> {
        let documents = self.places.len() as u64;
        let weigh = |(dimension, value): (u32, f32)| {
            let postings = self.segments.iter().filter_map(|segment| segment.postings.get(&dimension));
            let with_it: u64 = postings.map(|postings| u64::from(postings.live)).sum();
            (with_it > 0).then(|| (dimension, f64::from(value) * weighting.of(documents, with_it)))
        };
        entries(query).filter_map(weigh).collect()
    }
}

impl VectorIndex for SparseIndex {
    type Vector = SparseVector;

    fn apply(&self, changes: &[Change<'_, SparseVector>], lsn: Lsn) -> Result<(), IndexError> {
        let _turn = self.applying.lock().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            if let Change::Insert(_, vector) = change {
                vector.check()?;
            }
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            match change {
                Change::Insert(document, vector) => state.insert(*document, vector),
                Change::Remove(document) => state.remove(*document),
            }
        }
        self.applied.fetch_max(lsn.0, Ordering::Release);
        drop(state);
        self.compact();
        Ok(())
    }

    fn applied(&self) -> Lsn {
        Lsn(self.applied.load(Ordering::Acquire))
    }

    fn search(
        &self,
        query: &SparseVector,
        k: usize,
        among: Option<&RoaringBitmap>,
        stop: &dyn Stop,
    ) -> Result<Vec<Hit>, IndexError> {
        query.check()?;
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let query = state.weigh(self.weighting, query);
        search::search(&state.segments, &state.places, &Search { query: &query, k, among, stop })
    }

    fn len(&self) -> usize {
        self.state.read().unwrap_or_else(PoisonError::into_inner).places.len()
    }

    fn bytes(&self) -> usize {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let segments: usize = state.segments.iter().map(Segment::bytes).sum();
        segments + state.places.capacity() * (size_of::<DocId>() + size_of::<Place>())
    }
}
