//! The approximate index: a hierarchical navigable small world (Malkov and Yashunin, TPAMI 2020) over bf16 copies, with
//! exact scores.
//!
//! # Shape
//!
//! All vectors are in memory as f32, as in the exact index. Beside them [usearch](engine) keeps a graph over copies of
//! 16 bits. A change touches the vectors alone: it is found at once, by a scan over the vectors that are not *linked*
//! into the graph yet. A thread of the index links them in the background. A search asks the graph for more than it
//! needs ([`GraphOptions::candidates`]), scores those with the f32 vectors, and adds the unlinked: what the copies
//! round away, the second look puts right.
//!
//! # When it scans instead
//!
//! A graph search costs about as much as scoring `V` = [`GraphOptions::scanned_instead`] vectors, and `N/n` times that
//! with a filter that leaves `n` of `N` (it walks past what is not wanted). So it scans where `n ≤ V·N/n`: all of small
//! collections, and of larger ones what a filter leaves up to √(V·N).
//!
//! # What is on disk
//!
//! The graph, now and then ([`flush`](crate::vector_index::VectorIndex::flush)), in a [file](cache) that is a cache. A
//! document number has one vector for ever, so the graph of any moment is right about all it knows: what it lacks is
//! linked again, and what is gone is removed. A crash costs the linking since the last flush, and no more. The numbers
//! themselves must mean the same: [`GraphOptions::generation`] says so.
//!
//! # Cost
//!
//! Memory: (4 + 2) bytes a component, and about 200 more a vector: 200,000 of 384 components are 0.5 GiB.

mod builder;
mod cache;
mod engine;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic::AtomicU64,
        atomic::Ordering,
    },
    thread::{self, JoinHandle},
};

use roaring::RoaringBitmap;

use self::engine::Engine;
use super::{metric, rows::Rows};
use crate::{
    identity::{DocId, Lsn},
    schema::Metric,
    vector_index::{Change, Effort, Hit, IndexError, Stop, TopK, VectorIndex},
};

/// How the graph is made and searched.
#[derive(Clone, Debug, PartialEq)]
pub struct GraphOptions {
    /// Neighbours of a vector in the graph (M); twice as many at its lowest level.
    pub connectivity: usize,
    /// Vectors that are looked at to find a new one's neighbours (`ef_construction`).
    pub ef_construction: usize,
    /// Vectors that a search takes from the graph and scores exactly (`ef_search`); half as many again as `k` if that is
    /// more.
    pub candidates: usize,
    /// Vectors that are scanned in the time of a search of the graph.
    pub scanned_instead: usize,
    /// Threads that link. They compute all the time while there is something to link.
    pub threads: usize,
    /// The folder in which the graph is kept; `None` to keep none.
    pub folder: Option<PathBuf>,
    /// Another number whenever document numbers are given anew: a graph of another generation is not used.
    pub generation: u64,
}

impl Default for GraphOptions {
    fn default() -> Self {
        Self {
            connectivity: 16,
            ef_construction: 128,
            candidates: 256,
            scanned_instead: 2_500,
            threads: 1,
            folder: None,
            generation: 0,
        }
    }
}

/// What part of the vectors is asked for, at least, for a scan to be the way: one in so many.
const MANY: u64 = 16;

/// How far linking is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GraphStatus {
    /// Vectors in the index.
    pub vectors: usize,
    /// Those that the graph finds.
    pub linked: usize,
    /// Why linking ended for good, if it did. Everything is found all the same, by scanning.
    pub fault: Option<String>,
}

/// Dense vectors in a graph. See the module.
pub struct GraphDense {
    shared: Arc<Shared>,
    linker: Option<JoinHandle<()>>,
}

/// What searches, changes and the linking thread share.
pub(crate) struct Shared {
    metric: Metric,
    dim: u32,
    options: GraphOptions,
    state: RwLock<State>,
    /// Taken after `state` where both are.
    engine: RwLock<Engine>,
    applying: Mutex<()>,
    /// Held while the graph changes, or must not. Taken before the others.
    linking: Mutex<()>,
    applied: AtomicU64,
    task: Mutex<Task>,
    wake: Condvar,
}

/// The vectors, and what the graph has of them.
#[derive(Debug)]
pub(crate) struct State {
    rows: Rows,
    /// In the graph, and not to be removed from it.
    linked: RoaringBitmap,
    /// In `rows`, and not in the graph, or not yet known to be.
    unlinked: RoaringBitmap,
    /// In the graph, and not in `rows`.
    gone: RoaringBitmap,
    /// All live documents have come since the index was opened.
    filled: bool,
}

/// What the linking thread is to do.
#[derive(Debug, Default)]
pub(crate) struct Task {
    /// Something changed.
    changed: bool,
    /// The index goes.
    end: bool,
    /// It looked, and there was nothing to do.
    idle: bool,
    fault: Option<String>,
}

impl GraphDense {
    /// An empty index over vectors of `dim` components, with the graph that was kept. It wants to be filled with all
    /// live documents, and then to be told so ([`filled`](Self::filled)).
    ///
    /// # Errors
    /// [`IndexError::Storage`]: no thread, or no memory. A file that is no graph of ours is not used, and is no error.
    pub fn open(metric: Metric, dim: u32, options: GraphOptions) -> Result<Self, IndexError> {
        let (engine, linked) = match cache::load(metric, dim, &options)? {
            Some(kept) => kept,
            None => (Engine::new(metric, dim, &options)?, RoaringBitmap::new()),
        };
        let state = State {
            rows: Rows::new(metric, dim as usize),
            gone: linked,
            linked: RoaringBitmap::new(),
            unlinked: RoaringBitmap::new(),
            filled: false,
        };
        let shared = Arc::new(Shared {
            metric,
            dim,
            options,
            state: RwLock::new(state),
            engine: RwLock::new(engine),
            applying: Mutex::default(),
            linking: Mutex::default(),
            applied: AtomicU64::new(0),
            task: Mutex::default(),
            wake: Condvar::new(),
        });
        let linking = Arc::clone(&shared);
        let linker = thread::Builder::new().name("link-vectors".to_owned()).spawn(move || builder::run(&linking));
        let linker = linker.map_err(IndexError::storage("starting the thread that links vectors"))?;
        Ok(Self { shared, linker: Some(linker) })
    }

    /// All live documents have been inserted: what else the kept graph knows is removed from it, and linking begins.
    pub fn filled(&self) {
        self.shared.write().filled = true;
        self.shared.wake(|task| task.changed = true);
    }

    /// How far linking is.
    #[must_use]
    pub fn status(&self) -> GraphStatus {
        let fault = self.shared.task().fault.clone();
        let state = self.shared.read();
        GraphStatus { vectors: state.rows.len(), linked: state.linked.len() as usize, fault }
    }

    /// Waits until everything that was applied is linked, if it is to be, or linking ended for good.
    pub fn settle(&self) {
        let mut task = self.shared.task();
        while task.fault.is_none() && (task.changed || !task.idle) {
            task = self.shared.wake.wait(task).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn engine(&self) -> RwLockReadGuard<'_, Engine> {
        self.engine.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn engine_alone(&self) -> RwLockWriteGuard<'_, Engine> {
        self.engine.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn task(&self) -> std::sync::MutexGuard<'_, Task> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, change: impl FnOnce(&mut Task)) {
        change(&mut self.task());
        self.wake.notify_all();
    }

    /// Whether scanning `wanted` vectors is cheaper than searching the graph for them.
    fn scans(&self, wanted: u64, all: usize) -> bool {
        let worth = self.options.scanned_instead as u128;
        u128::from(wanted) * u128::from(wanted) <= worth * all as u128
    }
}

impl State {
    fn insert(&mut self, document: DocId, prepared: &[f32]) -> Result<(), IndexError> {
        self.rows.insert(document, prepared)?;
        if self.gone.remove(document.0) {
            // The kept graph knows it, or it went and came again before the graph heard of it.
            self.linked.insert(document.0);
        } else if !self.linked.contains(document.0) {
            self.unlinked.insert(document.0);
        }
        Ok(())
    }

    fn remove(&mut self, document: DocId) {
        if self.rows.remove(document) && !self.unlinked.remove(document.0) && self.linked.remove(document.0) {
            self.gone.insert(document.0);
        }
    }
}

impl VectorIndex for GraphDense {
    type Vector = [f32];

    fn apply(&self, changes: &[Change<'_, [f32]>], lsn: Lsn) -> Result<(), IndexError> {
        let _turn = self.shared.applying.lock().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            if let Change::Insert(_, vector) = change {
                metric::check(vector, self.shared.dim)?;
            }
        }
        let mut state = self.shared.write();
        for change in changes {
            match change {
                Change::Insert(document, vector) => state.insert(*document, &self.shared.metric.prepare(vector))?,
                Change::Remove(document) => state.remove(*document),
            }
        }
        self.shared.applied.fetch_max(lsn.0, Ordering::Release);
        drop(state);
        self.shared.wake(|task| task.changed = true);
        Ok(())
    }

    fn applied(&self) -> Lsn {
        Lsn(self.shared.applied.load(Ordering::Acquire))
    }

    fn search(
        &self,
        query: &[f32],
        k: usize,
        among: Option<&RoaringBitmap>,
        stop: &dyn Stop,
    ) -> Result<Vec<Hit>, IndexError> {
        self.search_with(query, k, among, Effort::Usual, stop)
    }

    fn search_with(
        &self,
        query: &[f32],
        k: usize,
        among: Option<&RoaringBitmap>,
        effort: Effort,
        stop: &dyn Stop,
    ) -> Result<Vec<Hit>, IndexError> {
        let shared = &self.shared;
        metric::check(query, shared.dim)?;
        let query = shared.metric.prepare(query);
        let state = shared.read();
        let mut top = TopK::new(k);
        // At most as many as there are; numbers of documents that are gone may be among them.
        let wanted = among.map_or(state.rows.len() as u64, RoaringBitmap::len).min(state.rows.len() as u64);
        // A graph is for the few nearest; of a large part of all it would miss some, and take longer.
        let many = (k as u64).saturating_mul(MANY) >= wanted;
        let scans = match effort {
            Effort::Usual => many || shared.scans(wanted, state.rows.len()),
            // Who names a number wants to see what the graph makes of it.
            Effort::Candidates(_) => false,
            Effort::Everything => true,
        };
        if k == 0 || scans || state.linked.is_empty() {
            state.rows.scan(&query, among, &mut top, stop)?;
            return Ok(top.into_hits());
        }
        if stop.stop() {
            return Err(IndexError::Stopped);
        }
        let count = match effort {
            Effort::Candidates(count) => count.max(k),
            _ => shared.options.candidates.max(k.saturating_add(k / 2)),
        };
        let count = count.min(state.rows.len());
        let found = match among {
            None => shared.engine().search(&query, count)?,
            Some(among) => shared.engine().search_among(&query, count, among, stop)?,
        };
        let linked = found.into_iter().filter(|document| state.linked.contains(*document));
        let linked: RoaringBitmap = linked.collect();
        state.rows.scan(&query, Some(&linked), &mut top, stop)?;
        match among {
            None => state.rows.scan(&query, Some(&state.unlinked), &mut top, stop)?,
            Some(among) => state.rows.scan(&query, Some(&(among & &state.unlinked)), &mut top, stop)?,
        }
        Ok(top.into_hits())
    }

    fn flush(&self) -> Result<(), IndexError> {
        cache::keep(&self.shared)
    }

    fn len(&self) -> usize {
        self.shared.read().rows.len()
    }

    fn pending(&self) -> usize {
        self.shared.read().unlinked.len() as usize
    }

    fn bytes(&self) -> usize {
        let rows = self.shared.read().rows.bytes();
        rows + self.shared.engine().bytes()
    }
}

impl Drop for GraphDense {
    fn drop(&mut self) {
        self.shared.wake(|task| task.end = true);
        if let Some(linker) = self.linker.take() {
            // It says what went wrong in its status; a panic of its own was printed where it happened.
            drop(linker.join());
        }
    }
}

impl fmt::Debug for GraphDense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GraphDense").field("options", &self.shared.options).field("status", &self.status()).finish()
    }
}
