//! Sends a workload and counts what comes of it.
//!
//! ```text
//! composer ─ messages ahead of time ─► pacer ─ at the intended time, with a slot ─► a task per request ─ samples ─► tally
//! callers of closed loops: a task each ────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! | queue | bound |
//! |---|---|
//! | messages | `AHEAD` requests made before their time |
//! | in flight | [`Options::in_flight_max`] |
//! | samples | `SAMPLES` |

mod clients;
mod pace;

use std::{
    collections::BTreeMap,
    num::NonZero,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use sluice_client::{BearerToken, ClientError};
use sluice_core::workload::Class;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    compose::Composer,
    report::{ClassFigures, Figures, Generator, Report, SCHEMA, StreamFigures},
    tally::{Sample, Tally},
};
use clients::Clients;

/// Requests made before their time: a large one takes milliseconds to make.
const AHEAD: usize = 64;
/// Ends that wait to be counted.
const SAMPLES: usize = 4096;
/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// Who is asked, and on whose account.
#[derive(Clone, Debug)]
pub struct Target {
    /// `http://HOST:PORT`.
    pub url: String,
    /// Of streams without a tenant.
    pub token: Option<BearerToken>,
    /// Of streams with one.
    pub tenants: BTreeMap<String, BearerToken>,
}

/// How it is sent.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Connections for each tenant, used in turn.
    pub connections: NonZero<usize>,
    /// Requests in flight at once, those of closed loops not counted: bounds the generator's memory. Beyond it requests
    /// wait, which is part of their latency and reported.
    pub in_flight_max: NonZero<usize>,
    /// A request that leaves later than intended by more than this is counted as late.
    pub late_after: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connections: NonZero::<usize>::MIN,
            in_flight_max: NonZero::new(4096).unwrap_or(NonZero::<usize>::MIN),
            late_after: Duration::from_millis(10),
        }
    }
}

/// How far a run has come.
#[derive(Clone, Debug)]
pub enum Progress {
    /// Documents are put into the token store.
    Putting {
        /// Documents put so far.
        documents: usize,
    },
    /// Requests are sent.
    Sending {
        /// Since the start.
        elapsed: Duration,
        /// In flight now.
        in_flight: usize,
        /// Of all streams, without the warm-up.
        figures: Box<Figures>,
    },
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A stream is on the account of somebody whose token is not known.
    #[error("stream `{stream}` is of tenant `{tenant}`, whose token is not given")]
    NoToken {
        /// Its name.
        stream: String,
        /// The name of the tenant.
        tenant: String,
    },
    /// The server cannot be reached, or does not store what requests would ask for.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Puts the stored documents that requests ask for, sends the requests, and counts what comes of them; up to `stop`, if
/// that comes first.
///
/// Calls are made once: what a client would try again is a refusal here.
///
/// # Errors
///
/// [`RunError`] if it cannot begin. What becomes of requests is no error.
pub async fn run(
    composer: Arc<Composer>,
    target: &Target,
    options: &Options,
    mut progress: impl FnMut(&Progress),
    stop: impl Future<Output = ()>,
) -> Result<Report, RunError> {
    let clients = Clients::connect(composer.traffic().workload(), target, options.connections).await?;
    put_stored(&composer, &clients, &mut progress).await?;

    let (samples, ended) = mpsc::channel(SAMPLES);
    let run = Arc::new(Run {
        composer: Arc::clone(&composer),
        clients,
        start: Instant::now(),
        slots: Arc::new(Semaphore::new(options.in_flight_max.get())),
        in_flight: AtomicUsize::new(0),
        in_flight_peak: AtomicUsize::new(0),
        waited: AtomicU64::new(0),
    });
    let mut senders = pace::start(&run, samples);
    let counted = count(&run, ended, options.late_after, progress, stop).await;
    senders.abort_all();

    let generator = Generator {
        connections: options.connections.get(),
        in_flight_max: options.in_flight_max.get(),
        in_flight_peak: run.in_flight_peak.load(Ordering::Relaxed),
        waited_for_a_slot: run.waited.load(Ordering::Relaxed),
        late_starts: counted.late,
        late_after_seconds: options.late_after.as_secs_f64(),
    };
    Ok(report(&run, target, &counted, generator))
}

/// What all tasks of a run share.
struct Run {
    composer: Arc<Composer>,
    clients: Clients,
    start: Instant,
    slots: Arc<Semaphore>,
    in_flight: AtomicUsize,
    in_flight_peak: AtomicUsize,
    waited: AtomicU64,
}

struct Counted {
    tally: Tally,
    late: u64,
    interrupted: bool,
}

/// Stored documents are put by the first stream that asks for them, one batch after the other.
async fn put_stored(
    composer: &Arc<Composer>,
    clients: &Clients,
    progress: &mut impl FnMut(&Progress),
) -> Result<(), RunError> {
    let mut documents = 0;
    for (stream, put) in composer.puts() {
        documents += put.documents.len();
        clients.putting(stream).put_tokens(put).await?;
        progress(&Progress::Putting { documents });
    }
    Ok(())
}

async fn count(
    run: &Run,
    mut ended: mpsc::Receiver<Sample>,
    late_after: Duration,
    mut progress: impl FnMut(&Progress),
    stop: impl Future<Output = ()>,
) -> Counted {
    let mut counted = Counted { tally: Tally::new(run.composer.traffic().workload()), late: 0, interrupted: false };
    let mut ticks = interval(PROGRESS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    tokio::pin!(stop);
    loop {
        tokio::select! {
            biased;
            () = &mut stop => {
                counted.interrupted = true;
                return counted;
            }
            // It ends when the last sender is done.
            sample = ended.recv() => match sample {
                Some(sample) => {
                    counted.late += u64::from(sample.lag > late_after);
                    counted.tally.add(&sample);
                }
                None => return counted,
            },
            _ = ticks.tick() => progress(&Progress::Sending {
                elapsed: run.start.elapsed(),
                in_flight: run.in_flight.load(Ordering::Relaxed),
                figures: Box::new(counted.tally.of(|_| true)),
            }),
        }
    }
}

fn report(run: &Run, target: &Target, counted: &Counted, generator: Generator) -> Report {
    let (workload, tally) = (run.composer.traffic().workload(), &counted.tally);
    let present = |class: &Class| workload.streams.iter().any(|stream| stream.class == *class);
    let of_class = |class| ClassFigures { class, figures: tally.of(|stream| stream.class == class) };
    let streams = workload.streams.iter().zip(tally.streams()).map(|(stream, figures)| StreamFigures {
        name: stream.name.clone(),
        class: stream.class,
        tenant: stream.tenant.clone(),
        deadline_seconds: stream.deadline.as_secs_f64(),
        figures,
    });
    Report {
        schema: SCHEMA,
        server: target.url.clone(),
        workload: workload.clone(),
        seconds: tally.seconds(),
        elapsed_seconds: run.start.elapsed().as_secs_f64(),
        interrupted: counted.interrupted,
        generator,
        total: tally.of(|_| true),
        classes: Class::ALL.into_iter().filter(present).map(of_class).collect(),
        streams: streams.collect(),
    }
}

/// The tasks that send; aborted when this is dropped.
type Senders = JoinSet<()>;
