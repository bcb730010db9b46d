//! One query, packed once, against documents that lie anywhere.

use std::{ops::Range, sync::OnceLock};

use super::{
    Alignment, kernel,
    panel::Panels,
    tile::{Rows, Work, has_codes},
};
use crate::{
    Isa, ShapeError, shape,
    tokens::{Storage, Tokens},
};

/// A query packed for one instruction set, to be scored against any number of documents.
///
/// Packing takes about as long as scoring one row for each query token; what a storage needs is packed when the first
/// document in it comes. Threads may share it.
#[derive(Debug)]
pub struct PackedQuery {
    isa: Isa,
    query: Vec<f32>,
    dim: usize,
    floats: OnceLock<Panels>,
    codes: OnceLock<Panels>,
}

/// Query tokens whose maxima are on the stack at a time.
const GROUP: usize = 256;
/// Bytes of rows that all panels of a query go over, one after another, before the next rows: what the second cache
/// level keeps.
const CHUNK: usize = 256 * 1024;
/// Rows of a chunk are a multiple of this, so that they are whole tiles.
const CHUNK_ROWS: usize = 24;

impl PackedQuery {
    /// Packs `query`, `[q_len, dim]`, row-major.
    ///
    /// # Errors
    /// [`ShapeError`] if `dim` is 0 or the query is not whole rows.
    pub fn new(isa: Isa, query: &[f32], dim: usize) -> Result<Self, ShapeError> {
        shape::not_zero("dim", dim)?;
        shape::rows("query", query.len(), dim)?;
        Ok(Self { isa, query: query.to_vec(), dim, floats: OnceLock::new(), codes: OnceLock::new() })
    }

    /// Query tokens.
    #[must_use]
    pub fn q_len(&self) -> usize {
        self.query.len() / self.dim
    }

    /// Components of a vector.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The instruction set that it is packed for.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The score of one document.
    ///
    /// # Errors
    /// [`ShapeError`] if the document is not rows of this query's `dim`.
    pub fn score(&self, document: Tokens<'_>) -> Result<f32, ShapeError> {
        self.score_then_prefetch(document, None)
    }

    /// The score of one document; the beginning of `next`, which will be scored next, is on its way when this returns.
    ///
    /// # Errors
    /// [`ShapeError`] if the document is not rows of this query's `dim`; `next` is not looked at.
    pub fn score_then_prefetch(&self, document: Tokens<'_>, next: Option<Tokens<'_>>) -> Result<f32, ShapeError> {
        let rows = document.rows(self.dim)?;
        Ok(self.run(document, rows, next, &mut []))
    }

    /// Writes the score of each document, one after another, while the beginning of the next one is fetched.
    ///
    /// # Errors
    /// [`ShapeError`] if a document is not rows of this query's `dim`, or there are not as many documents as scores;
    /// scores of documents before the misfit are written.
    pub fn score_all<'d>(
        &self,
        documents: impl IntoIterator<Item = Tokens<'d>>,
        scores: &mut [f32],
    ) -> Result<(), ShapeError> {
        let mut documents = documents.into_iter().peekable();
        let mut written = 0;
        while let Some(document) = documents.next() {
            let Some(score) = scores.get_mut(written) else {
                return shape::length("scores", written + 1 + documents.count(), written);
            };
            *score = self.score_then_prefetch(document, documents.peek().copied())?;
            written += 1;
        }
        shape::length("scores", written, scores.len())
    }

    /// The score of one document, to the bit as [`score`](Self::score) has it, and for each query token its best
    /// document token.
    ///
    /// # Errors
    /// [`ShapeError`] if the document is not rows of this query's `dim`, or `alignments` not one for each query token.
    pub fn align(&self, document: Tokens<'_>, alignments: &mut [Alignment]) -> Result<f32, ShapeError> {
        let rows = document.rows(self.dim)?;
        shape::length("alignments", self.q_len(), alignments.len())?;
        Ok(self.run(document, rows, None, alignments))
    }

    /// Writes the score of each of the ranges of rows in checked tokens.
    pub(super) fn score_ranges(
        &self,
        documents: Tokens<'_>,
        ranges: impl Iterator<Item = Range<usize>>,
        scores: &mut [f32],
    ) {
        for (score, range) in scores.iter_mut().zip(ranges) {
            *score = self.run(documents.slice(self.dim, range.clone()), range.len(), None, &mut []);
        }
    }

    /// A checked document of `rows` rows; `alignments` is empty or has one for each query token.
    fn run(&self, document: Tokens<'_>, rows: usize, next: Option<Tokens<'_>>, alignments: &mut [Alignment]) -> f32 {
        if rows == 0 {
            alignments.fill(Alignment { token: None, similarity: f32::NEG_INFINITY });
            return if self.query.is_empty() { 0.0 } else { f32::NEG_INFINITY };
        }
        let panels = self.panels(document.storage());
        let document = Rows::new(document, self.dim);
        // Without a word from the caller, what comes next in memory is likely to be next.
        let next = next.map_or(document.at(rows), |next| Rows::new(next, self.dim).at(0));
        let mut sum = Sum::default();
        for first in (0..self.q_len()).step_by(GROUP) {
            let group = first..self.q_len().min(first + GROUP);
            let next = if group.end < self.q_len() { document.at(0) } else { next };
            let mut values = [f32::NEG_INFINITY; GROUP];
            let mut tokens = [0_u32; GROUP];
            let tokens = if alignments.is_empty() { &mut [][..] } else { &mut tokens };
            let panels_of_group = || panels.iter().filter(|panel| group.contains(&panel.first));
            for range in chunks(rows, document.row_bytes(), panels.count() > 1) {
                let after = if range.end < rows { document.at(range.end) } else { next };
                for panel in panels_of_group() {
                    let last = panel.first + panel.lanes >= group.end;
                    let lanes = panel.first - first..panel.first - first + panel.lanes;
                    kernel::run(
                        self.isa,
                        Work {
                            panel: panel.words,
                            lanes: panel.lanes,
                            rows: document,
                            range: range.clone(),
                            next: if last { after } else { document.at(range.start) },
                            values: &mut values[lanes.clone()],
                            tokens: tokens.get_mut(lanes).unwrap_or_default(),
                        },
                    );
                }
            }
            for (query_token, &value) in group.clone().zip(&values) {
                let similarity = number(value * panels.scale(query_token));
                sum.add(query_token, similarity);
                if let Some(alignment) = alignments.get_mut(query_token) {
                    *alignment = Alignment { token: Some(tokens[query_token - first]), similarity };
                }
            }
        }
        sum.total()
    }

    fn panels(&self, storage: Storage) -> &Panels {
        let (packed, pack): (_, fn(&[f32], usize, Isa) -> Panels) =
            if has_codes(storage) { (&self.codes, kernel::codes) } else { (&self.floats, kernel::floats) };
        packed.get_or_init(|| pack(&self.query, self.dim, self.isa))
    }
}

/// Rows that all panels go over before the next rows; all rows where there is but one panel.
fn chunks(rows: usize, row_bytes: usize, several: bool) -> impl Iterator<Item = Range<usize>> {
    let size = if several { (CHUNK / row_bytes / CHUNK_ROWS).max(1) * CHUNK_ROWS } else { rows };
    (0..rows).step_by(size).map(move |start| start..rows.min(start + size))
}

/// NaN has one bit pattern, so that equal scores have equal bits.
fn number(x: f32) -> f32 {
    if x.is_nan() { f32::NAN } else { x }
}

/// The sum over query tokens, in f64 and in an order that only their number decides.
#[derive(Default)]
struct Sum([f64; 8]);

impl Sum {
    fn add(&mut self, query_token: usize, similarity: f32) {
        self.0[query_token % 8] += f64::from(similarity);
    }

    fn total(self) -> f32 {
        number(self.0.iter().sum::<f64>() as f32)
    }
}
