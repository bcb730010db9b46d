//! Queries and documents to compare with the reference.

use half::f16;
use rand::{Rng, SeedableRng, rngs::SmallRng};

use crate::{
    InstructionSet, Isa,
    maxsim::{MaxSim, maxsim_on, reference},
    tokens::{Storage, Tokens, to_binary, to_f16, to_int8},
};

pub(super) const STORAGES: [Storage; 4] = [Storage::F32, Storage::F16, Storage::Int8, Storage::Binary];

/// Token vectors that own what they are stored in.
#[derive(Clone)]
pub(super) enum Stored {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Int8(Vec<u8>, Vec<f32>),
    Binary(Vec<u8>),
}

impl Stored {
    pub(super) fn new(storage: Storage, x: &[f32], dim: usize) -> Self {
        match storage {
            Storage::F32 => Self::F32(x.to_vec()),
            Storage::F16 => Self::F16(to_f16(x)),
            Storage::Int8 => {
                let (codes, scales) = to_int8(x, dim).unwrap();
                Self::Int8(codes, scales)
            }
            Storage::Binary => Self::Binary(to_binary(x, dim).unwrap()),
        }
    }

    pub(super) fn tokens(&self) -> Tokens<'_> {
        match self {
            Self::F32(x) => Tokens::F32(x),
            Self::F16(x) => Tokens::F16(x),
            Self::Int8(codes, scales) => Tokens::Int8 { codes, scales },
            Self::Binary(bits) => Tokens::Binary(bits),
        }
    }
}

/// A query and documents of the given lengths.
#[derive(Clone)]
pub(super) struct Case {
    pub(super) query: Vec<f32>,
    pub(super) documents: Stored,
    pub(super) cu_seqlens: Vec<u32>,
    pub(super) dim: usize,
}

impl Case {
    /// Components in [−1, 1).
    pub(super) fn random(storage: Storage, seed: u64, q_len: usize, lengths: &[usize], dim: usize) -> Self {
        Self::within(storage, seed, (q_len, lengths, dim), [-1.0..1.0, -1.0..1.0])
    }

    /// Components of the query and of the documents in these ranges.
    pub(super) fn within(
        storage: Storage,
        seed: u64,
        (q_len, lengths, dim): (usize, &[usize], usize),
        [query, documents]: [std::ops::Range<f32>; 2],
    ) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut rows = |rows: usize, range: std::ops::Range<f32>| {
            (0..rows * dim).map(|_| rng.random_range(range.clone())).collect::<Vec<f32>>()
        };
        let query = rows(q_len, query);
        let documents = Stored::new(storage, &rows(lengths.iter().sum(), documents), dim);
        Self { query, documents, cu_seqlens: cu_seqlens(lengths), dim }
    }

    pub(super) fn args(&self) -> MaxSim<'_> {
        MaxSim { query: &self.query, documents: self.documents.tokens(), cu_seqlens: &self.cu_seqlens, dim: self.dim }
    }

    pub(super) fn scores(&self, isa: Isa) -> Vec<f32> {
        let mut scores = vec![f32::NAN; self.cu_seqlens.len() - 1];
        maxsim_on(isa, self.args(), &mut scores).unwrap();
        scores
    }

    /// Document `i`, where it lies.
    pub(super) fn document(&self, i: usize) -> Tokens<'_> {
        let rows = self.cu_seqlens[i] as usize..self.cu_seqlens[i + 1] as usize;
        self.documents.tokens().slice(self.dim, rows)
    }

    /// The query as the implementations see it: for codes, what its own codes stand for.
    pub(super) fn seen_query(&self) -> Vec<f32> {
        match self.documents.tokens().storage() {
            Storage::F32 | Storage::F16 => self.query.clone(),
            Storage::Int8 | Storage::Binary => {
                let coded = Stored::new(Storage::Int8, &self.query, self.dim);
                let component = |i: usize| coded.tokens().component(self.dim, i / self.dim, i % self.dim);
                (0..self.query.len()).map(component).collect()
            }
        }
    }
}

pub(super) fn cu_seqlens(lengths: &[usize]) -> Vec<u32> {
    let ends = lengths.iter().scan(0, |end, &length| {
        *end += length as u32;
        Some(*end)
    });
    std::iter::once(0).chain(ends).collect()
}

/// How far the scores of a query row may be from the reference's, as a share of `dim` products of components of 1.
pub(super) fn tolerance(storage: Storage) -> f64 {
    match storage {
        // Sums in f32, in order.
        Storage::F32 | Storage::F16 => 2_f64.powi(-24),
        // Sums are exact, and a handful of roundings follow.
        Storage::Int8 | Storage::Binary => 2_f64.powi(-23),
    }
}

/// Scores are the reference's over the query as the implementation sees it.
pub(super) fn check(isa: Isa, case: &Case, tolerance: f64) {
    let query = case.seen_query();
    let expected = reference::maxsim(MaxSim { query: &query, ..case.args() });
    // In the worst case each row of the query is off by as much, in the same direction.
    let allowed = tolerance * case.query.len() as f64;
    for (i, (&score, expected)) in case.scores(isa).iter().zip(expected).enumerate() {
        let score = f64::from(score);
        let same = score == expected || (score.is_nan() && expected.is_nan());
        // The score itself is an f32.
        let allowed = allowed + expected.abs() * 2_f64.powi(-24);
        assert!(
            same || (score - expected).abs() <= allowed,
            "{}, {:?}, {} query rows × {} components, document {i}: {score}, expected {expected} ± {allowed:e}",
            isa.name(),
            case.documents.tokens().storage(),
            case.query.len() / case.dim,
            case.dim,
        );
    }
}

/// What the machine has. What it lacks is said, and is a failure if the names in `required` have it.
pub(super) fn implementations(required: Option<&str>) -> Vec<Isa> {
    for set in InstructionSet::ALL.into_iter().filter(|&set| Isa::of(set).is_none()) {
        let name = set.name();
        let wanted = required.is_some_and(|names| names.split(',').any(|wanted| wanted.trim() == name));
        assert!(!wanted, "this machine has no {name}, which SLUICE_REQUIRE_ISA names");
        println!("skipped: this machine has no {name}");
    }
    Isa::available().collect()
}
