//! One of many callers: asks, waits or leaves, and checks what it gets.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use sluice_proto::rerank::v1::{
    RerankManyRequest, RerankResponse, rerank_many_response::Outcome, rerank_service_client::RerankServiceClient,
    rerank_stream_response::Update,
};
use tonic::{Code, Request, Status, transport::Channel};
use tonic_types::StatusExt;

use crate::{
    tally::{Rpc, Tally},
    workload::{Ask, Updates, Workload},
};

/// How the callers of a round behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// Everybody waits for the answer.
    Patient,
    /// One in five leaves midway, one in ten is in a hurry.
    Restless,
}

/// What a caller means to do about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    Stay,
    /// Drops the call after that time, unless it has ended.
    Leave(Duration),
    /// Sends that deadline.
    Hurry(Duration),
}

pub struct Caller {
    client: RerankServiceClient<Channel>,
    workload: Arc<Workload>,
    tally: Arc<Tally>,
    rng: SmallRng,
    /// Longest that it waits after a refusal, which may tell it more.
    pause_max: Duration,
}

impl Caller {
    pub fn new(channel: Channel, workload: Arc<Workload>, tally: Arc<Tally>, seed: u64) -> Self {
        let pause_max = workload.pause_max();
        let client = RerankServiceClient::new(channel);
        Self { client, workload, tally, rng: SmallRng::seed_from_u64(seed), pause_max }
    }

    /// Calls one after the other until then; the last is not cut short.
    pub async fn call(mut self, mix: Mix, until: Instant) {
        while Instant::now() < until {
            let plan = self.plan(mix);
            let ask = self.workload.ask(&mut self.rng);
            match self.rng.random_range(0..3) {
                0 => self.unary(&ask, plan).await,
                1 => self.stream(&ask, plan).await,
                _ => self.many(ask, plan, mix).await,
            }
        }
    }

    fn plan(&mut self, mix: Mix) -> Plan {
        let part = self.tally.typical_latency().mul_f64(self.rng.random_range(0.0..1.0));
        match (mix, self.rng.random_range(0..10)) {
            (Mix::Restless, 0..2) => Plan::Leave(part),
            (Mix::Restless, 2) => Plan::Hurry(Duration::from_millis(2) + part),
            _ => Plan::Stay,
        }
    }

    async fn unary(&mut self, ask: &Ask, plan: Plan) {
        let request = self.timed(self.workload.request(ask), plan);
        self.tally.begin(Rpc::Rerank);
        let begin = Instant::now();
        let mut client = self.client.clone();
        match unless_left(plan, client.rerank(request)).await {
            Some(Ok(answer)) => {
                let answer = answer.into_inner();
                self.workload.check_answer(ask, &answer);
                self.answered(Rpc::Rerank, ask, &answer, begin);
            }
            Some(Err(status)) => self.refused(Rpc::Rerank, plan, &status).await,
            None => self.tally.unseen(Rpc::Rerank),
        }
    }

    async fn stream(&mut self, ask: &Ask, plan: Plan) {
        let request = self.timed(self.workload.request(ask), plan);
        self.tally.begin(Rpc::RerankStream);
        let begin = Instant::now();
        let mut client = self.client.clone();
        // Of those who leave, half leave at the first score.
        let first_is_enough = matches!(plan, Plan::Leave(_)) && self.rng.random();
        let workload = Arc::clone(&self.workload);
        let read = async {
            let mut updates = Updates::new(&workload, ask);
            let mut stream = client.rerank_stream(request).await?.into_inner();
            while let Some(message) = stream.message().await? {
                match message.update.expect("an update that we know") {
                    Update::Scores(_) if first_is_enough => return Ok(None),
                    Update::Scores(update) => updates.take(update),
                    Update::Stage(_) => panic!("no stages were asked for"),
                    Update::Response(answer) => {
                        updates.finish(&answer);
                        assert!(stream.message().await?.is_none(), "nothing comes after the answer");
                        return Ok(Some(answer));
                    }
                }
            }
            panic!("a stream ended without an answer");
        };
        match unless_left(plan, read).await {
            Some(Ok(Some(answer))) => self.answered(Rpc::RerankStream, ask, &answer, begin),
            Some(Ok(None)) | None => self.tally.unseen(Rpc::RerankStream),
            Some(Err(status)) => self.refused(Rpc::RerankStream, plan, &status).await,
        }
    }

    /// Several requests over one call. Each has a plan of its own, but for leaving, which ends them all.
    async fn many(&mut self, first: Ask, plan: Plan, mix: Mix) {
        let mut asks = BTreeMap::from([("0".to_owned(), (first, plan))]);
        for id in 1..self.rng.random_range(2..6) {
            let own = match self.plan(mix) {
                Plan::Leave(_) => Plan::Stay,
                own => own,
            };
            asks.insert(id.to_string(), (self.workload.ask(&mut self.rng), own));
        }
        let requests: Vec<RerankManyRequest> =
            asks.iter().map(|(id, (ask, plan))| self.one_of_many(id, ask, *plan)).collect();
        asks.keys().for_each(|_| self.tally.begin(Rpc::RerankMany));
        let begin = Instant::now();
        let mut client = self.client.clone();
        let deadline = tokio::time::Instant::now() + if let Plan::Leave(after) = plan { after } else { NEVER };
        let opened = tokio::time::timeout_at(deadline, client.rerank_many(tokio_stream::iter(requests)));
        if let Ok(answers) = opened.await {
            let mut answers = answers.expect("a call opens").into_inner();
            while let Ok(answer) = tokio::time::timeout_at(deadline, answers.message()).await {
                let Some(answer) = answer.expect("one that fails leaves the call alone") else {
                    assert!(asks.is_empty(), "{} requests got no answer", asks.len());
                    return;
                };
                let (ask, plan) = asks.remove(&answer.request_id).expect("one of ours, and once");
                match answer.outcome.expect("always set") {
                    Outcome::Response(answer) => {
                        self.workload.check_answer(&ask, &answer);
                        self.answered(Rpc::RerankMany, &ask, &answer, begin);
                    }
                    Outcome::Error(error) => {
                        self.refused(Rpc::RerankMany, plan, &Status::new(error.code.into(), error.message)).await;
                    }
                }
            }
        }
        asks.keys().for_each(|_| self.tally.unseen(Rpc::RerankMany));
    }

    fn one_of_many(&self, id: &str, ask: &Ask, plan: Plan) -> RerankManyRequest {
        let timeout = match plan {
            Plan::Hurry(timeout) => timeout.try_into().ok(),
            Plan::Stay | Plan::Leave(_) => None,
        };
        RerankManyRequest { request_id: id.to_owned(), request: Some(self.workload.request(ask)), timeout }
    }

    fn timed<T>(&self, message: T, plan: Plan) -> Request<T> {
        let mut request = Request::new(message);
        if let Plan::Hurry(timeout) = plan {
            request.set_timeout(timeout);
        }
        request
    }

    fn answered(&self, rpc: Rpc, ask: &Ask, answer: &RerankResponse, begin: Instant) {
        self.tally.answered(rpc, ask, answer, begin.elapsed());
    }

    /// A request may be refused for want of room, and then says when to come back; or end at the deadline it brought.
    async fn refused(&self, rpc: Rpc, plan: Plan, status: &Status) {
        match (status.code(), plan) {
            (Code::ResourceExhausted, _) => {
                self.tally.refused(rpc, Code::ResourceExhausted);
                let details = status.get_error_details();
                let pause = details.retry_info().and_then(|info| info.retry_delay);
                assert!(rpc == Rpc::RerankMany || pause.is_some_and(|pause| !pause.is_zero()), "{status:?}");
                // Sooner than told: the server is to be kept full.
                tokio::time::sleep(pause.unwrap_or_default().min(self.pause_max)).await;
            }
            (Code::DeadlineExceeded, Plan::Hurry(_)) => self.tally.refused(rpc, Code::DeadlineExceeded),
            // At the deadline itself, tonic's own timers on either side may be first; they say CANCELLED.
            (Code::Cancelled, Plan::Hurry(_)) if rpc != Rpc::RerankMany => self.tally.unseen(rpc),
            _ => panic!("{rpc:?}, {plan:?}: {status:?}"),
        }
    }
}

/// A day.
const NEVER: Duration = Duration::from_secs(24 * 3600);

/// What comes of a call, unless the caller leaves before it ends: `None`, and the call is dropped.
async fn unless_left<T>(plan: Plan, call: impl Future<Output = T>) -> Option<T> {
    match plan {
        Plan::Leave(after) => tokio::time::timeout(after, call).await.ok(),
        Plan::Stay | Plan::Hurry(_) => Some(call.await),
    }
}
