//! A batch's way through the model, as the operations that a device does: pure.

use sluice_kernels::{
    activation::Activation,
    cuda::encoder::{
        Activate, AddNorm, Arena, Attend, BatchRegions, Embed, Function, GatherFirst, Input, Matrix, Normalize, Op,
        OpError, Output, Pool, Product, Queries, Region, Score,
    },
    pool::Pooling,
};

use super::regions::{LayerRegions, LinearRegions, Regions, Rows, Slot};
use crate::folder::BertConfig;

/// What is wanted of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Each token's normalised vector.
    Tokens,
    /// A normalised vector for each sequence.
    Dense(Pooling),
    /// The head's logit of each sequence.
    Logits,
}

/// Who computes products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Multiplier {
    /// Our own kernel, with every activation in its epilogue.
    Own,
    /// cuBLASLt, which knows GELU in its tanh form alone: other activations are an operation of their own.
    CublasLt,
}

impl Multiplier {
    /// The engine's name with it. Our own kernels compute the same bits on every device; cuBLASLt the same on one kind of
    /// device, with one version of the library and of `batch_tokens_max` and `batch_sequences_max`. Where the library has
    /// `refused` some products, our own kernels compute those.
    pub(crate) fn label(self, refused: usize) -> &'static str {
        match (self, refused) {
            (Self::Own, _) => "cuda-f16",
            (Self::CublasLt, 0) => "cuda-f16-cublaslt",
            (Self::CublasLt, _) => "cuda-f16-mixed",
        }
    }
}

/// A batch in a slot.
pub(super) struct Pass<'a> {
    pub(super) config: &'a BertConfig,
    pub(super) regions: &'a Regions,
    pub(super) slot: &'a Slot,
    /// The slot's, for as many tokens and sequences as there are.
    pub(super) batch: BatchRegions,
    pub(super) multiplier: Multiplier,
    pub(super) wide_attention: bool,
    pub(super) head_bias: f32,
}

/// Rows that a layer works on, and where their number lies on the device.
struct Part<'a> {
    rows: &'a Rows,
    count: usize,
    on_device: Region<u32>,
    /// Of the largest batch.
    count_max: usize,
}

/// Whether kernels take everything that will be asked of them, of the largest batch.
pub(super) fn check(config: &BertConfig, regions: &Regions) -> Result<(), OpError> {
    // Addresses decide nothing but whether something lies in the arena.
    let arena = Arena { base: 0, bytes: regions.memory.arena_bytes };
    for multiplier in [Multiplier::Own, Multiplier::CublasLt] {
        let slot = &regions.slots[0];
        let wide_attention = multiplier == Multiplier::CublasLt;
        let pass = Pass { config, regions, slot, batch: slot.batch, multiplier, wide_attention, head_bias: 0.0 };
        for asked in [Asked::Tokens, Asked::Dense(Pooling::Mean), Asked::Dense(Pooling::First), Asked::Logits] {
            pass.operations(asked)?.iter().try_for_each(|op| op.launch(arena).map(drop))?;
        }
    }
    Ok(())
}

impl Pass<'_> {
    /// # Errors
    /// [`OpError`] if the batch is larger than what was planned for.
    pub(super) fn operations(&self, asked: Asked) -> Result<Vec<Op>, OpError> {
        let scratch = &self.regions.scratch;
        let (hidden, first) = (&scratch.all.hidden, &scratch.first.hidden);
        let mut ops = Vec::with_capacity(9 * self.regions.model.layers.len() + 8);
        match asked {
            Asked::Tokens => {
                self.encode(false, &mut ops)?;
                ops.push(Op::Normalize(Normalize {
                    count: self.batch.tokens,
                    x: Input::F16(hidden.rows(0..self.batch.capacity.tokens)?),
                    out: self.slot.vectors.rows.rows(0..self.batch.capacity.tokens)?,
                }));
            }
            Asked::Dense(Pooling::Mean) => {
                self.encode(false, &mut ops)?;
                ops.push(Op::Pool(Pool {
                    batch: self.batch,
                    x: hidden.rows(0..self.batch.capacity.tokens)?,
                    pooling: Pooling::Mean,
                    normalize: true,
                    out: self.slot.dense.slice(0..self.batch.capacity.sequences * hidden.column_count())?,
                }));
            }
            Asked::Dense(Pooling::First) => {
                self.encode(true, &mut ops)?;
                ops.push(Op::Normalize(Normalize {
                    count: self.batch.sequences,
                    x: Input::F16(first.rows(0..self.batch.capacity.sequences)?),
                    out: self.slot.vectors.rows.rows(0..self.batch.capacity.sequences)?,
                }));
            }
            Asked::Logits => {
                self.encode(true, &mut ops)?;
                self.head(&mut ops)?;
            }
        }
        Ok(ops)
    }

    /// All layers; of the last one, what `firsts` needs.
    fn encode(&self, firsts: bool, ops: &mut Vec<Op>) -> Result<(), OpError> {
        let (model, scratch) = (&self.regions.model, &self.regions.scratch);
        let (here, most) = (self.batch.capacity, self.slot.batch.capacity);
        let all = Part { rows: &scratch.all, count: here.tokens, on_device: self.batch.tokens, count_max: most.tokens };
        let first = Part {
            rows: &scratch.first,
            count: here.sequences,
            on_device: self.batch.sequences,
            count_max: most.sequences,
        };
        ops.push(Op::Embed(Embed {
            batch: self.batch,
            words: model.words.rows,
            positions: model.positions.rows,
            token_types: model.token_types.rows,
            norm: model.norm,
            out: all.rows.hidden.rows(0..self.batch.capacity.tokens)?,
        }));
        for (index, layer) in model.layers.iter().enumerate() {
            if firsts && index + 1 == model.layers.len() {
                self.attend_first(layer, ops)?;
                return self.forward(layer, &first, ops);
            }
            let qkv = self.qkv()?;
            let x = all.rows.hidden.rows(0..self.batch.capacity.tokens)?;
            let (weight, bias) = (layer.qkv.weight.rows, Some(layer.qkv.bias));
            let (count, out, rows_max) = (all.on_device, Output::F16(qkv), all.count_max);
            ops.push(Op::Product(Product { count, x, weight, bias, function: None, out, rows_max }));
            self.attention((self.columns(qkv, 0)?, qkv), all.rows.attended, Queries::All, ops)?;
            self.forward(layer, &all, ops)?;
        }
        if firsts {
            // A model without layers.
            ops.push(self.gather()?);
        }
        Ok(())
    }

    /// Keys and values of all rows, and everything else of each sequence's first.
    fn attend_first(&self, layer: &LayerRegions, ops: &mut Vec<Op>) -> Result<(), OpError> {
        let scratch = &self.regions.scratch;
        let (hidden, batch) = (self.hidden(), &self.batch);
        let x = scratch.all.hidden.rows(0..self.batch.capacity.tokens)?;
        let qkv = self.qkv()?;
        let part = |rows: std::ops::Range<usize>| {
            Ok::<_, OpError>((layer.qkv.weight.rows.rows(rows.clone())?, layer.qkv.bias.slice(rows)?))
        };
        let most = self.slot.batch.capacity;
        let product = |(weight, bias), (x, count, rows_max), out| {
            let (bias, out) = (Some(bias), Output::F16(out));
            Op::Product(Product { count, x, weight, bias, function: None, out, rows_max })
        };
        let all = (x, batch.tokens, most.tokens);
        ops.push(product(part(hidden..3 * hidden)?, all, qkv.columns(hidden..3 * hidden)?));
        ops.push(self.gather()?);
        let first = scratch.first.hidden.rows(0..self.batch.capacity.sequences)?;
        let query = scratch.first_query.rows(0..self.batch.capacity.sequences)?;
        ops.push(product(part(0..hidden)?, (first, batch.sequences, most.sequences), query));
        self.attention((query, qkv), scratch.first.attended, Queries::First, ops)
    }

    /// Each sequence's first row of the hidden state.
    fn gather(&self) -> Result<Op, OpError> {
        let scratch = &self.regions.scratch;
        Ok(Op::GatherFirst(GatherFirst {
            batch: self.batch,
            x: scratch.all.hidden.rows(0..self.batch.capacity.tokens)?,
            out: scratch.first.hidden.rows(0..self.batch.capacity.sequences)?,
        }))
    }

    fn attention(
        &self,
        (q, qkv): (Matrix, Matrix),
        out: Matrix,
        queries: Queries,
        ops: &mut Vec<Op>,
    ) -> Result<(), OpError> {
        let num_heads = self.config.num_heads as usize;
        let head_dim = self.hidden() / num_heads;
        ops.push(Op::Attend(Attend {
            batch: self.batch,
            q,
            k: self.columns(qkv, 1)?,
            v: self.columns(qkv, 2)?,
            out: out.rows(0..q.row_count())?,
            num_heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            queries,
            wide: self.wide_attention,
        }));
        Ok(())
    }

    /// A layer behind its attention: replaces the rows of its input by its output.
    fn forward(&self, layer: &LayerRegions, part: &Part<'_>, ops: &mut Vec<Op>) -> Result<(), OpError> {
        let count = part.on_device;
        let rows = |matrix: &Matrix| matrix.rows(0..part.count);
        let (hidden, middle) = (rows(&part.rows.hidden)?, rows(&part.rows.middle)?);
        let (attended, inner) = (rows(&part.rows.attended)?, rows(&part.rows.inner)?);
        let plain = |linear: &LinearRegions, x, out| {
            let out = Output::F16(out);
            let (weight, rows_max) = (linear.weight.rows, part.count_max);
            Op::Product(Product { count, x, weight, bias: None, function: None, out, rows_max })
        };
        // Biases are added where the residual is.
        ops.push(plain(&layer.attention_output, attended, middle));
        ops.push(Op::AddNorm(AddNorm {
            count,
            x: middle,
            bias: Some(layer.attention_output.bias),
            residual: Some(hidden),
            norm: layer.attention_norm,
            out: middle,
        }));
        self.activated(&layer.intermediate, (middle, part), inner, ops);
        ops.push(plain(&layer.output, inner, hidden));
        ops.push(Op::AddNorm(AddNorm {
            count,
            x: hidden,
            bias: Some(layer.output.bias),
            residual: Some(middle),
            norm: layer.output_norm,
            out: hidden,
        }));
        Ok(())
    }

    /// out = f(x·Wᵀ + bias).
    fn activated(&self, linear: &LinearRegions, (x, part): (Matrix, &Part<'_>), out: Matrix, ops: &mut Vec<Op>) {
        let function = Function::from(self.config.activation);
        let fused = self.multiplier == Multiplier::Own || self.config.activation == Activation::GeluTanh;
        let (inside, behind) = if fused { (Some(function), None) } else { (None, Some(function)) };
        let bias = Some(linear.bias);
        let (bias, later_bias) = if fused { (bias, None) } else { (None, bias) };
        let (weight, count, rows_max) = (linear.weight.rows, part.on_device, part.count_max);
        ops.push(Op::Product(Product { count, x, weight, bias, function: inside, out: Output::F16(out), rows_max }));
        if let Some(function) = behind {
            ops.push(Op::Activate(Activate { count, x: out, bias: later_bias, function }));
        }
    }

    /// logit = classifier · tanh(pooler(h)) + bias.
    fn head(&self, ops: &mut Vec<Op>) -> Result<(), OpError> {
        let (scratch, count) = (&self.regions.scratch, self.batch.sequences);
        let Some(head) = &self.regions.model.head else { return Ok(()) };
        let pooled = scratch.pooled.slice(0..self.batch.capacity.sequences * self.hidden())?;
        ops.push(Op::Product(Product {
            count,
            x: scratch.first.hidden.rows(0..self.batch.capacity.sequences)?,
            weight: head.pooler.weight.rows,
            bias: Some(head.pooler.bias),
            function: Some(Function::Tanh),
            out: Output::F32(pooled),
            rows_max: self.slot.batch.capacity.sequences,
        }));
        ops.push(Op::Score(Score {
            count,
            x: pooled,
            weight: head.classifier,
            bias: self.head_bias,
            out: self.slot.scores.slice(0..self.batch.capacity.sequences)?,
        }));
        Ok(())
    }

    fn hidden(&self) -> usize {
        self.config.hidden_size as usize
    }

    /// The batch's rows of query, key and value.
    fn qkv(&self) -> Result<Matrix, OpError> {
        let qkv = self.regions.scratch.all.qkv.expect("the rows of all tokens have query, key and value");
        qkv.rows(0..self.batch.capacity.tokens)
    }

    /// Query (0), key (1) or value (2).
    fn columns(&self, qkv: Matrix, which: usize) -> Result<Matrix, OpError> {
        qkv.columns(which * self.hidden()..(which + 1) * self.hidden())
    }
}
