//! `sluice.model.v1.EncodeService`.

use std::sync::Arc;

use half::f16;
use sluice_core::{Lane, Operation, Priority, Worth};
use sluice_inference::to_int8;
use sluice_proto::model::v1::{
    DataType, Embedding, EncodeRequest, EncodeResponse, EncodedText, TokenizeRequest, TokenizeResponse, TokenizedText,
    encode_service_server::EncodeService,
};
use sluice_service::status::Refusal;
use tonic::{Request, Response, Status};

use super::{
    App,
    call::{Call, Caller},
    refusal,
};
use crate::{
    engine::{Progress, SlotValue, Submission, permit::Texts},
    job::{Dtype, EncodeKind},
    prepare::Prepared,
    validate,
};

#[tonic::async_trait]
impl EncodeService for App {
    async fn encode(&self, request: Request<EncodeRequest>) -> Result<Response<EncodeResponse>, Status> {
        let call = Call::begin("Encode", &request, self)?;
        let caller = call.caller;
        let work = async { self.encode_texts(request.into_inner(), caller).await };
        call.run(Box::pin(work)).await.map(Response::new)
    }

    async fn tokenize(&self, request: Request<TokenizeRequest>) -> Result<Response<TokenizeResponse>, Status> {
        let call = Call::begin("Tokenize", &request, self)?;
        let caller = call.caller;
        let work = async { self.tokenize_texts(request.into_inner(), caller).await };
        call.run(work).await.map(|results| Response::new(TokenizeResponse { results }))
    }
}

impl App {
    async fn encode_texts(&self, request: EncodeRequest, caller: Caller) -> Result<EncodeResponse, Refusal> {
        let warm = self.warm()?;
        let job = Arc::new(validate::encode(request, &warm.models, &self.0.limits)?);
        let model = warm.models.get(job.model);
        let operation = match job.kind {
            EncodeKind::Dense => Operation::EncodeDense,
            EncodeKind::Tokens => Operation::EncodeTokens,
        };
        let lane = Lane { model: job.model, operation };
        let terms = self.terms(caller, Priority::Standard, Worth::Whole);
        let texts =
            Texts { lane, count: job.texts.len() as u64, bytes: job.bytes(), tokens_max: job.tokens_max as u64 };
        let permit = self.admit(terms, texts, job.texts.len(), job.bytes())?;
        let prepared = self.0.preparer.encode(&job, &model.text).await?;
        let tokens = prepared.computed_tokens();
        self.0.permits.learn(texts, tokens);
        let (permit, mut admitted) = self.admit_tokens(permit, tokens, &Submission::work(lane, &prepared.sequences))?;
        let Prepared { sequences, documents, .. } = prepared;
        let submission = Submission { lane, sequences, permit };
        let mut answer = warm.engine.submit(submission).await.map_err(refusal)?;
        let mut results: Vec<EncodedText> = documents
            .iter()
            .map(|units| EncodedText { embedding: None, tokens: units.tokens, truncated: units.truncated })
            .collect();
        let outcome = loop {
            match answer.next().await {
                Ok(Progress::Ready(values)) => {
                    for (unit, value) in values {
                        results[unit as usize].embedding = embedding(value, job.dtype);
                    }
                }
                Ok(Progress::Done) => break Ok(()),
                Err(error) => break Err(refusal(error)),
            }
        };
        admitted.end(outcome.as_ref().err());
        outcome?;
        let (model, model_digest) = (model.name.clone(), model.info.digest.clone());
        Ok(EncodeResponse { results, model, model_digest })
    }

    async fn tokenize_texts(&self, request: TokenizeRequest, caller: Caller) -> Result<Vec<TokenizedText>, Refusal> {
        let warm = self.warm()?;
        let job = Arc::new(validate::tokenize(request, &warm.models, &self.0.limits)?);
        let bytes = job.texts.iter().map(|text| text.len() as u64).sum();
        let _permit = self.admit_aside(caller, job.texts.len(), bytes)?;
        let text = Arc::clone(&warm.models.get(job.model).text);
        let read = {
            let job = Arc::clone(&job);
            move |index: usize| {
                let tokens = text.tokens(&job.texts[index], None)?;
                let ids = if job.add_special_tokens { text.single(&tokens.ids) } else { tokens.ids };
                let tokens = ids.iter().map(|id| text.token_text(*id).unwrap_or_default()).collect();
                Ok::<_, sluice_inference::TokenizeError>(TokenizedText { ids, tokens })
            }
        };
        let results = self.0.preparer.pool.map(job.texts.len(), read).await.map_err(|_| Refusal::Internal)?;
        results.into_iter().collect::<Result<_, _>>().map_err(|error| {
            tracing::error!(%error, "tokenizing failed");
            Refusal::Internal
        })
    }
}

/// A result on the wire; `None` for a score, which an encode lane never yields.
fn embedding(value: SlotValue, dtype: Dtype) -> Option<Embedding> {
    let (data, dim) = match value {
        SlotValue::Dense(vector) => {
            let dim = vector.len();
            (vector, dim)
        }
        SlotValue::Tokens(matrix) => (matrix.data, matrix.dim),
        SlotValue::Score(_) | SlotValue::Alignment(_) => return None,
    };
    let rows = data.len().checked_div(dim)?;
    let mut scales = Vec::new();
    let (bytes, dtype): (Vec<u8>, _) = match dtype {
        Dtype::F32 => (data.iter().flat_map(|x| x.to_le_bytes()).collect(), DataType::F32),
        Dtype::F16 => (data.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(), DataType::F16),
        Dtype::I8 => {
            let (codes, row_scales) = to_int8(&data, dim).ok()?;
            scales = row_scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
            // Offset binary to two's complement.
            (codes.into_iter().map(|code| code ^ 0x80).collect(), DataType::I8)
        }
    };
    Some(Embedding {
        data: bytes.into(),
        dtype: dtype.into(),
        rows: u32::try_from(rows).ok()?,
        dim: u32::try_from(dim).ok()?,
        scales: scales.into(),
    })
}
