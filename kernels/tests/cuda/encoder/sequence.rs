//! What is made of the encoder's rows.

use sluice_kernels::{
    cuda::encoder::{Capacity, GatherFirst, Input, Normalize, Op, OpError, Pool, Score},
    normalize::reference::normalize,
    pool::{self, Pooling},
};

use super::machine::{Machine, assert_close, bits, part_of, random, rows_of};
use crate::runner;

/// Of 40 tokens and 6 sequences at most.
const LENGTHS: [usize; 4] = [9, 1, 17, 8];
const TOKENS: usize = 35;
const CAPACITY: Capacity = Capacity { tokens: 40, sequences: 6 };

fn starts() -> Vec<u32> {
    vec![0, 9, 10, 27, 35]
}

#[test]
fn first_rows_are_gathered() {
    if runner::skipped() {
        return;
    }
    for columns in [8, 384, 2056] {
        let mut machine = Machine::new(1);
        let (batch, _) = machine.batch(&LENGTHS, CAPACITY);
        let x = random(1, CAPACITY.tokens * columns, 1.0);
        let matrix = machine.matrix(&x, columns);
        let out = machine.room_for_rows(CAPACITY.sequences, columns);
        let op = Op::GatherFirst(GatherFirst { batch, x: matrix, out });
        machine.run(op, &rows_of(&out, 4));
        let firsts = |starts: &[u32]| -> Vec<f32> {
            starts.iter().flat_map(|&start| x[start as usize * columns..][..columns].to_vec()).collect()
        };
        assert_eq!(bits(&machine.rows(&out, 4)), bits(&firsts(&starts()[..4])), "{columns}");
        // An offset that leads out of the matrix makes NaN of its own sequence.
        machine.write_u32(&batch.cu_seqlens.slice(1..3).unwrap(), &[9, 41]);
        machine.run(op, &rows_of(&out, 4));
        let found = machine.rows(&out, 4);
        assert_eq!(bits(&found[..columns]), bits(&firsts(&[0])));
        assert!(found[columns..3 * columns].iter().all(|x| x.is_nan()), "{columns}");
    }
}

#[test]
fn pooled_rows_conform() {
    if runner::skipped() {
        return;
    }
    for columns in [8, 384, 512, 768, 1024, 1040, 2048] {
        for pooling in [Pooling::First, Pooling::Mean] {
            for normalized in [false, true] {
                let mut machine = Machine::new(columns as u64);
                let (batch, _) = machine.batch(&LENGTHS, CAPACITY);
                let mut x = random(1, CAPACITY.tokens * columns, 1.0);
                x[9 * columns..10 * columns].fill(0.0);
                x[TOKENS * columns..].fill(f32::NAN);
                let matrix = machine.matrix(&x, columns);
                let out = machine.room::<f32>(CAPACITY.sequences * columns);
                let op = Pool { batch, x: matrix, pooling, normalize: normalized, out };
                let kernel = machine.run(Op::Pool(op), &[part_of(&out, 4 * columns)]);
                let (x, cu_seqlens) = (&x[..TOKENS * columns], &starts()[..]);
                let pooled = pool::reference::pool(pool::Pool { x, cu_seqlens, dim: columns, pooling });
                let expected = if normalized { unit_rows(&pooled, columns) } else { pooled };
                let found = machine.read_f32(&out);
                for (i, (&found, expected)) in found.iter().zip(&expected).enumerate() {
                    let distance = (f64::from(found) - expected).abs();
                    assert!(distance <= 2e-6, "{kernel}, {columns}, {pooling:?}, {i}: {found}, expected {expected}");
                }
            }
        }
    }
}

fn unit_rows(x: &[f64], columns: usize) -> Vec<f64> {
    let rows = x.chunks_exact(columns).flat_map(|row| {
        let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        row.iter().map(move |x| if length == 0.0 { 0.0 } else { x / length })
    });
    rows.collect()
}

#[test]
fn a_pooled_row_has_the_same_bits_in_any_company() {
    if runner::skipped() {
        return;
    }
    let columns = 384;
    let pooled = |lengths: &[usize], x: &[f32]| {
        let mut machine = Machine::new(5);
        let (batch, _) = machine.batch(lengths, Capacity { tokens: x.len() / columns, sequences: lengths.len() });
        let matrix = machine.matrix(x, columns);
        let out = machine.room::<f32>(lengths.len() * columns);
        let op = Pool { batch, x: matrix, pooling: Pooling::Mean, normalize: true, out };
        machine.run(Op::Pool(op), &[part_of(&out, out.len())]);
        machine.read_f32(&out)
    };
    let x = random(1, TOKENS * columns, 1.0);
    let together = pooled(&LENGTHS, &x);
    for (sequence, &length) in LENGTHS.iter().enumerate() {
        let alone = pooled(&[length], &x[starts()[sequence] as usize * columns..][..length * columns]);
        assert_eq!(bits(&alone), bits(&together[sequence * columns..(sequence + 1) * columns]), "{length}");
    }
}

#[test]
fn scores_conform() {
    if runner::skipped() {
        return;
    }
    for columns in [1, 8, 31, 384, 1024] {
        let mut machine = Machine::new(columns as u64);
        let count = machine.u32(&[17]);
        let (x, weight) = (random(1, 20 * columns, 1.0), random(2, columns, 0.5));
        let out = machine.room::<f32>(20);
        let op = Score { count, x: machine.f32(&x), weight: machine.f32(&weight), bias: 0.25, out };
        machine.run(Op::Score(op), &[part_of(&out, 17)]);
        for (row, found) in x.chunks_exact(columns).zip(machine.read_f32(&out)).take(17) {
            let dot: f64 = row.iter().zip(&weight).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
            let tolerance = columns as f64 * 2_f64.powi(-24) + 1e-7;
            assert!((f64::from(found) - dot - 0.25).abs() <= tolerance, "{columns}: {found}, expected {dot} + 0.25");
        }
    }
}

#[test]
fn unit_vectors_conform() {
    if runner::skipped() {
        return;
    }
    for columns in [8, 96, 128, 384, 512, 768, 1024, 2048] {
        let mut x = random(1, 12 * columns, 2.0);
        x[columns..2 * columns].fill(0.0);
        x[2 * columns..3 * columns].fill(65504.0);
        x[3 * columns..4 * columns].fill(2_f32.powi(-24));
        x[4 * columns + 3] = f32::NAN;
        x[11 * columns..].fill(f32::NAN);
        let expected = normalize(&x[..11 * columns], columns);
        let run = |seed, floats: bool, in_place: bool| {
            let mut machine = Machine::new(seed);
            let count = machine.u32(&[11]);
            let matrix = machine.matrix(&x, columns);
            let out = if in_place { matrix } else { machine.room_for_rows(12, columns) };
            let input = if floats { Input::F32(machine.f32(&x)) } else { Input::F16(matrix) };
            let kernel = machine.run(Op::Normalize(Normalize { count, x: input, out }), &rows_of(&out, 11));
            let found = machine.rows(&out, 11);
            assert_close(&format!("{kernel}, {columns}"), &found, &expected, 1e-6);
            bits(&found)
        };
        let halves = run(1, false, false);
        assert_eq!(run(2, true, false), halves, "{columns}: the same numbers as floats");
        assert_eq!(run(3, false, true), halves, "{columns}: in place");
    }
}

#[test]
fn misfits_are_refused() {
    if runner::skipped() {
        return;
    }
    let mut machine = Machine::new(1);
    let (batch, _) = machine.batch(&LENGTHS, CAPACITY);
    let (x, short) = (machine.room_for_rows(40, 16), machine.room_for_rows(39, 16));
    let (six, floats) = (machine.room_for_rows(6, 16), machine.room::<f32>(96));
    let shape = |argument, expected, found| OpError::Shape { argument, expected, found };
    let pool = Pool { batch, x, pooling: Pooling::Mean, normalize: true, out: floats };
    let score = Score { count: batch.tokens, x: floats, weight: machine.room(16), bias: 0.0, out: machine.room(6) };
    let normalize = Normalize { count: batch.tokens, x: Input::F16(x), out: x };
    for (op, expected) in [
        (Op::GatherFirst(GatherFirst { batch, x: short, out: six }), shape("x", 40, 39)),
        (Op::GatherFirst(GatherFirst { batch, x, out: short }), shape("out", 6, 39)),
        (Op::GatherFirst(GatherFirst { batch, x, out: x.rows(3..9).unwrap() }), OpError::Overlap { argument: "x" }),
        (Op::Pool(Pool { x: short, ..pool }), shape("x", 40, 39)),
        (Op::Pool(Pool { out: floats.slice(0..95).unwrap(), ..pool }), shape("out", 96, 95)),
        (Op::Score(Score { out: machine.room(5), ..score }), shape("x", 80, 96)),
        (Op::Score(Score { out: machine.room(0), x: machine.room(0), ..score }), shape("out", 1, 0)),
        (Op::Normalize(Normalize { x: Input::F16(short), ..normalize }), shape("x", 40, 39)),
        (Op::Normalize(Normalize { x: Input::F32(floats), ..normalize }), shape("x", 640, 96)),
    ] {
        assert_eq!(machine.try_run(op, &[]), Err(expected), "{op:?}");
    }
}
