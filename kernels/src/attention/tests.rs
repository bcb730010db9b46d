use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::*;

/// Packed sequences of the given lengths, components in [−2, 2).
fn random(seed: u64, lengths: &[usize], dim: usize) -> (Vec<f32>, Vec<u32>) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut cu_seqlens = vec![0];
    for &length in lengths {
        cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + length as u32);
    }
    let qkv = (0..lengths.iter().sum::<usize>() * 3 * dim).map(|_| rng.random_range(-2.0..2.0)).collect();
    (qkv, cu_seqlens)
}

fn run(isa: Isa, args: Attention<'_>) -> Vec<f32> {
    let mut out = vec![f32::NAN; args.qkv.len() / 3];
    attention(isa, args, &mut out).unwrap();
    out
}

fn check(args: Attention<'_>) {
    let expected = reference::attention(args);
    for isa in Isa::available() {
        for (i, (&x, expected)) in run(isa, args).iter().zip(&expected).enumerate() {
            assert!((f64::from(x) - expected).abs() <= 1e-5, "{}, element {i}: {x}, expected {expected}", isa.name());
        }
    }
}

#[test]
fn equals_the_reference() {
    for (seed, lengths, num_heads, head_dim) in [
        (1, &[1][..], 1, 1),
        (2, &[512], 1, 32),
        (3, &[5, 0, 17, 3, 16, 33], 3, 32),
        (4, &[7, 9], 2, 5),
        (5, &[0], 2, 8),
        (6, &[], 2, 8),
        // Around the tiles' rows and columns; heads of whole panels of some sets and of none.
        (7, &[1, 3, 4, 6, 7, 8, 9, 11, 12, 13, 15, 16], 2, 64),
        (8, &[17, 24, 25, 31, 32, 33, 48, 63, 64, 65], 2, 32),
        (9, &[37, 100], 2, 24),
        (10, &[37, 90], 1, 96),
    ] {
        let (qkv, cu_seqlens) = random(seed, lengths, num_heads * head_dim);
        let scale = 1.0 / (head_dim as f32).sqrt();
        check(Attention { qkv: &qkv, cu_seqlens: &cu_seqlens, num_heads, head_dim, scale });
    }
}

#[test]
fn one_row_attends_to_itself() {
    for isa in Isa::available() {
        let (qkv, cu_seqlens) = random(1, &[1, 1], 6);
        let out = run(isa, Attention { qkv: &qkv, cu_seqlens: &cu_seqlens, num_heads: 2, head_dim: 3, scale: 1.0 });
        assert_eq!(out, [&qkv[12..18], &qkv[30..36]].concat(), "{}", isa.name());
    }
}

#[test]
fn nan_stays_in_its_sequence() {
    for isa in Isa::available() {
        let (mut qkv, cu_seqlens) = random(1, &[5, 6], 8);
        qkv[3] = f32::NAN;
        let out = run(isa, Attention { qkv: &qkv, cu_seqlens: &cu_seqlens, num_heads: 2, head_dim: 4, scale: 1.0 });
        assert!(out[..4].iter().all(|x| x.is_nan()), "the row whose query is NaN");
        assert!(out[4..].iter().all(|x| x.is_finite()), "another head, other rows, another sequence");
        qkv[3] = 0.0;
        qkv[8] = f32::NAN;
        let out = run(isa, Attention { qkv: &qkv, cu_seqlens: &cu_seqlens, num_heads: 2, head_dim: 4, scale: 1.0 });
        let nan: Vec<usize> = (0..out.len()).filter(|&i| out[i].is_nan()).collect();
        assert_eq!(nan, (0..5).flat_map(|row| row * 8..row * 8 + 4).collect::<Vec<_>>(), "every row sees the NaN key");
    }
}

#[test]
fn misfits_are_named() {
    let qkv = [0.0; 24];
    let args = Attention { qkv: &qkv, cu_seqlens: &[0, 2], num_heads: 2, head_dim: 2, scale: 1.0 };
    let cases = [
        (Attention { num_heads: 0, ..args }, 8, ShapeError::Zero { argument: "num_heads" }),
        (Attention { head_dim: 0, ..args }, 8, ShapeError::Zero { argument: "head_dim" }),
        (Attention { qkv: &qkv[1..], ..args }, 8, ShapeError::NotRows { argument: "qkv", dim: 12, found: 23 }),
        (Attention { cu_seqlens: &[0, 1], ..args }, 8, ShapeError::CuSeqlens { rows: 2 }),
        (args, 9, ShapeError::Length { argument: "out", expected: 8, found: 9 }),
    ];
    let mut scratch = AttentionScratch::default();
    let some = Attend { qkv: &qkv, queries: 1..3, num_heads: 2, head_dim: 2, scale: 1.0 };
    let expected = ShapeError::Length { argument: "queries", expected: 2, found: 3 };
    assert_eq!(attend(Isa::fallback(), some, &mut scratch, &mut [0.0; 8]), Err(expected));
    for (args, out, expected) in cases {
        assert_eq!(attention(Isa::fallback(), args, &mut vec![0.0; out]), Err(expected));
    }
}

proptest! {
    #[test]
    fn any_shape_equals_the_reference_and_a_sequence_is_the_same_bits_alone(
        seed in any::<u64>(),
        lengths in prop::collection::vec(0_usize..40, 1..6),
        num_heads in 1_usize..4,
        head_dim in 1_usize..40,
    ) {
        let dim = num_heads * head_dim;
        let (qkv, cu_seqlens) = random(seed, &lengths, dim);
        let scale = 1.0 / (head_dim as f32).sqrt();
        let args = Attention { qkv: &qkv, cu_seqlens: &cu_seqlens, num_heads, head_dim, scale };
        check(args);
        for isa in Isa::available() {
            let together = run(isa, args);
            for rows in shape::ranges(&cu_seqlens) {
                let qkv = &qkv[rows.start * 3 * dim..rows.end * 3 * dim];
                let alone = run(isa, Attention { qkv, cu_seqlens: &[0, rows.len() as u32], ..args });
                prop_assert_eq!(&alone, &together[rows.start * dim..rows.end * dim]);
                // Its first row alone, and its last half.
                for queries in [0..rows.len().min(1), rows.len() / 2..rows.len()] {
                    let mut some = vec![f32::NAN; queries.len() * dim];
                    let args = Attend { qkv, queries: queries.clone(), num_heads, head_dim, scale };
                    attend(isa, args, &mut AttentionScratch::default(), &mut some).unwrap();
                    prop_assert_eq!(&some[..], &alone[queries.start * dim..queries.end * dim]);
                }
            }
        }
    }
}
