//! Attention over packed sequences.

use rand::{Rng, SeedableRng, rngs::SmallRng};
use sluice_kernels::{
    attention::{Attention, reference},
    cuda::encoder::{Attend, BatchRegions, Capacity, Matrix, Op, OpError, Queries},
};

use super::machine::{Machine, assert_close, bits, random, rows_of};
use crate::runner;

/// Batches that are drawn.
const SHAPES: u64 = 12;

/// Sequences with their heads.
#[derive(Clone)]
struct Case {
    lengths: Vec<usize>,
    heads: usize,
    head_dim: usize,
    scale: f32,
    /// `[tokens, 3, heads, head_dim]`, each sequence drawn by its length alone.
    qkv: Vec<f32>,
    /// Beyond what the batch has.
    spare: usize,
}

impl Case {
    fn random(lengths: &[usize], heads: usize, head_dim: usize) -> Self {
        let row = 3 * heads * head_dim;
        let qkv = lengths.iter().flat_map(|&length| random(length as u64, length * row, 2.0)).collect();
        Self { lengths: lengths.to_vec(), heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt(), qkv, spare: 3 }
    }

    fn dim(&self) -> usize {
        self.heads * self.head_dim
    }

    fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    fn starts(&self) -> Vec<u32> {
        let mut at = 0;
        let ends = self.lengths.iter().map(|&length| {
            at += length as u32;
            at
        });
        [0].into_iter().chain(ends).collect()
    }

    fn expected(&self) -> Vec<f64> {
        let Self { heads: num_heads, head_dim, scale, .. } = *self;
        reference::attention(Attention { qkv: &self.qkv, cu_seqlens: &self.starts(), num_heads, head_dim, scale })
    }

    /// Queries, keys and values in one matrix, which has more rows than the batch: of NaN.
    fn place(&self, machine: &mut Machine) -> (BatchRegions, Matrix) {
        let tokens = self.tokens() + self.spare;
        let (batch, _) = machine.batch(&self.lengths, Capacity { tokens, sequences: self.lengths.len() + self.spare });
        let mut all = vec![f32::NAN; tokens * 3 * self.dim()];
        all[..self.qkv.len()].copy_from_slice(&self.qkv);
        (batch, machine.matrix(&all, 3 * self.dim()))
    }

    fn op(&self, batch: BatchRegions, qkv: Matrix, out: Matrix) -> Attend {
        let part = |which: usize| qkv.columns(which * self.dim()..(which + 1) * self.dim()).unwrap();
        let Self { heads: num_heads, head_dim, scale, .. } = *self;
        let queries = Queries::All;
        Attend { batch, q: part(0), k: part(1), v: part(2), out, num_heads, head_dim, scale, queries, wide: false }
    }

    fn run(&self, seed: u64) -> Vec<f32> {
        self.run_with(seed, false)
    }

    /// With warps of 16 queries, or of 32.
    fn run_with(&self, seed: u64, wide: bool) -> Vec<f32> {
        let mut machine = Machine::new(seed);
        let (batch, qkv) = self.place(&mut machine);
        let out = machine.room_for_rows(qkv.row_count(), self.dim());
        let op = Attend { wide, ..self.op(batch, qkv, out) };
        let kernel = machine.run(Op::Attend(op), &rows_of(&out, self.tokens()));
        assert_eq!(kernel, format!("encoder_attention_{}d{}", if wide { "wide_" } else { "" }, self.head_dim));
        machine.rows(&out, self.tokens())
    }

    /// Of first tokens alone, whose queries lie in a matrix of their own.
    fn run_first(&self, seed: u64) -> Vec<f32> {
        let mut machine = Machine::new(seed);
        let (batch, qkv) = self.place(&mut machine);
        let row = |start: &u32| self.qkv[*start as usize * 3 * self.dim()..][..self.dim()].to_vec();
        let sequences = self.lengths.len();
        let mut queries: Vec<f32> = self.starts()[..sequences].iter().flat_map(row).collect();
        queries.resize(batch.capacity.sequences * self.dim(), f32::NAN);
        let q = machine.matrix(&queries, self.dim());
        let out = machine.room_for_rows(q.row_count(), self.dim());
        let op = Attend { q, queries: Queries::First, ..self.op(batch, qkv, out) };
        let kernel = machine.run(Op::Attend(op), &rows_of(&out, sequences));
        assert_eq!(kernel, format!("encoder_attention_first_d{}", self.head_dim));
        machine.rows(&out, sequences)
    }

    /// Rows of each sequence's first token.
    fn firsts(&self, rows: &[f32]) -> Vec<f32> {
        let starts = self.starts();
        let firsts = starts[..self.lengths.len()].iter();
        firsts.flat_map(|&start| rows[start as usize * self.dim()..][..self.dim()].to_vec()).collect()
    }

    fn check(&self, what: &str) {
        let magnitude = self.qkv.iter().filter(|x| x.is_finite()).fold(0.0_f32, |most, x| most.max(x.abs()));
        let found = self.run(1);
        assert_close(what, &found, &self.expected(), 4e-4 * f64::from(magnitude));
        assert_eq!(bits(&self.run_with(3, true)), bits(&found), "{what}: wide");
        assert_eq!(bits(&self.run_first(2)), bits(&self.firsts(&found)), "{what}: first tokens");
    }
}

#[test]
fn attention_conforms() {
    if runner::skipped() {
        return;
    }
    for (lengths, heads, head_dim) in [
        (&[1][..], 1, 32),
        (&[512], 1, 32),
        (&[1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65], 1, 32),
        (&[127, 1, 128, 129, 5], 2, 32),
        (&[512, 1, 257, 64, 3, 130], 1, 32),
        (&[3, 40], 12, 32),
        (&[1], 1, 64),
        (&[512, 2], 1, 64),
        (&[1, 9, 16, 17, 33, 48, 64, 65, 130], 1, 64),
        (&[20, 3], 16, 64),
    ] {
        Case::random(lengths, heads, head_dim).check(&format!("{lengths:?}, {heads} heads of {head_dim}"));
    }
}

#[test]
fn sequences_of_any_lengths_conform() {
    if runner::skipped() {
        return;
    }
    let mut rng = SmallRng::seed_from_u64(23);
    for _ in 0..SHAPES {
        let lengths: Vec<usize> = (0..rng.random_range(1..6)).map(|_| rng.random_range(1..160)).collect();
        let (heads, head_dim) = (rng.random_range(1..4), [32, 64][rng.random_range(0..2)]);
        let case = Case { spare: rng.random_range(0..70), ..Case::random(&lengths, heads, head_dim) };
        case.check(&format!("{lengths:?}, {heads} heads of {head_dim}"));
    }
}

#[test]
fn a_sequence_has_the_same_bits_in_any_company() {
    if runner::skipped() {
        return;
    }
    for head_dim in [32, 64] {
        let lengths = [70, 1, 130, 33, 64];
        let case = Case::random(&lengths, 2, head_dim);
        let together = case.run(1);
        for seed in 2..4 {
            assert_eq!(bits(&case.run(seed)), bits(&together), "seed {seed}");
        }
        for (sequence, &length) in lengths.iter().enumerate() {
            let at = case.starts()[sequence] as usize * case.dim();
            let expected = &together[at..at + length * case.dim()];
            let alone = Case { spare: 0, ..Case::random(&[length], 2, head_dim) };
            assert_eq!(bits(&alone.run(7)), bits(expected), "alone, {length}");
            let other = Case::random(&[5, 400, length], 2, head_dim);
            assert_eq!(bits(&other.run(8)[405 * case.dim()..]), bits(expected), "in other company, {length}");
        }
    }
}

#[test]
fn extreme_values_do_not_overflow() {
    if runner::skipped() {
        return;
    }
    for head_dim in [32, 64] {
        let mut case = Case::random(&[70, 9], 1, head_dim);
        let row = 3 * head_dim;
        // Similarities of 65,504² · head_dim, far apart: the largest alone counts.
        for (token, x) in case.qkv.chunks_exact_mut(row).enumerate() {
            x[..2 * head_dim].fill(if token % 3 == 0 { 65504.0 } else { -65504.0 });
        }
        case.check("large");
        // All alike: the mean of values at the edge of what a half holds.
        case.qkv.chunks_exact_mut(row).for_each(|x| x[2 * head_dim..].fill(65504.0));
        let found = case.run(3);
        assert!(found.iter().all(|&x| x == 65504.0), "{found:?}");
        // All similarities very negative: a row still has its weights.
        for x in case.qkv.chunks_exact_mut(row) {
            x[..head_dim].fill(65504.0);
            x[head_dim..2 * head_dim].fill(-65504.0);
        }
        assert!(case.run(4).iter().all(|&x| x == 65504.0));
    }
}

#[test]
fn nan_stays_in_its_sequence_and_head() {
    if runner::skipped() {
        return;
    }
    let sound = Case::random(&[70, 9, 3], 2, 32);
    let expected = sound.run(1);
    let dim = sound.dim();
    // A value, a key and a query of row 66, head 1.
    for (which, spoils_all) in [(2, true), (1, true), (0, false)] {
        let mut case = sound.clone();
        case.qkv[66 * 3 * dim + which * dim + 32 + 7] = f32::NAN;
        let found = case.run(2);
        for (row, (found, expected)) in found.chunks_exact(dim).zip(expected.chunks_exact(dim)).enumerate() {
            let spoiled = row == 66 || (spoils_all && row < 70);
            assert_eq!(bits(&found[..32]), bits(&expected[..32]), "row {row}: the other head");
            assert_eq!(found[32..].iter().any(|x| x.is_nan()), spoiled, "part {which}, row {row}");
            if !spoiled {
                assert_eq!(bits(found), bits(expected), "part {which}, row {row}");
            }
        }
    }
}

/// Whatever device memory says, nothing outside of the matrices is touched.
#[test]
fn wrong_offsets_are_harmless() {
    if runner::skipped() {
        return;
    }
    let case = Case::random(&[70, 9, 3], 1, 32);
    let mut machine = Machine::new(1);
    let (batch, qkv) = case.place(&mut machine);
    let out = machine.room_for_rows(qkv.row_count(), case.dim());
    let op = Op::Attend(case.op(batch, qkv, out));
    let anywhere = rows_of(&out, out.row_count());
    for (region, words) in [
        (batch.cu_seqlens, &[5, 2, u32::MAX, 1][..]),
        (batch.cu_seqlens, &[0, 70, 79, 4_000_000]),
        (batch.tile_table, &[0, 64, 9, 0, 0, 1 << 31, u32::MAX, u32::MAX]),
        (batch.tiles, &[u32::MAX]),
        (batch.sequences, &[u32::MAX]),
    ] {
        machine.write_u32(&region.slice(0..words.len()).unwrap(), words);
        machine.run(op, &anywhere);
    }
}

#[test]
fn misfits_are_refused() {
    if runner::skipped() {
        return;
    }
    let case = Case::random(&[9, 3], 2, 32);
    let mut machine = Machine::new(1);
    let (batch, qkv) = case.place(&mut machine);
    let out = machine.room_for_rows(qkv.row_count(), 64);
    let sound = case.op(batch, qkv, out);
    let shape = |argument, expected, found| OpError::Shape { argument, expected, found };
    for (op, expected) in [
        (Attend { head_dim: 48, ..sound }, OpError::HeadDim { found: 48 }),
        (Attend { head_dim: 64, ..sound }, shape("q", 128, 64)),
        (Attend { scale: f32::NAN, ..sound }, OpError::Number { argument: "scale" }),
        (Attend { out: out.rows(0..9).unwrap(), ..sound }, shape("out", 15, 9)),
        (Attend { queries: Queries::First, ..sound }, shape("q", 5, 15)),
        (Attend { out: sound.v, ..sound }, OpError::Overlap { argument: "q" }),
    ] {
        assert_eq!(machine.try_run(Op::Attend(op), &[]), Err(expected), "{op:?}");
    }
}
