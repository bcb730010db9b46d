//! Scorings to compare with the formula in f64: made from a seed, rounded as they are stored.

use half::f16;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use sluice_kernels::{
    cuda::maxsim::plan::QueryShape,
    tokens::{self, Storage},
};

/// Queries, each with documents of its own.
#[derive(Clone, Debug)]
pub struct Case {
    pub storage: Storage,
    pub dim: usize,
    /// Components of each query, `[rows, dim]`.
    pub queries: Vec<Vec<f32>>,
    pub shapes: Vec<QueryShape>,
    /// Components of each document before they are stored, `[rows, dim]`.
    pub documents: Vec<Vec<f32>>,
    pub lengths: Vec<u32>,
    pub alignment: bool,
}

impl Case {
    /// Components in [−1, 1); `queries` gives the rows of each and the lengths of its documents.
    pub fn random(seed: u64, storage: Storage, dim: usize, queries: &[(u32, &[u32])]) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut vectors =
            |rows: u32| (0..rows as usize * dim).map(|_| rng.random_range(-1.0..1.0)).collect::<Vec<f32>>();
        let mut case = Self {
            storage,
            dim,
            queries: Vec::new(),
            shapes: Vec::new(),
            documents: Vec::new(),
            lengths: Vec::new(),
            alignment: false,
        };
        for &(rows, lengths) in queries {
            case.queries.push(vectors(rows));
            case.shapes.push(QueryShape { rows, documents: lengths.len() as u32 });
            case.documents.extend(lengths.iter().map(|&length| vectors(length)));
            case.lengths.extend(lengths);
        }
        case
    }

    /// Only the document of that number, with its query.
    pub fn alone(&self, document: usize) -> Self {
        let query = self.query_of(document);
        Self {
            queries: vec![self.queries[query].clone()],
            shapes: vec![QueryShape { documents: 1, ..self.shapes[query] }],
            documents: vec![self.documents[document].clone()],
            lengths: vec![self.lengths[document]],
            ..self.clone()
        }
    }

    pub fn query_of(&self, document: usize) -> usize {
        let ends = self.shapes.iter().scan(0, |end, shape| {
            *end += shape.documents as usize;
            Some(*end)
        });
        ends.take_while(|&end| end <= document).count()
    }

    /// For each document, each query row's largest similarity in f64, its token, and the sum of products' magnitudes of
    /// that row, of the vectors as they are stored.
    pub fn reference(&self) -> Vec<Vec<Best>> {
        (0..self.documents.len())
            .map(|document| {
                let number = self.query_of(document);
                let query = self.as_stored(&self.queries[number], true);
                let rows = self.as_stored(&self.documents[document], false);
                query.chunks_exact(self.dim).map(|q| best(q, rows.chunks_exact(self.dim))).collect()
            })
            .collect()
    }

    fn as_stored(&self, x: &[f32], is_query: bool) -> Vec<f64> {
        match self.storage {
            Storage::F16 => x.iter().map(|&x| f16::from_f32(x).to_f64()).collect(),
            Storage::Int8 if is_query && x.iter().any(|x| !x.is_finite()) => vec![f64::NAN; x.len()],
            Storage::Int8 => {
                let (codes, scales) = tokens::to_int8(x, self.dim).unwrap();
                let value = |(i, &code): (usize, &u8)| (f64::from(code) - 128.0) * f64::from(scales[i / self.dim]);
                codes.iter().enumerate().map(value).collect()
            }
            _ => x.iter().copied().map(f64::from).collect(),
        }
    }
}

/// A query row's best token.
#[derive(Clone, Copy, Debug)]
pub struct Best {
    pub value: f64,
    /// The first of equal ones, or of NaNs; `u32::MAX` if there is none.
    pub token: u32,
    /// What a rounding error is relative to: the largest over tokens of Σₖ |qₖ·dₖ|.
    pub magnitude: f64,
}

fn best<'a>(q: &[f64], document: impl Iterator<Item = &'a [f64]>) -> Best {
    let mut best = Best { value: f64::NEG_INFINITY, token: u32::MAX, magnitude: 0.0 };
    for (token, d) in (0..).zip(document) {
        let value: f64 = q.iter().zip(d).map(|(q, d)| q * d).sum();
        let magnitude: f64 = q.iter().zip(d).map(|(q, d)| (q * d).abs()).sum();
        best.magnitude = best.magnitude.max(magnitude);
        if best.token == u32::MAX || value > best.value || (value.is_nan() && !best.value.is_nan()) {
            (best.value, best.token) = (value, token);
        }
    }
    best
}

/// How far a similarity may be from the reference, relative to its magnitude.
pub fn tolerance(storage: Storage, dim: usize) -> f64 {
    match storage {
        // The dot product is exact; two multiplications and a conversion round.
        Storage::Int8 => 2_f64.powi(-22),
        _ => dim as f64 * 2_f64.powi(-22),
    }
}

/// Asserts that scores, and alignments where there are any, are the reference's.
pub fn assert_conforms(case: &Case, found: &Found, name: &str) {
    let mut at = 0;
    for (document, expected) in case.reference().iter().enumerate() {
        let score = f64::from(found.scores[document]);
        let sum: f64 = expected.iter().map(|best| best.value).sum();
        let magnitude: f64 = expected.iter().map(|best| best.magnitude).sum();
        // Similarities are added in f32 as well.
        let bound = magnitude * (tolerance(case.storage, case.dim) + expected.len() as f64 * 2_f64.powi(-24));
        let same = score == sum || (score.is_nan() && sum.is_nan());
        assert!(
            same || (score - sum).abs() <= bound,
            "{name}, document {document}: {score}, expected {sum} ± {bound:e}"
        );
        for best in expected.iter().filter(|_| case.alignment) {
            let (value, token) = (f64::from(found.values[at]), found.tokens[at]);
            let bound = best.magnitude * tolerance(case.storage, case.dim);
            let same = value == best.value || (value.is_nan() && best.value.is_nan());
            assert!(same || (value - best.value).abs() <= bound, "{name}, document {document}, row {at}: {value}");
            assert_eq!(token, best.token, "{name}, document {document}, row {at}: {value}, expected {best:?}");
            at += 1;
        }
    }
}

/// What a launch wrote.
#[derive(Clone, Debug)]
pub struct Found {
    pub scores: Vec<f32>,
    pub values: Vec<f32>,
    pub tokens: Vec<u32>,
}

/// Shapes at the edges of everything that comes in tiles: rows of a query (16, 32, 64), tokens (8, 24, 32), components
/// (16 bytes, 64, 128, 256), warps and blocks.
pub fn table() -> Vec<(Storage, usize, Vec<(u32, &'static [u32])>)> {
    const EDGES: &[u32] = &[0, 1, 7, 8, 9, 15, 16, 17, 23, 24, 25, 31, 32, 33, 63, 64, 65, 180];
    let mut table = Vec::new();
    for storage in [Storage::F16, Storage::Int8] {
        for (dim, queries) in [
            (128, vec![(32, EDGES)]),
            (128, vec![(1, &[5, 0, 40][..]), (0, &[3, 0]), (16, &[9]), (17, &[33]), (31, &[8]), (33, &[2])]),
            (128, vec![(64, EDGES)]),
            (128, vec![(65, &[40, 1, 0, 9]), (32, &[200])]),
            (128, vec![(1024, &[30, 3])]),
            (384, vec![(32, &[1, 8, 33, 70]), (48, &[25])]),
            (768, vec![(32, &[40, 0, 3])]),
            (1024, vec![(33, &[25, 1]), (4, &[9])]),
            (8, vec![(5, &[1, 9, 33])]),
            (24, vec![(32, &[31, 2])]),
            (40, vec![(64, &[10, 0])]),
            (64, vec![(32, &[24, 25])]),
            (96, vec![(16, &[65])]),
            (136, vec![(32, &[17]), (40, &[12])]),
            (192, vec![(33, &[26])]),
            (256, vec![(32, &[32])]),
            (2048, vec![(3, &[9])]),
        ] {
            table.push((storage, dim, queries));
        }
    }
    table
}
