//! Counts that device memory has: what is beyond a capacity is the capacity, and 0 is nothing.

use sluice_kernels::{
    cuda::encoder::{
        Activate, AddNorm, Attend, Capacity, Embed, Function, GatherFirst, Input, Norm, Normalize, Op, Output, Pool,
        Product, Queries, Score,
    },
    pool::Pooling,
};

use super::machine::{Machine, VOCABULARY, part_of, random, rows_of};
use crate::runner;

/// Neither is whole blocks or tiles.
const TOKENS: usize = 77;
const SEQUENCES: usize = 5;
const COLUMNS: usize = 64;

#[test]
fn counts_are_cut_at_the_capacity() {
    if runner::skipped() {
        return;
    }
    let mut machine = Machine::new(1);
    let (batch, _) = machine.batch(&[70, 1, 2, 3, 1], Capacity { tokens: TOKENS, sequences: SEQUENCES });
    let rows = |machine: &mut Machine, rows: usize| {
        let x = random(rows as u64, rows * COLUMNS, 1.0);
        machine.matrix(&x, COLUMNS)
    };
    let [words, positions, token_types] =
        [VOCABULARY.ids, VOCABULARY.positions, VOCABULARY.token_types].map(|count| rows(&mut machine, count as usize));
    let (x, out, weight) =
        (rows(&mut machine, TOKENS), machine.room_for_rows(TOKENS, COLUMNS), rows(&mut machine, COLUMNS));
    let (first, first_out) = (rows(&mut machine, SEQUENCES), machine.room_for_rows(SEQUENCES, COLUMNS));
    let (pooled, scores) = (machine.f32(&random(1, SEQUENCES * COLUMNS, 1.0)), machine.room::<f32>(SEQUENCES));
    let vector = machine.f32(&random(2, COLUMNS, 1.0));
    let floats = machine.room::<f32>(SEQUENCES * COLUMNS);
    let norm = Norm { gamma: vector, beta: vector, epsilon: 1e-6 };
    let count = batch.tokens;
    let (queries, wide) = (Queries::All, false);
    let attend = Attend { batch, q: x, k: x, v: x, out, num_heads: 2, head_dim: 32, scale: 0.2, queries, wide };
    let all = rows_of(&out, TOKENS);
    let firsts = rows_of(&first_out, SEQUENCES);
    let ops = [
        (Op::Embed(Embed { batch, words, positions, token_types, norm, out }), all.clone()),
        (Op::AddNorm(AddNorm { count, x, bias: None, residual: None, norm, out }), all.clone()),
        (Op::Activate(Activate { count, x: out, bias: None, function: Function::Relu }), all.clone()),
        (
            Op::Product(Product {
                count,
                x,
                weight,
                bias: None,
                function: None,
                out: Output::F16(out),
                rows_max: x.row_count(),
            }),
            all.clone(),
        ),
        (Op::Attend(attend), all.clone()),
        (Op::Attend(Attend { wide: true, ..attend }), all.clone()),
        (Op::Attend(Attend { q: first, out: first_out, queries: Queries::First, ..attend }), firsts.clone()),
        (Op::GatherFirst(GatherFirst { batch, x, out: first_out }), firsts),
        (
            Op::Pool(Pool { batch, x, pooling: Pooling::Mean, normalize: true, out: floats }),
            vec![part_of(&floats, SEQUENCES * COLUMNS)],
        ),
        (
            Op::Score(Score { count: batch.sequences, x: pooled, weight: vector, bias: 0.0, out: scores }),
            vec![part_of(&scores, SEQUENCES)],
        ),
        (Op::Normalize(Normalize { count, x: Input::F16(x), out }), all),
    ];
    for value in [u32::MAX, 0] {
        for region in [batch.tokens, batch.sequences, batch.tiles] {
            machine.write_u32(&region, &[value]);
        }
        for (op, written) in &ops {
            machine.run(*op, if value == 0 { &[] } else { written });
        }
    }
}
