//! Why documents stand where they do in a search.

use std::sync::Arc;

use roaring::RoaringBitmap;
use tokio::time::Instant;

use super::{
    ExplainJob, FusionReport, LegReport, LegState, SearchError, Searcher, Source, SourceError, View, kept::KeptList,
};
use crate::{
    identity::{DocId, Lsn},
    lexical::TermScore,
    vector_index::IndexError,
};

/// Why each document stands where it does.
#[derive(Debug)]
pub struct ExplainAnswer {
    /// In the job's order.
    pub documents: Vec<ExplainedDocument>,
    /// How each leg fared, in the job's order.
    pub legs: Vec<LegReport>,
    /// How the lists became one.
    pub fusion: FusionReport,
    /// The moment at which it was read.
    pub lsn: Lsn,
}

/// Why a document stands where it does.
#[derive(Clone, Debug, PartialEq)]
pub struct ExplainedDocument {
    /// Its id.
    pub id: String,
    /// It is there.
    pub found: bool,
    /// It fulfils the filter.
    pub matches_filter: bool,
    /// Its place in the fused list, from 1.
    pub rank: Option<usize>,
    /// Its fused score.
    pub score: Option<f64>,
    /// Each leg of the job, in its order.
    pub legs: Vec<ExplainedLeg>,
}

/// What one leg says of a document.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExplainedLeg {
    /// Its place in the leg's list, from 1.
    pub rank: Option<u32>,
    /// The leg's own score, also beyond its list.
    pub score: Option<f32>,
    /// What it adds to the fused score.
    pub contribution: Option<f64>,
    /// What makes up a score of words, most telling first.
    pub terms: Vec<TermScore>,
}

impl Searcher {
    /// Runs a search and says of each document why it stands where it does.
    ///
    /// # Errors
    /// As for [`search`](Self::search).
    pub async fn explain(
        &self,
        source: Arc<dyn Source>,
        job: Arc<ExplainJob>,
        deadline: Instant,
    ) -> Result<ExplainAnswer, SearchError> {
        let search = Arc::new(job.search.clone());
        let view = self.view(&source, &search, deadline).await?;
        let (list, _) = self.list(&source, &search, &view, deadline, None).await?;
        let fused = Arc::clone(&list);
        let documents = self.pool.run(deadline, move || explained(&*source, &view, &job, &fused, deadline)).await??;
        Ok(ExplainAnswer { documents, legs: list.legs.clone(), fusion: list.fusion.clone(), lsn: list.lsn })
    }
}

fn explained(
    source: &dyn Source,
    view: &View,
    job: &ExplainJob,
    list: &KeptList,
    deadline: Instant,
) -> Result<Vec<ExplainedDocument>, SearchError> {
    let numbers: Vec<Option<DocId>> = job.ids.iter().map(|id| view.snapshot.find(id)).collect::<Result<_, _>>()?;
    let mut documents: Vec<_> =
        job.ids.iter().zip(&numbers).map(|(id, number)| in_list(id, *number, view, job, list)).collect();
    let asked: RoaringBitmap = numbers.iter().flatten().map(|number| number.0).collect();
    for (nth, leg) in job.search.legs.iter().enumerate() {
        if list.legs[nth].state != LegState::Ok || asked.is_empty() {
            continue;
        }
        let index = source.leg(&leg.query)?;
        let stop = || Instant::now() >= deadline;
        let hits = index.search(job.ids.len(), Some(&asked), &stop);
        let hits = hits.map_err(failed)?;
        let scored: Vec<DocId> = hits.iter().map(|hit| hit.document).collect();
        let terms = index.terms(&scored, &stop).map_err(failed)?;
        for (hit, terms) in hits.into_iter().zip(terms) {
            for (document, _) in documents.iter_mut().zip(&numbers).filter(|(_, number)| **number == Some(hit.document))
            {
                document.legs[nth].score.get_or_insert(hit.score);
                document.legs[nth].terms.clone_from(&terms);
            }
        }
    }
    Ok(documents)
}

fn failed(error: IndexError) -> SearchError {
    match error {
        IndexError::Stopped => SearchError::Expired,
        error => SourceError::of("explaining a leg")(error).into(),
    }
}

/// What the fused list says of a document.
fn in_list(id: &str, number: Option<DocId>, view: &View, job: &ExplainJob, list: &KeptList) -> ExplainedDocument {
    let mut legs = vec![ExplainedLeg::default(); job.search.legs.len()];
    let place = list.hits.iter().position(|hit| Some(hit.id.document) == number);
    if let Some(place) = place {
        for said in &list.hits[place].legs {
            let (rank, score, contribution) = (Some(said.rank), Some(said.score), Some(said.contribution));
            legs[said.leg] = ExplainedLeg { rank, score, contribution, terms: Vec::new() };
        }
    }
    let fulfils = |number: DocId| view.among.as_ref().is_none_or(|among| among.contains(number.0));
    ExplainedDocument {
        id: id.to_owned(),
        found: number.is_some(),
        matches_filter: number.is_some_and(fulfils),
        rank: place.map(|place| place + 1),
        score: place.map(|place| list.hits[place].score),
        legs,
    }
}
