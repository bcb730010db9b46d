//! The compute threads: one pool for all models, as many threads as the machine grants this process.

use std::{
    cell::Cell,
    collections::HashMap,
    hint::spin_loop,
    num::NonZero,
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// Threads that compute, shared by every model that was loaded for as many.
///
/// A batch runs on all of them while the thread that owns the model waits; between batches they sleep, so that
/// tokenizers and network threads have the processors. Within a batch they stay awake: it is a dozen stages of a few
/// milliseconds, and waking a thread for each took 1 to 3 % of the time.
pub(crate) struct ComputePool {
    pool: rayon::ThreadPool,
    /// Batches of several models take turns: each then has all threads, and none waits inside another.
    turn: Mutex<()>,
    /// Whether a batch is being computed.
    computing: Arc<AtomicBool>,
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
        let pool = Arc::new(Self { pool, turn: Mutex::default(), computing: Arc::default() });
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

    /// As [`install`](Self::install), with all threads awake until it is done, unless they have nothing to do for long.
    /// Not to be called on a thread of the pool: it waits for its turn.
    pub(crate) fn install_batch<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.pool.install(|| {
            let _owner = Awake::new();
            self.computing.store(true, Ordering::Release);
            let _computing = Reset(&self.computing);
            // Nobody waits for these: a thread that comes late finds the batch done.
            let computing = Arc::clone(&self.computing);
            rayon::spawn_broadcast(move |_| stay_awake(&computing));
            work()
        })
    }
}

/// Lowers its flag when it goes, even in a panic: somebody waits for it.
struct Reset<'a>(&'a AtomicBool);

impl Drop for Reset<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

thread_local! {
    /// Whether this thread has a batch, or helps with whatever batch there is.
    static AWAKE: Cell<bool> = const { Cell::new(false) };
}

/// This thread is awake while it exists.
struct Awake {
    before: bool,
}

impl Awake {
    fn new() -> Self {
        Self { before: AWAKE.replace(true) }
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        AWAKE.set(self.before);
    }
}

/// Keeps this thread at work while a batch is computed. Once is enough: a thread that does so already, and is asked
/// again for the next batch, stays for that one too.
fn stay_awake(computing: &AtomicBool) {
    let awake = Awake::new();
    if !awake.before {
        work_while(computing);
    }
}

/// Runs whatever the pool has to do until the flag is lowered, without going to sleep; but lets other threads have the
/// processor where there is nothing for some time, and gives up where there is nothing for long.
fn work_while(flag: &AtomicBool) {
    /// About 20 µs.
    const POLLS: u32 = 100;
    /// Some milliseconds of this thread's time, and as many more as others want of the processor meanwhile.
    const YIELDS: u32 = 4_000;
    let mut polls = 0;
    while polls < POLLS + YIELDS && flag.load(Ordering::Acquire) {
        if rayon::yield_now() == Some(rayon::Yield::Executed) {
            polls = 0;
            continue;
        }
        polls += 1;
        if polls <= POLLS {
            spin_loop();
        } else {
            thread::yield_now();
        }
    }
}

/// Calls both, on two threads if there are; as `rayon::join`, but awake where it waits, unless it waits for long.
fn both<A: Send>(left: impl FnOnce() -> A + Send, right: impl FnOnce() -> A + Send) -> (A, A) {
    let waiting = AtomicBool::new(true);
    let mut other = None;
    let own = rayon::scope(|scope| {
        scope.spawn(|_| {
            let _done = Reset(&waiting);
            other = Some(right());
        });
        let own = left();
        work_while(&waiting);
        own
    });
    (own, other.expect("the scope has waited for it"))
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
    /// the pool that it is called in.
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
                let (left, right) = both(
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
/// is called in.
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
                both(|| for_each_share(left, (a, width), each), || for_each_share(right, (b, width), each));
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
    use std::panic::{self, AssertUnwindSafe};

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
    fn a_thread_with_nothing_to_do_gives_up() {
        let pool = ComputePool::shared(2).unwrap();
        pool.install(|| work_while(&AtomicBool::new(true)));
        // Outside the pool too, where there never is anything.
        work_while(&AtomicBool::new(true));
    }

    /// Batches from several threads, some of which panic in whichever unit; and nobody is awake afterwards.
    #[test]
    fn batches_take_turns_and_a_panic_costs_its_own() {
        let pool = ComputePool::shared(4).unwrap();
        let batch = |fault: Option<usize>| {
            let mut out = [0.0; 40];
            let division = Division { rows: 40, granule: 1, parts: 20 };
            let each = |rows: Range<usize>, out: &mut [f32], _: &mut [f32]| {
                assert!(fault.is_none_or(|row| !rows.contains(&row)), "as asked");
                out.fill(rows.start as f32);
                Ok::<(), ()>(())
            };
            for _stage in 0..3 {
                pool.install_batch(|| division.for_each((&mut out, 1), (&mut [], 0), &each)).unwrap();
            }
            out
        };
        let expected: [f32; 40] = std::array::from_fn(|row| (row / 2 * 2) as f32);
        thread::scope(|scope| {
            for index in 0..3 {
                scope.spawn(move || {
                    for round in 0..30 {
                        let fault = (round % 3 == index).then_some((7 * round + index) % 40);
                        match panic::catch_unwind(AssertUnwindSafe(|| batch(fault))) {
                            Ok(out) => assert!(fault.is_none() && out == expected, "{fault:?}: {out:?}"),
                            Err(_) => assert!(fault.is_some(), "not asked for"),
                        }
                    }
                });
            }
        });
        assert!(!pool.computing.load(Ordering::Acquire));
        // One that has yet to notice that the batch is done says so, but not for ever.
        let asleep = (0..100_000).any(|_| !pool.pool.broadcast(|_| AWAKE.get()).contains(&true));
        assert!(asleep, "a thread stays awake without a batch");
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
        for (rows, granule) in (1..400_usize).flat_map(|rows| [(rows, 6), (rows, 12)]) {
            let parts = rows.div_ceil(12).min(6);
            let division = Division { rows, granule, parts };
            let sizes: Vec<usize> = (0..parts).map(|part| division.range(part).len()).collect();
            assert_eq!(sizes.iter().sum::<usize>(), rows);
            let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
            assert!(*most < least + 2 * granule, "{rows}: {sizes:?}");
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
