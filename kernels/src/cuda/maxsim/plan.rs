//! How a scoring is cut into thread blocks, warps and pieces of documents: a pure function of shape and device.
//!
//! A device is filled once: as many blocks as run at a time, each with an equal share of the rows, in units of 8 (a
//! matrix instruction's tokens). Where every share can end at the end of a document, at the cost of less than a quarter
//! of a share, it does; where not, shares are equal, documents are cut, and a second launch joins them. In a block its 8
//! warps cut again, more evenly, since pieces of one block are joined at no cost. So neither few long documents,
//! nor many short ones, nor a skewed mix leave multiprocessors idle, and there are no atomics. Scores do not depend on
//! the cuts, bit for bit (scan.cuh says why).
//!
//! | a query's rows | kernel | documents are read |
//! |---|---|---|
//! | ≤ 32 | `q32` | once |
//! | ≤ 64 | `q64` | once, if 64 of its rows fit into a block's shared memory; else twice |
//! | more | `q64` or `q32` | once for each 64 (32) rows |

mod cut;
mod kernel;
mod shape;
#[cfg(test)]
mod tests;

use std::ops::Range;

use super::arguments::{Join, Parameter};
use cut::{EXACT, Edges, push_pieces, units};

pub use kernel::{Kernel, KernelName, Step, Unit};
pub use shape::{DeviceShape, PlanError, QueryShape, Shape};

/// Warps of a thread block, as in scan.cuh.
const WARPS: u32 = 8;
/// Threads of a block of the matrix kernels.
const THREADS: u32 = 32 * WARPS;
/// Threads of a block of the naive kernels.
const NAIVE_THREADS: u32 = 128;
/// Fewer units than this are not worth a block: its warps would load the query for less than a tile each.
const BLOCK_UNITS_MIN: u64 = 3 * WARPS as u64;
/// Blocks that `__launch_bounds__` lets run on a multiprocessor at a time.
const BLOCKS_PER_MULTIPROCESSOR: u32 = 2;
/// Shared memory that the device keeps of each block for itself.
const RESERVED_SHARED_BYTES: u32 = 1024;
/// Blocks along x that a device takes.
const GRID_MAX: usize = 0x7fff_ffff;

/// One thread block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedBlock {
    /// Number of the query.
    pub query: u32,
    /// First row of the chunk.
    pub first_row: u32,
    /// Rows of the chunk that the query has.
    pub rows: u32,
    /// Documents that the block joins itself, as numbers of joins.
    pub joins: Range<u32>,
}

/// A run of a document's rows, one warp's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedPiece {
    /// Number of the document.
    pub document: u32,
    /// Its rows.
    pub rows: Range<u32>,
    /// Where the result goes: a score, or, if cut, the partials of query row 0.
    pub output: u32,
    /// Whether it is less than the document's whole score.
    pub cut: bool,
}

/// A document of the naive kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedPair {
    /// Number of the query.
    pub query: u32,
    /// Its rows.
    pub query_rows: u32,
    /// Number of the document.
    pub document: u32,
    /// Its rows.
    pub length: u32,
    /// Where its alignment begins.
    pub alignment: u32,
}

/// A scoring, cut. [`encode`](Self::encode) turns it into what kernels read.
#[derive(Clone, Debug, Default)]
pub struct LaunchPlan {
    /// What is launched.
    pub kernel: Kernel,
    /// Thread blocks; 0 means that there is nothing to launch.
    pub grid: u32,
    /// Threads of a block.
    pub block: u32,
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
    /// Bytes from one row to the next, of documents and queries: whole units of 16.
    pub pitch: u32,
    /// f32s that the launches need between them.
    pub partials: usize,
    /// Query rows over all documents: the size of the alignment. 0 without.
    pub alignments: usize,
    pub(crate) dim: u32,
    pub(crate) k_blocks: u32,
    pub(crate) blocks: Vec<PlannedBlock>,
    pub(crate) warps: Vec<u32>,
    pub(crate) pieces: Vec<PlannedPiece>,
    pub(crate) joins: Vec<Join>,
    pub(crate) rest: Range<u32>,
    pub(crate) second: Option<(&'static str, u32)>,
    pub(crate) pairs: Vec<PlannedPair>,
    scratch: Scratch,
}

/// What a launch needs beside the plan.
#[derive(Clone, Copy, Debug)]
pub struct Launches {
    /// The parameter of the first launch, and of the second.
    pub parameter: Parameter,
    /// The launch after it, if documents were cut over blocks.
    pub second: Option<Second>,
}

/// A launch of [`LaunchPlan::block`] threads a block, without shared memory, of the unit [`Unit::Mma`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Second {
    /// The kernel's name.
    pub kernel: &'static str,
    /// Thread blocks.
    pub grid: u32,
}

/// Kept between plans, so that planning allocates nothing once it has seen its largest shape.
#[derive(Clone, Debug, Default)]
struct Scratch {
    /// Where each document of a query begins, in units, and the end.
    starts: Vec<u64>,
    /// Joins of documents that were cut over blocks.
    rest: Vec<Join>,
}

/// Cuts a scoring for a device, with the best kernel there is.
///
/// # Errors
/// [`PlanError`] if no kernel can do it in one launch.
pub fn plan(shape: &Shape<'_>, device: &DeviceShape) -> Result<LaunchPlan, PlanError> {
    let mut plan = LaunchPlan::default();
    plan.rebuild(shape, device, Step::Stream)?;
    Ok(plan)
}

impl LaunchPlan {
    /// [`plan`] in place, with a step of the ladder or, where that cannot, one below it.
    ///
    /// # Errors
    /// As [`plan`]; the plan is then empty.
    pub fn rebuild(&mut self, shape: &Shape<'_>, device: &DeviceShape, step: Step) -> Result<(), PlanError> {
        self.clear();
        self.build(shape, device, step).inspect_err(|_| self.clear())
    }

    /// Thread blocks, in order.
    #[must_use]
    pub fn blocks(&self) -> &[PlannedBlock] {
        &self.blocks
    }

    /// Pieces of a block's warp.
    ///
    /// # Panics
    /// If there is no such block or warp.
    #[must_use]
    pub fn pieces(&self, block: usize, warp: usize) -> &[PlannedPiece] {
        let at = block * WARPS as usize + warp;
        &self.pieces[self.warps[at] as usize..self.warps[at + 1] as usize]
    }

    fn clear(&mut self) {
        self.grid = 0;
        (self.partials, self.alignments) = (0, 0);
        self.blocks.clear();
        self.warps.clear();
        self.pieces.clear();
        self.joins.clear();
        self.pairs.clear();
        self.scratch.rest.clear();
        self.rest = 0..0;
        self.second = None;
    }

    fn build(&mut self, shape: &Shape<'_>, device: &DeviceShape, step: Step) -> Result<(), PlanError> {
        let expected: u64 = shape.queries.iter().map(|query| u64::from(query.documents)).sum();
        if expected != shape.lengths.len() as u64 {
            return Err(PlanError::Documents { expected, found: shape.lengths.len() });
        }
        self.kernel = Kernel::choose(shape, device, step)?;
        let row_bytes =
            u32::try_from(shape.storage.row_bytes(shape.dim)).map_err(|_| PlanError::TooMuch("components"))?;
        self.pitch = row_bytes.next_multiple_of(16);
        self.dim = shape.dim as u32;
        if shape.alignment {
            let rows = shape.queries.iter().map(|query| u64::from(query.rows) * u64::from(query.documents)).sum();
            self.alignments = fits(rows, "query rows times documents")? as usize;
        }
        match self.kernel.name {
            KernelName::Naive(_) => self.build_pairs(shape),
            KernelName::Matrix { .. } => self.build_blocks(shape, device)?,
        }
        let blocks = self.blocks.len() + self.pairs.len();
        self.grid = u32::try_from(blocks.min(GRID_MAX + 1)).expect("GRID_MAX + 1 has 32 bits");
        if blocks > GRID_MAX { Err(PlanError::TooMuch("blocks")) } else { Ok(()) }
    }

    fn build_pairs(&mut self, shape: &Shape<'_>) {
        (self.block, self.shared_bytes, self.k_blocks) = (NAIVE_THREADS, 0, 0);
        let (mut document, mut alignment) = (0_u32, 0);
        for (query, QueryShape { rows, documents }) in (0..).zip(shape.queries.iter().copied()) {
            for _ in 0..documents {
                let length = shape.lengths[document as usize];
                self.pairs.push(PlannedPair { query, query_rows: rows, document, length, alignment });
                document += 1;
                alignment += if shape.alignment { rows } else { 0 };
            }
        }
    }

    fn build_blocks(&mut self, shape: &Shape<'_>, device: &DeviceShape) -> Result<(), PlanError> {
        self.block = THREADS;
        self.k_blocks = self.kernel.k_blocks(self.pitch);
        self.shared_bytes = self.kernel.shared_bytes(self.pitch);
        let fit = device.shared_bytes_per_multiprocessor / (self.shared_bytes + RESERVED_SHARED_BYTES);
        let slots = u64::from(device.multiprocessors) * u64::from(fit.clamp(1, BLOCKS_PER_MULTIPROCESSOR));
        let mut lengths = shape.lengths;
        let mut work = 0;
        for query in shape.queries {
            let (own, others) = lengths.split_at(query.documents as usize);
            lengths = others;
            work += own.iter().map(|&rows| units(rows)).sum::<u64>() * u64::from(self.chunks(query.rows));
        }
        self.warps.push(0);
        let mut cut = Cut { shape, slots, work: work.max(1), document: 0, alignment: 0 };
        for (number, query) in (0..).zip(shape.queries) {
            self.cut_query(&mut cut, number, *query)?;
        }
        // Joins of blocks come first, so those of the second launch are found behind them.
        let own = fits(self.joins.len() as u64, "joins")?;
        self.joins.append(&mut self.scratch.rest);
        self.rest = own..fits(self.joins.len() as u64, "joins")?;
        let join = if shape.alignment { "maxsim_join_alignment" } else { "maxsim_join" };
        self.second = (!self.rest.is_empty()).then(|| (join, (self.rest.end - self.rest.start).div_ceil(WARPS)));
        Ok(())
    }

    /// Chunks of a query of that many rows.
    fn chunks(&self, rows: u32) -> u32 {
        rows.div_ceil(self.kernel.query_rows()).max(1)
    }

    fn cut_query(&mut self, cut: &mut Cut<'_>, query: u32, shape: QueryShape) -> Result<(), PlanError> {
        let (first, count) = (cut.document, shape.documents);
        cut.document += count;
        if count == 0 {
            return Ok(());
        }
        let lengths = &cut.shape.lengths[first as usize..(first + count) as usize];
        self.scratch.starts.clear();
        self.scratch.starts.push(0);
        let mut total = 0;
        for &rows in lengths {
            total += units(rows);
            self.scratch.starts.push(total);
        }
        let (chunks, chunk_rows) = (self.chunks(shape.rows), self.kernel.query_rows());
        let share = (cut.slots * total).div_ceil(cut.work);
        let blocks = share.clamp(1, (total / BLOCK_UNITS_MIN).max(1));
        let stride = fits(u64::from(chunks) * u64::from(chunk_rows), "query rows")?;
        let begin = Begin { piece: self.pieces.len(), partial: self.partials, block: self.blocks.len() };
        let edges = Edges { starts: &self.scratch.starts, range: 0..total, parts: blocks };
        let slack = if (1..blocks).all(|nth| edges.snapped(nth, 4).is_some()) { 4 } else { EXACT };
        for block in 0..blocks {
            let range = edges.edge(block, slack)..edges.edge(block + 1, slack);
            let edges = Edges { range, parts: u64::from(WARPS), ..edges };
            for warp in 0..u64::from(WARPS) {
                let range = edges.edge(warp, 8)..edges.edge(warp + 1, 8);
                push_pieces(&mut self.pieces, &self.scratch.starts, lengths, first, range);
                self.warps.push(fits(self.pieces.len() as u64, "pieces")?);
            }
            self.blocks.push(PlannedBlock { query, first_row: 0, rows: shape.rows.min(chunk_rows), joins: 0..0 });
        }
        self.join_documents(cut, &begin, shape, stride, chunks)?;
        self.repeat_for_chunks(&begin, shape.rows, chunks)
    }

    /// Gives every piece its output, and every document that was cut a join: its block's, or the second launch's.
    fn join_documents(
        &mut self,
        cut: &mut Cut<'_>,
        begin: &Begin,
        query: QueryShape,
        stride: u32,
        chunks: u32,
    ) -> Result<(), PlanError> {
        let mut partial = begin.partial as u64;
        let mut block = begin.block;
        let mut joins = self.joins.len();
        let mut at = begin.piece;
        while at < self.pieces.len() {
            let document = self.pieces[at].document;
            let same = self.pieces[at..].iter().take_while(|piece| piece.document == document).count();
            let end = at + same;
            let own_block = |index: usize, block: usize| index < self.warps[(block + 1) * WARPS as usize] as usize;
            while !own_block(at, block) {
                let all = fits(self.joins.len() as u64, "joins")?;
                self.blocks[block].joins = joins as u32..all;
                joins = self.joins.len();
                block += 1;
            }
            if cut.shape.alignment || chunks > 1 || same > 1 {
                let own_alignment = if cut.shape.alignment { query.rows } else { 0 };
                let join = Join {
                    partial: fits(partial, "partial maxima")?,
                    pieces: same as u32,
                    stride,
                    rows: query.rows,
                    score: document,
                    alignment: cut.alignment,
                    reserved: [0; 2],
                };
                cut.alignment += own_alignment;
                for piece in &mut self.pieces[at..end] {
                    piece.output = fits(partial, "partial maxima")?;
                    piece.cut = true;
                    partial += u64::from(stride);
                }
                let own = chunks == 1 && (end - 1 < self.warps[(block + 1) * WARPS as usize] as usize);
                if own { self.joins.push(join) } else { self.scratch.rest.push(join) }
            } else {
                self.pieces[at].output = document;
            }
            at = end;
        }
        let all = fits(self.joins.len() as u64, "joins")?;
        for rest in &mut self.blocks[block..] {
            rest.joins = joins as u32..all;
            joins = self.joins.len();
        }
        self.partials = fits(partial, "partial maxima")? as usize;
        Ok(())
    }

    /// The blocks and pieces of the query's first chunk again, for each further one.
    fn repeat_for_chunks(&mut self, begin: &Begin, rows: u32, chunks: u32) -> Result<(), PlanError> {
        let (blocks, pieces) = (begin.block..self.blocks.len(), begin.piece..self.pieces.len());
        let chunk_rows = self.kernel.query_rows();
        for chunk in 1..chunks {
            let first_row = chunk * chunk_rows;
            let shift = self.pieces.len() - pieces.start;
            for index in blocks.clone() {
                let PlannedBlock { query, .. } = self.blocks[index];
                let rows = (rows - first_row).min(chunk_rows);
                self.blocks.push(PlannedBlock { query, first_row, rows, joins: 0..0 });
                for warp in 1..=WARPS as usize {
                    let end = self.warps[index * WARPS as usize + warp] as u64 + shift as u64;
                    self.warps.push(fits(end, "pieces")?);
                }
            }
            self.pieces.extend_from_within(pieces.clone());
        }
        Ok(())
    }
}

/// Where the query's share of the plan begins.
struct Begin {
    piece: usize,
    partial: usize,
    block: usize,
}

/// What is carried from query to query.
struct Cut<'a> {
    shape: &'a Shape<'a>,
    /// Blocks that run at a time.
    slots: u64,
    /// Units of all queries and chunks; at least 1.
    work: u64,
    /// Number of the next query's first document.
    document: u32,
    /// Where the next document's alignment begins.
    alignment: u32,
}

fn fits(count: u64, what: &'static str) -> Result<u32, PlanError> {
    u32::try_from(count).map_err(|_| PlanError::TooMuch(what))
}
