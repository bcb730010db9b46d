//! The thread that links vectors into the graph.

use std::{
    sync::{
        PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use roaring::RoaringBitmap;

use super::{Shared, engine::Engine};
use crate::{identity::DocId, vector_index::IndexError};

/// Vectors that are linked between two looks at what has changed: some 100 ms of work, and what is copied at once.
const STEP: usize = 256;
/// Places in the graph for each vector before it is made anew: those that are gone are still walked through.
const PLACES_MAX: usize = 2;
/// Below so many places it never is.
const PLACES_MIN: usize = 4_096;

pub(crate) fn run(shared: &Shared) {
    while wait(shared) {
        loop {
            match step(shared) {
                Ok(true) if !shared.task().end => {}
                Ok(_) => break,
                Err(fault) => {
                    shared.wake(|task| task.fault = Some(fault.to_string()));
                    return;
                }
            }
        }
    }
}

/// Until something changed. `false` if the index goes.
fn wait(shared: &Shared) -> bool {
    let mut task = shared.task();
    while !task.changed && !task.end {
        if !task.idle {
            task.idle = true;
            shared.wake.notify_all();
        }
        task = shared.wake.wait(task).unwrap_or_else(PoisonError::into_inner);
    }
    task.changed = false;
    task.idle = false;
    !task.end
}

/// Whether there may be more to do.
fn step(shared: &Shared) -> Result<bool, IndexError> {
    let _linking = shared.linking.lock().unwrap_or_else(PoisonError::into_inner);
    let (gone, new) = {
        let state = shared.read();
        if !state.filled {
            return Ok(false);
        }
        let worth_it = !shared.scans(state.rows.len() as u64, state.rows.len());
        let new: Vec<u32> = state.unlinked.iter().take(if worth_it { STEP } else { 0 }).collect();
        (state.gone.clone(), new)
    };
    if new.is_empty() && gone.is_empty() {
        return Ok(false);
    }
    if !gone.is_empty() {
        forget(shared, &gone)?;
    }
    if !new.is_empty() {
        link(shared, &new)?;
    }
    Ok(true)
}

/// Takes what is gone out of the graph. A graph that is mostly of such is made anew, empty at first.
fn forget(shared: &Shared, gone: &RoaringBitmap) -> Result<(), IndexError> {
    let mut state = shared.write();
    // Some may have come again.
    let gone = gone & &state.gone;
    let mut engine = shared.engine_alone();
    let places = engine.places();
    if places > PLACES_MIN && places > PLACES_MAX * state.linked.len() as usize {
        *engine = Engine::new(shared.metric, shared.dim, &shared.options)?;
        let linked = std::mem::take(&mut state.linked);
        state.unlinked |= linked;
        state.gone.clear();
        return Ok(());
    }
    for document in &gone {
        engine.remove(document)?;
    }
    state.gone -= gone;
    Ok(())
}

fn link(shared: &Shared, new: &[u32]) -> Result<(), IndexError> {
    let rows: Vec<(DocId, Vec<f32>)> = {
        let state = shared.read();
        let row = |&document: &u32| Some((DocId(document), state.rows.of(DocId(document))?.to_vec()));
        new.iter().filter_map(row).collect()
    };
    {
        let mut engine = shared.engine_alone();
        if !engine.has_room_for(rows.len()) {
            let room = engine.places() + rows.len();
            engine.make_room(room)?;
        }
    }
    add(shared, &rows)?;
    shared.engine_alone().count_places();
    let mut state = shared.write();
    for (document, _) in &rows {
        if state.unlinked.remove(document.0) {
            state.linked.insert(document.0);
        } else if !state.linked.contains(document.0) {
            // It went while it was being linked.
            state.gone.insert(document.0);
        }
    }
    Ok(())
}

fn add(shared: &Shared, rows: &[(DocId, Vec<f32>)]) -> Result<(), IndexError> {
    let engine = shared.engine();
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some((document, row)) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
            engine.add(*document, row)?;
        }
        Ok(())
    };
    if shared.options.threads <= 1 {
        return work();
    }
    thread::scope(|scope| {
        let threads: Vec<_> = (0..shared.options.threads).map(|_| scope.spawn(work)).collect();
        let joined = threads.into_iter().map(|thread| {
            thread.join().unwrap_or_else(|_| Err(IndexError::Unusable("a thread that links vectors panicked".into())))
        });
        joined.collect()
    })
}
