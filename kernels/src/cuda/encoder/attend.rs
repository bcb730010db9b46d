//! Attention over packed sequences; see [`crate::attention`] for the formula.
//!
//! Similarities and their softmax are f32; weights are rounded to f16 before they meet the values. No finite input
//! overflows. Within 2e-3 of the largest value of the formula: weights and the result have 11 bits.

use std::f32::consts::LOG2_E;

use super::{
    batch::{BatchRegions, TILE_QUERIES, tiles_max},
    launch::{Launch, OpError, Parameter, Unit, check_apart, check_positive, check_size, to_blocks, to_u32},
    memory::{Arena, CELL_BYTES, Matrix},
};

/// Keys in shared memory at a time.
const TILE_KEYS: usize = 64;

/// out = softmax(q·kᵀ·scale)·v for each sequence and head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attend {
    /// Which rows are whose.
    pub batch: BatchRegions,
    /// `[tokens, num_heads · head_dim]`; for first tokens `[sequences, …]`.
    pub q: Matrix,
    /// `[tokens, num_heads · head_dim]`.
    pub k: Matrix,
    /// `[tokens, num_heads · head_dim]`.
    pub v: Matrix,
    /// As `q`.
    pub out: Matrix,
    /// Heads.
    pub num_heads: usize,
    /// Components of a head: 32 or 64.
    pub head_dim: usize,
    /// Factor of q·kᵀ, usually `1 / √head_dim`; positive.
    pub scale: f32,
    /// Whose output is wanted.
    pub queries: Queries,
    /// For all tokens: warps of 32 queries instead of 16, which is fewer instructions and less shared memory read, and more
    /// registers. For devices from compute capability 9.0 on; the bits are the same.
    pub wide: bool,
}

/// Whose output is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queries {
    /// Every token's.
    All,
    /// That of each sequence's first token: the same bits.
    First,
}

impl Attend {
    pub(super) fn launch(&self, arena: Arena) -> Result<Launch, OpError> {
        let Self { batch, q, k, v, out, num_heads, head_dim, scale, queries, wide } = self;
        let kernel = match (head_dim, queries, wide) {
            (32, Queries::All, false) => "encoder_attention_d32",
            (64, Queries::All, false) => "encoder_attention_d64",
            (32, Queries::All, true) => "encoder_attention_wide_d32",
            (64, Queries::All, true) => "encoder_attention_wide_d64",
            (32, Queries::First, _) => "encoder_attention_first_d32",
            (64, Queries::First, _) => "encoder_attention_first_d64",
            (&found, ..) => return Err(OpError::HeadDim { found }),
        };
        check_positive("scale", *scale)?;
        let capacity = batch.capacity;
        let (query_rows, tiles, threads) = match queries {
            Queries::All => (capacity.tokens, tiles_max(capacity), TILE_QUERIES as u32 * if *wide { 1 } else { 2 }),
            Queries::First => (capacity.sequences, capacity.sequences, 32),
        };
        for (argument, matrix, rows) in
            [("q", q, query_rows), ("k", k, capacity.tokens), ("v", v, capacity.tokens), ("out", out, query_rows)]
        {
            check_size(argument, num_heads * head_dim, matrix.column_count())?;
            check_size(argument, rows, matrix.row_count())?;
        }
        for (argument, matrix) in [("q", q), ("k", k), ("v", v)] {
            check_apart(argument, &matrix.range(), &out.range())?;
        }
        let count = if *queries == Queries::All { &batch.tiles } else { &batch.sequences };
        let parameter = Parameter::new()
            .address(arena.address("tiles", count)?)
            .address(arena.address("tile_table", &batch.tile_table)?)
            .address(arena.address("sequences", &batch.sequences)?)
            .address(arena.address("cu_seqlens", &batch.cu_seqlens)?)
            .matrix(arena, "q", q)?
            .matrix(arena, "k", k)?
            .matrix(arena, "v", v)?
            .matrix(arena, "out", out)?
            .u32(to_u32("tiles", tiles)?)
            .u32(to_u32("sequences", capacity.sequences)?)
            .u32(to_u32("k", capacity.tokens)?)
            .u32(to_u32("num_heads", *num_heads)?)
            .f32(scale * LOG2_E)
            .u32(0);
        let blocks = to_blocks("tiles", tiles.saturating_mul(*num_heads))?;
        // Two stages of keys and values.
        let shared_bytes = (2 * 2 * TILE_KEYS * (2 * head_dim + CELL_BYTES)) as u32;
        Ok(Launch { unit: Unit::Attention, kernel, blocks, threads, shared_bytes, parameter })
    }
}
