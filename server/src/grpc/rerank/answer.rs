//! What a request has come to, on the wire.

use std::time::Duration;

use sluice_proto::rerank::v1::{
    Chunk, DocumentSource, Method as WireMethod, PartialReason, RerankResponse, RerankResult, Timing, Usage,
};
use tokio::time::Instant;

use crate::{
    cached::Answer,
    cascade::Standings,
    job::{Method, RerankJob},
    metrics,
    models::Model,
    prepare::Prepared,
    subject::{Source, Unavailable},
};

/// In what an answer is less than was asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shortfall {
    /// A stored document could not be used, and had no text.
    pub(super) stored: bool,
    /// A budget was spent before a stage was done.
    pub(super) budget: bool,
    /// A later stage was refused.
    pub(super) overloaded: bool,
}

impl Shortfall {
    fn reasons(self) -> impl Iterator<Item = PartialReason> {
        let reasons = [
            (self.stored, PartialReason::StoredDocumentUnavailable),
            (self.budget, PartialReason::Budget),
            (self.overloaded, PartialReason::Overloaded),
        ];
        reasons.into_iter().filter(|(is_so, _)| *is_so).map(|(_, reason)| reason)
    }
}

/// What the answer says besides the order: sums over the stages.
pub(super) struct Facts {
    arrival: Instant,
    queue: Duration,
    tokenize: Duration,
    compute: Duration,
    usage: Usage,
    model: String,
    model_digest: String,
    method: Method,
}

impl Facts {
    /// `model` and `method` are the last stage's.
    pub(super) fn new(arrival: Instant, model: &Model, method: Method) -> Self {
        let (model, model_digest) = (model.name.clone(), model.info.digest.clone());
        let (queue, tokenize, compute) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        Self { arrival, queue, tokenize, compute, usage: Usage::default(), model, model_digest, method }
    }

    /// Counts what a stage has read.
    pub(super) fn prepared(&mut self, prepared: &Prepared) {
        ::metrics::histogram!("sluice_tokenize_duration_seconds").record(prepared.tokenize.as_secs_f64());
        self.tokenize += prepared.tokenize;
        self.usage.query_tokens += prepared.query_tokens;
        self.usage.document_tokens += prepared.document_tokens();
    }

    /// Counts the tokens that a stage has computed, and those that it did not have to.
    pub(super) fn computed(&mut self, answer: &Answer, computed: u64, cached: u64) {
        let (queue, compute) = answer.times();
        self.queue += queue;
        self.compute += compute;
        self.usage.computed_tokens += computed;
        self.usage.cached_tokens += cached;
    }

    /// The answer.
    pub(super) fn response(&self, job: &RerankJob, standings: &Standings, shortfall: Shortfall) -> RerankResponse {
        metrics::answered_tokens(self.usage.query_tokens, self.usage.document_tokens);
        let partial_reasons: Vec<i32> = shortfall.reasons().map(i32::from).collect();
        let text = |document: usize| job.documents[document].content.text().filter(|_| job.return_text);
        let result =
            |document| RerankResult { text: text(document).map(str::to_owned), ..result(job, standings, document) };
        RerankResponse {
            results: standings.answer(job).map(result).collect(),
            partial: !partial_reasons.is_empty(),
            partial_reasons,
            usage: Some(self.usage),
            timing: Some(Timing {
                queue: duration(self.queue),
                tokenize: duration(self.tokenize),
                compute: duration(self.compute),
                total: duration(self.arrival.elapsed()),
            }),
            model: self.model.clone(),
            model_digest: self.model_digest.clone(),
            method: wire_method(self.method).into(),
        }
    }
}

/// A document's place, without its text.
pub(super) fn result(job: &RerankJob, standings: &Standings, document: usize) -> RerankResult {
    let standing = standings.of(document);
    let chunk =
        |(index, bytes): (u32, std::ops::Range<u32>)| Chunk { index, byte_start: bytes.start, byte_end: bytes.end };
    RerankResult {
        index: u32::try_from(document).unwrap_or(u32::MAX),
        id: job.documents[document].id.clone(),
        score: standing.score,
        tokens: standing.tokens,
        truncated: standing.truncated,
        best_chunk: standing.best_chunk.clone().map(chunk),
        text: None,
        stage: standing.stage,
        source: standing.source.map_or(DocumentSource::NoneBudget, wire_source).into(),
        unscored: !standing.is_scored(),
    }
}

/// Where what was scored came from, on the wire.
pub(in crate::grpc) fn wire_source(source: Source) -> DocumentSource {
    match source {
        Source::Text => DocumentSource::Text,
        Source::Request => DocumentSource::Embedding,
        Source::Store => DocumentSource::Stored,
        Source::TextInstead(Unavailable::Missing) => DocumentSource::TextForMissing,
        Source::TextInstead(Unavailable::Stale) => DocumentSource::TextForStale,
        Source::Nothing(Unavailable::Missing) => DocumentSource::NoneMissing,
        Source::Nothing(Unavailable::Stale) => DocumentSource::NoneStale,
    }
}

fn wire_method(method: Method) -> WireMethod {
    match method {
        Method::LateInteraction => WireMethod::LateInteraction,
        Method::Dense => WireMethod::Dense,
        Method::CrossEncoder => WireMethod::CrossEncoder,
    }
}

/// Within the range of the wire's durations for anything a server can live through.
fn duration(duration: Duration) -> Option<prost_types::Duration> {
    duration.try_into().ok()
}
