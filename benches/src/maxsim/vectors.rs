//! Token vectors in every storage, and what their scores should be.

use super::huge_pages::HugePages;
use half::f16;
use rand::{Rng, SeedableRng, rngs::StdRng};
use sluice_kernels::{
    maxsim::{MaxSim, reference},
    tokens::{Storage, Tokens, to_binary, to_f16, to_int8},
};

/// A query and documents that all have as many token vectors.
pub(super) struct Vectors {
    pub(super) documents: usize,
    pub(super) tokens: usize,
    pub(super) dim: usize,
    pub(super) query: Vec<f32>,
    f32: HugePages<f32>,
    f16: HugePages<f16>,
    int8: (HugePages<u8>, HugePages<f32>),
    binary: HugePages<u8>,
}

/// Documents that are looked up, of whatever storage.
#[derive(Clone, Copy)]
pub(super) struct Stored<'a> {
    pub(super) rows: Tokens<'a>,
    pub(super) documents: usize,
    pub(super) tokens: usize,
    pub(super) dim: usize,
}

impl<'a> Stored<'a> {
    /// Document `index`.
    pub(super) fn document(&self, index: usize) -> Tokens<'a> {
        self.rows.slice(self.dim, index * self.tokens..(index + 1) * self.tokens)
    }
}

/// Documents that are also compared with the reference, which takes its time.
const REFERENCED: usize = 8;

impl Vectors {
    /// Vectors of length 1 in random directions, the same ones every time.
    pub(super) fn random(documents: usize, tokens: usize, query_tokens: usize, dim: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(0x51_u64 << 32 | dim as u64);
        let mut rows = |rows: usize| {
            let mut rows: Vec<f32> = (0..rows * dim).map(|_| rng.random_range(-1.0..1.0)).collect();
            for row in rows.chunks_exact_mut(dim) {
                let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
                row.iter_mut().for_each(|x| *x /= length);
            }
            rows
        };
        let query = rows(query_tokens);
        let f32 = rows(documents * tokens);
        Self::stored_in_all(query, &f32, tokens, dim)
    }

    /// The first documents alone.
    pub(super) fn first(&self, documents: usize) -> Self {
        let rows = &self.f32[..documents * self.tokens * self.dim];
        Self::stored_in_all(self.query.clone(), rows, self.tokens, self.dim)
    }

    fn stored_in_all(query: Vec<f32>, f32: &[f32], tokens: usize, dim: usize) -> Self {
        let (codes, scales) = to_int8(f32, dim).unwrap_or_default();
        Self {
            documents: f32.len() / dim / tokens,
            tokens,
            dim,
            query,
            f32: HugePages::of(f32),
            f16: HugePages::of(&to_f16(f32)),
            int8: (HugePages::of(&codes), HugePages::of(&scales)),
            binary: HugePages::of(&to_binary(f32, dim).unwrap_or_default()),
        }
    }

    /// The documents in one storage.
    pub(super) fn stored(&self, storage: Storage) -> Stored<'_> {
        let rows = match storage {
            Storage::F32 => Tokens::F32(&self.f32),
            Storage::F16 => Tokens::F16(&self.f16),
            Storage::Int8 => Tokens::Int8 { codes: &self.int8.0, scales: &self.int8.1 },
            Storage::Binary => Tokens::Binary(&self.binary),
        };
        Stored { rows, documents: self.documents, tokens: self.tokens, dim: self.dim }
    }

    /// The documents and the query as they are.
    pub(super) fn plain(&self) -> (&[f32], &[f32]) {
        (&self.f32, &self.query)
    }

    /// Operations of one pass over the documents, a multiply-add being two.
    pub(super) fn operations(&self) -> u64 {
        2 * (self.f32.len() * self.query.len() / self.dim) as u64
    }

    /// Where scores of documents in a storage are not what they should be: beside NumPy's over f32, and beside the f64
    /// reference over what is stored.
    pub(super) fn faults(&self, case: &str, storage: Storage, scores: &[f32], numpy: &[f32]) -> Vec<String> {
        let query_tokens = (self.query.len() / self.dim) as f64;
        // For a query token; vectors have length 1.
        let (of_rounding, of_storage) = match storage {
            Storage::F32 => (1e-6, Some(1e-6)),
            Storage::F16 => (1e-6, Some(5e-4)),
            // The query has 8 bits too.
            Storage::Int8 => (2e-3, Some(4e-3)),
            // Document vectors have length √dim, and directions of their own.
            Storage::Binary => (2e-3 * (self.dim as f64).sqrt(), None),
        };
        let stored = self.stored(storage);
        let rows = self.documents.min(REFERENCED) * self.tokens;
        let cu_seqlens: Vec<u32> = (0..=rows).step_by(self.tokens).map(|row| row as u32).collect();
        let documents = stored.rows.slice(self.dim, 0..rows);
        let expected =
            reference::maxsim(MaxSim { query: &self.query, documents, cu_seqlens: &cu_seqlens, dim: self.dim });
        let numpy: Vec<f64> = numpy.iter().map(|&score| f64::from(score)).collect();
        let mut faults = Vec::new();
        let mut compare = |name: &str, expected: &[f64], allowed: f64| {
            let difference = largest_difference(scores, expected);
            if difference > allowed * query_tokens {
                faults.push(format!("{case}: a score differs by {difference:.1e} from {name}'s"));
            }
        };
        compare("the reference", &expected, of_rounding);
        if let Some(allowed) = of_storage {
            compare("NumPy", &numpy, allowed);
        }
        if scores.len() != self.documents || scores.iter().all(|&score| score == 0.0) {
            faults.push(format!("{case}: {} scores of {} documents", scores.len(), self.documents));
        }
        faults
    }
}

/// Over the documents that both have; infinite if a difference is not a number.
fn largest_difference(scores: &[f32], expected: &[f64]) -> f64 {
    let differences = scores.iter().zip(expected).map(|(&score, expected)| (f64::from(score) - expected).abs());
    differences.map(|difference| if difference.is_nan() { f64::INFINITY } else { difference }).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use sluice_kernels::maxsim::maxsim;

    use super::*;

    #[test]
    fn right_scores_have_no_faults_and_wrong_ones_have() {
        let vectors = Vectors::random(3, 5, 4, 16);
        let cu_seqlens = [0, 5, 10, 15];
        let expected: Vec<f32> = {
            let args = MaxSim {
                query: &vectors.query,
                documents: Tokens::F32(&vectors.f32),
                cu_seqlens: &cu_seqlens,
                dim: 16,
            };
            reference::maxsim(args).into_iter().map(|score| score as f32).collect()
        };
        for storage in [Storage::F32, Storage::F16, Storage::Int8, Storage::Binary] {
            let documents = vectors.stored(storage).rows;
            let mut scores = [0.0; 3];
            let args = MaxSim { query: &vectors.query, documents, cu_seqlens: &cu_seqlens, dim: 16 };
            maxsim(args, &mut scores).unwrap();
            assert_eq!(vectors.faults("case", storage, &scores, &expected), Vec::<String>::new());
            scores[1] += 0.5;
            assert!(!vectors.faults("case", storage, &scores, &expected).is_empty(), "{storage:?}");
            assert!(!vectors.faults("case", storage, &[f32::NAN; 3], &expected).is_empty(), "{storage:?}");
            assert!(!vectors.faults("case", storage, &scores[..2], &expected).is_empty(), "{storage:?}");
        }
    }

    #[test]
    fn vectors_are_the_same_every_time_and_of_length_one() {
        let (a, b) = (Vectors::random(2, 3, 4, 32), Vectors::random(2, 3, 4, 32));
        assert_eq!(a.plain(), b.plain());
        assert!(a.f32.chunks(32).all(|row| (row.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5));
        assert_eq!((a.operations(), a.first(1).documents), (2 * 6 * 32 * 4, 1));
        assert_eq!(a.first(1).plain().0, &a.f32[..3 * 32]);
        assert_eq!(a.stored(Storage::Binary).document(1).rows(32), Ok(3));
    }
}
