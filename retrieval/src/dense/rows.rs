//! Vectors side by side in memory.

use std::collections::HashMap;

use roaring::RoaringBitmap;

use crate::{
    identity::DocId,
    schema::Metric,
    vector_index::{Hit, IndexError, Stop, TopK},
};

/// Components of a block, about: memory comes and goes in pieces of 1 MiB, so that growing copies nothing.
const BLOCK_COMPONENTS: usize = 1 << 18;

/// Rows between two questions whether to stop: some 30 µs of work at 384 components.
const ROWS_BETWEEN_QUESTIONS: usize = 256;

/// Prepared vectors by document, dense and without holes: the last row takes the place of one that goes.
#[derive(Debug)]
pub(crate) struct Rows {
    metric: Metric,
    dim: usize,
    rows_per_block: usize,
    blocks: Vec<Vec<f32>>,
    /// Whose row it is.
    documents: Vec<DocId>,
    /// The row of a document.
    places: HashMap<DocId, u32>,
}

impl Rows {
    pub(crate) fn new(metric: Metric, dim: usize) -> Self {
        let rows_per_block = (BLOCK_COMPONENTS / dim.max(1)).max(1);
        Self { metric, dim, rows_per_block, blocks: Vec::new(), documents: Vec::new(), places: HashMap::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.documents.len()
    }

    /// The prepared vector of a document.
    pub(crate) fn of(&self, document: DocId) -> Option<&[f32]> {
        self.places.get(&document).map(|&place| self.row(place as usize))
    }

    /// Memory, in bytes, about.
    pub(crate) fn bytes(&self) -> usize {
        let rows: usize = self.blocks.iter().map(|block| block.capacity() * size_of::<f32>()).sum();
        rows + self.documents.capacity() * size_of::<DocId>() + self.places.capacity() * 2 * size_of::<DocId>()
    }

    /// Adds a prepared vector, or replaces the document's.
    pub(crate) fn insert(&mut self, document: DocId, prepared: &[f32]) -> Result<(), IndexError> {
        debug_assert_eq!(prepared.len(), self.dim, "vectors are checked before");
        if let Some(&place) = self.places.get(&document) {
            self.row_mut(place as usize).copy_from_slice(prepared);
            return Ok(());
        }
        let place = self.documents.len();
        let full = IndexError::Full { what: "vectors", limit: u64::from(u32::MAX) };
        self.places.insert(document, u32::try_from(place).map_err(|_| full)?);
        self.documents.push(document);
        if place.is_multiple_of(self.rows_per_block) {
            self.blocks.push(Vec::with_capacity(self.rows_per_block * self.dim));
        }
        self.blocks[place / self.rows_per_block].extend_from_slice(prepared);
        Ok(())
    }

    /// Whether it was there.
    pub(crate) fn remove(&mut self, document: DocId) -> bool {
        let Some(place) = self.places.remove(&document) else { return false };
        let place = place as usize;
        let last = self.documents.len() - 1;
        if place != last {
            let moved = self.row(last).to_vec();
            self.row_mut(place).copy_from_slice(&moved);
            self.documents[place] = self.documents[last];
            self.places.insert(self.documents[place], place as u32);
        }
        self.documents.pop();
        let block = &mut self.blocks[last / self.rows_per_block];
        block.truncate(block.len() - self.dim);
        if block.is_empty() {
            self.blocks.pop();
        }
        true
    }

    fn row(&self, place: usize) -> &[f32] {
        let at = place % self.rows_per_block * self.dim;
        &self.blocks[place / self.rows_per_block][at..at + self.dim]
    }

    fn row_mut(&mut self, place: usize) -> &mut [f32] {
        let at = place % self.rows_per_block * self.dim;
        &mut self.blocks[place / self.rows_per_block][at..at + self.dim]
    }

    /// Scores all of `among` (or all there are) against a prepared query, into `top`.
    pub(crate) fn scan(
        &self,
        query: &[f32],
        among: Option<&RoaringBitmap>,
        top: &mut TopK,
        stop: &dyn Stop,
    ) -> Result<(), IndexError> {
        match among {
            // Fewer wanted than there are: look each of them up.
            Some(among) if among.len() < self.documents.len() as u64 / 2 => {
                let places = among.iter().filter_map(|document| self.places.get(&DocId(document)));
                self.score(query, places.map(|&place| place as usize), top, stop)
            }
            Some(among) => {
                let wanted = |place: &usize| among.contains(self.documents[*place].0);
                self.score(query, (0..self.documents.len()).filter(wanted), top, stop)
            }
            None => self.score(query, 0..self.documents.len(), top, stop),
        }
    }

    fn score(
        &self,
        query: &[f32],
        places: impl Iterator<Item = usize>,
        top: &mut TopK,
        stop: &dyn Stop,
    ) -> Result<(), IndexError> {
        for (count, place) in places.enumerate() {
            if count.is_multiple_of(ROWS_BETWEEN_QUESTIONS) && stop.stop() {
                return Err(IndexError::Stopped);
            }
            let score = self.metric.score(query, self.row(place));
            if top.may_keep(score) || score.is_nan() {
                top.push(self.documents[place], score);
            }
        }
        Ok(())
    }

    /// The `k` best. The query is not prepared yet.
    pub(crate) fn search(
        &self,
        query: &[f32],
        k: usize,
        among: Option<&RoaringBitmap>,
        stop: &dyn Stop,
    ) -> Result<Vec<Hit>, IndexError> {
        let mut top = TopK::new(k);
        self.scan(&self.metric.prepare(query), among, &mut top, stop)?;
        Ok(top.into_hits())
    }
}
