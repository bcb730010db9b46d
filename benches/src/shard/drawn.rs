//! Documents and queries that are drawn: words as Zipf has them, dense vectors in clusters, learned sparse vectors whose
//! dimensions are as unequally frequent as words. The same seed, the same documents; none is kept.

use rand::{Rng, SeedableRng, rngs::SmallRng};
use sluice_retrieval::{
    document::{Document, SparseVector},
    schema::Metric,
    search::{LegQuery, LexicalQuery},
    vector_index::Effort,
};

use super::{DENSE, SPARSE};

pub(super) const DIM: usize = 384;
/// Different words.
const WORDS: usize = 100_000;
/// Words of a text: from, and how many more at most.
const TEXT_WORDS: (usize, usize) = (40, 120);
const TITLE_WORDS: (usize, usize) = (3, 8);
const QUERY_WORDS: (usize, usize) = (3, 4);
/// The most frequent words stand in no query, as stop words do.
const COMMON_WORDS: usize = 50;
/// Clusters of dense vectors, and how far their members lie about the centre: as far as the centre from 0.
const CLUSTERS: u64 = 1_000;
const NOISE: f32 = 1.0;
/// Independent directions of the noise: embeddings of texts fill few of their dimensions.
const NOISE_DIMS: usize = 32;
/// Dimensions of a learned sparse model, those of a document and those of a query.
const SPARSE_DIMS: usize = 30_000;
const SPARSE_DOCUMENT: (usize, usize) = (60, 60);
const SPARSE_QUERY: (usize, usize) = (10, 20);
const SEED: u64 = 200_000;

/// Draws documents and queries.
pub(super) struct Drawn {
    words: Zipf,
    dimensions: Zipf,
    /// Directions in which vectors spread about their centre.
    directions: Vec<Vec<f32>>,
}

impl Drawn {
    pub(super) fn new() -> Self {
        let mut rng = SmallRng::seed_from_u64(SEED);
        let directions = (0..NOISE_DIMS).map(|_| point(&mut rng)).collect();
        Self { words: Zipf::new(WORDS), dimensions: Zipf::new(SPARSE_DIMS), directions }
    }

    pub(super) fn document(&self, number: usize) -> Document {
        let mut rng = SmallRng::seed_from_u64(SEED ^ (number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let texts = [("title", TITLE_WORDS), ("text", TEXT_WORDS)];
        let texts = texts.map(|(field, length)| (field.to_owned(), self.text(&mut rng, length, 0)));
        Document {
            id: format!("document-{number}"),
            texts: texts.into(),
            dense: [(DENSE.to_owned(), self.vector(&mut rng))].into(),
            sparse: [(SPARSE.to_owned(), self.sparse(&mut rng, SPARSE_DOCUMENT))].into(),
            ..Document::default()
        }
    }

    /// One query for each leg: words, dense, sparse.
    pub(super) fn query(&self, number: usize) -> [LegQuery; 3] {
        let mut rng = SmallRng::seed_from_u64(!SEED ^ (number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let text = self.text(&mut rng, QUERY_WORDS, COMMON_WORDS);
        let dense = self.vector(&mut rng);
        [
            LegQuery::Lexical(LexicalQuery { text, ..LexicalQuery::default() }),
            LegQuery::Dense { vector: DENSE.to_owned(), query: dense, metric: Metric::Cosine, effort: Effort::Usual },
            LegQuery::Sparse { vector: SPARSE.to_owned(), query: self.sparse(&mut rng, SPARSE_QUERY) },
        ]
    }

    /// What they are, for the report.
    pub(super) fn description() -> String {
        format!(
            "drawn documents: {} to {} words of {WORDS} (Zipf), {DIM}-d vectors in {CLUSTERS} clusters, {} to {} of \
             {SPARSE_DIMS} sparse dimensions (Zipf); queries of {} to {} words without the {COMMON_WORDS} most frequent, \
             and {} to {} sparse dimensions",
            TITLE_WORDS.0 + TEXT_WORDS.0,
            TITLE_WORDS.0 + TITLE_WORDS.1 + TEXT_WORDS.0 + TEXT_WORDS.1,
            SPARSE_DOCUMENT.0,
            SPARSE_DOCUMENT.0 + SPARSE_DOCUMENT.1,
            QUERY_WORDS.0,
            QUERY_WORDS.0 + QUERY_WORDS.1,
            SPARSE_QUERY.0,
            SPARSE_QUERY.0 + SPARSE_QUERY.1,
        )
    }

    fn text(&self, rng: &mut SmallRng, (least, more): (usize, usize), but: usize) -> String {
        let count = least + rng.random_range(0..=more);
        let mut words = Vec::with_capacity(count);
        while words.len() < count {
            let rank = self.words.draw(rng);
            if rank >= but {
                words.push(word(rank));
            }
        }
        words.join(" ")
    }

    fn vector(&self, rng: &mut SmallRng) -> Vec<f32> {
        let mut vector = point(&mut SmallRng::seed_from_u64(rng.random_range(0..CLUSTERS)));
        let scale = NOISE / (NOISE_DIMS as f32).sqrt();
        for direction in &self.directions {
            let along = rng.random_range(-1.0..1.0) * 3.0_f32.sqrt() * scale;
            for (component, direction) in vector.iter_mut().zip(direction) {
                *component += along * direction;
            }
        }
        vector
    }

    fn sparse(&self, rng: &mut SmallRng, (least, more): (usize, usize)) -> SparseVector {
        let mut indices: Vec<u32> =
            (0..least + rng.random_range(0..=more)).map(|_| self.dimensions.draw(rng) as u32).collect();
        indices.sort_unstable();
        indices.dedup();
        // Rare dimensions say more.
        let value = |index: &u32| rng.random_range(0.1..1.0) * (1.0 + (*index as f32 + 1.0).ln() / 4.0);
        let values = indices.iter().map(value).collect();
        SparseVector { indices, values }
    }
}

fn point(rng: &mut SmallRng) -> Vec<f32> {
    (0..DIM).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// Syllables, so that no two words have one stem: it ends in a digit.
fn word(rank: usize) -> String {
    const SYLLABLES: [&str; 16] =
        ["ba", "ce", "di", "fo", "gu", "ha", "je", "ki", "lo", "mu", "na", "pe", "ri", "so", "tu", "va"];
    let mut word = String::new();
    let mut rest = rank + 16;
    while rest > 0 {
        word.push_str(SYLLABLES[rest % 16]);
        rest /= 16;
    }
    word.push('7');
    word
}

/// Ranks from 0, the n-th as frequent as 1 / (n + 1).
struct Zipf {
    /// Share of those up to each rank.
    cumulated: Vec<f64>,
}

impl Zipf {
    fn new(ranks: usize) -> Self {
        let mut sum = 0.0;
        let sums: Vec<f64> = (1..=ranks)
            .map(|rank| {
                sum += 1.0 / rank as f64;
                sum
            })
            .collect();
        Self { cumulated: sums.into_iter().map(|up_to| up_to / sum).collect() }
    }

    fn draw(&self, rng: &mut SmallRng) -> usize {
        let share: f64 = rng.random();
        self.cumulated.partition_point(|up_to| *up_to <= share).min(self.cumulated.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn documents_follow_from_their_number() {
        let (one, other) = (Drawn::new(), Drawn::new());
        assert_eq!(one.document(3), other.document(3));
        assert_ne!(one.document(3).texts, one.document(4).texts);
        assert_eq!(one.query(0), other.query(0));
        let document = one.document(3);
        assert!(document.dense[DENSE].iter().any(|component| *component != 0.0));
        assert!(document.sparse[SPARSE].indices.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn words_differ_and_ranks_are_unequal() {
        let words: BTreeSet<String> = (0..WORDS).map(word).collect();
        assert_eq!(words.len(), WORDS);
        let zipf = Zipf::new(1_000);
        let mut rng = SmallRng::seed_from_u64(1);
        let mut counts = vec![0_usize; 1_000];
        for _ in 0..100_000 {
            counts[zipf.draw(&mut rng)] += 1;
        }
        let share = counts[0] as f64 / counts[9] as f64;
        assert!((8.0..12.0).contains(&share), "the first is {share} times as frequent as the tenth");
    }
}
