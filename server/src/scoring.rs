//! Puts the results of a stage's units together: chunks to documents.

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

/// Collects a stage's results as they come. Documents are counted as the stage was given them.
#[derive(Debug)]
pub struct Scoring {
    long_document: LongDocument,
    score_kind: ScoreKind,
    /// Which document each unit belongs to; `None` for the query's.
    document_of_unit: Vec<Option<u32>>,
    documents: Vec<DocumentScore>,
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

/// A document that has its score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// On the scale that was asked for.
    pub score: f32,
    /// Index of the chunk with the largest score, where there are several.
    pub best_chunk: Option<usize>,
}

impl Scoring {
    /// Nothing scored yet.
    #[must_use]
    pub fn new(job: &RerankJob, method: Method, documents: &[DocumentUnits]) -> Self {
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
        // Other scores are no logits.
        let score_kind = if method == Method::CrossEncoder { job.score_kind } else { ScoreKind::Raw };
        Self { long_document: job.long_document, score_kind, document_of_unit, documents, scored: 0 }
    }

    /// Documents that have got their score.
    #[must_use]
    pub fn scored(&self) -> usize {
        self.scored
    }

    /// Takes new results and returns the documents whose score became final: index and score.
    ///
    /// # Errors
    /// [`WrongKind`] for a result that is no score.
    pub fn absorb(&mut self, results: Vec<(u32, SlotValue)>) -> Result<Vec<(u32, f32)>, WrongKind> {
        let mut scored = Vec::new();
        for (unit, value) in results {
            match value {
                SlotValue::Score(score) => self.unit(unit, score, &mut scored),
                SlotValue::Tokens(_) | SlotValue::Dense(_) | SlotValue::Alignment(_) => return Err(WrongKind { unit }),
            }
        }
        Ok(scored)
    }

    /// What has come of a document; `None` as long as a part of it has no result, and for one without units.
    #[must_use]
    pub fn of(&self, document: usize) -> Option<Scored> {
        let DocumentScore { chunks, missing, score, .. } = &self.documents[document];
        (*missing == 0 && !chunks.is_empty()).then(|| Scored { score: *score, best_chunk: self.best_chunk(document) })
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
    use sluice_core::Priority;

    use super::*;
    use crate::{
        job::{Budget, CachePolicy, Content, Document, Query},
        subject::{Source, Unavailable},
    };

    fn job(long_document: LongDocument) -> RerankJob {
        RerankJob {
            stages: Vec::new(),
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
            let (job, documents) = (job(long_document), [units(0, 3), units(3, 1)]);
            let mut scoring = Scoring::new(&job, Method::CrossEncoder, &documents);
            let score = |unit, score| (unit, SlotValue::Score(score));
            assert_eq!(scoring.absorb(vec![score(0, 0.1), score(3, 0.6)]), Ok(vec![(1, 0.6)]));
            assert_eq!(scoring.absorb(vec![score(2, 0.5)]), Ok(vec![]));
            let done = scoring.absorb(vec![score(1, 0.9)]).expect("the right kind");
            assert!((done[0].1 - expected).abs() < 1e-6, "{done:?}");
            assert_eq!(scoring.scored(), 2);
            let best = [0, 1].map(|document| scoring.of(document).and_then(|scored| scored.best_chunk));
            assert_eq!(best, [Some(1), None]);
        }
    }

    #[test]
    fn a_document_without_units_or_with_a_part_missing_has_no_score() {
        let job = job(LongDocument::ChunkMax);
        let nothing = DocumentUnits { source: Source::Nothing(Unavailable::Missing), ..units(0, 0) };
        let mut scoring = Scoring::new(&job, Method::LateInteraction, &[nothing, units(1, 1), units(2, 2)]);
        let scores =
            vec![(0, SlotValue::Score(0.0)), (1, SlotValue::Score(f32::NEG_INFINITY)), (3, SlotValue::Score(1.0))];
        assert_eq!(scoring.absorb(scores), Ok(vec![(1, f32::NEG_INFINITY)]));
        let lowest = Scored { score: f32::NEG_INFINITY, best_chunk: None };
        assert_eq!([0, 1, 2].map(|document| scoring.of(document)), [None, Some(lowest), None]);
    }

    #[test]
    fn a_result_of_the_wrong_kind_is_an_error() {
        let (job, documents) = (job(LongDocument::Cut), [units(0, 1), units(1, 1)]);
        let mut scoring = Scoring::new(&job, Method::CrossEncoder, &documents);
        assert_eq!(scoring.absorb(vec![(1, SlotValue::Dense(vec![1.0]))]), Err(WrongKind { unit: 1 }));
    }
}
