//! Whole encoders of these operations: a cross-encoder whose last layer is of first tokens alone, and late interaction
//! whose vectors MaxSim reads where they lie.

use sluice_cuda_shim::{Launch, Limits, Memory, launch};
use sluice_kernels::{
    activation::Activation,
    attention::{self, Attention},
    cuda::{
        encoder::{
            Activate, AddNorm, Attend, BatchRegions, Capacity, Embed, Function, GatherFirst, Input, Matrix, Norm,
            Normalize, Op, Output, Product, Queries, Score,
        },
        maxsim::{
            arguments::{Placement, Rows},
            plan::{DeviceShape, LaunchPlan, QueryShape, Shape, Step},
        },
    },
    layer_norm::{LayerNorm, reference::layer_norm},
    linear::reference::linear,
    maxsim,
    normalize::reference::normalize,
    tokens::{Storage, Tokens as Vectors},
};

use super::machine::{Machine, Tokens, VOCABULARY, bits, part_of, random, rounded, rows_of};
use crate::runner;

const HIDDEN: usize = 64;
const HEADS: usize = 2;
const INTERMEDIATE: usize = 128;
const LAYERS: usize = 2;

/// A linear layer, `[outputs, inputs]`.
struct Linear {
    weight: Vec<f32>,
    bias: Vec<f32>,
    inputs: usize,
}

impl Linear {
    fn random(seed: u64, inputs: usize, outputs: usize) -> Self {
        let spread = 1.5 / (inputs as f32).sqrt();
        Self { weight: random(seed, inputs * outputs, spread), bias: random(seed + 1, outputs, 0.3), inputs }
    }

    fn apply(&self, x: &[f32], activation: Option<Activation>) -> Vec<f32> {
        linear(x, &self.weight, &self.bias, self.inputs, activation).into_iter().map(|y| y as f32).collect()
    }
}

struct Layer {
    qkv: Linear,
    output: Linear,
    up: Linear,
    down: Linear,
}

/// Weights drawn from a seed, and the encoder in f64 between its layers' f32.
struct Model {
    tables: [Vec<f32>; 3],
    gamma: Vec<f32>,
    beta: Vec<f32>,
    layers: Vec<Layer>,
    pooler: Linear,
    classifier: Vec<f32>,
}

const TABLE_ROWS: [u32; 3] = [VOCABULARY.ids, VOCABULARY.positions, VOCABULARY.token_types];
const SCALE: f32 = 0.176_776_7;

impl Model {
    fn random() -> Self {
        let layer = |seed: u64| Layer {
            qkv: Linear::random(seed, HIDDEN, 3 * HIDDEN),
            output: Linear::random(seed + 10, HIDDEN, HIDDEN),
            up: Linear::random(seed + 20, HIDDEN, INTERMEDIATE),
            down: Linear::random(seed + 30, INTERMEDIATE, HIDDEN),
        };
        let mut seed = 0;
        Self {
            tables: TABLE_ROWS.map(|rows| {
                seed += 1;
                random(seed, rows as usize * HIDDEN, 1.0)
            }),
            gamma: random(4, HIDDEN, 0.5).iter().map(|x| 1.0 + x).collect(),
            beta: random(5, HIDDEN, 0.2),
            layers: (0..LAYERS as u64).map(|number| layer(100 + 50 * number)).collect(),
            pooler: Linear::random(6, HIDDEN, HIDDEN),
            classifier: random(8, HIDDEN, 0.5),
        }
    }

    fn norm(&self, x: &[f32], residual: &[f32]) -> Vec<f32> {
        let args = LayerNorm { bias: &[], residual, gamma: &self.gamma, beta: &self.beta, epsilon: 1e-12 };
        layer_norm(args, x).into_iter().map(|y| y as f32).collect()
    }

    /// Last hidden states by the formulas.
    fn hidden(&self, tokens: &Tokens) -> Vec<f32> {
        let rows = |table: &[f32], index: u32| table[index as usize * HIDDEN..][..HIDDEN].to_vec();
        let mut sums = Vec::new();
        for sequence in tokens.cu_seqlens.windows(2) {
            for at in sequence[0]..sequence[1] {
                let index = at as usize;
                let indices = [tokens.input_ids[index], at - sequence[0], tokens.token_types[index]];
                let [word, position, kind] = [0, 1, 2].map(|table| rows(&self.tables[table], indices[table]));
                sums.extend((0..HIDDEN).map(|i| word[i] + position[i] + kind[i]));
            }
        }
        let mut hidden = self.norm(&sums, &[]);
        for layer in &self.layers {
            let qkv = layer.qkv.apply(&hidden, None);
            let args = Attention {
                qkv: &qkv,
                cu_seqlens: &tokens.cu_seqlens,
                num_heads: HEADS,
                head_dim: HIDDEN / HEADS,
                scale: SCALE,
            };
            let attended: Vec<f32> = attention::reference::attention(args).into_iter().map(|y| y as f32).collect();
            hidden = self.norm(&layer.output.apply(&attended, None), &hidden);
            let up = layer.up.apply(&hidden, Some(Activation::GeluErf));
            hidden = self.norm(&layer.down.apply(&up, None), &hidden);
        }
        hidden
    }

    fn logits(&self, tokens: &Tokens) -> Vec<f64> {
        let hidden = self.hidden(tokens);
        let first = |&start: &u32| hidden[start as usize * HIDDEN..][..HIDDEN].to_vec();
        let firsts: Vec<f32> = tokens.cu_seqlens[..tokens.cu_seqlens.len() - 1].iter().flat_map(first).collect();
        let pooled = self.pooler.apply(&firsts, None);
        let logit = |row: &[f32]| {
            row.iter().zip(&self.classifier).map(|(&x, &w)| f64::from(x).tanh() * f64::from(w)).sum::<f64>() + 0.5
        };
        pooled.chunks_exact(HIDDEN).map(logit).collect()
    }
}

/// A product's operands on the machine.
#[derive(Clone, Copy)]
struct Placed {
    weight: Matrix,
    bias: sluice_kernels::cuda::encoder::Region<half::f16>,
}

/// The model on a machine, for batches of one capacity.
struct Engine {
    machine: Machine,
    batch: BatchRegions,
    norm: Norm,
    tables: [Matrix; 3],
    layers: Vec<[Placed; 4]>,
    pooler: Placed,
    classifier: sluice_kernels::cuda::encoder::Region<f32>,
    tokens: Tokens,
}

impl Engine {
    fn new(seed: u64, model: &Model, lengths: &[usize], capacity: Capacity) -> Self {
        let mut machine = Machine::new(seed);
        let (batch, tokens) = machine.batch(lengths, capacity);
        let mut place = |linear: &Linear| Placed {
            weight: machine.matrix(&linear.weight, linear.inputs),
            bias: machine.f16(&linear.bias),
        };
        let layers = model.layers.iter().map(|l| [&l.qkv, &l.output, &l.up, &l.down].map(&mut place)).collect();
        let pooler = place(&model.pooler);
        let norm = Norm { gamma: machine.f32(&model.gamma), beta: machine.f32(&model.beta), epsilon: 1e-12 };
        let tables = [0, 1, 2].map(|table| machine.matrix(&model.tables[table], HIDDEN));
        let classifier = machine.f32(&model.classifier);
        Self { machine, batch, norm, tables, layers, pooler, classifier, tokens }
    }

    /// A matrix of rows for all tokens, or all sequences.
    fn rows(&mut self, of: Queries, columns: usize) -> Matrix {
        let Capacity { tokens, sequences } = self.batch.capacity;
        self.machine.room_for_rows(if of == Queries::All { tokens } else { sequences }, columns)
    }

    fn run(&mut self, op: Op, of: Queries, out: &Matrix) {
        let rows = if of == Queries::All { self.tokens.input_ids.len() } else { self.tokens.cu_seqlens.len() - 1 };
        self.machine.run(op, &rows_of(out, rows));
    }

    fn product(&mut self, of: Queries, x: Matrix, placed: Placed, function: Option<Function>) -> Matrix {
        let out = self.rows(of, placed.weight.row_count());
        let count = self.count(of);
        let (weight, bias) = (placed.weight, Some(placed.bias));
        self.run(
            Op::Product(Product { count, x, weight, bias, function, out: Output::F16(out), rows_max: x.row_count() }),
            of,
            &out,
        );
        out
    }

    fn count(&self, of: Queries) -> sluice_kernels::cuda::encoder::Region<u32> {
        if of == Queries::All { self.batch.tokens } else { self.batch.sequences }
    }

    fn embed(&mut self) -> Matrix {
        let out = self.rows(Queries::All, HIDDEN);
        let [words, positions, token_types] = self.tables;
        let op = Embed { batch: self.batch, words, positions, token_types, norm: self.norm, out };
        self.run(Op::Embed(op), Queries::All, &out);
        out
    }

    fn attend(&mut self, of: Queries, [q, k, v]: [Matrix; 3]) -> Matrix {
        let out = self.rows(of, HIDDEN);
        let (num_heads, head_dim) = (HEADS, HIDDEN / HEADS);
        let (batch, scale, queries) = (self.batch, SCALE, of);
        let op = Attend { batch, q, k, v, out, num_heads, head_dim, scale, queries, wide: true };
        self.run(Op::Attend(op), of, &out);
        out
    }

    /// What is behind a layer's attention; activations in the product, or after it.
    fn behind(&mut self, of: Queries, layer: [Placed; 4], attended: Matrix, hidden: Matrix, fused: bool) -> Matrix {
        let [_, output, up, down] = layer;
        let (count, norm) = (self.count(of), self.norm);
        let x = self.product(of, attended, output, None);
        let add = |x, residual| Op::AddNorm(AddNorm { count, x, bias: None, residual: Some(residual), norm, out: x });
        self.run(add(x, hidden), of, &x);
        let inner = if fused {
            self.product(of, x, up, Some(Function::GeluErf))
        } else {
            let out = self.rows(of, INTERMEDIATE);
            let weight = up.weight;
            let plain = Product {
                count,
                x,
                weight,
                bias: None,
                function: None,
                out: Output::F16(out),
                rows_max: x.row_count(),
            };
            self.run(Op::Product(plain), of, &out);
            let activate = Activate { count, x: out, bias: Some(up.bias), function: Function::GeluErf };
            self.run(Op::Activate(activate), of, &out);
            out
        };
        let y = self.product(of, inner, down, None);
        self.run(add(y, x), of, &y);
        y
    }

    fn layer(&mut self, number: usize, hidden: Matrix) -> Matrix {
        let layer = self.layers[number];
        let qkv = self.product(Queries::All, hidden, layer[0], None);
        let parts = [0, 1, 2].map(|part| qkv.columns(part * HIDDEN..(part + 1) * HIDDEN).unwrap());
        let attended = self.attend(Queries::All, parts);
        self.behind(Queries::All, layer, attended, hidden, number.is_multiple_of(2))
    }

    /// The last layer for first tokens alone: keys and values of all, the rest of those.
    fn last_layer(&mut self, hidden: Matrix) -> Matrix {
        let layer = self.layers[LAYERS - 1];
        let part = |range: std::ops::Range<usize>| Placed {
            weight: layer[0].weight.rows(range.clone()).unwrap(),
            bias: layer[0].bias.slice(range).unwrap(),
        };
        let kv = self.product(Queries::All, hidden, part(HIDDEN..3 * HIDDEN), None);
        let first = self.rows(Queries::First, HIDDEN);
        self.run(Op::GatherFirst(GatherFirst { batch: self.batch, x: hidden, out: first }), Queries::First, &first);
        let q = self.product(Queries::First, first, part(0..HIDDEN), None);
        let [k, v] = [0, 1].map(|part| kv.columns(part * HIDDEN..(part + 1) * HIDDEN).unwrap());
        let attended = self.attend(Queries::First, [q, k, v]);
        self.behind(Queries::First, layer, attended, first, (LAYERS - 1).is_multiple_of(2))
    }

    /// Hidden states before the last layer.
    fn before_last(&mut self) -> Matrix {
        let embedded = self.embed();
        (0..LAYERS - 1).fold(embedded, |hidden, number| self.layer(number, hidden))
    }

    fn logits(&mut self) -> Vec<f32> {
        let hidden = self.before_last();
        let first = self.last_layer(hidden);
        let sequences = self.tokens.cu_seqlens.len() - 1;
        let count = self.batch.sequences;
        let pooled = self.machine.room::<f32>(self.batch.capacity.sequences * HIDDEN);
        let Placed { weight, bias } = self.pooler;
        let (function, out) = (Some(Function::Tanh), Output::F32(pooled));
        let op = Product { count, x: first, weight, bias: Some(bias), function, out, rows_max: first.row_count() };
        self.machine.run(Op::Product(op), &[part_of(&pooled, sequences * HIDDEN)]);
        let out = self.machine.room::<f32>(self.batch.capacity.sequences);
        let op = Score { count, x: pooled, weight: self.classifier, bias: 0.5, out };
        self.machine.run(Op::Score(op), &[part_of(&out, sequences)]);
        self.machine.read_f32(&out)[..sequences].to_vec()
    }

    /// Unit vectors of all tokens.
    fn vectors(&mut self) -> Matrix {
        let hidden = self.before_last();
        let hidden = self.layer(LAYERS - 1, hidden);
        let op = Normalize { count: self.batch.tokens, x: Input::F16(hidden), out: hidden };
        self.run(Op::Normalize(op), Queries::All, &hidden);
        hidden
    }
}

#[test]
fn a_cross_encoder_conforms_and_its_bits_depend_on_no_batch_mate() {
    if runner::skipped() {
        return;
    }
    let model = Model::random();
    let lengths = [70, 1, 9, 130];
    let capacity = Capacity { tokens: 220, sequences: 7 };
    let mut engine = Engine::new(1, &model, &lengths, capacity);
    let together = engine.logits();
    for (found, expected) in together.iter().zip(model.logits(&engine.tokens)) {
        assert!((f64::from(*found) - expected).abs() <= 1e-2, "{together:?}, expected {expected}");
    }
    // A bucket of its own size, another one, which has larger tiles of products, and other company.
    for (lengths, capacity, at) in [
        (&[70][..], Capacity { tokens: 70, sequences: 1 }, 0),
        (&[1], Capacity { tokens: 520, sequences: 2 }, 1),
        (&[3, 9], Capacity { tokens: 12, sequences: 2 }, 2),
        (&[200, 130], Capacity { tokens: 600, sequences: 90 }, 3),
    ] {
        let found = Engine::new(2, &model, lengths, capacity).logits();
        assert_eq!(bits(&found[lengths.len() - 1..]), bits(&together[at..=at]), "{lengths:?}");
    }
}

/// A query and its documents: the first sequence and the others, whose vectors MaxSim reads where the encoder left them.
#[test]
fn token_vectors_meet_where_they_lie() {
    if runner::skipped() {
        return;
    }
    let model = Model::random();
    let lengths = [9, 70, 1, 33];
    let mut engine = Engine::new(3, &model, &lengths, Capacity { tokens: 120, sequences: 4 });
    let vectors = engine.vectors();
    let found = engine.machine.rows(&vectors, 113);
    for (i, (found, expected)) in found.iter().zip(normalize(&model.hidden(&engine.tokens), HIDDEN)).enumerate() {
        assert!((f64::from(*found) - expected).abs() <= 4e-3, "element {i}: {found}, expected {expected}");
    }

    let shapes = [QueryShape { rows: 9, documents: 3 }];
    let documents = [70, 1, 33];
    let mut plan = LaunchPlan::default();
    let shape = Shape { storage: Storage::F16, dim: HIDDEN, queries: &shapes, lengths: &documents, alignment: false };
    let device = DeviceShape {
        multiprocessors: 4,
        shared_bytes_per_block: 227 << 10,
        shared_bytes_per_multiprocessor: 228 << 10,
    };
    plan.rebuild(&shape, &device, Step::Stream).unwrap();
    let mut memory = Memory::new();
    let arena = engine.machine.upload(&mut memory);
    let at = |row: u32| Rows { rows: arena + vectors.offset() as u64 + u64::from(row) * 2 * HIDDEN as u64, scales: 0 };
    let starts = &engine.tokens.cu_seqlens;
    let (scores, program) = (memory.alloc::<f32>(3), memory.alloc::<u8>(plan.program_bytes()));
    let partials = memory.alloc::<f32>(plan.partials);
    let placement = Placement {
        program: program.address(),
        queries: &[at(0)],
        documents: &[at(starts[1]), at(starts[2]), at(starts[3])],
        scores: scores.address(),
        partials: partials.address(),
        partial_tokens: 0,
        alignment_values: 0,
        alignment_tokens: 0,
    };
    let mut bytes = vec![0; plan.program_bytes()];
    let launches = plan.encode(&placement, &mut bytes);
    memory.write(program, &bytes);
    let mut run = |kernel, grid, shared_bytes: u32| {
        let (grid, block, shared_bytes) = ([grid, 1, 1], [plan.block, 1, 1], shared_bytes as usize);
        let request = Launch { kernel, grid, block, shared_bytes, limits: Limits::SM_90, seed: 1 };
        launch(&request, &mut memory, &[launches.parameter.as_bytes()]).unwrap();
    };
    run(plan.kernel.name(), plan.grid, plan.shared_bytes);
    if let Some(second) = launches.second {
        run(second.kernel, second.grid, 0);
    }
    let cu_seqlens: Vec<u32> = starts[1..].iter().map(|start| start - starts[1]).collect();
    let args = maxsim::MaxSim {
        query: &found[..9 * HIDDEN],
        documents: Vectors::F32(&found[9 * HIDDEN..]),
        cu_seqlens: &cu_seqlens,
        dim: HIDDEN,
    };
    for (found, expected) in memory.read(scores).into_iter().zip(maxsim::reference::maxsim(args)) {
        assert!((f64::from(found) - expected).abs() <= 1e-4, "{found}, expected {expected}");
    }
    assert!(found.iter().all(|&x| x == rounded(x)));
}
