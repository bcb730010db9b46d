//! Puts units' results together: chunks to documents, documents to an order.

use std::ops::Range;

use sluice_core::rank::{sigmoid, top_k};

use crate::{
    engine::SlotValue,
    job::{LongDocument, Method, RerankJob, ScoreKind},
    prepare::DocumentUnits,
};

/// A result that does not fit what was asked: a bug of the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unit {unit} came back with a result of the wrong kind")]
pub struct WrongKind {
    /// Index of the unit.
    pub unit: u32,
}

/// Collects a request's results as they come.
#[derive(Debug)]
pub struct Scoring {
    method: Method,
    long_document: LongDocument,
    score_kind: ScoreKind,
    /// Which document each unit belongs to; `None` for the query's.
    document_of_unit: Vec<Option<u32>>,
    documents: Vec<DocumentScore>,
    /// The query's pooled vector, once it is there.
    query: Option<Vec<f32>>,
    /// Pooled vectors that came before the query's.
    early: Vec<(u32, Vec<f32>)>,
    scored: usize,
}

#[derive(Clone, Debug)]
struct DocumentScore {
    first_unit: u32,
    chunks: Vec<Option<f32>>,
    missing: usize,
    /// Final once nothing is missing; −∞ for a document without units.
    score: f32,
}

/// One place in the final order.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    /// Position of the document in the request.
    pub index: usize,
    /// Its score, on the scale that was asked for.
    pub score: f32,
    /// The chunk with the largest score, where there are several: its index and its bytes.
    pub best_chunk: Option<(u32, Range<u32>)>,
}

impl Scoring {
    /// Nothing scored yet.
    #[must_use]
    pub fn new(job: &RerankJob, documents: &[DocumentUnits]) -> Self {
        let end = |document: &DocumentUnits| document.first_unit as usize + document.chunks.len();
        let mut document_of_unit = vec![None; documents.iter().map(end).max().unwrap_or(0)];
        for (index, document) in (0_u32..).zip(documents) {
            document_of_unit[document.first_unit as usize..end(document)].fill(Some(index));
        }
        let documents = documents
            .iter()
            .map(|document| DocumentScore {
                first_unit: document.first_unit,
                chunks: vec![None; document.chunks.len()],
                missing: document.chunks.len(),
                score: f32::NEG_INFINITY,
            })
            .collect();
        Self {
            method: job.stages[0].method,
            long_document: job.long_document,
            score_kind: job.score_kind,
            document_of_unit,
            documents,
            query: None,
            early: Vec::new(),
            scored: 0,
        }
    }

    /// Documents that have got their score.
    #[must_use]
    pub fn scored(&self) -> usize {
        self.scored
    }

    /// Takes new results and returns the documents whose score became final: index and score.
    ///
    /// # Errors
    /// [`WrongKind`] for a result that the method cannot use.
    pub fn absorb(&mut self, results: Vec<(u32, SlotValue)>) -> Result<Vec<(u32, f32)>, WrongKind> {
        let mut scored = Vec::new();
        for (unit, value) in results {
            match (self.method, value) {
                (Method::LateInteraction | Method::CrossEncoder, SlotValue::Score(score)) => {
                    self.unit(unit, score, &mut scored);
                }
                (Method::Dense, SlotValue::Dense(vector)) => self.dense(unit, vector, &mut scored),
                _ => return Err(WrongKind { unit }),
            }
        }
        Ok(scored)
    }

    /// The final order: best first, at most `top_n`, none below `min_score`. Call when all are scored.
    #[must_use]
    pub fn ranking(&self, job: &RerankJob, documents: &[DocumentUnits]) -> Vec<Ranked> {
        let scores: Vec<f32> = self.documents.iter().map(|document| document.score).collect();
        let good_enough = |index: &usize| job.min_score.is_none_or(|min| scores[*index] >= min);
        let place = |index: usize| Ranked {
            index,
            score: scores[index],
            best_chunk: self.best_chunk(index).map(|chunk| {
                let bytes = documents[index].chunks[chunk].clone();
                (u32::try_from(chunk).unwrap_or(u32::MAX), bytes)
            }),
        };
        // Apart: a document that was scored comes first, whatever its score.
        let (scored, unscored): (Vec<usize>, Vec<usize>) =
            (0..scores.len()).partition(|index| documents[*index].is_scored());
        let of_scored: Vec<f32> = scored.iter().map(|index| scores[*index]).collect();
        let order = top_k(&of_scored, job.top_n).into_iter().map(|place| scored[place]).chain(unscored);
        order.take(job.top_n.unwrap_or(usize::MAX)).filter(good_enough).map(place).collect()
    }

    fn dense(&mut self, unit: u32, vector: Vec<f32>, scored: &mut Vec<(u32, f32)>) {
        if self.document_of_unit[unit as usize].is_none() {
            self.query = Some(vector);
            for (unit, vector) in std::mem::take(&mut self.early) {
                self.dense(unit, vector, scored);
            }
        } else if let Some(query) = &self.query {
            let cosine = query.iter().zip(&vector).map(|(q, d)| f64::from(*q) * f64::from(*d)).sum::<f64>();
            self.unit(unit, cosine as f32, scored);
        } else {
            self.early.push((unit, vector));
        }
    }

    fn unit(&mut self, unit: u32, score: f32, scored: &mut Vec<(u32, f32)>) {
        let Some(index) = self.document_of_unit[unit as usize] else { return };
        let score = match self.score_kind {
            ScoreKind::Raw => score,
            ScoreKind::Sigmoid => sigmoid(score),
        };
        let document = &mut self.documents[index as usize];
        document.chunks[(unit - document.first_unit) as usize] = Some(score);
        document.missing -= 1;
        if document.missing == 0 {
            document.score = aggregate(self.long_document, document.chunks.iter().flatten().copied());
            scored.push((index, document.score));
            self.scored += 1;
        }
    }

    fn best_chunk(&self, index: usize) -> Option<usize> {
        let chunks = &self.documents[index].chunks;
        if chunks.len() < 2 {
            return None;
        }
        let scores: Vec<f32> = chunks.iter().map(|score| score.unwrap_or(f32::NEG_INFINITY)).collect();
        top_k(&scores, Some(1)).first().copied()
    }
}

fn aggregate(long_document: LongDocument, chunks: impl Iterator<Item = f32>) -> f32 {
    match long_document {
        // Not f32::max, which would hide a NaN.
        LongDocument::Cut | LongDocument::ChunkMax => {
            chunks.reduce(|a, b| if a.is_nan() || a > b { a } else { b }).unwrap_or(f32::NEG_INFINITY)
        }
        LongDocument::ChunkMean => {
            let (sum, count) = chunks.fold((0.0, 0.0), |(sum, count), score| (sum + f64::from(score), count + 1.0));
            (sum / count) as f32
        }
    }
}

#[cfg(test)]
mod tests {
    use sluice_core::{ModelIndex, Priority};

    use super::*;
    use crate::{
        job::{Budget, CachePolicy, Content, Document, Query, StageJob},
        subject::{Source, Unavailable},
    };

    fn job(method: Method, long_document: LongDocument) -> RerankJob {
        RerankJob {
            stages: vec![StageJob { model: ModelIndex(0), method, top_k: None, budget: Budget::default() }],
            query: Query::Text("q".to_owned()),
            documents: vec![Document { id: String::new(), content: Content::Text(String::new()) }; 2],
            top_n: None,
            min_score: None,
            return_text: false,
            document_tokens_max: None,
            long_document,
            score_kind: ScoreKind::Raw,
            priority: Priority::Standard,
            budget: Budget::default(),
            until_deadline: false,
            cache: CachePolicy::Use,
        }
    }

    fn units(first_unit: u32, chunks: usize) -> DocumentUnits {
        let chunks = (0_u32..).take(chunks).map(|chunk| chunk * 10..chunk * 10 + 10).collect();
        DocumentUnits { first_unit, chunks, tokens: 0, truncated: false, source: Source::Text }
    }

    #[test]
    fn chunks_become_a_document_when_the_last_is_there() {
        for (long_document, expected) in [(LongDocument::ChunkMax, 0.9), (LongDocument::ChunkMean, 0.5)] {
            let (job, documents) = (job(Method::CrossEncoder, long_document), [units(0, 3), units(3, 1)]);
            let mut scoring = Scoring::new(&job, &documents);
            let score = |unit, score| (unit, SlotValue::Score(score));
            assert_eq!(scoring.absorb(vec![score(0, 0.1), score(3, 0.6)]), Ok(vec![(1, 0.6)]));
            assert_eq!(scoring.absorb(vec![score(2, 0.5)]), Ok(vec![]));
            let done = scoring.absorb(vec![score(1, 0.9)]).expect("the right kind");
            assert!((done[0].1 - expected).abs() < 1e-6, "{done:?}");
            assert_eq!(scoring.scored(), 2);
            let ranking = scoring.ranking(&job, &documents);
            let document = ranking.iter().find(|place| place.index == 0).expect("ranked");
            assert_eq!(document.best_chunk, Some((1, 10..20)));
        }
    }

    #[test]
    fn pooled_vectors_wait_for_the_query() {
        let (job, documents) = (job(Method::Dense, LongDocument::Cut), [units(1, 1), units(2, 1)]);
        let mut scoring = Scoring::new(&job, &documents);
        let vector = |unit, x: f32, y: f32| (unit, SlotValue::Dense(vec![x, y]));
        assert_eq!(scoring.absorb(vec![vector(1, 0.6, 0.8)]), Ok(vec![]));
        assert_eq!(scoring.absorb(vec![vector(0, 1.0, 0.0), vector(2, 0.8, 0.6)]), Ok(vec![(0, 0.6), (1, 0.8)]));
        assert_eq!(scoring.ranking(&job, &documents).iter().map(|place| place.index).collect::<Vec<_>>(), [1, 0]);
    }

    #[test]
    fn top_n_and_min_score_bound_the_answer() {
        let documents = [units(0, 1), units(1, 1)];
        let cases = [
            (None, None, vec![1, 0]),
            (Some(1), None, vec![1]),
            (None, Some(0.5), vec![1]),
            (Some(2), Some(0.9), vec![]),
        ];
        for (top_n, min_score, expected) in cases {
            let job = RerankJob { top_n, min_score, ..job(Method::CrossEncoder, LongDocument::Cut) };
            let mut scoring = Scoring::new(&job, &documents);
            scoring.absorb(vec![(0, SlotValue::Score(0.2)), (1, SlotValue::Score(0.7))]).expect("the right kind");
            let order: Vec<usize> = scoring.ranking(&job, &documents).iter().map(|place| place.index).collect();
            assert_eq!(order, expected, "{top_n:?} {min_score:?}");
        }
    }

    #[test]
    fn a_document_without_units_comes_last() {
        let job = job(Method::LateInteraction, LongDocument::Cut);
        let nothing = DocumentUnits { source: Source::Nothing(Unavailable::Missing), ..units(0, 0) };
        let documents = [nothing, units(1, 1)];
        let mut scoring = Scoring::new(&job, &documents);
        let scored = scoring.absorb(vec![(0, SlotValue::Score(0.0)), (1, SlotValue::Score(-7.0))]);
        assert_eq!(scored, Ok(vec![(1, -7.0)]));
        let ranking: Vec<_> =
            scoring.ranking(&job, &documents).iter().map(|place| (place.index, place.score)).collect();
        assert_eq!(ranking, [(1, -7.0), (0, f32::NEG_INFINITY)]);
        for score in [f32::NEG_INFINITY, f32::NAN] {
            let mut scoring = Scoring::new(&job, &documents);
            scoring.absorb(vec![(1, SlotValue::Score(score))]).expect("the right kind");
            let order: Vec<_> = scoring.ranking(&job, &documents).iter().map(|place| place.index).collect();
            assert_eq!(order, [1, 0], "{score} is a score");
        }
    }

    #[test]
    fn a_result_of_the_wrong_kind_is_an_error() {
        let (job, documents) = (job(Method::CrossEncoder, LongDocument::Cut), [units(0, 1), units(1, 1)]);
        let mut scoring = Scoring::new(&job, &documents);
        assert_eq!(scoring.absorb(vec![(1, SlotValue::Dense(vec![1.0]))]), Err(WrongKind { unit: 1 }));
    }
}
