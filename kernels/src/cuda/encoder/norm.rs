//! Layer normalisation: of embeddings, and of a product with its residual.
//!
//! y = (s − mean(s)) / √(var(s) + epsilon) · gamma + beta, row by row, in f32; see [`crate::layer_norm`].
//!
//! A constant row becomes `beta`; NaN or ±∞ in a row makes the whole row NaN. Within 2⁻¹¹ of |y|, the rounding of the
//! result, and 1e-5 besides.

use half::f16;

use super::{
    batch::BatchRegions,
    launch::{Launch, OpError, Parameter, Unit, check_apart, check_positive, check_size, to_blocks, to_u32},
    memory::{Arena, Matrix, Region, check_width},
};

/// Columns that a warp holds in registers, at most.
pub(super) const WIDTH_MAX: usize = 2048;
/// Warps of a block, each with a row.
pub(super) const ROWS_PER_BLOCK: usize = 8;
/// Threads of a block.
pub(super) const THREADS: u32 = 256;

/// Factor and offset of a layer normalisation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// Factor, `[columns]`.
    pub gamma: Region<f32>,
    /// Offset, `[columns]`.
    pub beta: Region<f32>,
    /// Added to the variance; positive.
    pub epsilon: f32,
}

/// out = LayerNorm(word + position + token type), each a row of its table, token by token.
///
/// A token whose id, position or type has no row becomes NaN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Embed {
    /// The tokens.
    pub batch: BatchRegions,
    /// `[vocabulary, columns]`.
    pub words: Matrix,
    /// `[positions, columns]`.
    pub positions: Matrix,
    /// `[types, columns]`.
    pub token_types: Matrix,
    /// Its normalisation.
    pub norm: Norm,
    /// `[tokens, columns]`, for as many tokens as the batch may have.
    pub out: Matrix,
}

/// out = LayerNorm(x + bias + residual), row by row. `out` may be `x` or `residual`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AddNorm {
    /// How many rows there truly are, on the device: `[1]`.
    pub count: Region<u32>,
    /// `[rows, columns]`.
    pub x: Matrix,
    /// `[columns]`, if it was not added yet.
    pub bias: Option<Region<f16>>,
    /// `[rows, columns]`.
    pub residual: Option<Matrix>,
    /// The normalisation.
    pub norm: Norm,
    /// `[rows, columns]`.
    pub out: Matrix,
}

impl Embed {
    pub(super) fn launch(&self, arena: Arena) -> Result<Launch, OpError> {
        let Self { batch, words, positions, token_types, norm, out } = self;
        let (rows, columns) = (out.row_count(), out.column_count());
        check_size("out", batch.capacity.tokens, rows)?;
        for (argument, table) in [("words", words), ("positions", positions), ("token_types", token_types)] {
            check_size(argument, columns, table.column_count())?;
            check_apart(argument, &table.range(), &out.range())?;
        }
        let parameter = Parameter::new()
            .address(arena.address("tokens", &batch.tokens)?)
            .address(arena.address("input_ids", &batch.input_ids)?)
            .address(arena.address("positions", &batch.positions)?)
            .address(arena.address("token_types", &batch.token_types)?);
        let parameter = norm
            .encode(arena, columns, parameter)?
            .matrix(arena, "words", words)?
            .matrix(arena, "positions", positions)?
            .matrix(arena, "token_types", token_types)?
            .matrix(arena, "out", out)?
            .u32(to_u32("out", rows)?)
            .u32(to_u32("words", words.row_count())?)
            .u32(to_u32("positions", positions.row_count())?)
            .u32(to_u32("token_types", token_types.row_count())?)
            .f32(norm.epsilon)
            .u32(0);
        let kernels = ["encoder_embed_d512", "encoder_embed_d1024", "encoder_embed_d2048"];
        by_rows(Unit::Norm, by_width(kernels, columns)?, rows, parameter)
    }
}

impl AddNorm {
    pub(super) fn launch(&self, arena: Arena) -> Result<Launch, OpError> {
        let Self { count, x, bias, residual, norm, out } = self;
        let (rows, columns) = (out.row_count(), out.column_count());
        check_size("count", 1, count.len())?;
        check_same("x", x, out)?;
        let bias = bias.map(|bias| check_size("bias", columns, bias.len()).and_then(|()| arena.cells("bias", &bias)));
        let parameter =
            Parameter::new().address(arena.address("count", count)?).address(bias.transpose()?.unwrap_or(0));
        let parameter = norm.encode(arena, columns, parameter)?.matrix(arena, "x", x)?;
        let parameter = match residual {
            Some(residual) => {
                check_same("residual", residual, out)?;
                parameter.matrix(arena, "residual", residual)?
            }
            None => parameter.no_matrix(),
        };
        let parameter = parameter.matrix(arena, "out", out)?.u32(to_u32("out", rows)?).f32(norm.epsilon);
        let kernels = ["encoder_add_norm_d512", "encoder_add_norm_d1024", "encoder_add_norm_d2048"];
        by_rows(Unit::Norm, by_width(kernels, columns)?, rows, parameter)
    }
}

impl Norm {
    fn encode(&self, arena: Arena, columns: usize, parameter: Parameter) -> Result<Parameter, OpError> {
        check_size("gamma", columns, self.gamma.len())?;
        check_size("beta", columns, self.beta.len())?;
        check_positive("epsilon", self.epsilon)?;
        Ok(parameter.address(arena.cells("gamma", &self.gamma)?).address(arena.cells("beta", &self.beta)?))
    }
}

/// The kernel whose warps hold so many columns.
pub(super) fn by_width([narrow, middle, wide]: [&'static str; 3], columns: usize) -> Result<&'static str, OpError> {
    check_width("columns", columns, WIDTH_MAX)?;
    Ok(match columns {
        0..=512 => narrow,
        513..=1024 => middle,
        _ => wide,
    })
}

/// A warp for each row.
pub(super) fn by_rows(unit: Unit, kernel: &'static str, rows: usize, parameter: Parameter) -> Result<Launch, OpError> {
    let blocks = to_blocks("rows", rows.div_ceil(ROWS_PER_BLOCK))?;
    Ok(Launch { unit, kernel, blocks, threads: THREADS, shared_bytes: 0, parameter })
}

/// `matrix` has the size of `out`, and is `out` or lies elsewhere.
fn check_same(argument: &'static str, matrix: &Matrix, out: &Matrix) -> Result<(), OpError> {
    check_size(argument, out.column_count(), matrix.column_count())?;
    check_size(argument, out.row_count(), matrix.row_count())?;
    if matrix == out { Ok(()) } else { check_apart(argument, &matrix.range(), &out.range()) }
}
