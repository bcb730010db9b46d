//! The best documents of some segments.

use std::collections::{BinaryHeap, HashMap};

use roaring::RoaringBitmap;

use super::{
    index::Place,
    segment::{BLOCK, Postings, Segment},
};
use crate::{
    identity::DocId,
    vector_index::{Hit, IndexError, Stop, TopK},
};

/// Blocks between two questions whether to stop: some 100 µs of work.
const BLOCKS_BETWEEN_QUESTIONS: usize = 32;
/// What a bound is raised by, so that it stays one however its sum was rounded: more than 2⁻⁵³ a term for any query
/// that fits a message.
const ROUNDING: f64 = 1.0 + 1e-9;

/// What is searched for.
pub(crate) struct Search<'a> {
    /// Dimensions, ascending, and weights.
    pub(crate) query: &'a [(u32, f64)],
    pub(crate) k: usize,
    pub(crate) among: Option<&'a RoaringBitmap>,
    pub(crate) stop: &'a dyn Stop,
}

/// A dimension of the query in a segment that has it.
struct Term<'a> {
    weight: f64,
    postings: &'a Postings,
}

/// A block and the most that a document in it can score.
#[derive(Clone, Copy)]
struct Promise {
    bound: f64,
    segment: usize,
    block: u32,
}

impl PartialEq for Promise {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Promise {}

impl PartialOrd for Promise {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Promise {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let order = self.bound.total_cmp(&other.bound);
        order.then(other.segment.cmp(&self.segment)).then(other.block.cmp(&self.block))
    }
}

/// Documents that are wanted: a test, or the blocks they lie in where they are few.
enum Wanted<'a> {
    All,
    Tested(&'a RoaringBitmap),
    Masks(HashMap<(usize, u32), u64>),
}

/// Best first. `places` says where documents lie.
pub(crate) fn search(
    segments: &[Segment],
    places: &HashMap<DocId, Place>,
    search: &Search<'_>,
) -> Result<Vec<Hit>, IndexError> {
    let wanted = wanted(places, search.among);
    let terms: Vec<Vec<Term<'_>>> = segments.iter().map(|segment| terms(segment, search.query)).collect();
    let mut promises = Vec::new();
    for (number, segment) in segments.iter().enumerate() {
        if search.stop.stop() {
            return Err(IndexError::Stopped);
        }
        promise(number, segment, &terms[number], &wanted, &mut promises);
    }
    let mut promises = BinaryHeap::from(promises);
    let mut top = TopK::new(search.k);
    let mut looked_into = 0_usize;
    while let Some(Promise { bound, segment, block }) = promises.pop() {
        if !top.may_keep(bound as f32) {
            break;
        }
        looked_into += 1;
        if looked_into.is_multiple_of(BLOCKS_BETWEEN_QUESTIONS) && search.stop.stop() {
            return Err(IndexError::Stopped);
        }
        let mask = mask(&segments[segment], (segment, block), &wanted);
        if mask != 0 {
            look_into(&segments[segment], &terms[segment], block, mask, &mut top);
        }
    }
    Ok(top.into_hits())
}

fn wanted<'a>(places: &HashMap<DocId, Place>, among: Option<&'a RoaringBitmap>) -> Wanted<'a> {
    match among {
        None => Wanted::All,
        // So few that finding each of them is cheaper than asking for each document of the blocks one looks into.
        Some(among) if among.len() < places.len() as u64 / 16 => {
            let mut masks = HashMap::new();
            for place in among.iter().filter_map(|document| places.get(&DocId(document))) {
                let slot = place.slot as usize;
                *masks.entry((place.segment as usize, (slot / BLOCK) as u32)).or_insert(0) |= 1 << (slot % BLOCK);
            }
            Wanted::Masks(masks)
        }
        Some(among) => Wanted::Tested(among),
    }
}

fn terms<'a>(segment: &'a Segment, query: &[(u32, f64)]) -> Vec<Term<'a>> {
    let found = query.iter().filter_map(|&(dimension, weight)| {
        let postings = segment.postings.get(&dimension)?;
        (postings.live > 0).then_some(Term { weight, postings })
    });
    found.collect()
}

/// Bounds of the segment's blocks that have any of the terms.
fn promise(number: usize, segment: &Segment, terms: &[Term<'_>], wanted: &Wanted<'_>, promises: &mut Vec<Promise>) {
    // Below 0 where no term is: a document that shares none is not found.
    let mut bounds = vec![-1.0_f64; segment.live.len()];
    for term in terms {
        let weight = term.weight.abs();
        for bound in &term.postings.blocks {
            let sum = &mut bounds[bound.block as usize];
            *sum = sum.max(0.0) + weight * f64::from(bound.bound);
        }
    }
    for (block, &bound) in (0_u32..).zip(&bounds) {
        let any = match wanted {
            Wanted::Masks(masks) => masks.contains_key(&(number, block)),
            Wanted::All | Wanted::Tested(_) => segment.live[block as usize] != 0,
        };
        if bound >= 0.0 && any {
            promises.push(Promise { bound: bound * ROUNDING, segment: number, block });
        }
    }
}

/// The documents of a block that are wanted and not gone.
fn mask(segment: &Segment, (number, block): (usize, u32), wanted: &Wanted<'_>) -> u64 {
    let live = segment.live[block as usize];
    match wanted {
        Wanted::All => live,
        Wanted::Masks(masks) => live & masks.get(&(number, block)).copied().unwrap_or(0),
        Wanted::Tested(among) => {
            let start = block as usize * BLOCK;
            let documents = &segment.documents[start..segment.documents.len().min(start + BLOCK)];
            let mut mask = 0;
            for (place, document) in documents.iter().enumerate() {
                mask |= u64::from(among.contains(document.0)) << place;
            }
            live & mask
        }
    }
}

/// Scores the documents of a block. Each one's sum is in order of dimension, so it never depends on what was pruned.
fn look_into(segment: &Segment, terms: &[Term<'_>], block: u32, mask: u64, top: &mut TopK) {
    let mut sums = [0.0_f64; BLOCK];
    let mut touched = 0_u64;
    for term in terms {
        let Ok(nth) = term.postings.blocks.binary_search_by_key(&block, |bound| bound.block) else { continue };
        let (places, values) = term.postings.of(nth);
        for (&place, &value) in places.iter().zip(values) {
            let place = usize::from(place) % BLOCK;
            sums[place] += term.weight * f64::from(value);
            touched |= 1 << place;
        }
    }
    let mut left = touched & mask;
    while left != 0 {
        let place = left.trailing_zeros() as usize;
        left &= left - 1;
        let score = sums[place] as f32;
        if top.may_keep(score) {
            top.push(segment.documents[block as usize * BLOCK + place], score);
        }
    }
}
