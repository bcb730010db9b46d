//! The BERT encoder over packed sequences, on our own kernels.
//!
//! A batch is one matrix `[total_tokens, hidden]`; no padding is computed. Two stages take turns, layer by layer, each
//! divided among the compute threads:
//!
//! | stage | unit of work | what it does |
//! |---|---|---|
//! | rows | up to 48 rows of the batch | the rest of a layer behind its attention, and the next layer's query, key and value |
//! | attention | up to 128 queries of one sequence | softmax(Q·Kᵀ)·V, all heads |
//!
//! A batch of fewer rows than the threads have tiles is divided by columns instead ([`narrow`]).
//!
//! What a unit of rows works on (48 rows of 1,536: 288 KiB) stays in its core's cache from one product to the next;
//! activations, residuals and norms are applied there. Who takes which unit, and how large units are, changes no bit of
//! the result: every kernel computes a row in an order that the row's own shape fixes.
//!
//! Where only the first token of each sequence is wanted (a cross-encoder, or pooling by it), the last layer computes
//! keys and values of all rows and everything else of those rows alone: 10/12 of that layer's products are saved.
//!
//! Cost of a token: `2·layers·(4·hidden² + 2·hidden·intermediate)` FLOPs in products, and `4·layers·hidden` more for
//! each token of its sequence in attention: 21 MFLOP and 9 kFLOP for MiniLM-L6. Weights are read once by each unit of
//! rows, 7 MB a layer against 170 MFLOP: a tenth of what the shared cache of a processor delivers.

mod compute_pool;
mod layer;
mod narrow;
mod product;
mod scratch;

use std::{ops::Range, path::Path, sync::Arc};

use half::f16;
use sluice_core::batch::PackedBatch;
use sluice_kernels::{
    Isa, ShapeError,
    attention::{Attend, attend},
    layer_norm::layer_norm,
};

use crate::{
    bert_weights::{BertFile, Embeddings, HeadWeights, OutOfRange, check_tokens},
    folder::BertConfig,
    load_error::LoadError,
    model::Precision,
};
pub(crate) use compute_pool::ComputePool;
use compute_pool::{Division, for_each_share};
use layer::Layer;
use product::Product;
use scratch::{Scratch, Unit, Workers};

/// Rows of a unit of work, at most: whole tiles of every instruction set.
const UNIT_ROWS_MAX: usize = 48;
/// Rows of the highest tile.
const TILE_ROWS: usize = 12;
/// Units begin at multiples of this: rows of a lower tile that is as fast, so that no thread has a whole tile more to do.
const GRANULE_ROWS: usize = 6;
/// With fewer tiles than this for each thread, a batch is divided by columns.
const TILES_PER_THREAD_MIN: usize = 2;

/// Why a batch was not computed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EncodeError {
    /// A token that the embeddings lack.
    #[error(transparent)]
    Token(#[from] OutOfRange),
    /// Asked of a model without a head.
    #[error("the model has no classification head")]
    NoHead,
    /// A bug of ours.
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

/// Whose last hidden state is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Every token's.
    Tokens,
    /// That of each sequence's first token.
    First,
}

/// An encoder and perhaps its classification head, packed for this machine.
pub(crate) struct CpuEncoder {
    config: BertConfig,
    isa: Isa,
    pool: Arc<ComputePool>,
    embeddings: Tables,
    layers: Vec<Layer>,
    head: Option<Head>,
    parameters: u64,
    scratch: Scratch,
}

/// The embeddings as they are kept.
enum Tables {
    F32(Embeddings),
    F16(Embeddings<f16>),
}

/// logit = classifier · tanh(pooler(h)) + bias, for the vector h of the first token.
struct Head {
    pooler: Product,
    /// `[hidden]`.
    classifier: Vec<f32>,
    bias: f32,
}

/// How an encoder computes.
pub(crate) struct Compute {
    pub(crate) isa: Isa,
    pub(crate) precision: Precision,
    pub(crate) pool: Arc<ComputePool>,
}

impl CpuEncoder {
    /// Reads every tensor of the architecture, and the head's if `with_head`. `config_path` is for messages.
    pub(crate) fn load(
        path: &Path,
        config_path: &Path,
        config: &BertConfig,
        with_head: bool,
        compute: Compute,
    ) -> Result<Self, LoadError> {
        let Compute { isa, precision, pool } = compute;
        let bytes = crate::folder::read_file(path)?;
        let file = BertFile::read(path, &bytes, config)?;
        let fault = |error: ShapeError| file.fault(error.to_string());
        if precision == Precision::F16 {
            file.check_halves()?;
        }
        let embeddings = file.embeddings()?;
        let mut layers: Vec<Layer> = Vec::new();
        for index in 0..config.num_layers {
            let weights = file.layer(index)?;
            let input_norm = layers.last().map_or(&embeddings.norm, |layer| &layer.output_norm);
            layers.push(Layer::pack(isa, precision, config.activation, input_norm, weights).map_err(fault)?);
        }
        let head = if with_head { Some(file.head(config_path)?) } else { None };
        let head = head.map(|head| Head::pack(isa, head)).transpose().map_err(fault)?;
        let embeddings = match precision {
            Precision::F16 => Tables::F16(embeddings.in_halves()),
            Precision::F32 | Precision::Int8 => Tables::F32(embeddings),
        };
        let (parameters, scratch) = (file.parameters(), Scratch::default());
        Ok(Self { config: config.clone(), isa, pool, embeddings, layers, head, parameters, scratch })
    }

    /// Numbers stored in the weights file.
    pub(crate) fn parameters(&self) -> u64 {
        self.parameters
    }

    /// Components of a token vector.
    pub(crate) fn hidden_size(&self) -> usize {
        self.config.hidden_size as usize
    }

    /// The instructions it runs.
    pub(crate) fn isa(&self) -> Isa {
        self.isa
    }

    /// The last hidden state, `[total_tokens, hidden]` or `[sequences, hidden]`, in memory that the next call uses again.
    pub(crate) fn encode(&mut self, batch: &PackedBatch, wanted: Wanted) -> Result<&mut [f32], EncodeError> {
        check_tokens(&self.config, batch)?;
        let dim = self.hidden_size();
        // A batch that panics takes it along: the next one begins with none.
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.fit(&self.config, self.pool.threads(), batch, wanted);
        let pool = Arc::clone(&self.pool);
        let computed = pool.install_batch(|| self.compute(batch, wanted, &mut scratch));
        self.scratch = scratch;
        computed?;
        Ok(match wanted {
            Wanted::Tokens => &mut self.scratch.hidden.as_mut_slice()[..batch.total_tokens() * dim],
            Wanted::First => &mut self.scratch.first_hidden.as_mut_slice()[..batch.len() * dim],
        })
    }

    /// The classification head's logit of every sequence.
    pub(crate) fn logits(&mut self, batch: &PackedBatch) -> Result<Vec<f32>, EncodeError> {
        if self.head.is_none() {
            return Err(EncodeError::NoHead);
        }
        let dim = self.hidden_size();
        let first = self.encode(batch, Wanted::First)?.to_vec();
        let head = self.head.as_ref().ok_or(EncodeError::NoHead)?;
        let mut pooled = vec![0.0; first.len()];
        head.pooler.forward(&first, 0..dim, None, &mut self.scratch.workers.any().codes, &mut pooled)?;
        let logit = |row: &[f32]| {
            let dot = |sum: f64, (x, w): (&f32, &f32)| sum + f64::from(x.tanh()) * f64::from(*w);
            (row.iter().zip(&head.classifier).fold(0.0, dot) + f64::from(head.bias)) as f32
        };
        Ok(pooled.chunks_exact(dim).map(logit).collect())
    }

    /// All layers, on the threads of the pool that this runs in.
    fn compute(&self, batch: &PackedBatch, wanted: Wanted, scratch: &mut Scratch) -> Result<(), ShapeError> {
        let dim = self.hidden_size();
        let rows = batch.total_tokens();
        if self.is_narrow(rows) {
            self.compute_narrow(batch, scratch)?;
            if wanted == Wanted::First {
                take_firsts(batch, dim, scratch.hidden.as_slice(), scratch.first_hidden.as_mut_slice());
            }
            return Ok(());
        }
        let Scratch { hidden, attended, qkv, first_hidden, first_attended, units, workers, .. } = scratch;
        let hidden = &mut hidden.as_mut_slice()[..rows * dim];
        let attended = &mut attended.as_mut_slice()[..rows * dim];
        let qkv = &mut qkv.as_mut_slice()[..rows * 3 * dim];
        let division = self.division(rows);
        let firsts = |next: usize| wanted == Wanted::First && next + 1 == self.layers.len();

        division.for_each(
            (hidden, dim),
            (qkv, 3 * dim),
            &|rows: Range<usize>, hidden: &mut [f32], qkv: &mut [f32]| {
                self.embed(batch, rows.clone(), hidden)?;
                self.project(0, (batch, rows, firsts(0)), hidden, qkv, workers)
            },
        )?;
        for (index, layer) in self.layers.iter().enumerate() {
            if firsts(index) {
                units.clear();
                units.extend(batch.ranges().map(|rows| Unit { queries: 0..rows.len().min(1), rows }));
                let first_attended = &mut first_attended.as_mut_slice()[..batch.len() * dim];
                let first_hidden = &mut first_hidden.as_mut_slice()[..batch.len() * dim];
                self.attention(units, qkv, first_attended, workers)?;
                take_firsts(batch, dim, hidden, first_hidden);
                let division = self.division(batch.len());
                return division.for_each((first_hidden, dim), (&mut [], 0), &|rows, x: &mut [f32], _: &mut [f32]| {
                    workers.mine().forward(layer, &first_attended[rows.start * dim..rows.end * dim], x)
                });
            }
            self.attention(units, qkv, attended, workers)?;
            division.for_each(
                (hidden, dim),
                (qkv, 3 * dim),
                &|rows: Range<usize>, hidden: &mut [f32], qkv: &mut [f32]| {
                    workers.mine().forward(layer, &attended[rows.start * dim..rows.end * dim], hidden)?;
                    self.project(index + 1, (batch, rows, firsts(index + 1)), hidden, qkv, workers)
                },
            )?;
        }
        if wanted == Wanted::First {
            // A model without layers.
            take_firsts(batch, dim, hidden, first_hidden.as_mut_slice());
        }
        Ok(())
    }

    /// Rows in as many units for each thread, of about one size, and as high as may be.
    fn division(&self, rows: usize) -> Division {
        let (tiles, threads) = (rows.div_ceil(TILE_ROWS), self.pool.threads());
        let rounds = tiles.div_ceil(threads * (UNIT_ROWS_MAX / TILE_ROWS));
        Division { rows, granule: GRANULE_ROWS, parts: (rounds * threads).min(tiles) }
    }

    /// Whether a batch of so many rows leaves threads without work, or with too little of it, if its rows are divided.
    fn is_narrow(&self, rows: usize) -> bool {
        let threads = self.pool.threads();
        threads > 1 && rows > 0 && rows.div_ceil(TILE_ROWS) < threads * TILES_PER_THREAD_MIN
    }

    /// Sums of the three embeddings of some rows of the batch, normalised.
    fn embed(&self, batch: &PackedBatch, rows: Range<usize>, out: &mut [f32]) -> Result<(), ShapeError> {
        let cu_seqlens = batch.cu_seqlens();
        let mut sequence = cu_seqlens.partition_point(|&start| start as usize <= rows.start) - 1;
        for (row, out) in rows.zip(out.chunks_exact_mut(self.hidden_size())) {
            while cu_seqlens[sequence + 1] as usize <= row {
                sequence += 1;
            }
            let position = row as u32 - cu_seqlens[sequence];
            let (id, token_type) = (batch.input_ids()[row], batch.token_type_ids()[row]);
            match &self.embeddings {
                Tables::F32(tables) => tables.sum(id, position, token_type, out),
                Tables::F16(tables) => tables.sum(id, position, token_type, out),
            }
        }
        let (Tables::F32(Embeddings { norm, .. }) | Tables::F16(Embeddings { norm, .. })) = &self.embeddings;
        layer_norm(self.isa, norm.args(&[], &[]), out)
    }

    /// Query, key and value of some rows of the batch for layer `index`, if there is one; of `firsts` alone, the query
    /// of each sequence's first row.
    fn project(
        &self,
        index: usize,
        (batch, rows, firsts): (&PackedBatch, Range<usize>, bool),
        hidden: &[f32],
        qkv: &mut [f32],
        workers: &Workers,
    ) -> Result<(), ShapeError> {
        let Some(layer) = self.layers.get(index) else { return Ok(()) };
        let dim = self.hidden_size();
        let codes = &mut workers.mine().codes;
        if !firsts {
            return layer.qkv.forward(hidden, 0..3 * dim, None, codes, qkv);
        }
        layer.qkv.forward(hidden, dim..3 * dim, None, codes, qkv)?;
        let starts = batch.cu_seqlens();
        let from = starts.partition_point(|&start| (start as usize) < rows.start);
        for start in starts[from..].iter().map(|&start| start as usize).take_while(|start| rows.contains(start)) {
            let row = start - rows.start;
            let qkv = &mut qkv[row * 3 * dim..][..3 * dim];
            layer.qkv.forward(&hidden[row * dim..][..dim], 0..dim, None, codes, qkv)?;
        }
        Ok(())
    }

    /// The outputs of every unit's queries, end to end.
    fn attention(&self, units: &[Unit], qkv: &[f32], out: &mut [f32], workers: &Workers) -> Result<(), ShapeError> {
        let dim = self.hidden_size();
        let num_heads = self.config.num_heads as usize;
        let head_dim = dim / num_heads;
        let scale = 1.0 / (head_dim as f32).sqrt();
        for_each_share(units, (out, dim), &|unit: &Unit, out: &mut [f32]| {
            let qkv = &qkv[unit.rows.start * 3 * dim..unit.rows.end * 3 * dim];
            let args = Attend { qkv, queries: unit.queries.clone(), num_heads, head_dim, scale };
            attend(self.isa, args, &mut workers.mine().attention, out)
        })
    }
}

/// Copies the row of each sequence's first token.
fn take_firsts(batch: &PackedBatch, dim: usize, hidden: &[f32], firsts: &mut [f32]) {
    for (target, range) in firsts.chunks_exact_mut(dim).zip(batch.ranges()) {
        target.copy_from_slice(&hidden[range.start * dim..][..dim]);
    }
}

impl Head {
    /// The pooler stays in f32: its share of the work is nothing.
    fn pack(isa: Isa, HeadWeights { pooler, classifier, bias }: HeadWeights) -> Result<Self, ShapeError> {
        Ok(Self { pooler: Product::pack(isa, Precision::F32, &pooler, &[])?, classifier, bias })
    }
}
