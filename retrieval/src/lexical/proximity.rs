//! The bonus for words that stand near each other.

use std::collections::HashMap;

use roaring::RoaringBitmap;
use tantivy::query::{EnableScoring, Query};

use super::collect::{self, View};
use crate::{
    identity::DocId,
    vector_index::{Hit, IndexError, Stop, TopK},
};

/// Adds the pairs' scores to those of the hits, and keeps the `k` best.
pub(crate) fn add(
    view: &View<'_>,
    pairs: &[Box<dyn Query>],
    hits: &[Hit],
    k: usize,
    stop: &dyn Stop,
) -> Result<Vec<Hit>, IndexError> {
    let among: RoaringBitmap = hits.iter().map(|hit| hit.document.0).collect();
    let scoring = EnableScoring::enabled_from_searcher(view.searcher);
    let weights = pairs.iter().map(|pair| pair.weight(scoring)).collect::<tantivy::Result<Vec<_>>>();
    let weights = weights.map_err(IndexError::storage("weighing pairs of words"))?;
    let mut bonus: HashMap<DocId, f32> = HashMap::new();
    for (ordinal, reader) in view.searcher.segment_readers().iter().enumerate() {
        let numbers = view.numbers.segment(ordinal);
        let mut places = numbers.places(&among);
        places.retain(|&place| !reader.is_deleted(place));
        let mut scores = vec![None; places.len()];
        for weight in &weights {
            collect::look_up(reader, weight.as_ref(), &places, stop, &mut scores)?;
        }
        let found =
            places.iter().zip(scores).filter_map(|(&place, score)| Some((DocId(numbers.number(place)), score?)));
        bonus.extend(found);
    }
    let mut top = TopK::new(k);
    for hit in hits {
        top.push(hit.document, hit.score + bonus.get(&hit.document).copied().unwrap_or(0.0));
    }
    Ok(top.into_hits())
}
