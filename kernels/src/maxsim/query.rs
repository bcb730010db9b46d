//! One query, packed once, against documents that lie anywhere.

use std::{ops::Range, ptr, sync::OnceLock};

#[cfg(not(target_arch = "x86_64"))]
use super::kernel::screen::{self, Bounds, Scratch, Screened};
#[cfg(target_arch = "x86_64")]
use super::screen::{self, Bounds, Scratch, Screened};
use super::{
    Alignment, kernel,
    panel::{Panel, Panels},
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
    bounds: OnceLock<Option<Bounds>>,
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
        Ok(Self {
            isa,
            query: query.to_vec(),
            dim,
            floats: OnceLock::new(),
            codes: OnceLock::new(),
            bounds: OnceLock::new(),
        })
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
        let storage = document.storage();
        let document = Rows::new(document, self.dim);
        // Without a word from the caller, what comes next in memory is likely to be next.
        let next = next.map_or(document.at(rows), |next| Rows::new(next, self.dim).at(0));
        let call = Call { document, rows, next };
        let chunk = screen::rows(self.isa, storage, [self.q_len(), rows, self.dim]);
        let bounds = chunk.and_then(|_| self.bounds.get_or_init(|| Bounds::new(&self.query, self.dim)).as_ref());
        match (chunk, bounds) {
            (Some(chunk), Some(bounds)) => self.run_screened(call, chunk, bounds, alignments),
            _ => self.run_all(call, alignments),
        }
    }

    /// Computes every similarity.
    fn run_all(&self, call: Call<'_>, alignments: &mut [Alignment]) -> f32 {
        let Call { document, rows, .. } = call;
        let panels = self.panels(document.storage());
        let chunk = if panels.count() > 1 { chunk_rows(document.row_bytes()) } else { rows };
        self.sum(call, chunk, alignments, |range, next, group| {
            let query_tokens = group.query_tokens.clone();
            for panel in panels.iter().filter(|panel| query_tokens.contains(&panel.first)) {
                let next = if panel.first + panel.lanes >= query_tokens.end { next } else { document.at(range.start) };
                self.all_rows(document, range.clone(), next, panel, group);
            }
        })
    }

    /// Computes the similarities that a screen lets through.
    #[inline(never)]
    fn run_screened(&self, call: Call<'_>, chunk: usize, bounds: &Bounds, alignments: &mut [Alignment]) -> f32 {
        let document = call.document;
        let (codes, floats) = (self.panels(Storage::Int8), self.panels(document.storage()));
        let mut scratch = Scratch::new();
        self.sum(call, chunk, alignments, |range, next, group| {
            let coded = scratch.code(self.isa, document, range.clone());
            let query_tokens = group.query_tokens.clone();
            let panels = codes.iter().zip(floats.iter());
            for (codes, floats) in panels.filter(|(panel, _)| query_tokens.contains(&panel.first)) {
                let lanes = group.lanes(codes);
                let screened = |coded| {
                    let (values, tokens) = (&mut group.values[lanes.clone()], &mut group.tokens[lanes]);
                    let query = &self.query;
                    let mut screened = Screened { query, bounds, panel: codes, next, values, tokens };
                    scratch.score(self.isa, coded, &mut screened)
                };
                if !coded.is_some_and(screened) {
                    self.all_rows(document, range.clone(), next, floats, group);
                }
            }
        })
    }

    /// Computes all similarities of a panel with some rows.
    fn all_rows(&self, rows: Rows<'_>, range: Range<usize>, next: *const u8, panel: Panel<'_>, group: &mut Group) {
        let lanes = group.lanes(panel);
        let tokens = if group.align { &mut group.tokens[lanes.clone()] } else { &mut [] };
        let values = &mut group.values[lanes];
        let Panel { words, lanes, .. } = panel;
        let all = ptr::null_mut();
        kernel::run(self.isa, Work { panel: words, lanes, rows, range, next, ahead: 0, values, tokens, all });
    }

    /// Has `best` find the best rows of each chunk for each group of query tokens, and sums up.
    fn sum(
        &self,
        Call { document, rows, next }: Call<'_>,
        chunk: usize,
        alignments: &mut [Alignment],
        mut best: impl FnMut(Range<usize>, *const u8, &mut Group),
    ) -> f32 {
        let panels = self.panels(document.storage());
        let mut sum = Sum::default();
        for first in (0..self.q_len()).step_by(GROUP) {
            let mut group = Group::new(first..self.q_len().min(first + GROUP), !alignments.is_empty());
            let next = if group.query_tokens.end < self.q_len() { document.at(0) } else { next };
            for start in (0..rows).step_by(chunk) {
                let end = rows.min(start + chunk);
                best(start..end, if end < rows { document.at(end) } else { next }, &mut group);
            }
            for (lane, query_token) in group.query_tokens.clone().enumerate() {
                let similarity = number(group.values[lane] * panels.scale(query_token));
                sum.add(query_token, similarity);
                if let Some(alignment) = alignments.get_mut(query_token) {
                    *alignment = Alignment { token: Some(group.tokens[lane]), similarity };
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

/// A document, as a call computes it.
#[derive(Clone, Copy)]
struct Call<'a> {
    document: Rows<'a>,
    rows: usize,
    next: *const u8,
}

/// Query tokens whose best rows are looked for at a time.
struct Group {
    query_tokens: Range<usize>,
    /// Whether anybody asks for `tokens`.
    align: bool,
    /// Largest similarity so far.
    values: [f32; GROUP],
    /// Whose it is.
    tokens: [u32; GROUP],
}

impl Group {
    fn new(query_tokens: Range<usize>, align: bool) -> Self {
        Self { query_tokens, align, values: [f32::NEG_INFINITY; GROUP], tokens: [0; GROUP] }
    }

    /// Where a panel's query tokens are.
    fn lanes(&self, panel: Panel<'_>) -> Range<usize> {
        let first = panel.first - self.query_tokens.start;
        first..first + panel.lanes
    }
}

/// Rows that all panels go over before the next rows.
fn chunk_rows(row_bytes: usize) -> usize {
    (CHUNK / row_bytes / CHUNK_ROWS).max(1) * CHUNK_ROWS
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
