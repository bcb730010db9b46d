//! Activations of products that were made without them.

use half::f16;

use super::{
    launch::{Launch, OpError, Parameter, Unit, check_size, to_blocks, to_u32},
    memory::{Arena, CELL, Matrix, Region},
    norm::THREADS,
};
use crate::activation::Activation;

/// A function of one number; NaN stays NaN. `Function` of rows.cuh.
///
/// Within 3e-7 of the formula for |x| ≤ 8 (2⁻²² of |x| beyond), before the result is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// x·Φ(x).
    GeluErf,
    /// ½·x·(1 + tanh(√(2/π)·(x + 0.044715·x³))).
    GeluTanh,
    /// max(x, 0).
    Relu,
    /// tanh(x).
    Tanh,
}

impl From<Activation> for Function {
    fn from(activation: Activation) -> Self {
        match activation {
            Activation::GeluErf => Self::GeluErf,
            Activation::GeluTanh => Self::GeluTanh,
            Activation::Relu => Self::Relu,
        }
    }
}

impl Function {
    /// Its number in the source.
    pub(super) fn number(function: Option<Self>) -> u32 {
        match function {
            None => 0,
            Some(Self::GeluErf) => 1,
            Some(Self::GeluTanh) => 2,
            Some(Self::Relu) => 3,
            Some(Self::Tanh) => 4,
        }
    }
}

/// x = f(x + bias), in place. [`Product`](super::Product) does it without a second pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Activate {
    /// How many rows there truly are, on the device: `[1]`.
    pub count: Region<u32>,
    /// `[rows, columns]`.
    pub x: Matrix,
    /// `[columns]`, if it was not added yet.
    pub bias: Option<Region<f16>>,
    /// What is applied.
    pub function: Function,
}

impl Activate {
    pub(super) fn launch(&self, arena: Arena) -> Result<Launch, OpError> {
        let Self { count, x, bias, function } = self;
        check_size("count", 1, count.len())?;
        let bias = match bias {
            Some(bias) => {
                check_size("bias", x.column_count(), bias.len())?;
                arena.cells("bias", bias)?
            }
            None => 0,
        };
        let cells = x.row_count() * (x.column_count() / CELL);
        // A thread's number has 32 bits.
        to_u32("x", cells.next_multiple_of(THREADS as usize))?;
        let parameter = Parameter::new()
            .address(arena.address("count", count)?)
            .address(bias)
            .matrix(arena, "x", x)?
            .u32(to_u32("x", x.row_count())?)
            .u32(Function::number(Some(*function)));
        let kernel = match function {
            Function::GeluErf => "encoder_gelu_erf",
            Function::GeluTanh => "encoder_gelu_tanh",
            Function::Relu => "encoder_relu",
            Function::Tanh => "encoder_tanh",
        };
        let blocks = to_blocks("x", cells.div_ceil(THREADS as usize))?;
        Ok(Launch { unit: Unit::Activate, kernel, blocks, threads: THREADS, shared_bytes: 0, parameter })
    }
}
