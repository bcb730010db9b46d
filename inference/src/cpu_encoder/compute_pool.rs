//! The compute threads: one pool for all models, as many threads as the machine grants this process.

use std::{
    collections::HashMap,
    num::NonZero,
    ops::Range,
    sync::{Arc, Mutex, PoisonError, Weak},
    thread,
};

/// Threads that compute, shared by every model that was loaded for as many.
///
/// A batch runs on all of them while the thread that owns the model waits; between batches they sleep, so that
/// tokenizers and network threads have the processors.
pub(crate) struct ComputePool {
    pool: rayon::ThreadPool,
}

/// The pools there are, by number of threads; gone with the last model that uses one.
static POOLS: Mutex<Option<HashMap<usize, Weak<ComputePool>>>> = Mutex::new(None);

impl ComputePool {
    /// The pool of that many threads; 0 for as many as this process may use at once. That follows processor affinity
    /// and, on Linux, the quota of its control groups (version 1 and 2).
    pub(crate) fn shared(threads: usize) -> Result<Arc<Self>, rayon::ThreadPoolBuildError> {
        let granted = || thread::available_parallelism().map_or(1, NonZero::get);
        let threads = if threads == 0 { granted() } else { threads };
        let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
        let pools = pools.get_or_insert_default();
        if let Some(pool) = pools.get(&threads).and_then(Weak::upgrade) {
            return Ok(pool);
        }
        let name = |index| format!("sluice-compute-{index}");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(name).build()?;
        let pool = Arc::new(Self { pool });
        pools.insert(threads, Arc::downgrade(&pool));
        Ok(pool)
    }

    /// How many there are.
    pub(crate) fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Runs `work` on a thread of the pool; what it divides runs on all of them.
    pub(crate) fn install<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.pool.install(work)
    }
}

/// A slice, and the size of its parts.
pub(super) type Parts<'a> = (&'a mut [f32], usize);

/// Divides two slices into as many parts, each in its own size (the last may be shorter), and calls `each` with the
/// index and the parts. Runs on the pool that it is called in, and allocates nothing.
pub(super) fn for_each_part<E: Send>(
    first: Parts<'_>,
    second: Parts<'_>,
    each: &(impl Fn(usize, &mut [f32], &mut [f32]) -> Result<(), E> + Sync),
) -> Result<(), E> {
    let parts = first.0.len().div_ceil(first.1);
    divide(first, second, 0..parts, each)
}

fn divide<E: Send>(
    first: Parts<'_>,
    second: Parts<'_>,
    parts: Range<usize>,
    each: &(impl Fn(usize, &mut [f32], &mut [f32]) -> Result<(), E> + Sync),
) -> Result<(), E> {
    match parts.len() {
        0 => Ok(()),
        1 => each(parts.start, first.0, second.0),
        count => {
            let left = count / 2;
            let (a, b) = first.0.split_at_mut(left * first.1);
            let (c, d) = second.0.split_at_mut(left * second.1);
            let middle = parts.start + left;
            let (left, right) = rayon::join(
                || divide((a, first.1), (c, second.1), parts.start..middle, each),
                || divide((b, first.1), (d, second.1), middle..parts.end, each),
            );
            left.and(right)
        }
    }
}

/// Calls `each` with every unit and its own `size` elements of `out`, in which the units' lie end to end. Runs on the
/// pool that it is called in, and allocates nothing.
pub(super) fn for_each_unit<U: Sync, E: Send>(
    units: &[U],
    size: &(impl Fn(&U) -> usize + Sync),
    out: &mut [f32],
    each: &(impl Fn(&U, &mut [f32]) -> Result<(), E> + Sync),
) -> Result<(), E> {
    match units {
        [] => Ok(()),
        [unit] => each(unit, out),
        _ => {
            let (left, right) = units.split_at(units.len() / 2);
            let (a, b) = out.split_at_mut(left.iter().map(size).sum());
            let (left, right) =
                rayon::join(|| for_each_unit(left, size, a, each), || for_each_unit(right, size, b, each));
            left.and(right)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_shared_while_it_is_used() {
        let [one, again, other] = [2, 2, 3].map(|threads| ComputePool::shared(threads).unwrap());
        assert!(Arc::ptr_eq(&one, &again) && !Arc::ptr_eq(&one, &other));
        assert_eq!((one.threads(), other.threads()), (2, 3));
        assert_eq!(other.install(rayon::current_num_threads), 3);
        let granted = thread::available_parallelism().unwrap().get();
        assert_eq!(ComputePool::shared(0).unwrap().threads(), granted);
    }

    #[test]
    fn every_part_is_written_once() {
        let pool = ComputePool::shared(3).unwrap();
        for (length, size) in [(0, 4), (1, 4), (4, 4), (5, 4), (103, 4), (24, 1)] {
            let (mut first, mut second) = (vec![0.0; length], vec![0.0; 2 * length]);
            let each = |index: usize, a: &mut [f32], b: &mut [f32]| {
                assert_eq!(b.len(), 2 * a.len());
                for x in a.iter_mut().chain(b) {
                    *x += 1.0 + index as f32;
                }
                if index == 20 { Err("the twentieth") } else { Ok(()) }
            };
            let done = pool.install(|| for_each_part((&mut first, size), (&mut second, 2 * size), &each));
            let expected = |scale: usize| (0..scale * length).map(move |i| 1.0 + (i / (scale * size)) as f32);
            assert!(first.iter().copied().eq(expected(1)) && second.iter().copied().eq(expected(2)));
            assert_eq!(done, if length.div_ceil(size) > 20 { Err("the twentieth") } else { Ok(()) });
        }
    }

    #[test]
    fn every_unit_has_its_own_place() {
        let pool = ComputePool::shared(2).unwrap();
        let units: Vec<usize> = (0..40).map(|i| i % 5).collect();
        let mut out = vec![-1.0; units.iter().sum()];
        let each = |unit: &usize, out: &mut [f32]| {
            out.fill(*unit as f32);
            Ok::<(), ()>(())
        };
        pool.install(|| for_each_unit(&units, &|unit| *unit, &mut out, &each)).unwrap();
        let expected: Vec<f32> = units.iter().flat_map(|&unit| vec![unit as f32; unit]).collect();
        assert_eq!(out, expected);
    }
}
