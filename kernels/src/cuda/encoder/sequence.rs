//! What is made of the encoder's rows.

use super::{
    batch::BatchRegions,
    launch::{Launch, OpError, Parameter, Unit, check_apart, check_size, to_blocks, to_u32},
    memory::{Arena, Matrix, Region},
    norm::{ROWS_PER_BLOCK, THREADS, by_rows, by_width},
};
use crate::pool::Pooling;

/// `out[s]` = the first row of sequence s of x.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GatherFirst {
    /// Which rows are whose.
    pub batch: BatchRegions,
    /// `[tokens, columns]`.
    pub x: Matrix,
    /// `[sequences, columns]`.
    pub out: Matrix,
}

/// `out[s]` = one row of f32 for each sequence; see [`crate::pool`] and [`crate::normalize`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pool {
    /// Which rows are whose.
    pub batch: BatchRegions,
    /// `[tokens, columns]`.
    pub x: Matrix,
    /// Which row.
    pub pooling: Pooling,
    /// Whether it is divided by its length; a row of zeros stays zero.
    pub normalize: bool,
    /// `[sequences, columns]`.
    pub out: Region<f32>,
}

/// `out[row]` = Σ `x[row, j]` · `weight[j]` + bias: a classifier of one label.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// How many rows there truly are, on the device: `[1]`.
    pub count: Region<u32>,
    /// `[rows, columns]`.
    pub x: Region<f32>,
    /// `[columns]`.
    pub weight: Region<f32>,
    /// Added.
    pub bias: f32,
    /// `[rows]`.
    pub out: Region<f32>,
}

/// `out[row]` = x / ‖x‖₂ in f16: token vectors as [MaxSim](crate::cuda::maxsim) reads them, rows of whole 16
/// bytes, those of a sequence end to end. A row of zeros stays zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalize {
    /// How many rows there truly are, on the device: `[1]`.
    pub count: Region<u32>,
    /// `[rows, columns]`.
    pub x: Input,
    /// `[rows, columns]`; may be `x`.
    pub out: Matrix,
}

/// What is normalised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Input {
    /// The encoder's rows.
    F16(Matrix),
    /// A product's sums.
    F32(Region<f32>),
}

impl GatherFirst {
    pub(super) fn launch(&self, arena: Arena) -> Result<Launch, OpError> {
        let Self { batch, x, out } = self;
        let sequences = batch.capacity.sequences;
        check_size("x", batch.capacity.tokens, x.row_count())?;
        check_size("out", sequences, out.row_count())?;
        check_size("out", x.column_count(), out.column_count())?;
        check_apart("x", &x.range(), &out.range())?;
        let parameter = Parameter::new()
            .address(arena.address("sequences", &batch.sequences)?)
            .address(arena.address("cu_seqlens", &batch.cu_seqlens)?)
            .matrix(arena, "x", x)?
            .matrix(arena, "out", out)?
            .u32(to_u32("x", x.row_count())?)
            .u32(to_u32("out", sequences)?);
        by_rows(Unit::Sequence, "encoder_gather_first", sequences, parameter)
    }
}

impl Pool {
    pub(super) fn launch(&self, arena: Arena) -> Result<Launch, OpError> {
        let Self { batch, x, pooling, normalize, out } = self;
        let (sequences, columns) = (batch.capacity.sequences, x.column_count());
        check_size("x", batch.capacity.tokens, x.row_count())?;
        check_size("out", sequences * columns, out.len())?;
        check_apart("x", &x.range(), &(out.offset()..out.offset() + out.bytes()))?;
        let parameter = Parameter::new()
            .address(arena.address("sequences", &batch.sequences)?)
            .address(arena.address("cu_seqlens", &batch.cu_seqlens)?)
            .address(arena.cells("out", out)?)
            .matrix(arena, "x", x)?
            .u32(to_u32("x", x.row_count())?)
            .u32(to_u32("out", sequences)?)
            .u32(u32::from(*pooling == Pooling::Mean))
            .u32(u32::from(*normalize));
        let kernel = by_width(["encoder_pool_d512", "encoder_pool_d1024", "encoder_pool_d2048"], columns)?;
        let shared_bytes = (ROWS_PER_BLOCK * columns * size_of::<f32>()) as u32;
        let blocks = to_blocks("out", sequences)?;
        Ok(Launch { unit: Unit::Sequence, kernel, blocks, threads: THREADS, shared_bytes, parameter })
    }
}

impl Score {
    pub(super) fn launch(&self, arena: Arena) -> Result<Launch, OpError> {
        let Self { count, x, weight, bias, out } = self;
        let (rows, columns) = (out.len(), weight.len());
        check_size("count", 1, count.len())?;
        check_size("x", rows * columns, x.len())?;
        if rows == 0 || columns == 0 {
            return Err(OpError::Shape { argument: "out", expected: 1, found: 0 });
        }
        let parameter = Parameter::new()
            .address(arena.address("count", count)?)
            .address(arena.address("x", x)?)
            .address(arena.address("weight", weight)?)
            .address(arena.address("out", out)?)
            .u32(to_u32("out", rows)?)
            .u32(to_u32("weight", columns)?)
            .f32(*bias)
            .u32(0);
        by_rows(Unit::Sequence, "encoder_score", rows, parameter)
    }
}

impl Normalize {
    pub(super) fn launch(&self, arena: Arena) -> Result<Launch, OpError> {
        let Self { count, x, out } = self;
        let (rows, columns) = (out.row_count(), out.column_count());
        check_size("count", 1, count.len())?;
        let parameter = Parameter::new().address(arena.address("count", count)?);
        let parameter = match x {
            Input::F16(x) => {
                check_size("x", rows, x.row_count())?;
                check_size("x", columns, x.column_count())?;
                if x != out {
                    check_apart("x", &x.range(), &out.range())?;
                }
                parameter.address(0).matrix(arena, "x", x)?
            }
            Input::F32(x) => {
                check_size("x", rows * columns, x.len())?;
                check_apart("x", &(x.offset()..x.offset() + x.bytes()), &out.range())?;
                parameter.address(arena.cells("x", x)?).no_matrix()
            }
        };
        let parameter = parameter.matrix(arena, "out", out)?.u32(to_u32("out", rows)?).u32(0);
        let kernels = ["encoder_normalize_d512", "encoder_normalize_d1024", "encoder_normalize_d2048"];
        by_rows(Unit::Sequence, by_width(kernels, columns)?, rows, parameter)
    }
}
