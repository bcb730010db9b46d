//! usearch, and what must hold while it is called.
//!
//! - Making room and loading want it alone; adding, removing and searching go on side by side. So room is made through
//!   `&mut`, and removing too, which takes a slot away from under an addition otherwise.
//! - No more threads may be in it than it was told of when room was made: [`Gate`] counts them.

use std::{
    path::Path,
    sync::{Condvar, Mutex, PoisonError},
};

use roaring::RoaringBitmap;
use usearch::{Index, IndexOptions, MetricKind, ScalarKind};

use super::GraphOptions;
use crate::{
    identity::DocId,
    schema::Metric,
    vector_index::{IndexError, Stop},
};

/// Threads that may be in the graph at once; the others wait. Each costs the graph a list of what it has visited.
const THREADS_MAX: usize = 64;
/// Room at the start.
const ROOM_MIN: usize = 1_024;

/// A graph over numbered vectors.
pub(crate) struct Engine {
    index: Index,
    gate: Gate,
    room: usize,
    /// Vectors, and places of those that are gone which no other has taken.
    places: usize,
}

impl Engine {
    pub(crate) fn new(metric: Metric, dim: u32, options: &GraphOptions) -> Result<Self, IndexError> {
        let metric = match metric {
            // Vectors are of unit length, so the dot product is the cosine.
            Metric::Cosine | Metric::Dot => MetricKind::IP,
            Metric::Euclidean => MetricKind::L2sq,
        };
        let index = Index::new(&IndexOptions {
            dimensions: dim as usize,
            metric,
            quantization: ScalarKind::BF16,
            connectivity: options.connectivity,
            expansion_add: options.ef_construction,
            // As many as are asked for, if that is more: so each search says how far it goes.
            expansion_search: 1,
            multi: false,
        });
        let index = index.map_err(IndexError::storage("creating a graph"))?;
        let mut engine = Self { index, gate: Gate::new(THREADS_MAX), room: 0, places: 0 };
        engine.make_room(ROOM_MIN)?;
        Ok(engine)
    }

    /// Replaces what it has by a graph that was saved with the same settings. The file must be known to be whole: what
    /// reads it is not made for others.
    pub(crate) fn load(&mut self, file: &Path) -> Result<(), IndexError> {
        self.index.load(path(file)?).map_err(IndexError::storage("loading the graph"))?;
        self.places = self.index.size();
        self.room = 0;
        self.make_room(self.places + ROOM_MIN)
    }

    /// Writes the graph. Searches may go on; nothing may be added or removed meanwhile.
    pub(crate) fn save(&self, file: &Path) -> Result<(), IndexError> {
        self.index.save(path(file)?).map_err(IndexError::storage("saving the graph"))
    }

    /// Makes room for that many vectors in all.
    pub(crate) fn make_room(&mut self, vectors: usize) -> Result<(), IndexError> {
        if vectors > self.room {
            let room = vectors.max(self.room + self.room / 2);
            let made = self.index.reserve_capacity_and_threads(room, THREADS_MAX);
            made.map_err(IndexError::storage("making room in the graph"))?;
            self.room = room;
        }
        Ok(())
    }

    /// After additions: the most vectors there ever were, since one that is gone leaves its place to the next.
    pub(crate) fn count_places(&mut self) {
        self.places = self.places.max(self.index.size());
    }

    pub(crate) fn places(&self) -> usize {
        self.places
    }

    pub(crate) fn has_room_for(&self, more: usize) -> bool {
        self.places + more <= self.room
    }

    /// Links a vector, for which there is room. One that is linked already stays as it is.
    pub(crate) fn add(&self, document: DocId, prepared: &[f32]) -> Result<(), IndexError> {
        let _inside = self.gate.enter();
        let key = u64::from(document.0);
        if self.index.contains(key) {
            return Ok(());
        }
        self.index.add(key, prepared).map_err(IndexError::storage("linking a vector"))
    }

    pub(crate) fn remove(&mut self, document: u32) -> Result<(), IndexError> {
        self.index.remove(u64::from(document)).map_err(IndexError::storage("removing a vector"))?;
        Ok(())
    }

    /// The nearest, or most of them.
    pub(crate) fn search(&self, query: &[f32], count: usize) -> Result<Vec<u32>, IndexError> {
        let _inside = self.gate.enter();
        let found = self.index.search(query, count).map_err(IndexError::storage("searching the graph"))?;
        Ok(found.keys.into_iter().map(|key| key as u32).collect())
    }

    /// The nearest among some, or most of them.
    pub(crate) fn search_among(
        &self,
        query: &[f32],
        count: usize,
        among: &RoaringBitmap,
        stop: &dyn Stop,
    ) -> Result<Vec<u32>, IndexError> {
        let _inside = self.gate.enter();
        let found = self.index.filtered_search(query, count, |key| among.contains(key as u32));
        let found = found.map_err(IndexError::storage("searching the graph"))?;
        if stop.stop() {
            return Err(IndexError::Stopped);
        }
        Ok(found.keys.into_iter().map(|key| key as u32).collect())
    }

    /// Memory, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.index.memory_usage()
    }
}

fn path(file: &Path) -> Result<&str, IndexError> {
    file.to_str().ok_or_else(|| IndexError::Unusable(format!("{} is not UTF-8", file.display())))
}

/// Lets a number of threads in at once.
#[derive(Debug)]
struct Gate {
    free: Mutex<usize>,
    left: Condvar,
}

struct Inside<'a>(&'a Gate);

impl Gate {
    fn new(threads: usize) -> Self {
        Self { free: Mutex::new(threads), left: Condvar::new() }
    }

    fn enter(&self) -> Inside<'_> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self.left.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Inside(self)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.left.notify_one();
    }
}
