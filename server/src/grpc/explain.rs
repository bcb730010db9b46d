//! `RerankService/Explain`: which document token each query token matched.

use std::sync::Arc;

use sluice_core::{
    Lane, Operation, Priority, Worth,
    batch::{Alignment, Comparison, QueryVectors, Sequence, TokenMatrix, TokenVectors},
    cost::BatchShape,
};
use sluice_proto::rerank::v1::{ExplainRequest, ExplainResponse, ExplainedDocument, Token, TokenMatch};
use sluice_service::status::Refusal;

use super::{
    App, Warm,
    call::{Caller, fault},
    refusal,
    rerank::wire_source,
};
use crate::{
    engine::{
        Progress, SlotValue, Submission,
        permit::{self, Permit},
    },
    job::{ExplainJob, Query},
    models::Model,
    prepare::{Spelled, SpelledToken},
    subject::Subject,
    validate,
    vectors::OwnedVectors,
};

impl App {
    pub(super) async fn explain_scores(
        &self,
        request: ExplainRequest,
        caller: Caller,
    ) -> Result<ExplainResponse, Refusal> {
        let warm = self.warm()?;
        let job = Arc::new(validate::explain(request, &warm.models, &self.0.limits)?);
        let model = warm.models.get(job.model);
        let lane = Lane { model: job.model, operation: Operation::EncodeTokens };
        let terms = self.terms(caller, Priority::Interactive, Worth::Whole);
        let texts = || job.documents.iter().filter_map(|document| document.content.text());
        let guessed = permit::Texts {
            lane,
            count: texts().count() as u64,
            bytes: texts().map(|text| text.len() as u64).sum(),
            tokens_max: model.tokens_max() as u64,
        };
        let permit = self.admit(terms, guessed, job.documents.len(), job.bytes())?;
        let subjects =
            self.subjects(&job, |job| &job.documents, (0..job.documents.len()).collect(), model.digest).await?;
        let texts = self.spell(&job, model).await?;
        let encoded = texts.encoded(&subjects);
        let lengths = || encoded.iter().map(|ids| u32::try_from(ids.len()).unwrap_or(u32::MAX));
        let computed = lengths().map(u64::from).sum();
        let (permit, mut admitted) = self.admit_tokens(permit, computed, &[(lane, BatchShape::of_all(lengths()))])?;
        let explained = self.explain_admitted(warm, &job, subjects, &texts, encoded, permit).await;
        admitted.end(explained.as_ref().err());
        let (model, model_digest) = (model.name.clone(), model.info.digest.clone());
        let query_tokens = match (texts.query, &job.query) {
            (Some(query), _) => tokens(query.tokens),
            (None, Query::Vectors(vectors)) => vec![Token::default(); vectors.get().map_or(0, TokenMatrix::rows)],
            (None, Query::Text(_)) => Vec::new(),
        };
        Ok(ExplainResponse { query_tokens, documents: explained?, model, model_digest })
    }

    /// Every text of the request, token by token.
    async fn spell(&self, job: &ExplainJob, model: &Model) -> Result<Texts, Refusal> {
        let query = match &job.query {
            Query::Text(text) => Some(text.clone()),
            Query::Vectors(_) => None,
        };
        let queries = usize::from(query.is_some());
        let documents: Vec<Option<String>> =
            job.documents.iter().map(|document| document.content.text().map(str::to_owned)).collect();
        let present: Vec<bool> = documents.iter().map(Option::is_some).collect();
        let texts = query.into_iter().chain(documents.into_iter().flatten()).collect();
        let mut spelled = self.0.preparer.spell(texts, &model.text, model.tokens_max()).await?.into_iter();
        let query = spelled.by_ref().take(queries).next();
        if query.as_ref().is_some_and(|query| query.truncated) {
            let most = model.tokens_max();
            return Err(fault("query.text", format!("has more than the model's {most} tokens; a query is never cut")));
        }
        let documents = present.into_iter().map(|present| if present { spelled.next() } else { None }).collect();
        Ok(Texts { query, documents })
    }

    async fn explain_admitted(
        &self,
        warm: &Warm,
        job: &ExplainJob,
        subjects: Vec<Subject>,
        texts: &Texts,
        encoded: Vec<Vec<u32>>,
        permit: Permit,
    ) -> Result<Vec<ExplainedDocument>, Refusal> {
        // The request's own room is held until its second half is done.
        let borrowed = self.0.permits.borrowed(permit.terms());
        // The scheduler hears of all of it now.
        permit.queued();
        let mut matrices = self.token_matrices(warm, job.model, encoded, borrowed).await?.into_iter();
        let query = match &job.query {
            Query::Vectors(vectors) => Arc::clone(vectors),
            Query::Text(_) => Arc::new(QueryVectors::known(matrices.next().ok_or(Refusal::Internal)?)),
        };
        let mut explained = Vec::with_capacity(subjects.len());
        let (mut sequences, mut places) = (Vec::new(), Vec::new());
        for (index, subject) in subjects.into_iter().enumerate() {
            let spelled = texts.documents[index].as_ref();
            let mut document = ExplainedDocument {
                id: job.documents[index].id.clone(),
                score: f32::NEG_INFINITY,
                source: wire_source(subject.source()).into(),
                tokens: spelled.map(|spelled| tokens(spelled.tokens.clone())).unwrap_or_default(),
                matches: Vec::new(),
                truncated: false,
            };
            let vectors: Option<Arc<dyn TokenVectors>> = match subject {
                Subject::Text(_) => {
                    document.truncated = spelled.is_some_and(|spelled| spelled.truncated);
                    let matrix = matrices.next().ok_or(Refusal::Internal)?;
                    Some(Arc::new(OwnedVectors::from(matrix)))
                }
                Subject::Vectors { vectors, truncated, .. } => {
                    document.truncated = truncated;
                    Some(vectors)
                }
                Subject::Nothing(_) => None,
            };
            if let Some(vectors) = vectors {
                // What is stored may have been made from other tokens than the text that was sent with it.
                if spelled.is_none_or(|spelled| spelled.tokens.len() != vectors.rows()) {
                    document.tokens = vec![Token::default(); vectors.rows()];
                }
                let comparison = Comparison { query: Arc::clone(&query), document: vectors, cost: 1 };
                sequences.push(Sequence::compared(comparison));
                places.push(index);
            }
            explained.push(document);
        }
        let lane = Lane { model: job.model, operation: Operation::Align };
        let submission = Submission { lane, sequences, permit };
        let mut answer = warm.engine.submit(submission).await.map_err(refusal)?;
        while let Progress::Ready(values) = answer.next().await.map_err(refusal)? {
            for (unit, value) in values {
                if let SlotValue::Alignment(alignment) = value {
                    fill(&mut explained[places[unit as usize]], alignment);
                }
            }
        }
        Ok(explained)
    }
}

/// The texts of a request, token by token.
struct Texts {
    /// `None` for a query of vectors.
    query: Option<Spelled>,
    /// `None` for a document that came without a text.
    documents: Vec<Option<Spelled>>,
}

impl Texts {
    /// What has to be encoded: the query, then each document that is scored by its text.
    fn encoded(&self, subjects: &[Subject]) -> Vec<Vec<u32>> {
        let documents = self.documents.iter().zip(subjects).filter(|(_, subject)| matches!(subject, Subject::Text(_)));
        let documents = documents.filter_map(|(spelled, _)| spelled.as_ref());
        self.query.iter().chain(documents).map(|spelled| spelled.ids.clone()).collect()
    }
}

fn fill(document: &mut ExplainedDocument, alignment: Alignment) {
    document.score = alignment.score;
    document.matches = alignment
        .matches
        .iter()
        .filter_map(|found| Some(TokenMatch { document_token: found.document_token?, similarity: found.similarity }))
        .collect();
}

fn tokens(spelled: Vec<SpelledToken>) -> Vec<Token> {
    let token = |SpelledToken { text, bytes }| Token { text, byte_start: bytes.start, byte_end: bytes.end };
    spelled.into_iter().map(token).collect()
}
