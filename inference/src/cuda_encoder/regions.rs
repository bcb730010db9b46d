//! Where everything lies in a device's memory: planned once, from the model's sizes and the budget of a batch.
//!
//! | what | f16 components |
//! |---|---|
//! | weights | as many as the model has parameters |
//! | scratch of a token | 2·hidden + max(4·hidden, intermediate) |
//! | scratch of a sequence | 4·hidden + intermediate, and hidden in f32 |
//! | a slot's token vectors and foreign queries | 2·hidden a token |
//!
//! There are two slots: while one batch is computed, the next is copied in beside it and the last one read. Scratch is
//! there once, since batches are computed one after the other. A feed-forward's inner rows lie where queries, keys,
//! values and what attention made of them were: by then nobody needs those.

use std::ops::Range;

use half::f16;
use sluice_kernels::cuda::encoder::{
    ArenaLayout, BatchRegions, Capacity, EncoderMemory, Matrix, Norm, OpError, Region,
};

use crate::folder::BertConfig;

/// Batches that may be under way at once.
pub(crate) const SLOTS: usize = 2;
/// Rows of queries that were computed elsewhere, at least: a caller may bring as many vectors.
const FOREIGN_ROWS_MIN: usize = 2048;
/// Words of a comparison's program, beside those for each sequence.
const PROGRAM_WORDS_MIN: usize = 64 << 10;
/// Words of a program for each sequence: a document is cut into few pieces, and met by few chunks of a query.
const PROGRAM_WORDS_PER_SEQUENCE: usize = 256;
/// f32s between a comparison's launches, for each sequence: 64 query rows, a few pieces.
const PARTIALS_PER_SEQUENCE: usize = 512;
const PARTIALS_MIN: usize = 256 << 10;

/// The whole of a model's device memory.
#[derive(Clone, Debug)]
pub(crate) struct Regions {
    pub(super) model: ModelRegions,
    pub(super) scratch: Scratch,
    pub(super) slots: [Slot; SLOTS],
    /// What a device has to reserve.
    pub(crate) memory: EncoderMemory,
}

#[derive(Clone, Debug)]
pub(super) struct ModelRegions {
    pub(super) words: Vectors,
    pub(super) positions: Vectors,
    pub(super) token_types: Vectors,
    pub(super) norm: Norm,
    pub(super) layers: Vec<LayerRegions>,
    pub(super) head: Option<HeadRegions>,
}

#[derive(Clone, Debug)]
pub(super) struct LayerRegions {
    /// Rows of query, then key, then value.
    pub(super) qkv: LinearRegions,
    pub(super) attention_output: LinearRegions,
    pub(super) attention_norm: Norm,
    pub(super) intermediate: LinearRegions,
    pub(super) output: LinearRegions,
    pub(super) output_norm: Norm,
}

#[derive(Clone, Debug)]
pub(super) struct LinearRegions {
    /// `[outputs, inputs]`.
    pub(super) weight: Vectors,
    pub(super) bias: Region<f16>,
}

#[derive(Clone, Debug)]
pub(super) struct HeadRegions {
    pub(super) pooler: LinearRegions,
    pub(super) classifier: Region<f32>,
}

/// What every batch works in.
#[derive(Clone, Debug)]
pub(super) struct Scratch {
    pub(super) all: Rows,
    /// The same for each sequence's first row.
    pub(super) first: Rows,
    /// `[sequences, hidden]`.
    pub(super) first_query: Matrix,
    /// `[sequences, hidden]`.
    pub(super) pooled: Region<f32>,
}

/// What a layer does to some rows.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    /// Input and output of a layer.
    pub(super) hidden: Matrix,
    /// Between its halves.
    pub(super) middle: Matrix,
    /// `[rows, 3·hidden]`; of first rows there is none.
    pub(super) qkv: Option<Matrix>,
    pub(super) attended: Matrix,
    /// `[rows, intermediate]`.
    pub(super) inner: Matrix,
}

/// What a batch brings and leaves.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) batch: BatchRegions,
    /// Normalised token vectors; of first tokens alone, where they are a sequence's vector.
    pub(super) vectors: Vectors,
    /// Queries that the batch does not compute itself.
    pub(super) queries: Vectors,
    /// Pooled vectors, `[sequences, hidden]`.
    pub(super) dense: Region<f32>,
    pub(super) scores: Region<f32>,
    pub(super) program: Region<u32>,
    pub(super) partials: Region<f32>,
}

/// A matrix and the region that is all of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vectors {
    pub(super) rows: Matrix,
    pub(super) whole: Region<f16>,
}

impl Vectors {
    fn plan(layout: &mut ArenaLayout, rows: usize, columns: usize) -> Result<Self, OpError> {
        let (rows, whole) = matrix(layout, rows, columns)?;
        Ok(Self { rows, whole })
    }

    /// Some rows, as a copy takes them.
    pub(super) fn words(&self, rows: Range<usize>) -> Result<Region<u32>, OpError> {
        let columns = self.rows.column_count();
        self.whole.slice(rows.start * columns..rows.end * columns)?.cast()
    }
}

/// Why no batch can be planned for.
#[derive(Debug)]
pub(crate) enum PlanError {
    /// Sizes that no kernel takes.
    Operation(OpError),
    /// Weights and the longest sequence need more than there may be.
    Room {
        /// What they need.
        bytes: usize,
    },
}

impl Regions {
    /// For batches of as many tokens as fit into so many bytes: those of the capacity, or a half, a quarter, … of them, and
    /// `tokens_min` at least.
    pub(crate) fn fit(
        config: &BertConfig,
        with_head: bool,
        capacity: Capacity,
        tokens_min: usize,
        bytes_max: usize,
    ) -> Result<Self, PlanError> {
        let mut tokens = capacity.tokens;
        loop {
            let regions =
                Self::plan(config, with_head, Capacity { tokens, ..capacity }).map_err(PlanError::Operation)?;
            let bytes = regions.memory.arena_bytes;
            if bytes <= bytes_max {
                return Ok(regions);
            }
            if tokens <= tokens_min {
                return Err(PlanError::Room { bytes });
            }
            tokens = (tokens / 2).max(tokens_min);
        }
    }

    /// Of the largest batch.
    pub(crate) fn capacity(&self) -> Capacity {
        self.slots[0].batch.capacity
    }

    /// # Errors
    /// [`OpError`] for sizes that no kernel takes.
    pub(crate) fn plan(config: &BertConfig, with_head: bool, capacity: Capacity) -> Result<Self, OpError> {
        let mut layout = ArenaLayout::default();
        let (hidden, inner) = (config.hidden_size as usize, config.intermediate_size as usize);
        let model = ModelRegions::plan(&mut layout, config, with_head)?;
        let (tokens, sequences) = (capacity.tokens, capacity.sequences);
        let scratch = Scratch {
            all: Rows::plan(&mut layout, tokens, hidden, inner, true)?,
            first: Rows::plan(&mut layout, sequences, hidden, inner, false)?,
            first_query: matrix(&mut layout, sequences, hidden)?.0,
            pooled: layout.region(sequences * hidden),
        };
        let mut slot = || Slot::plan(&mut layout, capacity, hidden);
        let slots = [slot()?, slot()?];
        let foreign = slots[0].queries.rows.row_count();
        let memory = EncoderMemory {
            arena_bytes: layout.bytes(),
            staging_words: slots[0].batch.whole.len() + foreign * hidden / 2,
            // Of late interaction: a score for each sequence, and vectors of those that are queries.
            results_words: sequences + (tokens * hidden / 2).max(sequences * hidden),
            program_words: slots[0].program.len(),
        };
        let regions = Self { model, scratch, slots, memory };
        super::pass::check(config, &regions)?;
        Ok(regions)
    }
}

impl ModelRegions {
    fn plan(layout: &mut ArenaLayout, config: &BertConfig, with_head: bool) -> Result<Self, OpError> {
        let (hidden, inner) = (config.hidden_size as usize, config.intermediate_size as usize);
        let epsilon = config.layer_norm_epsilon;
        let norm =
            |layout: &mut ArenaLayout| Norm { gamma: layout.region(hidden), beta: layout.region(hidden), epsilon };
        let mut table = |rows: u32| Vectors::plan(layout, rows as usize, hidden);
        let (words, positions, token_types) =
            (table(config.vocab_size)?, table(config.max_positions)?, table(config.type_vocab_size)?);
        let embeddings_norm = norm(layout);
        let mut layers = Vec::new();
        for _ in 0..config.num_layers {
            layers.push(LayerRegions {
                qkv: LinearRegions::plan(layout, 3 * hidden, hidden)?,
                attention_output: LinearRegions::plan(layout, hidden, hidden)?,
                attention_norm: norm(layout),
                intermediate: LinearRegions::plan(layout, inner, hidden)?,
                output: LinearRegions::plan(layout, hidden, inner)?,
                output_norm: norm(layout),
            });
        }
        let head = if with_head {
            let pooler = LinearRegions::plan(layout, hidden, hidden)?;
            Some(HeadRegions { pooler, classifier: layout.region(hidden) })
        } else {
            None
        };
        Ok(Self { words, positions, token_types, norm: embeddings_norm, layers, head })
    }
}

impl LinearRegions {
    fn plan(layout: &mut ArenaLayout, outputs: usize, inputs: usize) -> Result<Self, OpError> {
        Ok(Self { weight: Vectors::plan(layout, outputs, inputs)?, bias: layout.region(outputs) })
    }
}

impl Rows {
    fn plan(
        layout: &mut ArenaLayout,
        rows: usize,
        hidden: usize,
        inner: usize,
        with_qkv: bool,
    ) -> Result<Self, OpError> {
        let (hidden_rows, middle) = (matrix(layout, rows, hidden)?.0, matrix(layout, rows, hidden)?.0);
        let projected = if with_qkv { 3 * hidden } else { 0 };
        let shared = layout.region(rows * inner.max(projected + hidden));
        let part =
            |from: usize, columns: usize| Matrix::new(shared.slice(rows * from..rows * (from + columns))?, columns);
        let qkv = if with_qkv { Some(part(0, projected)?) } else { None };
        let (attended, inner) = (part(projected, hidden)?, part(0, inner)?);
        Ok(Self { hidden: hidden_rows, middle, qkv, attended, inner })
    }
}

impl Slot {
    fn plan(layout: &mut ArenaLayout, capacity: Capacity, hidden: usize) -> Result<Self, OpError> {
        let (tokens, sequences) = (capacity.tokens, capacity.sequences);
        Ok(Self {
            batch: BatchRegions::new(layout, capacity),
            vectors: Vectors::plan(layout, tokens.max(sequences), hidden)?,
            queries: Vectors::plan(layout, tokens.max(FOREIGN_ROWS_MIN), hidden)?,
            dense: layout.region(sequences * hidden),
            scores: layout.region(sequences),
            program: layout.region(PROGRAM_WORDS_MIN + sequences * PROGRAM_WORDS_PER_SEQUENCE),
            partials: layout.region(PARTIALS_MIN + sequences * PARTIALS_PER_SEQUENCE),
        })
    }
}

fn matrix(layout: &mut ArenaLayout, rows: usize, columns: usize) -> Result<(Matrix, Region<f16>), OpError> {
    let region = layout.region(rows * columns);
    Ok((Matrix::new(region, columns)?, region))
}
