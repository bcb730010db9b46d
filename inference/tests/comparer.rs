//! Comparisons of vectors that are there already, beside the formula in f64.

use std::sync::Arc;

use half::f16;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use sluice_core::{
    Lane, ModelIndex, Operation, RequestId, UnitId,
    backend::{Backend, BackendError, BatchOutput},
    batch::{Comparison, Components, PackedBatch, QueryVectors, Role, Sequence, TokenMatrix, TokenVectors},
};
use sluice_inference::CpuComparer;

#[derive(Debug)]
enum Kept {
    F32(Vec<f32>),
    F16(Vec<f16>),
}

#[derive(Debug)]
struct Document {
    kept: Kept,
    dim: usize,
}

impl Document {
    fn floats(&self) -> Vec<f32> {
        match &self.kept {
            Kept::F32(x) => x.clone(),
            Kept::F16(x) => x.iter().map(|x| x.to_f32()).collect(),
        }
    }
}

impl TokenVectors for Document {
    fn dim(&self) -> usize {
        self.dim
    }

    fn rows(&self) -> usize {
        self.floats().len() / self.dim
    }

    fn components(&self) -> Components<'_> {
        match &self.kept {
            Kept::F32(x) => Components::F32(x),
            Kept::F16(x) => Components::F16(x),
        }
    }
}

fn random(rng: &mut SmallRng, rows: usize, dim: usize) -> Vec<f32> {
    (0..rows * dim).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn query(rng: &mut SmallRng, rows: usize, dim: usize) -> Arc<QueryVectors> {
    Arc::new(QueryVectors::known(TokenMatrix { data: random(rng, rows, dim), dim }))
}

fn batch(operation: Operation, sequences: &[Sequence]) -> Arc<PackedBatch> {
    let lane = Lane { model: ModelIndex(0), operation };
    let mut batch = PackedBatch::with_capacity(lane, sequences.len(), 0);
    for (index, sequence) in (0..).zip(sequences) {
        batch.push(UnitId { request: RequestId(1), index }, sequence);
    }
    Arc::new(batch)
}

fn compared(query: &Arc<QueryVectors>, document: &Arc<Document>) -> Sequence {
    let document = Arc::clone(document) as Arc<dyn TokenVectors>;
    Sequence::compared(Comparison { query: Arc::clone(query), document, cost: 1 })
}

fn run(operation: Operation, sequences: &[Sequence]) -> Result<BatchOutput, BackendError> {
    let mut comparer = CpuComparer::new(64, 2).expect("threads");
    let ticket = comparer.submit(batch(operation, sequences))?;
    comparer.collect(ticket)
}

/// Per query row: the best document row and its dot product.
fn best(query: &[f32], document: &[f32], dim: usize) -> Vec<(usize, f64)> {
    let dot = |q: &[f32], d: &[f32]| q.iter().zip(d).map(|(q, d)| f64::from(*q) * f64::from(*d)).sum::<f64>();
    let best = |q| {
        let rows = document.chunks_exact(dim).map(|d| dot(q, d)).enumerate();
        rows.reduce(|a, b| if b.1 > a.1 { b } else { a }).expect("a document has rows")
    };
    query.chunks_exact(dim).map(best).collect()
}

#[test]
fn scores_and_alignments_are_the_formula_s_for_every_query_of_a_batch() {
    let mut rng = SmallRng::seed_from_u64(7);
    let dim = 24;
    let queries = [query(&mut rng, 5, dim), query(&mut rng, 1, dim), query(&mut rng, 33, dim)];
    let mut sequences = Vec::new();
    let mut expected = Vec::new();
    for (turn, rows) in [3, 1, 40, 17, 9, 2, 64, 5, 30, 8, 21, 1].into_iter().enumerate() {
        let data = random(&mut rng, rows, dim);
        let kept =
            if turn % 2 == 0 { Kept::F32(data) } else { Kept::F16(data.into_iter().map(f16::from_f32).collect()) };
        let document = Arc::new(Document { kept, dim });
        // Runs of documents of one query, and the first query again behind the others.
        let query = &queries[[0, 0, 0, 0, 1, 1, 2, 2, 2, 0, 0, 2][turn]];
        sequences.push(compared(query, &document));
        expected.push(best(&query.get().expect("known").data, &document.floats(), dim));
    }
    let Ok(BatchOutput::Scores(scores)) = run(Operation::MaxSim, &sequences) else { panic!("scores") };
    let Ok(BatchOutput::Alignments(alignments)) = run(Operation::Align, &sequences) else { panic!("alignments") };
    for ((score, alignment), expected) in scores.iter().zip(&alignments).zip(&expected) {
        let sum: f64 = expected.iter().map(|(_, similarity)| similarity).sum();
        assert!((f64::from(*score) - sum).abs() < 1e-4, "{score}, expected {sum}");
        assert_eq!(alignment.score.to_bits(), score.to_bits(), "the same pass");
        for (found, (row, similarity)) in alignment.matches.iter().zip(expected) {
            assert_eq!(found.document_token.map(|row| row as usize), Some(*row));
            assert!((f64::from(found.similarity) - similarity).abs() < 1e-5);
        }
    }
    for (sequence, score) in sequences.iter().zip(&scores) {
        let Ok(BatchOutput::Scores(alone)) = run(Operation::MaxSim, std::slice::from_ref(sequence)) else {
            panic!("scores")
        };
        assert_eq!(alone[0].to_bits(), score.to_bits(), "alone as among others");
    }
}

#[test]
fn what_cannot_be_compared_fails_its_batch() {
    let mut rng = SmallRng::seed_from_u64(8);
    let document = Arc::new(Document { kept: Kept::F32(random(&mut rng, 2, 8)), dim: 8 });
    let unknown = Arc::new(QueryVectors::default());
    let other = query(&mut rng, 2, 16);
    let known = query(&mut rng, 2, 8);
    let cases = [
        (Operation::MaxSim, compared(&unknown, &document)),
        (Operation::MaxSim, compared(&other, &document)),
        (Operation::MaxSim, Sequence::single(vec![1], Role::Plain)),
        (Operation::LateInteraction, compared(&known, &document)),
    ];
    for (operation, sequence) in cases {
        let result = run(operation, std::slice::from_ref(&sequence));
        assert!(matches!(result, Err(BackendError::Failed(_))), "{operation:?} {sequence:?}: {result:?}");
    }
    let many = vec![compared(&known, &document); 65];
    assert_eq!(run(Operation::MaxSim, &many), Err(BackendError::LimitExceeded { tokens: 0, sequences: 65 }));
}
