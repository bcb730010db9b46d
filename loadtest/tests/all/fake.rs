//! A server that behaves as it is told, and what it has seen.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use sluice_proto::rerank::v1::{
    CompactRequest, CompactResponse, DeleteRequest, DeleteResponse, ExplainRequest, ExplainResponse, PartialReason,
    PutRequest, PutResponse, RerankManyRequest, RerankManyResponse, RerankRequest, RerankResponse,
    RerankStreamResponse, StatsRequest, StatsResponse,
    rerank_service_server::{RerankService, RerankServiceServer},
    token_store_service_server::{TokenStoreService, TokenStoreServiceServer},
};
use tokio::{sync::oneshot, time::sleep};
use tokio_stream::{Stream, wrappers::TcpListenerStream};
use tonic::{Code, Request, Response, Status, Streaming, transport::Server};
use tonic_types::{ErrorDetails, StatusExt};

/// What it does with every call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// Answers at once.
    Answer,
    /// Answers after that time.
    After(Duration),
    /// Answers at once, but for the n-th call, counted from 0, which takes that time.
    StallOnce(usize, Duration),
    /// Answers in part.
    Partial,
    /// Has no room.
    Refuse,
    /// Says nothing, ever.
    Hang,
}

/// A call as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub request: RerankRequest,
    pub authorization: Option<String>,
    /// A deadline came with it.
    pub timed: bool,
    /// Documents that had been put before it.
    pub put: usize,
}

#[derive(Debug, Default)]
struct State {
    seen: Vec<Seen>,
    put: usize,
    now: usize,
    most_at_once: usize,
    /// Calls that ended before they were answered.
    dropped: usize,
}

/// Runs on a thread of its own until it is dropped.
pub(crate) struct Fake {
    pub url: String,
    state: Arc<Mutex<State>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    pub(crate) fn start(behaviour: Behaviour) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let (stop, stopped) = oneshot::channel();
        let (bound, address) = mpsc::sync_channel(1);
        let service = Service { behaviour, state: Arc::clone(&state) };
        let thread = thread::spawn(move || serve(service, &bound, stopped));
        let address = address.recv().expect("the server binds a loopback port");
        Self { url: format!("http://{address}"), state, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        lock(&self.state).seen.clone()
    }

    pub(crate) fn most_at_once(&self) -> usize {
        lock(&self.state).most_at_once
    }

    /// Waits until so many calls were dropped: the transport tells a little later.
    pub(crate) fn wait_for_dropped(&self, calls: usize) {
        for _ in 0..2_000 {
            if lock(&self.state).dropped >= calls {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("{} of {calls} calls were dropped", lock(&self.state).dropped);
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(service: Service, bound: &mpsc::SyncSender<SocketAddr>, stopped: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        bound.send(listener.local_addr().unwrap()).unwrap();
        let serving = Server::builder()
            .add_service(RerankServiceServer::new(service.clone()).max_decoding_message_size(usize::MAX))
            .add_service(TokenStoreServiceServer::new(service))
            .serve_with_incoming(TcpListenerStream::new(listener));
        // Not a graceful end: calls that hang would keep it from coming.
        tokio::select! {
            served = serving => served.unwrap(),
            _ = stopped => {}
        }
    });
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("nobody panics with it")
}

#[derive(Clone)]
struct Service {
    behaviour: Behaviour,
    state: Arc<Mutex<State>>,
}

/// A call, until it is answered or dropped.
struct Call {
    state: Arc<Mutex<State>>,
    answered: bool,
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.now -= 1;
        state.dropped += usize::from(!self.answered);
    }
}

impl Service {
    /// The call's number, and what notes its end.
    fn arrive(&self, call: &Request<RerankRequest>) -> (usize, Call) {
        let header = |name| call.metadata().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let mut state = lock(&self.state);
        let put = state.put;
        let request = call.get_ref().clone();
        let (authorization, timed) = (header("authorization"), header("grpc-timeout").is_some());
        state.seen.push(Seen { request, authorization, timed, put });
        state.now += 1;
        state.most_at_once = state.most_at_once.max(state.now);
        (state.seen.len() - 1, Call { state: Arc::clone(&self.state), answered: false })
    }
}

fn full() -> Status {
    let mut details =
        ErrorDetails::with_error_info("QUEUE_FULL", "sluice.dev", [("queued".to_owned(), "9".to_owned())]);
    details.set_retry_info(Some(Duration::from_millis(20)));
    Status::with_error_details(Code::ResourceExhausted, "the queue is full", details)
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl RerankService for Service {
    async fn rerank(&self, request: Request<RerankRequest>) -> Result<Response<RerankResponse>, Status> {
        let (number, mut call) = self.arrive(&request);
        let mut answer = RerankResponse::default();
        match self.behaviour {
            Behaviour::Answer => {}
            Behaviour::After(time) => sleep(time).await,
            Behaviour::StallOnce(stalled, time) if number == stalled => sleep(time).await,
            Behaviour::StallOnce(..) => {}
            Behaviour::Partial => {
                answer.partial = true;
                answer.partial_reasons = vec![PartialReason::Budget.into()];
            }
            Behaviour::Refuse => {
                call.answered = true;
                return Err(full());
            }
            Behaviour::Hang => std::future::pending().await,
        }
        call.answered = true;
        Ok(Response::new(answer))
    }

    type RerankStreamStream = Answers<RerankStreamResponse>;

    async fn rerank_stream(&self, _: Request<RerankRequest>) -> Result<Response<Self::RerankStreamStream>, Status> {
        Err(Status::unimplemented("not for load"))
    }

    type RerankManyStream = Answers<RerankManyResponse>;

    async fn rerank_many(
        &self,
        _: Request<Streaming<RerankManyRequest>>,
    ) -> Result<Response<Self::RerankManyStream>, Status> {
        Err(Status::unimplemented("not for load"))
    }

    async fn explain(&self, _: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        Err(Status::unimplemented("not for load"))
    }
}

#[tonic::async_trait]
impl TokenStoreService for Service {
    async fn put(&self, call: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        lock(&self.state).put += call.get_ref().documents.len();
        Ok(Response::new(PutResponse::default()))
    }

    async fn delete(&self, _: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        Err(Status::unimplemented("not for load"))
    }

    async fn stats(&self, _: Request<StatsRequest>) -> Result<Response<StatsResponse>, Status> {
        Err(Status::unimplemented("not for load"))
    }

    async fn compact(&self, _: Request<CompactRequest>) -> Result<Response<CompactResponse>, Status> {
        Err(Status::unimplemented("not for load"))
    }
}
