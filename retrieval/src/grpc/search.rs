//! Searches, whole and streamed, and why they came out as they did.

use std::sync::Arc;

use sluice_proto::retrieval::v1 as messages;
use sluice_service::status::Refusal;
use tokio::{sync::mpsc, time::Instant};
use tonic::{Code, Status};

use super::{App, call::Call, lacks, unanswered, wire};
use crate::{
    metrics as counted,
    search::{Lacking, LegHits, SearchJob},
    store::{Collection, Engine},
    validate,
};

type Update = Result<messages::SearchStreamResponse, Status>;

/// Messages of a stream that nobody has read: all that it can have, each leg's and the last. So no search waits for a slow
/// reader, with places of the pool in its hands.
const UPDATES_MAX: usize = validate::LEGS_MAX + 1;

impl App {
    pub(super) async fn search_once(
        &self,
        request: messages::SearchRequest,
        arrival: Instant,
        deadline: Instant,
    ) -> Result<messages::SearchResponse, Refusal> {
        let (collection, job) = self.search_job(request, deadline).await?;
        self.answered(collection, Arc::new(job), (arrival, deadline), None).await
    }

    async fn search_job(
        &self,
        request: messages::SearchRequest,
        deadline: Instant,
    ) -> Result<(Arc<dyn Collection>, SearchJob), Refusal> {
        let collection = self.collection("collection", &request.collection, deadline).await?;
        let job = validate::search(request, collection.schema(), collection.identity(), &self.0.limits)?;
        Ok((collection, job))
    }

    async fn answered(
        &self,
        collection: Arc<dyn Collection>,
        job: Arc<SearchJob>,
        (arrival, deadline): (Instant, Instant),
        listener: Option<mpsc::Sender<LegHits>>,
    ) -> Result<messages::SearchResponse, Refusal> {
        let (searcher, asked) = (&self.0.searcher, Arc::clone(&job));
        let answer = match collection.engine() {
            Engine::Here(source) => searcher.search(source, asked, deadline, listener).await,
            Engine::Cluster(cluster) => searcher.search_cluster(cluster, asked, deadline, listener).await,
        };
        let answer = answer.map_err(unanswered)?;
        counted::searched(&answer.legs);
        Ok(wire::search_answer(answer, &job, arrival.elapsed()))
    }

    /// Each leg's list as it comes, then the answer.
    pub(super) fn search_updates(&self, mut call: Call, request: messages::SearchRequest) -> mpsc::Receiver<Update> {
        let (updates, stream) = mpsc::channel(UPDATES_MAX);
        let app = self.clone();
        tokio::spawn(async move {
            let work = call.within(app.stream_search(request, (call.arrival, call.deadline), &updates));
            // Who does not listen any more does not wait for an answer either: its legs are told to stop.
            let ended = tokio::select! {
                ended = work => ended.map_err(Status::from),
                () = updates.closed() => Err(Refusal::Cancelled.into()),
            };
            call.end(ended.as_ref().map_or_else(Status::code, |_| Code::Ok));
            let update = messages::search_stream_response::Update::Response;
            let last = ended.map(|response| messages::SearchStreamResponse { update: Some(update(response)) });
            let _ = updates.send(last).await;
        });
        stream
    }

    async fn stream_search(
        &self,
        request: messages::SearchRequest,
        time: (Instant, Instant),
        updates: &mpsc::Sender<Update>,
    ) -> Result<messages::SearchResponse, Refusal> {
        let (collection, job) = self.search_job(request, time.1).await?;
        let (listener, mut legs) = mpsc::channel(job.legs.len());
        let mut answer = Box::pin(self.answered(collection, Arc::new(job), time, Some(listener)));
        let mut answered = None;
        loop {
            tokio::select! {
                biased;
                leg = legs.recv() => match leg {
                    Some(leg) => {
                        let update = messages::search_stream_response::Update::Leg(wire::leg_hits(leg));
                        let _ = updates.send(Ok(messages::SearchStreamResponse { update: Some(update) })).await;
                    }
                    // Every leg was sent: their sender is gone with the legs.
                    None => match answered {
                        Some(answer) => return answer,
                        None => return answer.await,
                    },
                },
                ended = &mut answer, if answered.is_none() => answered = Some(ended),
            }
        }
    }

    pub(super) async fn explain_documents(
        &self,
        request: messages::ExplainRequest,
        deadline: Instant,
    ) -> Result<messages::ExplainResponse, Refusal> {
        let name = request.search.as_ref().map(|search| search.collection.clone()).unwrap_or_default();
        let collection = self.collection("search.collection", &name, deadline).await?;
        let job = validate::explain(request, collection.schema(), collection.identity(), &self.0.limits)?;
        let names: Vec<String> = job.search.legs.iter().map(|leg| leg.name.clone()).collect();
        let Engine::Here(source) = collection.engine() else {
            return Err(lacks(&Lacking::new("search.collection", "explanation")));
        };
        let answer = self.0.searcher.explain(source, Arc::new(job), deadline).await.map_err(unanswered)?;
        Ok(wire::explain_answer(answer, &names))
    }
}
