//! Searches that a cluster answers: all legs in one question, fused here.
//!
//! ```text
//! SearchJob ─► check ─┬► one call for all legs ─► fuse ─► min_score ─► page ─► documents, where they are asked for
//!                     └► count, facets
//! ```
//!
//! What differs from [a search of our own indexes](super): there is no moment that all of an answer is read at. A
//! document that is written while it is being found is answered as it was last read, whole, at one version. And legs
//! share one call, so what is slow about one of them is slow about all; a leg with a `timeout` of its own has a call of
//! its own.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use futures_util::{
    StreamExt,
    future::{self, BoxFuture},
    stream::FuturesUnordered,
};
use sluice_core::fusion::{CursorError, RankedList};
use tokio::{sync::mpsc, time::Instant};

use super::{
    Facet, FacetJob, Found, LegHits, LegJob, LegReport, LegState, Projection, ReadDocument, SearchAnswer, SearchError,
    SearchHit, SearchJob, SearchTiming, Searcher, SourceError,
    kept::{KeptKey, KeptList},
    legs::LegOutcome,
};
use crate::{
    document::StoredDocument,
    filter::Filter,
    identity::{ContentHash, DocId, Lsn},
    payload::FACET_VALUES_MAX,
};

/// A collection of a cluster, as a search sees it.
pub trait Cluster: Send + Sync {
    /// Whether it can answer a search at all; asks nobody.
    ///
    /// # Errors
    /// The first thing that it cannot do.
    fn check(&self, job: &SearchJob) -> Result<(), Lacking>;

    /// A moment that no acknowledged write is behind.
    fn now(&self) -> Lsn;

    /// What each of these legs finds, best first, in one call; a list for each of them, in their order.
    fn lists<'a>(
        &'a self,
        legs: &'a [&'a LegJob],
        filter: Option<&'a Filter>,
        until: Instant,
    ) -> Answer<'a, Vec<Vec<ClusterHit>>>;

    /// How many documents fulfil a filter, or are there.
    fn count<'a>(&'a self, filter: Option<&'a Filter>, until: Instant) -> Answer<'a, u64>;

    /// Counts values of a payload field over the documents that fulfil a filter, or all.
    fn facet<'a>(&'a self, facet: &'a FacetJob, filter: Option<&'a Filter>, until: Instant) -> Answer<'a, Facet>;

    /// Documents by id, with at least what is asked for; `None` for what is not there. In the order of the ids.
    fn read<'a>(
        &'a self,
        ids: Vec<Arc<str>>,
        projection: &'a Projection,
        until: Instant,
    ) -> Answer<'a, Vec<Option<ReadDocument>>>;
}

/// What a cluster is going to say.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, ClusterError>>;

/// A document that a cluster found.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterHit {
    /// Its id.
    pub id: Arc<str>,
    /// What wrote it.
    pub version: Lsn,
    /// Of its content.
    pub content_hash: ContentHash,
    /// The larger the better.
    pub score: f32,
}

/// Something that an engine does not do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: this collection's engine has no {what}")]
pub struct Lacking {
    /// Path in the request.
    pub field: String,
    /// What there is none of.
    pub what: String,
}

impl Lacking {
    /// There is no such thing, which this field asks for.
    pub fn new(field: impl Into<String>, what: impl Into<String>) -> Self {
        Self { field: field.into(), what: what.into() }
    }

    /// A payload field has more than [`FACET_VALUES_MAX`] values to count.
    #[must_use]
    pub fn facet(field: &str) -> Self {
        Self::new("facets", format!("counts of a field with more than {FACET_VALUES_MAX} values, as {field}"))
    }
}

/// Why a cluster did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// It could not be reached, or has too much to do.
    #[error("unreachable: {0}")]
    Unreachable(#[source] SourceError),
    /// Time was over.
    #[error("not in time")]
    TimedOut,
    /// The collection is not there any more.
    #[error("the collection is gone")]
    Gone {
        /// What it was asked for by.
        name: String,
    },
    /// It does not do this.
    #[error(transparent)]
    Lacks(#[from] Lacking),
    /// It was asked, and failed.
    #[error(transparent)]
    Failed(#[from] SourceError),
}

impl From<ClusterError> for SearchError {
    fn from(error: ClusterError) -> Self {
        match error {
            ClusterError::Unreachable(error) => Self::Unreachable(error),
            ClusterError::TimedOut => Self::Expired,
            ClusterError::Gone { name } => Self::Gone { name },
            ClusterError::Lacks(lacking) => Self::Lacks(lacking),
            ClusterError::Failed(error) => Self::Source(error),
        }
    }
}

/// What hits always carry, by id: known from the legs already, so that it need not be read again.
type Known = HashMap<Arc<str>, (Lsn, ContentHash)>;

/// The fused list of a search, with what its legs said besides.
struct Listed {
    list: Arc<KeptList>,
    known: Known,
    timing: SearchTiming,
}

impl Searcher {
    /// Answers a search of a cluster until `deadline`; otherwise as [`search`](Self::search).
    ///
    /// # Errors
    /// [`SearchError`]; a leg that fails is none, unless all do.
    pub async fn search_cluster(
        &self,
        cluster: Arc<dyn Cluster>,
        job: Arc<SearchJob>,
        deadline: Instant,
        listener: Option<mpsc::Sender<LegHits>>,
    ) -> Result<SearchAnswer, SearchError> {
        cluster.check(&job)?;
        let now = cluster.now();
        if job.min_lsn > now {
            return Err(SearchError::Ahead { lsn: now });
        }
        let counting = counted(&*cluster, &job, deadline);
        let listing = self.listed(&*cluster, &job, now, deadline, listener);
        let ((count, facets, counted_in), listed) = future::try_join(counting, listing).await?;
        let Listed { list, known, timing } = listed;

        let reading = Instant::now();
        let from = list.begin(&job)?;
        let hits = page(&*cluster, &job, &list, from, &known, deadline).await?;
        let next_cursor = list.cursor_behind(&job, from);
        if next_cursor.is_some() {
            self.keep(KeptKey::of(&job, &list), &list);
        }
        Ok(SearchAnswer {
            hits,
            next_cursor,
            lsn: list.lsn,
            legs: list.legs.clone(),
            fusion: list.fusion.clone(),
            count,
            facets,
            timing: SearchTiming { filter: counted_in, fuse: timing.fuse + reading.elapsed(), ..timing },
        })
    }

    /// The list that was kept, or a new one.
    async fn listed(
        &self,
        cluster: &dyn Cluster,
        job: &SearchJob,
        now: Lsn,
        deadline: Instant,
        listener: Option<mpsc::Sender<LegHits>>,
    ) -> Result<Listed, SearchError> {
        if let Some(list) = self.kept_list(job) {
            return Ok(Listed { list, known: Known::new(), timing: SearchTiming::default() });
        }
        if job.after.is_some() {
            // A cluster keeps no moment that the same list could be made of again.
            return Err(CursorError::Moved.into());
        }
        let begin = Instant::now();
        let share = deadline.saturating_duration_since(begin).mul_f64(self.leg_share());
        if share.is_zero() {
            return Err(SearchError::Expired);
        }
        let asked = AskedLegs { cluster, job, now, begin, share };
        let (outcomes, known) = asked.all(listener).await?;
        let searched = begin.elapsed();
        let list = Arc::new(self.fused(job, now, outcomes));
        let timing = SearchTiming { legs: searched, fuse: begin.elapsed() - searched, ..SearchTiming::default() };
        Ok(Listed { list, known, timing })
    }
}

/// What is counted, beside the legs.
async fn counted(
    cluster: &dyn Cluster,
    job: &SearchJob,
    deadline: Instant,
) -> Result<(Option<u64>, Vec<Facet>, Duration), SearchError> {
    let begin = Instant::now();
    let filter = job.filter.as_ref();
    let count = async {
        match job.count {
            true => cluster.count(filter, deadline).await.map(Some),
            false => Ok(None),
        }
    };
    let facets = job.facets.iter().map(|facet| cluster.facet(facet, filter, deadline));
    let (count, facets) = future::try_join(count, future::try_join_all(facets)).await?;
    Ok((count, facets, begin.elapsed()))
}

/// Reads a page of a list. Documents that have gone since the list was made are left out.
async fn page(
    cluster: &dyn Cluster,
    job: &SearchJob,
    list: &KeptList,
    from: usize,
    known: &Known,
    deadline: Instant,
) -> Result<Vec<SearchHit>, SearchError> {
    let page = list.page(job, from);
    let bare = |found: &Found| known.get(&found.id).map(|facts| Some(without_fields(&found.id, *facts)));
    let known: Option<Vec<_>> = page.iter().map(|fused| bare(&fused.id)).collect();
    let documents = match known.filter(|_| job.projection.is_nothing()) {
        Some(documents) => documents,
        None => {
            let ids = page.iter().map(|fused| Arc::clone(&fused.id.id)).collect();
            cluster.read(ids, &job.projection, deadline).await?
        }
    };
    let ranked = page.iter().zip(documents).enumerate().filter_map(|(nth, (fused, document))| {
        let (fused, document) = (fused.clone(), document?);
        Some(SearchHit { rank: from + nth + 1, fused, document, snippets: Vec::new() })
    });
    Ok(ranked.collect())
}

fn without_fields(id: &str, (version, content_hash): (Lsn, ContentHash)) -> ReadDocument {
    let stored = StoredDocument {
        doc: DocId::default(),
        version,
        content_hash,
        id: id.to_owned(),
        texts: BTreeMap::new(),
        payload: BTreeMap::new(),
    };
    ReadDocument { stored, dense: Vec::new(), sparse: Vec::new() }
}

/// Legs that are asked of a cluster.
struct AskedLegs<'a> {
    cluster: &'a dyn Cluster,
    job: &'a SearchJob,
    now: Lsn,
    begin: Instant,
    share: Duration,
}

impl AskedLegs<'_> {
    /// Asks for them all; outcomes in the job's order.
    async fn all(&self, listener: Option<mpsc::Sender<LegHits>>) -> Result<(Vec<LegOutcome>, Known), SearchError> {
        // Legs of one time share a call: all of them, unless some have a time of their own.
        let mut calls = BTreeMap::<Duration, Vec<usize>>::new();
        for (nth, leg) in self.job.legs.iter().enumerate() {
            let time = leg.timeout.map_or(self.share, |timeout| timeout.min(self.share));
            calls.entry(time).or_default().push(nth);
        }
        let mut running: FuturesUnordered<_> = calls.into_iter().map(|(time, legs)| self.call(time, legs)).collect();
        let mut outcomes: Vec<Option<LegOutcome>> = self.job.legs.iter().map(|_| None).collect();
        let (mut known, mut faults) = (Known::new(), Vec::new());
        while let Some(ended) = running.next().await {
            for (nth, answer) in ended {
                let outcome = match answer {
                    Ok(hits) => {
                        known.extend(hits.iter().map(|hit| (Arc::clone(&hit.id), (hit.version, hit.content_hash))));
                        self.outcome(nth, LegState::Ok, hits)
                    }
                    Err(fault) => {
                        tracing::warn!(leg = self.job.legs[nth].name, error = %fault, "a leg failed");
                        let timed_out = matches!(fault, ClusterError::TimedOut);
                        faults.push(fault);
                        self.outcome(nth, if timed_out { LegState::TimedOut } else { LegState::Failed }, Vec::new())
                    }
                };
                if let Some(listener) = &listener {
                    // Its channel has room for every leg: nobody waits here for a slow reader.
                    let _ = listener.try_send(LegHits { report: outcome.report.clone(), list: outcome.list.clone() });
                }
                outcomes[nth] = Some(outcome);
            }
        }
        let outcomes: Vec<LegOutcome> = outcomes.into_iter().flatten().collect();
        if faults.len() < outcomes.len() {
            return Ok((outcomes, known));
        }
        // What is the same of all of them is said as it is.
        let all = |is: fn(&ClusterError) -> bool| faults.iter().all(is);
        if all(|fault| matches!(fault, ClusterError::Unreachable(_) | ClusterError::Gone { .. }))
            && let Some(fault) = faults.pop()
        {
            return Err(fault.into());
        }
        Err(SearchError::AllLegsFailed(outcomes.into_iter().map(|outcome| outcome.report).collect()))
    }

    /// One call for these legs. If the cluster refuses it, each leg is asked for alone, so that one that is at fault does
    /// not take the others with it.
    async fn call(&self, time: Duration, legs: Vec<usize>) -> Vec<(usize, Result<Vec<ClusterHit>, ClusterError>)> {
        let until = self.begin + time;
        let asked: Vec<&LegJob> = legs.iter().map(|nth| &self.job.legs[*nth]).collect();
        let answers = match self.lists(&asked, until).await {
            Ok(lists) => lists.into_iter().map(Ok).collect(),
            Err(ClusterError::Failed(fault)) if asked.len() > 1 => {
                tracing::warn!(error = %fault, "the legs' call failed: each is asked for alone");
                let alone = asked.chunks(1).map(|leg| self.lists(leg, until));
                let first = |lists: Vec<Vec<ClusterHit>>| lists.into_iter().next().unwrap_or_default();
                future::join_all(alone).await.into_iter().map(|lists| lists.map(first)).collect()
            }
            Err(fault) => {
                let mut faults: Vec<_> = asked.iter().skip(1).map(|_| Err(same(&fault))).collect();
                faults.push(Err(fault));
                faults
            }
        };
        legs.into_iter().zip(answers).collect()
    }

    async fn lists(&self, legs: &[&LegJob], until: Instant) -> Result<Vec<Vec<ClusterHit>>, ClusterError> {
        let asking = self.cluster.lists(legs, self.job.filter.as_ref(), until);
        // Dropped at the end of its time: whoever asks a cluster need not watch the clock for that.
        tokio::time::timeout_at(until, asking).await.unwrap_or(Err(ClusterError::TimedOut))
    }

    fn outcome(&self, nth: usize, state: LegState, hits: Vec<ClusterHit>) -> LegOutcome {
        let leg = &self.job.legs[nth];
        let found = hits.into_iter().map(|hit| (Found { id: hit.id, document: DocId::default() }, hit.score));
        let list = RankedList::new(found, leg.query.floor());
        let (name, kind, hits) = (leg.name.clone(), leg.query.kind(), list.hits().len());
        let applied = if state == LegState::Ok { self.now } else { Lsn::ZERO };
        let report = LegReport { name, kind, state, hits, duration: self.begin.elapsed(), weight: 0.0, applied };
        LegOutcome { report, list, rarity: None }
    }
}

/// The same fault, of another leg of the call.
fn same(fault: &ClusterError) -> ClusterError {
    let cause = |error: &SourceError| SourceError { doing: error.doing, cause: error.cause.to_string().into() };
    match fault {
        ClusterError::Unreachable(error) => ClusterError::Unreachable(cause(error)),
        ClusterError::TimedOut => ClusterError::TimedOut,
        ClusterError::Gone { name } => ClusterError::Gone { name: name.clone() },
        ClusterError::Lacks(lacking) => ClusterError::Lacks(lacking.clone()),
        ClusterError::Failed(error) => ClusterError::Failed(cause(error)),
    }
}
