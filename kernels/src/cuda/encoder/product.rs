//! Products with weights.
//!
//! out = f(x·Wᵀ + bias) with f16 in and f32 sums: products of halves are exact, k ascends, one sum for each output. Its bits
//! depend on its row of x and its row of W alone.
//!
//! Within `k · 2⁻²² · Σ|x·w|` of the formula, before f and the rounding of the result.

use half::f16;

use super::{
    activate::Function,
    launch::{Launch, OpError, Parameter, Unit, check_apart, check_size, to_blocks, to_u32},
    memory::{Arena, Matrix, Region},
};

/// Large tiles that are fewer than this leave multiprocessors of an H100 or H200 without work; small ones are four times as
/// many. Bits are the same.
const LARGE_TILES_MIN: usize = 132;

/// out = f(x·weightᵀ + bias).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Product {
    /// How many rows there truly are, on the device: `[1]`.
    pub count: Region<u32>,
    /// `[rows, k]`.
    pub x: Matrix,
    /// `[n, k]`, as checkpoints have it.
    pub weight: Matrix,
    /// `[n]`.
    pub bias: Option<Region<f16>>,
    /// What is applied to the sums.
    pub function: Option<Function>,
    /// `[rows, n]`.
    pub out: Output,
    /// Rows that there may ever be: what an algorithm of a library is chosen for.
    pub rows_max: usize,
}

/// Where a product goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Output {
    /// Rounded to f16.
    F16(Matrix),
    /// As it is, rows end to end.
    F32(Region<f32>),
}

/// A kernel of encoder_product.cu.
struct Tile {
    kernel: &'static str,
    size: usize,
    stages: usize,
    /// Of a row in a stage, with the one that no one reads.
    pitch_bytes: usize,
    threads: u32,
}

const LARGE: Tile = Tile { kernel: "encoder_product_128", size: 128, stages: 3, pitch_bytes: 80, threads: 256 };
const SMALL: Tile = Tile { kernel: "encoder_product_64", size: 64, stages: 3, pitch_bytes: 144, threads: 128 };

impl Product {
    pub(super) fn launch(&self, arena: Arena) -> Result<Launch, OpError> {
        let Self { count, x, weight, bias, function, out, rows_max: _ } = self;
        let (rows, columns) = (x.row_count(), weight.row_count());
        check_size("count", 1, count.len())?;
        check_size("weight", x.column_count(), weight.column_count())?;
        // Two neighbours are written at once, and a row of the next product is whole cells.
        super::memory::check_width("weight", columns, usize::MAX)?;
        let bias = match bias {
            Some(bias) => {
                check_size("bias", columns, bias.len())?;
                arena.cells("bias", bias)?
            }
            None => 0,
        };
        let (address, pitch, written) = match out {
            Output::F16(out) => {
                check_size("out", rows, out.row_count())?;
                check_size("out", columns, out.column_count())?;
                (arena.matrix("out", out)?, out.pitch(), out.range())
            }
            Output::F32(out) => {
                check_size("out", rows * columns, out.len())?;
                (arena.cells("out", out)?, columns, out.offset()..out.offset() + out.bytes())
            }
        };
        check_apart("x", &x.range(), &written)?;
        check_apart("weight", &weight.range(), &written)?;
        let parameter = Parameter::new()
            .address(arena.address("count", count)?)
            .address(bias)
            .address(address)
            .matrix(arena, "x", x)?
            .matrix(arena, "weight", weight)?
            .u32(to_u32("x", rows)?)
            .u32(to_u32("weight", columns)?)
            .u32(to_u32("out", pitch)?)
            .u32(u32::from(matches!(out, Output::F32(_))))
            .u32(Function::number(*function))
            .u32(0);
        let tiles = |tile: &Tile| rows.div_ceil(tile.size).saturating_mul(columns.div_ceil(tile.size));
        let tile = if tiles(&LARGE) < LARGE_TILES_MIN { SMALL } else { LARGE };
        let blocks = to_blocks("out", tiles(&tile))?;
        let Tile { kernel, size, stages, pitch_bytes, threads } = tile;
        let shared_bytes = (stages * 2 * size * pitch_bytes) as u32;
        Ok(Launch { unit: Unit::Product, kernel, blocks, threads, shared_bytes, parameter })
    }
}
