//! Layer normalisation.

use sluice_kernels::{
    cuda::encoder::{AddNorm, Capacity, Embed, Matrix, Norm, Op, OpError},
    layer_norm::{LayerNorm, reference},
};

use super::machine::{Machine, VOCABULARY, assert_close, bits, random, rows_of};
use crate::runner;

/// Rows of the matrices, and how many of them the device is told of.
const ROWS: usize = 11;
const COUNT: usize = 9;

struct Case {
    x: Vec<f32>,
    bias: Vec<f32>,
    residual: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

impl Case {
    fn random(columns: usize, bias: bool, residual: bool) -> Self {
        let columns_if = |wanted: bool| if wanted { columns } else { 0 };
        Self {
            x: random(1, ROWS * columns, 5.0),
            bias: random(2, columns_if(bias), 1.0),
            residual: random(3, ROWS * columns_if(residual), 4.0),
            gamma: random(4, columns, 1.5),
            beta: random(5, columns, 1.0),
        }
    }

    fn columns(&self) -> usize {
        self.gamma.len()
    }

    fn expected(&self) -> Vec<f64> {
        let Self { x, bias, residual, gamma, beta } = self;
        let args = LayerNorm { bias, residual, gamma, beta, epsilon: 1e-12 };
        reference::layer_norm(args, x)[..COUNT * self.columns()].to_vec()
    }

    /// Runs it into a matrix of its own, or over one of its inputs.
    fn run(&self, seed: u64, into: Into) -> (Vec<f32>, &'static str) {
        let mut machine = Machine::new(seed);
        let count = machine.u32(&[COUNT as u32]);
        let x = machine.matrix(&self.x, self.columns());
        let bias = (!self.bias.is_empty()).then(|| machine.f16(&self.bias));
        let residual = (!self.residual.is_empty()).then(|| machine.matrix(&self.residual, self.columns()));
        let norm = Norm { gamma: machine.f32(&self.gamma), beta: machine.f32(&self.beta), epsilon: 1e-12 };
        let out = match into {
            Into::Own => machine.room_for_rows(ROWS, self.columns()),
            Into::X => x,
            Into::Residual => residual.unwrap(),
        };
        let op = Op::AddNorm(AddNorm { count, x, bias, residual, norm, out });
        let kernel = machine.run(op, &rows_of(&out, COUNT));
        (machine.rows(&out, COUNT), kernel)
    }
}

#[derive(Clone, Copy)]
enum Into {
    Own,
    X,
    Residual,
}

#[test]
fn add_norm_conforms() {
    if runner::skipped() {
        return;
    }
    let mut kernels = std::collections::BTreeSet::new();
    for columns in [8, 40, 256, 384, 512, 520, 768, 1024, 1032, 2048] {
        for (bias, residual) in [(false, false), (true, false), (false, true), (true, true)] {
            let case = Case::random(columns, bias, residual);
            let (found, kernel) = case.run(columns as u64, Into::Own);
            assert_close(&format!("{kernel}, {columns} columns"), &found, &case.expected(), 1e-5);
            kernels.insert(kernel);
            assert_eq!(bits(&case.run(7, Into::X).0), bits(&found), "over x, {columns} columns");
            if residual {
                assert_eq!(bits(&case.run(8, Into::Residual).0), bits(&found), "over the residual, {columns} columns");
            }
        }
    }
    assert_eq!(kernels.len(), 3, "{kernels:?}");
}

#[test]
fn a_row_is_normalised_alike_in_any_place() {
    if runner::skipped() {
        return;
    }
    let case = Case::random(384, true, true);
    let (found, _) = case.run(1, Into::Own);
    let mut moved = Case { x: case.x.clone(), residual: case.residual.clone(), ..Case::random(384, true, false) };
    moved.x.rotate_left(3 * 384);
    moved.residual.rotate_left(3 * 384);
    let (rotated, _) = moved.run(2, Into::Own);
    assert_eq!(bits(&rotated[..6 * 384]), bits(&found[3 * 384..]));
}

#[test]
fn extreme_rows_do_not_overflow() {
    if runner::skipped() {
        return;
    }
    let columns = 768;
    let mut case = Case::random(columns, true, true);
    let mut row = |row: usize, value: &dyn Fn(usize) -> f32| {
        (0..columns).for_each(|i| case.x[row * columns + i] = value(i));
        case.residual[row * columns..(row + 1) * columns].fill(0.0);
    };
    row(0, &|i| if i % 2 == 0 { 65504.0 } else { -65504.0 });
    row(1, &|_| 65504.0);
    row(2, &|i| if i == 5 { -65504.0 } else { 0.0 });
    row(3, &|i| i as f32 * 2_f32.powi(-24));
    row(4, &|i| if i == 700 { f32::NAN } else { 1.0 });
    row(5, &|i| if i == 700 { f32::INFINITY } else { 1.0 });
    case.bias.fill(0.0);
    case.residual[columns..2 * columns].fill(65504.0);
    let (found, kernel) = case.run(1, Into::Own);
    let rows = |x: &[f32], range: std::ops::Range<usize>| x[range.start * columns..range.end * columns].to_vec();
    assert!(rows(&found, 4..6).iter().all(|x| x.is_nan()), "{kernel}");
    let expected: Vec<f64> = case.expected();
    assert_close(kernel, &rows(&found, 0..4), &expected[..4 * columns], 1e-5);
    assert_close(kernel, &rows(&found, 6..COUNT), &expected[6 * columns..], 1e-5);
    assert_eq!(rows(&found, 1..2), case.beta, "a constant row");
}

#[test]
fn embeddings_conform() {
    if runner::skipped() {
        return;
    }
    for (columns, lengths) in [(8, &[1][..]), (384, &[5, 1, 30]), (768, &[9, 2]), (1024, &[3]), (2048, &[2, 1])] {
        let mut machine = Machine::new(columns as u64);
        let (batch, tokens) = machine.batch(lengths, Capacity { tokens: 40, sequences: 4 });
        let table = |machine: &mut Machine, seed, rows: u32| {
            let x = random(seed, rows as usize * columns, 1.0);
            (machine.matrix(&x, columns), x)
        };
        let (words, word) = table(&mut machine, 1, VOCABULARY.ids);
        let (positions, position) = table(&mut machine, 2, VOCABULARY.positions);
        let (token_types, token_type) = table(&mut machine, 3, VOCABULARY.token_types);
        let (gamma, beta) = (random(4, columns, 1.5), random(5, columns, 1.0));
        let norm = Norm { gamma: machine.f32(&gamma), beta: machine.f32(&beta), epsilon: 1e-12 };
        let out = machine.room_for_rows(40, columns);
        let op = Embed { batch, words, positions, token_types, norm, out };
        let count = tokens.input_ids.len();
        let kernel = machine.run(Op::Embed(op), &rows_of(&out, count));
        let found = machine.rows(&out, count);

        let row = |x: &[f32], index: u32| x[index as usize * columns..][..columns].to_vec();
        let of_tokens =
            |x: &[f32], indices: &[u32]| indices.iter().flat_map(|&index| row(x, index)).collect::<Vec<_>>();
        let at: Vec<u32> = tokens.cu_seqlens.windows(2).flat_map(|rows| 0..rows[1] - rows[0]).collect();
        let sum: Vec<f32> = of_tokens(&position, &at)
            .iter()
            .zip(of_tokens(&token_type, &tokens.token_types))
            .map(|(x, y)| x + y)
            .collect();
        let word = of_tokens(&word, &tokens.input_ids);
        let args = LayerNorm { bias: &[], residual: &word, gamma: &gamma, beta: &beta, epsilon: 1e-12 };
        assert_close(kernel, &found, &reference::layer_norm(args, &sum), 1e-5);

        // Whatever device memory says, nothing outside is read, and the wrong token alone is NaN.
        for (region, wrong) in [(batch.input_ids, VOCABULARY.ids), (batch.positions, u32::MAX), (batch.token_types, 2)]
        {
            let mut words = [wrong];
            let first = region.slice(0..1).unwrap();
            machine.write_u32(&first, &words);
            machine.run(Op::Embed(op), &rows_of(&out, count));
            let faulty = machine.rows(&out, count);
            assert!(faulty[..columns].iter().all(|x| x.is_nan()), "{kernel}: {wrong}");
            assert_eq!(bits(&faulty[columns..]), bits(&found[columns..]), "{kernel}: {wrong}");
            words[0] = 0;
            machine.write_u32(&first, &words);
        }
        // A count beyond the capacity is the capacity.
        machine.write_u32(&batch.tokens, &[u32::MAX]);
        machine.run(Op::Embed(op), &rows_of(&out, 40));
    }
}

#[test]
fn misfits_are_refused() {
    if runner::skipped() {
        return;
    }
    let mut machine = Machine::new(1);
    let count = machine.u32(&[2]);
    let x = machine.room_for_rows(4, 16);
    let (wide, long) = (machine.room_for_rows(4, 24), machine.room_for_rows(6, 16));
    let norm = Norm { gamma: machine.room(16), beta: machine.room(16), epsilon: 1e-12 };
    let short = machine.room(8);
    let out = machine.room_for_rows(4, 16);
    let sound = AddNorm { count, x, bias: None, residual: None, norm, out };
    let shape = |argument, expected, found| OpError::Shape { argument, expected, found };
    let shifted: Matrix = long.rows(1..5).unwrap();
    let two = machine.u32(&[1, 2]);
    let too_wide = machine.room_for_rows(4, 2056);
    let norm_of = |gamma, epsilon| Norm { gamma, epsilon, ..norm };
    for (op, expected) in [
        (AddNorm { x: wide, ..sound }, shape("x", 16, 24)),
        (AddNorm { residual: Some(long), ..sound }, shape("residual", 4, 6)),
        (AddNorm { bias: Some(machine.room(8)), ..sound }, shape("bias", 16, 8)),
        (AddNorm { norm: norm_of(short, 1e-12), ..sound }, shape("gamma", 16, 8)),
        (AddNorm { norm: norm_of(norm.gamma, 0.0), ..sound }, OpError::Number { argument: "epsilon" }),
        (AddNorm { count: two, ..sound }, shape("count", 1, 2)),
        (AddNorm { x: long.rows(0..4).unwrap(), out: shifted, ..sound }, OpError::Overlap { argument: "x" }),
    ] {
        assert_eq!(machine.try_run(Op::AddNorm(op), &[]), Err(expected), "{op:?}");
    }
    let gamma = machine.room(2056);
    let wide = AddNorm { x: too_wide, out: too_wide, norm: Norm { gamma, beta: gamma, epsilon: 1.0 }, ..sound };
    let expected = OpError::Width { argument: "columns", found: 2056, most: 2048 };
    assert_eq!(machine.try_run(Op::AddNorm(wide), &[]), Err(expected));
}
