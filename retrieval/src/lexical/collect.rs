//! The best documents of a query, by either plan.

use roaring::RoaringBitmap;
use tantivy::{
    Searcher, SegmentReader, TERMINATED,
    query::{EnableScoring, Query, Weight},
};

use super::{
    numbers::{AllNumbers, Numbers},
    plan::Plan,
    query::Asked,
};
use crate::{
    identity::DocId,
    vector_index::{Hit, IndexError, Stop, TopK},
};

/// Documents between two questions whether to stop: some 10 µs of work.
const DOCUMENTS_BETWEEN_QUESTIONS: u32 = 256;

/// What a search looks at.
pub(crate) struct View<'a> {
    pub(crate) searcher: &'a Searcher,
    pub(crate) numbers: &'a AllNumbers,
}

/// Which documents are wanted, and how many.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) k: usize,
    pub(crate) among: Option<&'a RoaringBitmap>,
    pub(crate) stop: &'a dyn Stop,
}

/// Best first. A plan other than the usual is taken only where there is a filter.
pub(crate) fn best(view: &View<'_>, asked: &Asked, wanted: Wanted<'_>, plan: Plan) -> Result<Vec<Hit>, IndexError> {
    let mut top = TopK::new(wanted.k);
    if wanted.k == 0 {
        return Ok(Vec::new());
    }
    match (plan, wanted.among) {
        (Plan::Restricted, Some(among)) => {
            let parts = asked.terms.as_deref().unwrap_or(std::slice::from_ref(&asked.query));
            restricted(view, parts, among, wanted.stop, &mut top)?;
        }
        _ => {
            let weight = weight(view, &asked.query)?;
            for (ordinal, reader) in view.searcher.segment_readers().iter().enumerate() {
                let numbers = view.numbers.segment(ordinal);
                if asked.terms.is_some() {
                    skipping(reader, numbers, weight.as_ref(), wanted, &mut top)?;
                } else {
                    one_by_one(reader, numbers, weight.as_ref(), wanted, &mut top)?;
                }
            }
        }
    }
    Ok(top.into_hits())
}

fn weight(view: &View<'_>, query: &dyn Query) -> Result<Box<dyn Weight>, IndexError> {
    let scoring = EnableScoring::enabled_from_searcher(view.searcher);
    query.weight(scoring).map_err(IndexError::storage("weighing a query"))
}

/// What a document must beat: a little less than the worst that is kept, since a smaller number with the same score is
/// still better.
fn bar(top: &TopK) -> f32 {
    top.floor().map_or(f32::MIN, f32::next_down)
}

/// Skips what cannot reach the bar. The filter is asked only for what does, and only what it lets through raises it.
fn skipping(
    reader: &SegmentReader,
    numbers: &Numbers,
    weight: &dyn Weight,
    wanted: Wanted<'_>,
    top: &mut TopK,
) -> Result<(), IndexError> {
    let alive = reader.alive_bitset();
    let (mut seen, mut stopped) = (0_u32, wanted.stop.stop());
    let searched = weight.for_each_pruning(bar(top), reader, &mut |place, score| {
        seen += 1;
        stopped |= seen.is_multiple_of(DOCUMENTS_BETWEEN_QUESTIONS) && wanted.stop.stop();
        if stopped {
            // Nothing reaches this: what is left is skipped.
            return f32::INFINITY;
        }
        let number = numbers.number(place);
        if alive.is_none_or(|alive| alive.is_alive(place)) && wanted.among.is_none_or(|among| among.contains(number)) {
            top.push(DocId(number), score);
        }
        bar(top)
    });
    searched.map_err(IndexError::storage("searching postings"))?;
    if stopped { Err(IndexError::Stopped) } else { Ok(()) }
}

/// Goes through all matches of a query of which tantivy skips nothing, in steps that can be stopped.
fn one_by_one(
    reader: &SegmentReader,
    numbers: &Numbers,
    weight: &dyn Weight,
    wanted: Wanted<'_>,
    top: &mut TopK,
) -> Result<(), IndexError> {
    let mut scorer = weight.scorer(reader, 1.0).map_err(IndexError::storage("opening postings"))?;
    let alive = reader.alive_bitset();
    let mut seen = 0_u32;
    while scorer.doc() != TERMINATED {
        if seen.is_multiple_of(DOCUMENTS_BETWEEN_QUESTIONS) && wanted.stop.stop() {
            return Err(IndexError::Stopped);
        }
        seen += 1;
        let place = scorer.doc();
        let number = numbers.number(place);
        if alive.is_none_or(|alive| alive.is_alive(place)) && wanted.among.is_none_or(|among| among.contains(number)) {
            top.push(DocId(number), scorer.score());
        }
        scorer.advance();
    }
    Ok(())
}

/// Looks the filter's documents up, in one part of the query after another.
fn restricted(
    view: &View<'_>,
    parts: &[Box<dyn Query>],
    among: &RoaringBitmap,
    stop: &dyn Stop,
    top: &mut TopK,
) -> Result<(), IndexError> {
    let weights: Vec<_> = parts.iter().map(|part| weight(view, part)).collect::<Result<_, _>>()?;
    for (ordinal, reader) in view.searcher.segment_readers().iter().enumerate() {
        let numbers = view.numbers.segment(ordinal);
        let mut places = numbers.places(among);
        if let Some(alive) = reader.alive_bitset() {
            places.retain(|&place| alive.is_alive(place));
        }
        let mut scores = vec![None; places.len()];
        for weight in &weights {
            look_up(reader, weight.as_ref(), &places, stop, &mut scores)?;
        }
        for (&place, score) in places.iter().zip(scores) {
            if let Some(score) = score {
                top.push(DocId(numbers.number(place)), score);
            }
        }
    }
    Ok(())
}

/// Adds the scores of those places, which ascend, to what they have.
pub(crate) fn look_up(
    reader: &SegmentReader,
    weight: &dyn Weight,
    places: &[u32],
    stop: &dyn Stop,
    scores: &mut [Option<f32>],
) -> Result<(), IndexError> {
    let mut scorer = weight.scorer(reader, 1.0).map_err(IndexError::storage("opening postings"))?;
    for (count, (&place, score)) in places.iter().zip(scores).enumerate() {
        if count.is_multiple_of(DOCUMENTS_BETWEEN_QUESTIONS as usize) && stop.stop() {
            return Err(IndexError::Stopped);
        }
        if scorer.doc() < place {
            scorer.seek(place);
        }
        if scorer.doc() == place {
            *score = Some(score.unwrap_or(0.0) + scorer.score());
        }
    }
    Ok(())
}
