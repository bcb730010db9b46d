//! How a process stops without breaking a promise.
//!
//! ```text
//! serving ── begin ──► draining ── grace ──► stopping ── at most bound ──► done
//!                      health says no;       nothing new is accepted;
//!                      work goes on          what was accepted finishes
//! ```
//!
//! The grace exists because a balancer needs time to notice: a server that stopped accepting at once would
//! fail the calls that are still being sent to it.

use std::{pin::pin, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{config, config::ConfigFault, health::Health};

/// How long each part of a drain may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DrainConfig {
    /// Time between saying `NOT_SERVING` and accepting nothing more: long enough for balancers to notice.
    #[serde(with = "config::duration")]
    pub grace: Duration,
    /// Time that accepted work then has to finish, before the process ends anyway. Protects the process
    /// from a caller that never reads its answer. Kubernetes kills a pod after
    /// `terminationGracePeriodSeconds` (30 s by default): grace and bound together should be less.
    #[serde(with = "config::duration")]
    pub bound: Duration,
}

impl Default for DrainConfig {
    fn default() -> Self {
        Self { grace: Duration::from_secs(3), bound: Duration::from_secs(20) }
    }
}

impl DrainConfig {
    /// What is wrong with it, under the key `prefix`.
    pub fn faults(&self, prefix: &str) -> Vec<ConfigFault> {
        const BOUND_MAX: Duration = Duration::from_secs(3600);
        let fault = |name: &str| ConfigFault::new(format!("{prefix}.{name}"), "must be at most 1h");
        let too_long = [("grace", self.grace), ("bound", self.bound)].into_iter().filter(|(_, time)| *time > BOUND_MAX);
        too_long.map(|(name, _)| fault(name)).collect()
    }
}

/// How far a drain has come. Only ever goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    Draining,
    Stopping,
    Cut,
}

/// Whether, and how far, a process is draining. Clones are the same drain.
#[derive(Clone, Debug)]
pub struct Drain {
    phase: Arc<watch::Sender<Phase>>,
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drain {
    /// A drain that has not begun.
    pub fn new() -> Self {
        Self { phase: Arc::new(watch::Sender::new(Phase::Serving)) }
    }

    /// Begins it. Asking again changes nothing.
    pub fn begin(&self) {
        self.advance(Phase::Draining);
    }

    /// Ends it at once, whatever is unfinished.
    pub fn cut(&self) {
        self.advance(Phase::Cut);
    }

    /// Whether it has begun.
    pub fn is_draining(&self) -> bool {
        *self.phase.borrow() >= Phase::Draining
    }

    /// Resolves when it begins, or at once if it has.
    pub fn begun(&self) -> impl Future<Output = ()> + Send + use<> {
        self.reached(Phase::Draining)
    }

    /// Resolves when nothing more is to be accepted: the shutdown signal of a server, and the sign for a
    /// long stream to finish.
    pub fn stopping(&self) -> impl Future<Output = ()> + Send + use<> {
        self.reached(Phase::Stopping)
    }

    /// Begins on the first [`termination`] and ends at once on the second: whoever asks twice means it.
    /// For [`tokio::spawn`].
    pub async fn follow_termination(self) {
        let signal = termination().await;
        tracing::info!(signal, "draining");
        self.begin();
        let signal = termination().await;
        tracing::warn!(signal, "not waiting for unfinished work");
        self.cut();
    }

    /// Runs `server` until this drain is done with it.
    ///
    /// `server` has to stop accepting when [`stopping`](Self::stopping) resolves, and to end when what it
    /// accepted is finished, as `serve_with_incoming_shutdown(incoming, drain.stopping())` does. It is
    /// polled throughout. When this returns [`Ending::Unfinished`], tasks that it spawned still run: the
    /// process is expected to end.
    ///
    /// # Errors
    ///
    /// The server's own.
    pub async fn serve<E>(
        &self,
        server: impl Future<Output = Result<(), E>>,
        health: &Health,
        config: &DrainConfig,
    ) -> Result<Ending, E> {
        let mut server = pin!(server);
        tokio::select! {
            ended = &mut server => return ended.map(|()| self.ending()),
            () = self.begun() => health.set_serving(false),
        }
        tokio::select! {
            ended = &mut server => return ended.map(|()| self.ending()),
            () = tokio::time::sleep(config.grace) => {}
            () = self.reached(Phase::Cut) => {}
        }
        health.close();
        self.advance(Phase::Stopping);
        tokio::select! {
            biased;
            ended = &mut server => ended.map(|()| self.ending()),
            () = tokio::time::sleep(config.bound) => Ok(Ending::Unfinished),
            () = self.reached(Phase::Cut) => Ok(Ending::Unfinished),
        }
    }

    /// What it means that a server ends now.
    fn ending(&self) -> Ending {
        if *self.phase.borrow() >= Phase::Stopping { Ending::Finished } else { Ending::Unasked }
    }

    fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let advances = *phase < to;
            if advances {
                *phase = to;
            }
            advances
        });
    }

    fn reached(&self, wanted: Phase) -> impl Future<Output = ()> + Send + use<> {
        let drain = self.clone();
        async move {
            // The sender is held, so the channel cannot close while this waits.
            let _ = drain.phase.subscribe().wait_for(|phase| *phase >= wanted).await;
        }
    }
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was asked to, and finished everything it had accepted.
    Finished,
    /// It was asked to, and had not finished in time.
    Unfinished,
    /// Nobody asked it to.
    Unasked,
}

/// Resolves when the process is asked to end: on SIGTERM or SIGINT (Ctrl-C), with the signal's name.
///
/// From the first poll on these signals no longer end the process by themselves. Where signals cannot be
/// listened to, this never resolves and they do.
pub async fn termination() -> &'static str {
    #[cfg(unix)]
    let terminate = async {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut signals) => signals.recv().await,
            Err(error) => {
                tracing::error!(%error, "cannot listen for SIGTERM");
                None
            }
        }
    };
    #[cfg(not(unix))]
    let terminate = async { None::<()> };
    let interrupt = async {
        if let Err(error) = tokio::signal::ctrl_c().await {
            tracing::error!(%error, "cannot listen for SIGINT");
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        Some(()) = terminate => "SIGTERM",
        () = interrupt => "SIGINT",
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    const CONFIG: DrainConfig = DrainConfig { grace: Duration::from_secs(5), bound: Duration::from_secs(20) };

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Drains, after one second, a server that needs `work` to finish once it is told to stop: how it ended
    /// and when. `cut` ends the drain early.
    async fn drained(work: Duration, cut: Option<Duration>) -> (Result<Ending, ()>, Duration) {
        let (drain, (health, _server)) = (Drain::new(), Health::new(&[]));
        health.set_serving(true);
        let start = Instant::now();
        let server = async {
            drain.stopping().await;
            assert!(drain.is_draining());
            sleep(work).await;
            Ok(())
        };
        let observer = async {
            sleep(seconds(1)).await;
            assert!(!drain.is_draining() && health.is_serving());
            drain.begin();
            drain.begin();
            drain.begun().await;
            sleep(Duration::from_millis(1)).await;
            assert!(drain.is_draining() && !health.is_serving(), "health flips before anything is refused");
            if let Some(cut) = cut {
                sleep(cut).await;
                drain.cut();
            }
        };
        let (ending, ()) = tokio::join!(drain.serve(server, &health, &CONFIG), observer);
        // To the second: the observer's millisecond does not matter.
        (ending, seconds(start.elapsed().as_secs()))
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_accepted_finishes_within_the_bound() {
        use Ending::{Finished, Unfinished};
        let cases = [
            (seconds(0), None, Finished, seconds(6)),
            (seconds(19), None, Finished, seconds(25)),
            (seconds(20), None, Finished, seconds(26)),
            (seconds(21), None, Unfinished, seconds(26)),
            (seconds(4), Some(seconds(2)), Unfinished, seconds(3)),
            (seconds(0), Some(seconds(2)), Finished, seconds(3)),
            (seconds(15), Some(seconds(10)), Unfinished, seconds(11)),
        ];
        for (work, cut, ending, after) in cases {
            assert_eq!(drained(work, cut).await, (Ok(ending), after), "work {work:?}, cut {cut:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_ends_by_itself_is_not_waited_for() {
        let (drain, (health, _server)) = (Drain::new(), Health::new(&[]));
        assert_eq!(drain.serve(async { Ok::<(), ()>(()) }, &health, &CONFIG).await, Ok(Ending::Unasked));
        assert_eq!(drain.serve(async { Err("bind") }, &health, &CONFIG).await, Err("bind"));
        drain.begin();
        assert_eq!(drain.serve(async { Err("late") }, &health, &CONFIG).await, Err("late"));
    }

    #[tokio::test(start_paused = true)]
    async fn phases_only_go_on() {
        let drain = Drain::new();
        drain.cut();
        drain.begin();
        for _ in 0..2 {
            drain.begun().await;
            drain.stopping().await;
        }
        assert!(drain.is_draining());
    }

    #[test]
    fn a_drain_must_end() {
        assert_eq!(DrainConfig::default().faults("drain"), []);
        let config = DrainConfig { grace: Duration::ZERO, bound: Duration::MAX };
        assert_eq!(config.faults("drain"), [ConfigFault::new("drain.bound", "must be at most 1h")]);
    }
}
