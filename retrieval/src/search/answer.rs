//! What comes out of a search.

use std::time::Duration;

use sluice_core::fusion::{Cursor, FusedHit, LegKind, Method, QueryFeatures, RankedList};
use tokio::time::Instant;

use super::{
    Facet, Fields, Found, ReadDocument, SearchError, SearchJob, Snippet, Source, SourceError, View, kept::KeptList,
};
use crate::{
    document::StoredDocument,
    identity::Lsn,
    vector_index::{IndexError, Stop},
};

/// What was found.
#[derive(Debug)]
pub struct SearchAnswer {
    /// Best first.
    pub hits: Vec<SearchHit>,
    /// Where the page behind goes on; `None` if there is none.
    pub next_cursor: Option<Cursor>,
    /// The moment at which the list was made.
    pub lsn: Lsn,
    /// How each leg fared, in the job's order.
    pub legs: Vec<LegReport>,
    /// How the lists became one.
    pub fusion: FusionReport,
    /// Documents that fulfil the filter, where asked for.
    pub count: Option<u64>,
    /// In the job's order.
    pub facets: Vec<Facet>,
    /// Where the time went.
    pub timing: SearchTiming,
}

/// One document that was found.
#[derive(Debug)]
pub struct SearchHit {
    /// Its place, from 1, over all pages.
    pub rank: usize,
    /// Its id, fused score, and what each leg said.
    pub fused: FusedHit<Found>,
    /// It, as far as it was asked for.
    pub document: ReadDocument,
    /// Pieces of its text.
    pub snippets: Vec<Snippet>,
}

/// How a leg fared.
#[derive(Clone, Debug, PartialEq)]
pub struct LegReport {
    /// Its name.
    pub name: String,
    /// What it looks at.
    pub kind: LegKind,
    /// How it ended.
    pub state: LegState,
    /// Hits that it brought.
    pub hits: usize,
    /// Its time, the wait for a thread included.
    pub duration: Duration,
    /// What it counted.
    pub weight: f64,
    /// The last write that its index had; 0 if it was not asked.
    pub applied: Lsn,
}

/// How a leg ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegState {
    /// Well.
    Ok,
    /// It failed.
    Failed,
    /// Its time was over.
    TimedOut,
    /// Its index had not come to the write that was asked for.
    Behind,
    /// There was no thread for it.
    Overloaded,
}

impl LegState {
    /// Its name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Behind => "behind",
            Self::Overloaded => "overloaded",
        }
    }

    /// For people.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Self::Ok => "",
            Self::Failed => "its index could not answer",
            Self::TimedOut => "its share of the deadline was over before it was done",
            Self::Behind => "its index had not come to min_lsn within its share of the deadline",
            Self::Overloaded => "no thread was free within its share of the deadline",
        }
    }
}

/// Whether any leg is missing: the answer is less than was asked for.
#[must_use]
pub fn degraded(legs: &[LegReport]) -> bool {
    legs.iter().any(|leg| leg.state != LegState::Ok)
}

/// How the lists became one.
#[derive(Clone, Debug, PartialEq)]
pub struct FusionReport {
    /// Method that was used.
    pub method: Method,
    /// What the weights followed, where they did.
    pub features: Option<QueryFeatures>,
}

/// Where a search's time went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SearchTiming {
    /// The snapshot, the filter, facets and count.
    pub filter: Duration,
    /// The legs, their wait for a write included.
    pub legs: Duration,
    /// Fusing, and reading what is sent.
    pub fuse: Duration,
}

/// What one leg has found.
#[derive(Clone, Debug)]
pub struct LegHits {
    /// How it fared; its weight is not known yet.
    pub report: LegReport,
    /// Its list.
    pub list: RankedList<Found>,
}

/// Reads a page of a list. Documents that have gone since the list was made are left out.
pub(super) fn page(
    (source, view): (&dyn Source, &View),
    job: &SearchJob,
    list: &KeptList,
    from: usize,
    deadline: Instant,
) -> Result<Vec<SearchHit>, SearchError> {
    let projection = with_snippets(job);
    let mut hits = Vec::with_capacity(job.limit.min(list.hits.len()));
    for (nth, fused) in list.page(job, from).iter().enumerate() {
        if let Some(document) = view.snapshot.read(fused.id.document, &projection)? {
            hits.push(SearchHit { rank: from + nth + 1, fused: fused.clone(), document, snippets: Vec::new() });
        }
    }
    add_snippets(source, job, &mut hits, &|| Instant::now() >= deadline)?;
    Ok(hits)
}

/// What has to be read: snippets are cut from texts that need not be sent.
fn with_snippets(job: &SearchJob) -> super::Projection {
    let mut projection = job.projection.clone();
    if let (Some(snippets), Fields::These(texts)) = (&job.snippets, &mut projection.texts) {
        texts.extend(snippets.fields.iter().cloned());
    }
    projection
}

/// Of each field, what the first lexical leg that has a piece of it says.
fn add_snippets(
    source: &dyn Source,
    job: &SearchJob,
    hits: &mut [SearchHit],
    stop: &dyn Stop,
) -> Result<(), SearchError> {
    let Some(wanted) = &job.snippets else { return Ok(()) };
    for leg in job.legs.iter().filter(|leg| leg.query.kind() == LegKind::Lexical) {
        let index = source.leg(&leg.query)?;
        let documents: Vec<&StoredDocument> = hits.iter().map(|hit| &hit.document.stored).collect();
        let pieces = index.snippets(wanted, &documents, stop).map_err(|error| match error {
            IndexError::Stopped => SearchError::Expired,
            error => SourceError::of("cutting snippets")(error).into(),
        })?;
        for (hit, pieces) in hits.iter_mut().zip(pieces) {
            for piece in pieces {
                if hit.snippets.iter().all(|there| there.field != piece.field) {
                    hit.snippets.push(piece);
                }
            }
        }
    }
    for hit in hits {
        hit.snippets.sort_by_key(|snippet| wanted.fields.iter().position(|field| *field == snippet.field));
    }
    Ok(())
}
