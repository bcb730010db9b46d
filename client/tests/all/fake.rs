//! A server with scripted answers, and what it has seen.
//!
//! It ranks by counting the query's words that a document has, so that a test can say what comes first. Its token store
//! keeps texts, and counts a word as a token.

mod explain;
mod models;
mod tokens;

use std::{
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Condvar, Mutex, MutexGuard, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use futures_util::{Stream, StreamExt, stream};
use sluice_client::proto::{
    model::v1::{encode_service_server::EncodeServiceServer, model_service_server::ModelServiceServer},
    rerank::v1::{
        Document, ExplainRequest, ExplainResponse, Method, PartialReason, PutRequest, Query, RequestError,
        RerankManyRequest, RerankManyResponse, RerankRequest, RerankResponse, RerankResult, RerankStreamResponse,
        ScoreUpdate, ScoredDocument, Timing, Usage, document, query,
        rerank_many_response::Outcome,
        rerank_service_server::{RerankService, RerankServiceServer},
        rerank_stream_response::Update,
        token_store_service_server::TokenStoreServiceServer,
    },
};
use tokio::sync::oneshot;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status, Streaming, codec::CompressionEncoding, transport::Server};
use tonic_types::{ErrorDetails, StatusExt};

pub(crate) use self::models::models;
use self::tokens::Stored;

/// What happens to the next call; a call without a step is answered.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// It ends with this status.
    Fail(Status),
    /// Nothing is ever said.
    Hang,
    /// A stream sends its scores, then goes on like this; other calls do at once.
    AfterScores(Box<Step>),
    /// A stream ends without having said anything more.
    End,
    /// A stream sends a message of a kind from the future before its answer.
    Unknown,
    /// The answer leaves out its last document.
    Incomplete,
}

/// A call as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub at: Instant,
    /// The deadline that was sent.
    pub timeout: Option<Duration>,
    pub user_agent: String,
    pub authorization: Option<String>,
    /// Compression of the request.
    pub encoding: Option<String>,
    pub request: RerankRequest,
}

/// Calls that are never answered.
#[derive(Debug, Default, Clone, Copy)]
struct Hanging {
    begun: usize,
    ended: usize,
}

/// Runs on a thread of its own until it is dropped.
pub(crate) struct Fake {
    pub url: String,
    state: Arc<State>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    script: Mutex<VecDeque<Step>>,
    seen: Mutex<Vec<Seen>>,
    /// Every put that was answered or refused by itself, not by the script.
    puts: Mutex<Vec<PutRequest>>,
    stored: Mutex<Stored>,
    hanging: Mutex<Hanging>,
    changed: Condvar,
}

impl Fake {
    pub(crate) fn start() -> Self {
        Self::with_script([])
    }

    pub(crate) fn with_script(script: impl IntoIterator<Item = Step>) -> Self {
        let state = Arc::new(State { script: Mutex::new(script.into_iter().collect()), ..State::default() });
        let (stop, stopped) = oneshot::channel();
        let (bound, address) = mpsc::sync_channel(1);
        let service = Service(Arc::clone(&state));
        let thread = thread::spawn(move || serve(service, &bound, stopped));
        let address = address.recv().expect("the server binds a loopback port");
        Self { url: format!("http://{address}"), state, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        lock(&self.state.seen).clone()
    }

    pub(crate) fn puts(&self) -> Vec<PutRequest> {
        lock(&self.state.puts).clone()
    }

    /// Waits until so many calls hang or have hung.
    pub(crate) fn wait_for_hanging(&self, calls: usize) {
        self.wait_until(|hanging| hanging.begun >= calls);
    }

    /// Waits until so many calls that hung are over.
    pub(crate) fn wait_for_abandoned(&self, calls: usize) {
        self.wait_until(|hanging| hanging.ended >= calls);
    }

    fn wait_until(&self, done: impl Fn(&Hanging) -> bool) {
        let limit = Duration::from_secs(20);
        let hanging = lock(&self.state.hanging);
        let (hanging, waited) = self.state.changed.wait_timeout_while(hanging, limit, |h| !done(h)).unwrap();
        assert!(!waited.timed_out(), "still {hanging:?}");
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
        let rerank = RerankServiceServer::new(service.clone())
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Zstd)
            .send_compressed(CompressionEncoding::Zstd)
            .max_decoding_message_size(usize::MAX);
        let serving = Server::builder()
            .add_service(rerank)
            .add_service(ModelServiceServer::new(service.clone()))
            .add_service(TokenStoreServiceServer::new(service.clone()))
            .add_service(EncodeServiceServer::new(service))
            .serve_with_incoming(TcpListenerStream::new(listener));
        // Not a graceful end: calls that hang would keep it from coming.
        tokio::select! {
            served = serving => served.unwrap(),
            _ = stopped => {}
        }
    });
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics with it")
}

#[derive(Clone)]
struct Service(Arc<State>);

/// A call that hangs, until it is dropped.
struct Pending(Arc<State>);

impl Pending {
    fn begin(state: &Arc<State>) -> Self {
        lock(&state.hanging).begun += 1;
        state.changed.notify_all();
        Self(Arc::clone(state))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        lock(&self.0.hanging).ended += 1;
        self.0.changed.notify_all();
    }
}

impl Service {
    /// Notes the call and says what to do with it.
    fn arrive<T>(&self, call: &Request<T>, request: RerankRequest) -> Option<Step> {
        let header = |name| call.metadata().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        lock(&self.0.seen).push(Seen {
            at: Instant::now(),
            timeout: header("grpc-timeout").map(|value| grpc_timeout(&value)),
            user_agent: header("user-agent").unwrap_or_default(),
            authorization: header("authorization"),
            encoding: header("grpc-encoding"),
            request,
        });
        lock(&self.0.script).pop_front()
    }

    async fn hang(&self) -> Status {
        let _pending = Pending::begin(&self.0);
        std::future::pending().await
    }

    /// What a unary call does with its step.
    async fn unary(&self, step: Option<Step>) -> Result<Option<Step>, Status> {
        match step {
            Some(Step::Fail(status)) => Err(status),
            Some(Step::Hang) => Err(self.hang().await),
            step => Ok(step),
        }
    }
}

/// Digits and a unit, as the specification has it.
fn grpc_timeout(value: &str) -> Duration {
    let (digits, unit) = value.split_at(value.len() - 1);
    let nanoseconds = match unit {
        "n" => 1,
        "u" => 1_000,
        "m" => 1_000_000,
        "S" => 1_000_000_000,
        unit => panic!("unexpected unit {unit}"),
    };
    Duration::from_nanos(digits.parse::<u64>().unwrap() * nanoseconds)
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl RerankService for Service {
    async fn rerank(&self, call: Request<RerankRequest>) -> Result<Response<RerankResponse>, Status> {
        let step = self.arrive(&call, call.get_ref().clone());
        let step = self.unary(step).await?;
        let mut answer = self.answer(call.get_ref())?;
        if matches!(step, Some(Step::Incomplete)) {
            answer.results.pop();
        }
        Ok(Response::new(answer))
    }

    type RerankStreamStream = Answers<RerankStreamResponse>;

    async fn rerank_stream(&self, call: Request<RerankRequest>) -> Result<Response<Self::RerankStreamStream>, Status> {
        let step = self.arrive(&call, call.get_ref().clone());
        let step = self.unary(step).await?;
        let answer = self.answer(call.get_ref())?;
        let message = |update| Ok(RerankStreamResponse { update });
        let scores = message(Some(Update::Scores(scores(&answer))));
        let last = message(Some(Update::Response(answer)));
        let messages = match step {
            None => stream::iter(vec![scores, last]).boxed(),
            Some(Step::Unknown) => stream::iter(vec![scores, message(None), last]).boxed(),
            Some(Step::End) => stream::empty().boxed(),
            Some(Step::AfterScores(then)) => {
                let service = self.clone();
                let rest = stream::once(async move { service.unary(Some(*then)).await });
                let failures = rest.filter_map(|step| async move { step.err().map(Err) });
                stream::iter(vec![scores]).chain(failures).boxed()
            }
            Some(step) => panic!("{step:?} is not for streams"),
        };
        Ok(Response::new(messages))
    }

    type RerankManyStream = Answers<RerankManyResponse>;

    async fn rerank_many(
        &self,
        call: Request<Streaming<RerankManyRequest>>,
    ) -> Result<Response<Self::RerankManyStream>, Status> {
        let step = self.arrive(&call, RerankRequest::default());
        self.unary(step).await?;
        // Two at a time, the later first: answers come in an order of their own.
        let pairs = call.into_inner().chunks(2).flat_map(|pair| stream::iter(pair.into_iter().rev()));
        let service = self.clone();
        let answers = pairs.map(move |request| {
            let RerankManyRequest { request_id, request, .. } = request?;
            let outcome = match service.answer(&request.unwrap_or_default()) {
                Ok(response) => Outcome::Response(response),
                Err(status) => Outcome::Error(RequestError {
                    code: status.code() as i32,
                    message: status.message().to_owned(),
                    status_details: status.details().to_vec(),
                }),
            };
            Ok(RerankManyResponse { request_id, outcome: Some(outcome) })
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn explain(&self, call: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        let step = self.arrive(&call, RerankRequest::default());
        self.unary(step).await?;
        Ok(Response::new(explain::explain(call.get_ref(), &lock(&self.0.stored))?))
    }
}

impl Service {
    /// Ranks by shared words; an empty query is refused as the real server does.
    fn answer(&self, request: &RerankRequest) -> Result<RerankResponse, Status> {
        let query = words(query_text(request.query.as_ref())?);
        let stored = lock(&self.0.stored);
        let result = |(index, document): (u32, &Document)| {
            let (text, source) = stored.read(document);
            RerankResult {
                index,
                id: document.id.clone(),
                score: text.map_or(f32::NEG_INFINITY, |text| words(&text).intersection(&query).count() as f32),
                tokens: 7,
                truncated: document.id == "long",
                source: source.into(),
                ..RerankResult::default()
            }
        };
        let mut results: Vec<_> = (0..).zip(&request.documents).map(result).collect();
        for result in &mut results {
            result.unscored = result.score == f32::NEG_INFINITY;
        }
        let partial = results.iter().any(|result| result.unscored);
        results.sort_by(|a, b| b.score.total_cmp(&a.score));
        results.retain(|result| request.min_score.is_none_or(|least| result.score >= least));
        if request.top_n > 0 {
            results.truncate(request.top_n as usize);
        }
        let time = |milliseconds| Duration::from_millis(milliseconds).try_into().ok();
        Ok(RerankResponse {
            results,
            partial,
            partial_reasons: partial.then_some(PartialReason::StoredDocumentUnavailable.into()).into_iter().collect(),
            usage: Some(Usage { query_tokens: 3, document_tokens: 14, computed_tokens: 17, cached_tokens: 0 }),
            timing: Some(Timing { queue: time(1), tokenize: time(2), compute: time(1500), total: time(1504) }),
            model: model_name(&request.model),
            model_digest: "c0ffee".into(),
            method: if request.method == 0 { Method::LateInteraction as i32 } else { request.method },
        })
    }
}

fn query_text(query: Option<&Query>) -> Result<&str, Status> {
    match query.and_then(|query| query.content.as_ref()) {
        Some(query::Content::Text(text)) if !text.is_empty() => Ok(text),
        _ => Err(refused("query.text", "must not be empty")),
    }
}

/// As the real server refuses a field.
fn refused(field: &str, description: &str) -> Status {
    let details = ErrorDetails::with_bad_request_violation(field, description);
    Status::with_error_details(Code::InvalidArgument, "the request is invalid", details)
}

fn model_name(asked: &str) -> String {
    if asked.is_empty() { "counting".into() } else { asked.into() }
}

/// The text that came with a document.
fn text_of(document: &Document) -> Option<&str> {
    match &document.content {
        Some(document::Content::Text(text)) => Some(text),
        Some(document::Content::Stored(stored)) => stored.text.as_deref(),
        Some(document::Content::Embedding(_)) | None => None,
    }
}

fn words(text: &str) -> BTreeSet<String> {
    text.split_whitespace().map(str::to_lowercase).collect()
}

fn scores(answer: &RerankResponse) -> ScoreUpdate {
    let documents = answer.results.iter().map(|r| ScoredDocument { index: r.index, score: r.score }).collect();
    let total = answer.results.len() as u32;
    ScoreUpdate { documents, scored: total, total, stage: 1 }
}
