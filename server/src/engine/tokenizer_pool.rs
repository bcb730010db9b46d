//! Threads that tokenize, off the threads that talk to the network.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use crossbeam_channel::{Sender, bounded};
use tokio::sync::{Semaphore, oneshot};

/// Tasks that wait for a thread. Further ones wait in their own request's task, in order.
const WAITING_TASKS_MAX: usize = 256;
/// Items of one task: small enough that a large request uses every thread and a small one is not kept waiting.
const ITEMS_PER_TASK: usize = 16;

type Task = Box<dyn FnOnce() + Send>;

/// Cheap to clone; the threads end with the last clone.
#[derive(Clone)]
pub struct TokenizerPool {
    tasks: Sender<Task>,
    room: Arc<Semaphore>,
}

/// A thread of the pool ended in the middle of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a tokenizer thread panicked")]
pub struct TaskLost;

impl TokenizerPool {
    /// Starts `threads` threads.
    ///
    /// # Errors
    /// If one cannot be started.
    pub fn start(threads: usize) -> std::io::Result<Self> {
        let (tasks, inbox) = bounded::<Task>(WAITING_TASKS_MAX);
        for index in 0..threads.max(1) {
            let inbox = inbox.clone();
            thread::Builder::new().name(format!("sluice-tokenizer-{index}")).spawn(move || {
                for task in inbox {
                    // A task that panics loses its reply, which its caller sees; the thread goes on.
                    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(task));
                }
            })?;
        }
        Ok(Self { tasks, room: Arc::new(Semaphore::new(WAITING_TASKS_MAX)) })
    }

    /// `f(i)` for every `i` below `count`, in order, in parallel. If the future is dropped, what has not
    /// begun is not done.
    ///
    /// # Errors
    /// [`TaskLost`] if `f` panicked.
    pub async fn map<T, F>(&self, count: usize, f: F) -> Result<Vec<T>, TaskLost>
    where
        T: Send + 'static,
        F: Fn(usize) -> T + Send + Sync + 'static,
    {
        let f = Arc::new(f);
        let dropped = Arc::new(AtomicBool::new(false));
        let _guard = SetOnDrop(Arc::clone(&dropped));
        let mut replies = Vec::with_capacity(count.div_ceil(ITEMS_PER_TASK));
        for start in (0..count).step_by(ITEMS_PER_TASK) {
            let range = start..(start + ITEMS_PER_TASK).min(count);
            let permit = Arc::clone(&self.room).acquire_owned().await.map_err(|_| TaskLost)?;
            let (reply, result) = oneshot::channel();
            let (f, dropped) = (Arc::clone(&f), Arc::clone(&dropped));
            let task: Task = Box::new(move || {
                drop(permit);
                if !dropped.load(Ordering::Relaxed) {
                    let _ = reply.send(range.map(|index| f(index)).collect::<Vec<T>>());
                }
            });
            // There is room: permits and places are equally many, and a permit is dropped after its place.
            self.tasks.try_send(task).map_err(|_| TaskLost)?;
            replies.push(result);
        }
        let mut results = Vec::with_capacity(count);
        for reply in replies {
            results.append(&mut reply.await.map_err(|_| TaskLost)?);
        }
        Ok(results)
    }
}

struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[tokio::test]
    async fn results_come_in_order() {
        let pool = TokenizerPool::start(3).expect("threads");
        for count in [0, 1, ITEMS_PER_TASK, ITEMS_PER_TASK + 1, 1000, ITEMS_PER_TASK * (WAITING_TASKS_MAX + 9)] {
            let squares = pool.map(count, |i| i * i).await.expect("no panic");
            assert_eq!(squares, (0..count).map(|i| i * i).collect::<Vec<_>>());
        }
    }

    #[tokio::test]
    async fn a_panic_costs_its_own_call() {
        let pool = TokenizerPool::start(1).expect("threads");
        assert_eq!(pool.map(40, |i| assert_ne!(i, 20)).await, Err(TaskLost));
        assert_eq!(pool.map(2, |i| i).await, Ok(vec![0, 1]));
    }

    #[tokio::test]
    async fn what_is_dropped_stops() {
        let pool = TokenizerPool::start(1).expect("threads");
        let (started, gate) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicBool::new(false)));
        let done = Arc::new(AtomicUsize::new(0));
        let call = {
            let (started, gate, done) = (Arc::clone(&started), Arc::clone(&gate), Arc::clone(&done));
            pool.map(100 * ITEMS_PER_TASK, move |_| {
                started.add_permits(1);
                while !gate.load(Ordering::Acquire) {
                    std::thread::yield_now();
                }
                done.fetch_add(1, Ordering::Relaxed);
            })
        };
        tokio::select! {
            _ = call => unreachable!("the gate is closed"),
            permit = started.acquire() => permit.expect("open").forget(),
        }
        gate.store(true, Ordering::Release);
        pool.map(1, |_| ()).await.expect("the pool lives");
        assert_eq!(done.load(Ordering::Relaxed), ITEMS_PER_TASK, "the task that had begun, and no other");
    }
}
