//! `sluice.rerank.v1.RerankService`.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, stream};
use sluice_core::{Lane, Worth};
use sluice_proto::rerank::v1::{
    Chunk, DocumentSource, ExplainRequest, ExplainResponse, Method as WireMethod, PartialReason, RerankManyRequest,
    RerankManyResponse, RerankRequest, RerankResponse, RerankResult, RerankStreamResponse, ScoreUpdate, ScoredDocument,
    Timing, Usage, rerank_service_server::RerankService, rerank_stream_response::Update as WireUpdate,
};
use sluice_service::status::Refusal;
use sluice_tokenstore::ModelDigest;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tonic::{Code, Request, Response, Status, Streaming};

use super::{
    App,
    call::{Admitted, Call, Caller},
    refusal, rerank_many,
};
use crate::{
    engine::{Answer, Progress, Submission, permit::Texts},
    job::{Content, Document, Method, RerankJob},
    metrics,
    models::Model,
    prepare::{DocumentUnits, Prepared},
    scoring::{Ranked, Scoring},
    subject::{Source, Subject, Unavailable},
    validate,
};

type UpdateResult = Result<RerankStreamResponse, Status>;
type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl RerankService for App {
    async fn rerank(&self, request: Request<RerankRequest>) -> Result<Response<RerankResponse>, Status> {
        let call = Call::begin("Rerank", &request, self)?;
        let caller = call.caller;
        let work = async { self.rerank_whole(request.into_inner(), caller).await };
        call.run(Box::pin(work)).await.map(Response::new)
    }

    type RerankStreamStream = ResponseStream<RerankStreamResponse>;

    async fn rerank_stream(
        &self,
        request: Request<RerankRequest>,
    ) -> Result<Response<Self::RerankStreamStream>, Status> {
        let call = Call::begin("RerankStream", &request, self)?;
        let updates = Updates { call, state: State::Begin(self.clone(), Box::new(request.into_inner())) };
        Ok(Response::new(Box::pin(updates.queue())))
    }

    type RerankManyStream = ResponseStream<RerankManyResponse>;

    async fn rerank_many(
        &self,
        request: Request<Streaming<RerankManyRequest>>,
    ) -> Result<Response<Self::RerankManyStream>, Status> {
        Ok(Response::new(Box::pin(rerank_many::answer(self.clone(), request)?)))
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        let call = Call::begin("Explain", &request, self)?;
        let caller = call.caller;
        let work = async { self.explain_scores(request.into_inner(), caller).await };
        call.run(Box::pin(work)).await.map(Response::new)
    }
}

/// Updates of one RerankStream call that wait for its reader; what comes meanwhile is merged into the next.
const UPDATES_MAX: usize = 1;

/// The messages of one RerankStream call.
struct Updates {
    call: Call,
    state: State,
}

enum State {
    Begin(App, Box<RerankRequest>),
    Running(Box<Run>),
    Ended,
}

impl Updates {
    /// The messages for their reader. They are made in a task of their own, because a response is polled only
    /// while its caller reads: a caller that does not holds its room until the deadline, and no longer.
    /// Dropped with the call, and its work with it.
    fn queue(self) -> impl Stream<Item = UpdateResult> {
        let (queue, updates) = mpsc::channel(UPDATES_MAX);
        tokio::spawn(self.fill(queue));
        stream::unfold((updates, false), |(mut updates, ended)| async move {
            if ended {
                return None;
            }
            let expired = || Err(Refusal::DeadlineExceeded { phase: "response" }.into());
            let update: UpdateResult = updates.recv().await.unwrap_or_else(expired);
            let last = |update: &RerankStreamResponse| matches!(update.update, Some(WireUpdate::Response(_)));
            let ended = update.as_ref().map_or(true, last);
            Some((update, (updates, ended)))
        })
    }

    /// Makes messages as there is room for them, to the last; or to none, if it runs out of time before.
    async fn fill(mut self, queue: mpsc::Sender<UpdateResult>) {
        while !matches!(self.state, State::Ended) {
            let room = match timeout_at(self.call.caller.deadline, queue.reserve()).await {
                Ok(Ok(room)) => room,
                Ok(Err(_caller_left)) => return,
                Err(_expired) => return self.call.end(Code::DeadlineExceeded),
            };
            let update = tokio::select! {
                () = queue.closed() => return,
                update = self.next() => update,
            };
            let Some(update) = update else { return };
            room.send(update);
        }
    }

    async fn next(&mut self) -> Option<UpdateResult> {
        let mut run = match std::mem::replace(&mut self.state, State::Ended) {
            State::Begin(app, request) => {
                match self.call.within(Box::pin(app.start_rerank(*request, self.call.caller))).await {
                    Ok(run) => Box::new(run),
                    Err(refusal) => return Some(self.failed(refusal)),
                }
            }
            State::Running(run) => run,
            State::Ended => return None,
        };
        let step = self.call.within(run.next()).await;
        run.note(&step);
        let update = match step {
            Ok(Step::Scores(scores)) => {
                let update = WireUpdate::Scores(run.score_update(scores));
                self.state = State::Running(run);
                update
            }
            Ok(Step::Final(response)) => {
                self.call.end(Code::Ok);
                WireUpdate::Response(*response)
            }
            Err(refusal) => return Some(self.failed(refusal)),
        };
        Some(Ok(RerankStreamResponse { update: Some(update) }))
    }

    fn failed(&mut self, refusal: Refusal) -> UpdateResult {
        let status = Status::from(refusal);
        self.call.end(status.code());
        Err(status)
    }
}

impl App {
    /// From request to complete answer. The caller enforces the deadline.
    pub(super) async fn rerank_whole(&self, request: RerankRequest, caller: Caller) -> Result<RerankResponse, Refusal> {
        let mut run = self.start_rerank(request, caller).await?;
        loop {
            let step = run.next().await;
            run.note(&step);
            if let Step::Final(response) = step? {
                return Ok(*response);
            }
        }
    }

    /// Validates, admits, tokenizes and queues.
    async fn start_rerank(&self, request: RerankRequest, caller: Caller) -> Result<Run, Refusal> {
        let warm = self.warm()?;
        let job = Arc::new(validate::rerank(request, &warm.models, &self.0.limits)?);
        let model = warm.models.get(job.stages[0].model);
        let lane = Lane { model: job.stages[0].model, operation: job.stages[0].method.operation() };
        let terms = self.terms(caller, job.priority, Worth::Whole);
        let texts =
            Texts { lane, count: job.texts().count() as u64, bytes: job.texts().map(|text| text.len() as u64).sum() };
        let permit = self.admit(terms, texts, job.documents.len(), job.bytes())?;
        let subjects = self.subjects(&job, |job| &job.documents, model.digest).await?;
        let prepared = self.0.preparer.rerank(&job, subjects, &model.text, model.tokens_max()).await?;
        let tokens = prepared.computed_tokens();
        self.0.permits.learn(texts, tokens);
        let (permit, admitted) = self.admit_tokens(permit, tokens, &Submission::work(lane, &prepared.sequences))?;
        let facts = Facts::new(&prepared, model, caller.arrival);
        let Prepared { sequences, documents, .. } = prepared;
        let scoring = Scoring::new(&job, &documents);
        let submission = Submission { lane, sequences, permit };
        let answer = warm.engine.submit(submission).await.map_err(refusal)?;
        Ok(Run { job, documents, scoring, answer, facts, admitted })
    }
}

/// Stored documents looked up between two looks at whether anybody still waits: vectors that are looked up for the first
/// time are read whole.
const LOOKED_UP_AT_ONCE: usize = 64;

impl App {
    /// What is scored of each document. Looking a stored one up may read a disk: it is done off the network's threads.
    pub(super) async fn subjects<J: Send + Sync + 'static>(
        &self,
        job: &Arc<J>,
        documents: fn(&J) -> &[Document],
        model: ModelDigest,
    ) -> Result<Vec<Subject>, Refusal> {
        let is_stored = |document: &Document| matches!(document.content, Content::Stored(_));
        let store = self.warm()?.store.clone();
        let Some(store) = store.filter(|_| documents(job).iter().any(is_stored)) else {
            return Ok(Subject::of(documents(job), model, None));
        };
        let parts = documents(job).len().div_ceil(LOOKED_UP_AT_ONCE);
        let look_up = {
            let job = Arc::clone(job);
            move |part: usize| {
                let documents = documents(&job);
                let end = documents.len().min((part + 1) * LOOKED_UP_AT_ONCE);
                Subject::of(&documents[part * LOOKED_UP_AT_ONCE..end], model, Some(&store))
            }
        };
        let found = self.0.preparer.pool.map(parts, look_up).await.map_err(|_| Refusal::Internal)?;
        Ok(found.into_iter().flatten().collect())
    }
}

/// A request under way.
pub(super) struct Run {
    job: Arc<RerankJob>,
    documents: Vec<DocumentUnits>,
    scoring: Scoring,
    answer: Answer,
    facts: Facts,
    admitted: Admitted,
}

/// What a request has come to.
pub(super) enum Step {
    /// Documents that have just been scored; at least one.
    Scores(Vec<(u32, f32)>),
    /// The complete answer.
    Final(Box<RerankResponse>),
}

impl Run {
    /// Waits for the next scores, or for the end.
    async fn next(&mut self) -> Result<Step, Refusal> {
        loop {
            match self.answer.next().await.map_err(refusal)? {
                Progress::Ready(results) => {
                    let scored = self.scoring.absorb(results).map_err(|error| {
                        tracing::error!(%error, "a backend broke its contract");
                        Refusal::Internal
                    })?;
                    if !scored.is_empty() {
                        return Ok(Step::Scores(scored));
                    }
                }
                Progress::Done => return Ok(Step::Final(Box::new(self.response()))),
            }
        }
    }

    /// Counts the end, if this is it.
    fn note(&mut self, step: &Result<Step, Refusal>) {
        match step {
            Ok(Step::Scores(_)) => {}
            Ok(Step::Final(_)) => self.admitted.end(None),
            Err(refusal) => self.admitted.end(Some(refusal)),
        }
    }

    fn score_update(&self, scores: Vec<(u32, f32)>) -> ScoreUpdate {
        ScoreUpdate {
            documents: scores.into_iter().map(|(index, score)| ScoredDocument { index, score }).collect(),
            scored: u32::try_from(self.scoring.scored()).unwrap_or(u32::MAX),
            total: u32::try_from(self.documents.len()).unwrap_or(u32::MAX),
            stage: 1,
        }
    }

    fn response(&self) -> RerankResponse {
        let ranking = self.scoring.ranking(&self.job, &self.documents);
        let partial = self.documents.iter().any(|document| !document.is_scored());
        let (queue, compute) = self.answer.times();
        self.facts.count_tokens();
        RerankResponse {
            results: ranking.into_iter().map(|place| self.result(place)).collect(),
            partial,
            partial_reasons: partial.then(|| PartialReason::StoredDocumentUnavailable.into()).into_iter().collect(),
            usage: Some(self.facts.usage),
            timing: Some(Timing {
                queue: duration(queue),
                tokenize: duration(self.facts.tokenize),
                compute: duration(compute),
                total: duration(self.facts.arrival.elapsed()),
            }),
            model: self.facts.model.clone(),
            model_digest: self.facts.model_digest.clone(),
            method: wire_method(self.job.stages[0].method).into(),
        }
    }

    fn result(&self, place: Ranked) -> RerankResult {
        let Ranked { index, score, best_chunk } = place;
        let (document, units) = (&self.job.documents[index], &self.documents[index]);
        RerankResult {
            index: u32::try_from(index).unwrap_or(u32::MAX),
            id: document.id.clone(),
            score,
            tokens: units.tokens,
            truncated: units.truncated,
            best_chunk: best_chunk.map(|(index, bytes)| Chunk { index, byte_start: bytes.start, byte_end: bytes.end }),
            text: document.content.text().filter(|_| self.job.return_text).map(str::to_owned),
            stage: units.is_scored().into(),
            source: wire_source(units.source).into(),
            unscored: !units.is_scored(),
        }
    }
}

/// What the answer says besides the order.
struct Facts {
    arrival: Instant,
    tokenize: std::time::Duration,
    usage: Usage,
    model: String,
    model_digest: String,
}

impl Facts {
    fn new(prepared: &Prepared, model: &Model, arrival: Instant) -> Self {
        ::metrics::histogram!("sluice_tokenize_duration_seconds").record(prepared.tokenize.as_secs_f64());
        let usage = Usage {
            query_tokens: prepared.query_tokens,
            document_tokens: prepared.document_tokens(),
            computed_tokens: prepared.computed_tokens(),
            cached_tokens: 0,
        };
        let (model, model_digest) = (model.name.clone(), model.info.digest.clone());
        Self { arrival, tokenize: prepared.tokenize, usage, model, model_digest }
    }

    fn count_tokens(&self) {
        metrics::answered_tokens(self.usage.query_tokens, self.usage.document_tokens);
    }
}

/// Where what was scored came from, on the wire.
pub(super) fn wire_source(source: Source) -> DocumentSource {
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
fn duration(duration: std::time::Duration) -> Option<prost_types::Duration> {
    duration.try_into().ok()
}
