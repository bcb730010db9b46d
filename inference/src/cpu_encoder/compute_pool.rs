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

/// Rows in parts of about one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Division {
    pub(super) rows: usize,
    /// Parts begin at multiples of this.
    pub(super) granule: usize,
    /// At least 1, unless there are no rows.
    pub(super) parts: usize,
}

/// A slice of rows, and the elements of one.
pub(super) type Rows<'a> = (&'a mut [f32], usize);

impl Division {
    /// The rows of a part.
    pub(super) fn range(&self, part: usize) -> Range<usize> {
        self.start(part)..self.start(part + 1)
    }

    fn start(&self, part: usize) -> usize {
        let granules = self.rows.div_ceil(self.granule);
        (part * granules / self.parts * self.granule).min(self.rows)
    }

    /// Divides two slices of as many rows, and calls `each` with every part's rows and its share of both slices. Runs on
    /// the pool that it is called in, and allocates nothing.
    pub(super) fn for_each<E: Send>(
        self,
        first: Rows<'_>,
        second: Rows<'_>,
        each: &(impl Fn(Range<usize>, &mut [f32], &mut [f32]) -> Result<(), E> + Sync),
    ) -> Result<(), E> {
        self.some(0..self.parts, first, second, each)
    }

    fn some<E: Send>(
        self,
        parts: Range<usize>,
        first: Rows<'_>,
        second: Rows<'_>,
        each: &(impl Fn(Range<usize>, &mut [f32], &mut [f32]) -> Result<(), E> + Sync),
    ) -> Result<(), E> {
        match parts.len() {
            0 => Ok(()),
            1 => each(self.range(parts.start), first.0, second.0),
            count => {
                let middle = parts.start + count / 2;
                let rows = self.start(middle) - self.start(parts.start);
                let (a, b) = first.0.split_at_mut(rows * first.1);
                let (c, d) = second.0.split_at_mut(rows * second.1);
                let (left, right) = rayon::join(
                    || self.some(parts.start..middle, (a, first.1), (c, second.1), each),
                    || self.some(middle..parts.end, (b, first.1), (d, second.1), each),
                );
                left.and(right)
            }
        }
    }
}

/// Some of a batch's work, with a place for what it makes.
pub(super) trait Share: Sync {
    /// Rows of its output.
    fn rows(&self) -> usize;
    /// How long it takes, in any unit.
    fn cost(&self) -> usize;
}

/// Calls `each` with every share and its own rows of `out`, in which the shares' lie end to end. Runs on the pool that it
/// is called in, and allocates nothing.
pub(super) fn for_each_share<U: Share, E: Send>(
    shares: &[U],
    (out, width): Rows<'_>,
    each: &(impl Fn(&U, &mut [f32]) -> Result<(), E> + Sync),
) -> Result<(), E> {
    match shares {
        [] => Ok(()),
        [share] => each(share, out),
        _ => {
            let (left, right) = shares.split_at(half(shares));
            let rows: usize = left.iter().map(Share::rows).sum();
            let (a, b) = out.split_at_mut(rows * width);
            let (left, right) =
                rayon::join(|| for_each_share(left, (a, width), each), || for_each_share(right, (b, width), each));
            left.and(right)
        }
    }
}

/// How many of at least two shares take as long as the others, about; neither none nor all.
fn half<U: Share>(shares: &[U]) -> usize {
    let total: usize = shares.iter().map(Share::cost).sum();
    let mut before = 0;
    let mut count = 0;
    for share in shares {
        // Whichever side it is on, that side becomes the longer by less.
        if 2 * before + share.cost() > total {
            break;
        }
        before += share.cost();
        count += 1;
    }
    count.clamp(1, shares.len() - 1)
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
        for (rows, granule, parts) in
            [(0, 4, 0), (1, 4, 1), (4, 4, 1), (5, 4, 2), (103, 4, 26), (103, 12, 4), (7, 1, 7)]
        {
            let (mut first, mut second) = (vec![0.0; rows], vec![0.0; 2 * rows]);
            let each = |part: Range<usize>, a: &mut [f32], b: &mut [f32]| {
                assert_eq!((a.len(), b.len()), (part.len(), 2 * part.len()));
                assert!(part.start.is_multiple_of(granule) && !part.is_empty(), "{part:?} of {rows}");
                for (row, x) in part.clone().zip(a) {
                    *x += 1.0 + row as f32;
                }
                b.fill(1.0 + part.start as f32);
                if part.contains(&50) { Err("the fiftieth") } else { Ok(()) }
            };
            let division = Division { rows, granule, parts };
            let done = pool.install(|| division.for_each((&mut first, 1), (&mut second, 2), &each));
            assert!(first.iter().copied().eq((0..rows).map(|row| 1.0 + row as f32)), "{division:?}: {first:?}");
            assert!(second.iter().all(|&x| x >= 1.0), "{division:?}: {second:?}");
            assert_eq!(done, if rows > 50 { Err("the fiftieth") } else { Ok(()) });
        }
    }

    #[test]
    fn parts_differ_by_a_granule() {
        for rows in 1..400_usize {
            let parts = rows.div_ceil(12).min(6);
            let division = Division { rows, granule: 12, parts };
            let sizes: Vec<usize> = (0..parts).map(|part| division.range(part).len()).collect();
            assert_eq!(sizes.iter().sum::<usize>(), rows);
            let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
            assert!(*most < least + 24, "{rows}: {sizes:?}");
        }
    }

    /// As large as it is long.
    struct Piece(usize);

    impl Share for Piece {
        fn rows(&self) -> usize {
            self.0
        }

        fn cost(&self) -> usize {
            self.0
        }
    }

    #[test]
    fn every_share_has_its_own_place() {
        let pool = ComputePool::shared(2).unwrap();
        let shares: Vec<Piece> = (0..40).map(|i| Piece(i % 5)).collect();
        let mut out = vec![-1.0; 3 * shares.iter().map(Share::rows).sum::<usize>()];
        let each = |share: &Piece, out: &mut [f32]| {
            out.fill(share.0 as f32);
            Ok::<(), ()>(())
        };
        pool.install(|| for_each_share(&shares, (&mut out, 3), &each)).unwrap();
        let expected: Vec<f32> = shares.iter().flat_map(|share| vec![share.0 as f32; 3 * share.0]).collect();
        assert_eq!(out, expected);
    }

    #[test]
    fn halves_take_as_long() {
        for (costs, expected) in [
            (&[1, 1][..], 1),
            (&[0, 0], 1),
            (&[9, 1], 1),
            (&[1, 9], 1),
            (&[1, 1, 1, 9], 3),
            (&[9, 1, 1, 1], 1),
            (&[3, 3, 3, 3, 3], 3),
            (&[1, 2, 3, 4], 3),
        ] {
            let shares: Vec<Piece> = costs.iter().map(|&cost| Piece(cost)).collect();
            assert_eq!(half(&shares), expected, "{costs:?}");
        }
    }
}
