//! `sluice.rerank.v1.RerankService`.

mod answer;
mod run;
mod running;
mod spending;

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, stream};
use sluice_proto::rerank::v1::{
    ExplainRequest, ExplainResponse, RerankManyRequest, RerankManyResponse, RerankRequest, RerankResponse,
    RerankStreamResponse, rerank_service_server::RerankService, rerank_stream_response::Update as WireUpdate,
};
use sluice_service::status::Refusal;
use sluice_tokenstore::ModelDigest;
use tokio::{sync::mpsc, time::timeout_at};
use tonic::{Code, Request, Response, Status, Streaming};

use super::{
    App,
    call::{Call, Caller},
    rerank_many,
};
use crate::{
    job::{Content, Document},
    subject::Subject,
};

pub(super) use answer::wire_source;
use run::{Run, Step};
pub(super) use spending::AnswerMargin;

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
            Ok(Step::Scores(update)) => {
                self.state = State::Running(run);
                WireUpdate::Scores(update)
            }
            Ok(Step::Stage(order)) => {
                self.state = State::Running(run);
                WireUpdate::Stage(order)
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
}

/// Stored documents looked up between two looks at whether anybody still waits: vectors that are looked up for the first
/// time are read whole.
const LOOKED_UP_AT_ONCE: usize = 64;

impl App {
    /// What late interaction scores of each of the documents at the positions `given`. Looking a stored one up may read a
    /// disk: it is done off the network's threads.
    pub(super) async fn subjects<J: Send + Sync + 'static>(
        &self,
        job: &Arc<J>,
        documents: fn(&J) -> &[Document],
        given: Vec<usize>,
        model: ModelDigest,
    ) -> Result<Vec<Subject>, Refusal> {
        fn at<'a>(documents: &'a [Document], given: &[usize]) -> Vec<&'a Document> {
            given.iter().map(|position| &documents[*position]).collect()
        }
        let is_stored = |document: &Document| matches!(document.content, Content::Stored(_));
        let store = self.warm()?.store.clone();
        let of_all = at(documents(job), &given);
        let Some(store) = store.filter(|_| of_all.iter().any(|document| is_stored(document))) else {
            return Ok(Subject::of(&of_all, model, None));
        };
        let parts = given.len().div_ceil(LOOKED_UP_AT_ONCE);
        let look_up = {
            let job = Arc::clone(job);
            move |part: usize| {
                let end = given.len().min((part + 1) * LOOKED_UP_AT_ONCE);
                Subject::of(&at(documents(&job), &given[part * LOOKED_UP_AT_ONCE..end]), model, Some(&store))
            }
        };
        let found = self.0.preparer.pool.map(parts, look_up).await.map_err(|_| Refusal::Internal)?;
        Ok(found.into_iter().flatten().collect())
    }
}
