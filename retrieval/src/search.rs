//! One search, one way through.
//!
//! ```text
//! SearchJob ─► snapshot of the truth ─► filter → bitmap ─┬► leg ─┐
//!                                                        ├► leg ─┼► fuse ─► min_score ─► page ─► documents, snippets
//!                                                        └► leg ─┘     └► kept for the pages behind
//! ```
//!
//! Legs run side by side on a bounded pool, each with its share of the deadline; the truth is read on another. A leg that
//! fails or is late is left out and said so; the answer is never late for it. What is returned is read at one moment,
//! whether an index runs ahead of it or behind: a document that is being replaced is found by its former version until the
//! index has the new one, and one that is not there is dropped.
//!
//! Nothing here knows a wire, and nothing a store: what a search needs of a collection is a [`Source`], and what it needs
//! of an index a [`Leg`].

mod answer;
mod cluster;
mod explain;
mod job;
mod kept;
mod legs;
mod pool;
mod source;
mod versions;

use std::sync::Arc;

use roaring::RoaringBitmap;
use sluice_core::fusion::{CursorError, LegKind, QueryFeatures, RankedList, agreement, factors, fuse};
use tokio::{sync::mpsc, time::Instant};

pub use self::{
    answer::{FusionReport, LegHits, LegReport, LegState, SearchAnswer, SearchHit, SearchTiming, degraded},
    cluster::{Answer, Cluster, ClusterError, ClusterHit, Lacking},
    explain::{ExplainAnswer, ExplainedDocument, ExplainedLeg},
    job::{
        ExplainJob, FacetJob, FieldBoost, Fields, LegJob, LegQuery, LexicalQuery, Projection, SearchJob, SnippetJob,
        Weights,
    },
    kept::KeptLists,
    legs::{Found, Interference, Undisturbed},
    pool::{Pool, PoolError},
    source::{Facet, Leg, ReadDocument, Snapshot, Snippet, Source, SourceError},
};
use self::{
    kept::{KeptKey, KeptList},
    legs::{LegOutcome, RunningLegs},
};
use crate::identity::Lsn;

/// How searches are run; from the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchSettings {
    /// Of what is left of the deadline when the legs start, the part that is theirs, above 0 and below 1; the rest is for
    /// fusing and reading.
    pub leg_share: f64,
    /// Weights follow the query where a search does not say.
    pub adaptive_weights: bool,
    /// Words that a question begins with, in lower case.
    pub question_words: Vec<String>,
}

/// Runs searches. Clones share everything.
#[derive(Clone)]
pub struct Searcher {
    /// For legs.
    pool: Pool,
    /// For reading the truth, which takes little time: legs that hang keep nobody from it.
    reading: Pool,
    kept: KeptLists,
    settings: Arc<SearchSettings>,
    interference: Arc<dyn Interference>,
}

/// Why a search has no answer.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// It asks for a write that has not happened.
    #[error("the collection is at {lsn}")]
    Ahead {
        /// Where the collection is.
        lsn: Lsn,
    },
    /// Its cursor leads nowhere.
    #[error(transparent)]
    Cursor(#[from] CursorError),
    /// No leg has brought anything.
    #[error("no leg has brought an answer")]
    AllLegsFailed(Vec<LegReport>),
    /// The collection could not be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// There was no thread for it until its deadline.
    #[error("no thread was free")]
    Overloaded,
    /// Its deadline has passed.
    #[error("the deadline has passed")]
    Expired,
    /// The collection's engine does not do this.
    #[error(transparent)]
    Lacks(#[from] Lacking),
    /// The cluster that has the collection could not be reached.
    #[error("the cluster could not be reached: {0}")]
    Unreachable(#[source] SourceError),
    /// The collection was dropped meanwhile.
    #[error("the collection is gone")]
    Gone {
        /// What it was asked for by.
        name: String,
    },
}

/// A moment of a collection, and what of it a search may find.
struct View {
    snapshot: Arc<dyn Snapshot>,
    /// `None` for everything.
    among: Option<Arc<RoaringBitmap>>,
    count: Option<u64>,
    facets: Vec<Facet>,
}

impl Searcher {
    /// A searcher with this pool for legs and another such for reading, keeping lists for pages to come in `kept`.
    #[must_use]
    pub fn new(pool: Pool, kept: KeptLists, settings: SearchSettings) -> Self {
        let reading = pool.another();
        Self { pool, reading, kept, settings: Arc::new(settings), interference: Arc::new(Undisturbed) }
    }

    /// The same, with something that comes between each leg and its index: a test's faults.
    #[must_use]
    pub fn with_interference(self, interference: Arc<dyn Interference>) -> Self {
        Self { interference, ..self }
    }

    /// Answers a search until `deadline`. Each leg's list is sent to `listener` as it comes, if there is one and it has
    /// room; give it room for every leg.
    ///
    /// # Errors
    /// [`SearchError`]; a leg that fails is none, unless all do.
    pub async fn search(
        &self,
        source: Arc<dyn Source>,
        job: Arc<SearchJob>,
        deadline: Instant,
        listener: Option<mpsc::Sender<LegHits>>,
    ) -> Result<SearchAnswer, SearchError> {
        let begin = Instant::now();
        let view = Arc::new(self.view(&source, &job, deadline).await?);
        let filter = begin.elapsed();
        let (list, timing) = match self.kept_list(&job) {
            Some(list) => (list, SearchTiming::default()),
            None => self.list(&source, &job, &view, deadline, listener).await?,
        };
        let reading = Instant::now();
        let from = list.begin(&job)?;
        let hits = self.reading.run(deadline, {
            let (view, job, list) = (Arc::clone(&view), Arc::clone(&job), Arc::clone(&list));
            move || answer::page((&*source, &view), &job, &list, from, deadline)
        });
        let hits = hits.await??;
        let next_cursor = list.cursor_behind(&job, from);
        if next_cursor.is_some() {
            self.kept.keep(KeptKey::of(&job, &list), &list);
        }
        Ok(SearchAnswer {
            hits,
            next_cursor,
            lsn: list.lsn,
            legs: list.legs.clone(),
            fusion: list.fusion.clone(),
            count: view.count,
            facets: view.facets.clone(),
            timing: SearchTiming { filter, fuse: timing.fuse + reading.elapsed(), ..timing },
        })
    }

    fn leg_share(&self) -> f64 {
        self.settings.leg_share
    }

    fn keep(&self, key: KeptKey, list: &Arc<KeptList>) {
        self.kept.keep(key, list);
    }

    /// The list that the job's cursor was cut from, if it is still there.
    fn kept_list(&self, job: &SearchJob) -> Option<Arc<KeptList>> {
        let cursor = job.after.as_ref()?;
        self.kept.get(KeptKey::behind(cursor))
    }

    /// Reads what the whole search is about.
    async fn view(
        &self,
        source: &Arc<dyn Source>,
        job: &Arc<SearchJob>,
        deadline: Instant,
    ) -> Result<View, SearchError> {
        let (source, job) = (Arc::clone(source), Arc::clone(job));
        let reading = self.reading.run(deadline, move || {
            let snapshot = source.snapshot()?;
            let lsn = snapshot.lsn();
            if job.min_lsn > lsn {
                return Err(SearchError::Ahead { lsn });
            }
            let among = job.filter.as_ref().map(|filter| snapshot.matching(filter)).transpose()?;
            let all = || among.as_ref().map_or_else(|| snapshot.documents(), RoaringBitmap::len);
            let count = job.count.then(all);
            let stop = || Instant::now() >= deadline;
            let facets = job.facets.iter().map(|facet| snapshot.facet(facet, among.as_ref(), &stop));
            let facets = facets.collect::<Result<_, _>>()?;
            Ok(View { snapshot, among: among.map(Arc::new), count, facets })
        });
        reading.await?
    }

    /// Runs the legs and fuses what they bring.
    async fn list(
        &self,
        source: &Arc<dyn Source>,
        job: &Arc<SearchJob>,
        view: &View,
        deadline: Instant,
        listener: Option<mpsc::Sender<LegHits>>,
    ) -> Result<(Arc<KeptList>, SearchTiming), SearchError> {
        let lsn = view.snapshot.lsn();
        if job.after.as_ref().is_some_and(|cursor| cursor.lsn != lsn.0) {
            // The list is not kept any more, and another one would come out now.
            return Err(CursorError::Moved.into());
        }
        let begin = Instant::now();
        let share = deadline.saturating_duration_since(begin).mul_f64(self.settings.leg_share);
        if share.is_zero() {
            return Err(SearchError::Expired);
        }
        let running = RunningLegs {
            pool: &self.pool,
            interference: &self.interference,
            source,
            job,
            snapshot: &view.snapshot,
            among: view.among.as_ref(),
            begin,
            share,
        };
        let outcomes = running.all(listener).await;
        if outcomes.iter().all(|outcome| outcome.report.state != LegState::Ok) {
            return Err(SearchError::AllLegsFailed(outcomes.into_iter().map(|outcome| outcome.report).collect()));
        }
        let searched = begin.elapsed();
        let list = Arc::new(self.fused(job, lsn, outcomes));
        let timing = SearchTiming { legs: searched, fuse: begin.elapsed() - searched, ..SearchTiming::default() };
        Ok((list, timing))
    }

    fn fused(&self, job: &SearchJob, lsn: Lsn, outcomes: Vec<LegOutcome>) -> KeptList {
        let kinds: Vec<LegKind> = job.legs.iter().map(|leg| leg.query.kind()).collect();
        let rarity = outcomes.iter().find_map(|outcome| outcome.rarity);
        let (mut legs, lists): (Vec<LegReport>, Vec<RankedList<Found>>) =
            outcomes.into_iter().map(|outcome| (outcome.report, outcome.list)).unzip();
        let features = self.features(job, &lists, rarity);
        let factors = features.as_ref().map_or_else(|| vec![1.0; lists.len()], |features| factors(features, &kinds));
        let mut weighted = Vec::with_capacity(lists.len());
        for (nth, list) in lists.into_iter().enumerate() {
            // A leg that brought nothing must not count in a mean either.
            if legs[nth].state == LegState::Ok {
                legs[nth].weight = job.legs[nth].weight.unwrap_or(1.0) * factors[nth];
            }
            weighted.push(list.with_weight(legs[nth].weight));
        }
        let mut hits = fuse(&weighted, job.method);
        if let Some(min_score) = job.min_score {
            hits.retain(|hit| hit.score >= min_score);
        }
        KeptList::new(lsn, hits, legs, FusionReport { method: job.method, features })
    }

    /// What the weights follow; `None` where they do not.
    fn features(&self, job: &SearchJob, lists: &[RankedList<Found>], rarity: Option<f64>) -> Option<QueryFeatures> {
        let adaptive = match job.weights {
            Weights::Adaptive => true,
            Weights::Fixed => false,
            Weights::Default => self.settings.adaptive_weights && job.legs.iter().all(|leg| leg.weight.is_none()),
        };
        let text = job.text().filter(|_| adaptive)?;
        let of_text = QueryFeatures::of_text(text, &self.settings.question_words);
        Some(QueryFeatures { rarity, agreement: agreement(lists), ..of_text })
    }
}
