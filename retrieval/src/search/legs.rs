//! Legs side by side, each within its share of the deadline.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use roaring::RoaringBitmap;
use sluice_core::fusion::RankedList;
use tokio::{sync::mpsc, time::Instant};

use super::{
    LegHits, LegJob, LegReport, LegState, Pool, SearchJob, Snapshot, Source, Weights, pool::PoolError, versions,
};
use crate::{
    identity::{DocId, Lsn},
    vector_index::{IndexError, Stop},
};

/// A document that a leg found. Ordered by its id, as ties are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Found {
    /// Its id.
    pub id: Arc<str>,
    /// The number of its version.
    pub document: DocId,
}

/// Comes between a leg and its index: where tests make legs fail and hang.
pub trait Interference: Send + Sync {
    /// Called on the leg's thread before its index is asked. May take its time; `stop` says when that is over.
    ///
    /// # Errors
    /// Whatever the leg is to fail with.
    fn before(&self, leg: &str, stop: &dyn Stop) -> Result<(), IndexError>;
}

/// Lets every leg be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Undisturbed;

impl Interference for Undisturbed {
    fn before(&self, _: &str, _: &dyn Stop) -> Result<(), IndexError> {
        Ok(())
    }
}

/// How a leg ended, and what it brought.
#[derive(Debug)]
pub(super) struct LegOutcome {
    pub(super) report: LegReport,
    /// What it found; empty if it failed.
    pub(super) list: RankedList<Found>,
    /// How rare the query's words are, where it has words.
    pub(super) rarity: Option<f64>,
}

/// What a leg's thread brings.
struct Brought {
    list: RankedList<Found>,
    applied: Lsn,
    rarity: Option<f64>,
}

/// Why a leg's thread brings nothing.
enum Fault {
    Behind(Lsn),
    Stopped,
    Failed,
}

/// The legs of one search.
pub(super) struct RunningLegs<'a> {
    pub(super) pool: &'a Pool,
    pub(super) interference: &'a Arc<dyn Interference>,
    pub(super) source: &'a Arc<dyn Source>,
    pub(super) job: &'a Arc<SearchJob>,
    pub(super) snapshot: &'a Arc<dyn Snapshot>,
    pub(super) among: Option<&'a Arc<RoaringBitmap>>,
    pub(super) begin: Instant,
    pub(super) share: Duration,
}

impl RunningLegs<'_> {
    /// Runs them all; outcomes in the job's order.
    pub(super) async fn all(&self, listener: Option<mpsc::Sender<LegHits>>) -> Vec<LegOutcome> {
        // Dropped with this future: legs whose caller has gone stop too.
        let given_up = GivenUp::default();
        let legs = self.job.legs.iter().enumerate();
        let mut running: FuturesUnordered<_> = legs.map(|(nth, leg)| self.one(nth, leg, &given_up)).collect();
        let mut outcomes: Vec<Option<LegOutcome>> = self.job.legs.iter().map(|_| None).collect();
        while let Some((nth, outcome)) = running.next().await {
            if let Some(listener) = &listener {
                // Its channel has room for every leg: nobody waits here for a slow reader.
                let _ = listener.try_send(LegHits { report: outcome.report.clone(), list: outcome.list.clone() });
            }
            outcomes[nth] = Some(outcome);
        }
        outcomes.into_iter().flatten().collect()
    }

    async fn one(&self, nth: usize, leg: &LegJob, given_up: &GivenUp) -> (usize, LegOutcome) {
        let time = leg.timeout.map_or(self.share, |timeout| timeout.min(self.share));
        let until = self.begin + time;
        if !self.reached(leg, until).await {
            let applied = self.source.leg(&leg.query).map_or(Lsn::ZERO, |leg| leg.applied());
            return (nth, outcome(leg, Ok(Err(Fault::Behind(applied))), self.begin.elapsed()));
        }
        let work = LegWork {
            interference: Arc::clone(self.interference),
            source: Arc::clone(self.source),
            job: Arc::clone(self.job),
            nth,
            snapshot: Arc::clone(self.snapshot),
            among: self.among.map(Arc::clone),
            until,
            given_up: Arc::clone(&given_up.0),
        };
        let ended = self.pool.run(until, move || work.run()).await;
        (nth, outcome(leg, ended, self.begin.elapsed()))
    }

    /// Waits for the write that the search names. Before a place is taken: those are for legs that have something to do.
    async fn reached(&self, leg: &LegJob, until: Instant) -> bool {
        let reached = self.source.reached(&leg.query, self.job.min_lsn);
        tokio::time::timeout_at(until, reached).await.unwrap_or(false)
    }
}

fn outcome(leg: &LegJob, ended: Result<Result<Brought, Fault>, PoolError>, duration: Duration) -> LegOutcome {
    let nothing = || RankedList::new([], leg.query.floor());
    let (state, applied, list, rarity) = match ended {
        Ok(Ok(Brought { list, applied, rarity })) => (LegState::Ok, applied, list, rarity),
        Ok(Err(Fault::Behind(applied))) => (LegState::Behind, applied, nothing(), None),
        Ok(Err(Fault::Failed)) | Err(PoolError::Panicked) => (LegState::Failed, Lsn::ZERO, nothing(), None),
        Ok(Err(Fault::Stopped)) | Err(PoolError::TimedOut) => (LegState::TimedOut, Lsn::ZERO, nothing(), None),
        Err(PoolError::Overloaded) => (LegState::Overloaded, Lsn::ZERO, nothing(), None),
    };
    let (name, kind, hits) = (leg.name.clone(), leg.query.kind(), list.hits().len());
    LegOutcome { report: LegReport { name, kind, state, hits, duration, weight: 0.0, applied }, list, rarity }
}

/// Says so when the search is dropped.
#[derive(Default)]
struct GivenUp(Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What one leg's thread does.
struct LegWork {
    interference: Arc<dyn Interference>,
    source: Arc<dyn Source>,
    job: Arc<SearchJob>,
    nth: usize,
    snapshot: Arc<dyn Snapshot>,
    among: Option<Arc<RoaringBitmap>>,
    until: Instant,
    given_up: Arc<AtomicBool>,
}

impl LegWork {
    fn run(self) -> Result<Brought, Fault> {
        let job = &self.job.legs[self.nth];
        let stop = || self.given_up.load(Ordering::Relaxed) || Instant::now() >= self.until;
        let failed = |error: IndexError| match error {
            IndexError::Stopped => Fault::Stopped,
            error => {
                tracing::warn!(leg = job.name, %error, "a leg failed");
                Fault::Failed
            }
        };
        self.interference.before(&job.name, &stop).map_err(failed)?;
        let leg = self.source.leg(&job.query).map_err(|error| {
            tracing::warn!(leg = job.name, %error, "a leg could not be asked");
            Fault::Failed
        })?;
        let searched = versions::search(&*leg, job, &*self.snapshot, self.among.as_deref(), &stop);
        let (applied, found) = searched.map_err(|error| match error {
            IndexError::Filling => Fault::Behind(leg.applied()),
            error => failed(error),
        })?;
        let found = found.ok_or(Fault::Behind(applied))?;
        let list = RankedList::new(found, job.query.floor());
        // Only adaptive weights look at it.
        let rarity = if self.job.weights == Weights::Fixed { None } else { leg.rarity() };
        Ok(Brought { list, applied, rarity })
    }
}
