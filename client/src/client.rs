//! The client: one connection, typed calls.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::Stream;
use sluice_proto::{
    model::v1::{
        EncodeRequest, EncodeResponse, GetModelRequest, ListModelsRequest, Model, TokenizeRequest, TokenizeResponse,
        encode_service_client::EncodeServiceClient, model_service_client::ModelServiceClient,
    },
    rerank::v1::{
        CompactRequest, CompactResponse, DeleteRequest, DeleteResponse, ExplainRequest, ExplainResponse, PutRequest,
        PutResponse, RerankManyRequest, RerankRequest, RerankResponse, StatsRequest, StatsResponse,
        rerank_service_client::RerankServiceClient, token_store_service_client::TokenStoreServiceClient,
    },
};
use tokio::time::timeout;
use tonic::transport::Channel;

use crate::{
    BearerToken, ClientError, ClientOptions, RetryPolicy,
    call::{Deadline, with_retries},
    retry::RetryBudget,
    stream::{Answers, Updates},
};

/// A connection to a server, cheap to clone: clones share the connection and the retry budget.
///
/// Calls may run side by side; they share one HTTP/2 connection, which comes back by itself when it
/// breaks. Dropping a call's future, or a stream of answers, cancels the call on the server.
#[derive(Clone)]
pub struct Client {
    pub(crate) connection: Arc<Connection>,
    pub(crate) deadline: Duration,
}

/// What clones share.
pub(crate) struct Connection {
    url: String,
    pub(crate) channel: Channel,
    pub(crate) options: ClientOptions,
    budget: Mutex<RetryBudget>,
    seed: AtomicU64,
}

/// A stub with the client's compression and message limits; the generated types share no trait.
macro_rules! stub {
    ($client:expr, $stub:ident) => {{
        let connection = &$client.connection;
        let size = connection.options.max_message_size;
        let stub = $stub::new(connection.channel.clone())
            .max_decoding_message_size(size)
            .max_encoding_message_size(size)
            .accept_compressed(tonic::codec::CompressionEncoding::Zstd)
            .accept_compressed(tonic::codec::CompressionEncoding::Gzip);
        match connection.options.compression {
            Some(compression) => stub.send_compressed(compression.into()),
            None => stub,
        }
    }};
}

/// One unary call: a stub's method, under the client's deadline and retries.
macro_rules! unary {
    ($client:expr, $stub:ident, $method:ident, $request:expr) => {{
        let stub = stub!($client, $stub);
        let deadline = $crate::call::Deadline::starting_now($client.deadline);
        $crate::call::with_retries(&$client.connection, deadline, $request, |request| {
            let mut stub = stub.clone();
            async move { Ok(stub.$method(request).await?.into_inner()) }
        })
        .await
    }};
}

pub(crate) use {stub, unary};

impl Client {
    /// Connects to `url`, `http://HOST:PORT`, once: if nothing listens there, it says so now.
    ///
    /// # Errors
    ///
    /// [`ClientError::Address`] or [`ClientError::Options`] if they cannot be used, and
    /// [`ClientError::Connection`] if there is no server within `connect_timeout`.
    pub async fn connect(url: &str, options: ClientOptions) -> Result<Self, ClientError> {
        let endpoint = options.endpoint(url)?;
        // The endpoint's own limit is on TCP alone; HTTP/2's first exchange counts here too.
        let channel = match timeout(options.connect_timeout, endpoint.connect()).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return Err(ClientError::connection(&error, url, 1)),
            Err(_) => {
                let reason = format!("no connection within {:?}", options.connect_timeout);
                return Err(ClientError::Connection { url: url.to_owned(), reason, attempts: 1 });
            }
        };
        Ok(Self::new(url, channel, options))
    }

    /// Connects when the first call is made, which is then tried again like any other.
    ///
    /// # Errors
    ///
    /// [`ClientError::Address`] or [`ClientError::Options`] if they cannot be used.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, which the connection needs.
    pub fn connect_lazy(url: &str, options: ClientOptions) -> Result<Self, ClientError> {
        let channel = options.endpoint(url)?.connect_lazy();
        Ok(Self::new(url, channel, options))
    }

    fn new(url: &str, channel: Channel, options: ClientOptions) -> Self {
        let connection = Connection {
            url: url.to_owned(),
            channel,
            budget: Mutex::new(RetryBudget::new(&options.retry)),
            // The one source of randomness in the standard library; clients must not wait in step.
            seed: AtomicU64::new(RandomState::new().hash_one(url)),
            options,
        };
        Self { deadline: connection.options.deadline, connection: Arc::new(connection) }
    }

    /// The same connection with another time limit for each call.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { deadline, ..self.clone() }
    }

    /// The address that was given.
    #[must_use]
    pub fn url(&self) -> &str {
        self.connection.url()
    }

    /// Puts documents in order. See [`Rerank`](crate::Rerank) for how to write the request.
    ///
    /// # Errors
    ///
    /// [`ClientError::TooLarge`] before anything is sent; [`ClientError::Connection`] and
    /// [`ClientError::Status`] after retries.
    pub async fn rerank(&self, request: impl Into<RerankRequest>) -> Result<RerankResponse, ClientError> {
        let request: RerankRequest = request.into();
        unary!(self, RerankServiceClient, rerank, request)
    }

    /// Puts documents in order, and says scores as they become known.
    ///
    /// Resolves with the first update; until then it is tried again like any other call. The
    /// deadline is that of the whole stream.
    ///
    /// # Errors
    ///
    /// As [`rerank`](Self::rerank); the stream's items may be errors too, and end it.
    pub async fn rerank_stream(&self, request: impl Into<RerankRequest>) -> Result<Updates, ClientError> {
        let request: RerankRequest = request.into();
        let stub = stub!(self, RerankServiceClient);
        let deadline = Deadline::starting_now(self.deadline);
        let (first, rest) = with_retries(&self.connection, deadline, request, |request| {
            let mut stub = stub.clone();
            async move {
                let mut rest = stub.rerank_stream(request).await?.into_inner();
                Ok((rest.message().await?, rest))
            }
        })
        .await?;
        Ok(Updates::new(first, rest, Arc::clone(&self.connection), deadline))
    }

    /// Puts many requests' documents in order over one call. Answers come in any order; a request
    /// that fails leaves the others alone.
    ///
    /// Nothing is tried again: `requests` is consumed as it is sent, and the server reads it no
    /// faster than it works. The deadline is that of the whole call, so choose it with
    /// [`with_deadline`](Self::with_deadline); [`RerankManyRequest::timeout`] is a request's own. A
    /// request above `max_message_size` ends the call.
    ///
    /// # Errors
    ///
    /// As [`rerank`](Self::rerank); the stream's items may be errors too, and end it.
    pub async fn rerank_many<S>(&self, requests: S) -> Result<Answers, ClientError>
    where
        S: Stream<Item = RerankManyRequest> + Send + 'static,
    {
        let mut stub = stub!(self, RerankServiceClient);
        let deadline = Deadline::starting_now(self.deadline);
        let opened = deadline.bound(stub.rerank_many(deadline.stamp(requests, &self.connection))).await;
        let answers = opened.map_err(|status| deadline.error(status.as_ref(), &self.connection, 1))?;
        Ok(Answers::new(answers.into_inner(), Arc::clone(&self.connection), deadline))
    }

    /// Takes late-interaction scores apart. See [`Explain`](crate::Explain) for how to write the request.
    ///
    /// # Errors
    ///
    /// As [`rerank`](Self::rerank).
    pub async fn explain(&self, request: impl Into<ExplainRequest>) -> Result<ExplainResponse, ClientError> {
        let request: ExplainRequest = request.into();
        unary!(self, RerankServiceClient, explain, request)
    }

    /// Stores documents' token vectors: all of them, durably, or none. See [`PutTokens`](crate::PutTokens) for how to
    /// write the request.
    ///
    /// It is tried again like any other call, because putting the same documents twice leaves what putting them once
    /// does. Two calls that put *different* contents under one id have no order unless one waits for the other.
    ///
    /// # Errors
    ///
    /// As [`rerank`](Self::rerank).
    pub async fn put_tokens(&self, request: impl Into<PutRequest>) -> Result<PutResponse, ClientError> {
        let request: PutRequest = request.into();
        unary!(self, TokenStoreServiceClient, put, request)
    }

    /// Removes documents from the token store, durably and for every model.
    ///
    /// It is tried again like any other call; an attempt whose answer was lost may have removed what the next one then
    /// does not count.
    ///
    /// # Errors
    ///
    /// As [`rerank`](Self::rerank).
    pub async fn delete_tokens<I: Into<String>>(
        &self,
        namespace: &str,
        ids: impl IntoIterator<Item = I>,
    ) -> Result<DeleteResponse, ClientError> {
        let ids = ids.into_iter().map(Into::into).collect();
        let request = DeleteRequest { namespace: namespace.to_owned(), ids };
        unary!(self, TokenStoreServiceClient, delete, request)
    }

    /// What the token store holds in a namespace; an empty name is all of them.
    ///
    /// # Errors
    ///
    /// As [`rerank`](Self::rerank).
    pub async fn token_stats(&self, namespace: &str) -> Result<StatsResponse, ClientError> {
        let request = StatsRequest { namespace: namespace.to_owned() };
        unary!(self, TokenStoreServiceClient, stats, request)
    }

    /// Gives back the space of what was replaced or deleted in a namespace; an empty name is all of them.
    ///
    /// It is tried again like any other call; what an attempt whose answer was lost has given back, the next one does
    /// not count. Large stores take longer than most calls: see [`with_deadline`](Self::with_deadline).
    ///
    /// # Errors
    ///
    /// As [`rerank`](Self::rerank).
    pub async fn compact_tokens(&self, namespace: &str) -> Result<CompactResponse, ClientError> {
        let request = CompactRequest { namespace: namespace.to_owned() };
        unary!(self, TokenStoreServiceClient, compact, request)
    }

    /// Every model of the server.
    ///
    /// # Errors
    ///
    /// As [`rerank`](Self::rerank).
    pub async fn list_models(&self) -> Result<Vec<Model>, ClientError> {
        Ok(unary!(self, ModelServiceClient, list_models, ListModelsRequest {})?.models)
    }

    /// The model of this name; an empty name is the default model's.
    ///
    /// # Errors
    ///
    /// As [`rerank`](Self::rerank), and [`ClientError::Protocol`] if the answer is empty.
    pub async fn get_model(&self, name: &str) -> Result<Model, ClientError> {
        let request = GetModelRequest { name: name.to_owned() };
        let answer = unary!(self, ModelServiceClient, get_model, request)?;
        answer.model.ok_or(ClientError::Protocol("a description of no model"))
    }

    /// Embeds texts. [`Matrix`](crate::Matrix) reads the embeddings.
    ///
    /// # Errors
    ///
    /// As [`rerank`](Self::rerank).
    pub async fn encode(&self, request: EncodeRequest) -> Result<EncodeResponse, ClientError> {
        unary!(self, EncodeServiceClient, encode, request)
    }

    /// Splits texts into tokens.
    ///
    /// # Errors
    ///
    /// As [`rerank`](Self::rerank).
    pub async fn tokenize(&self, request: TokenizeRequest) -> Result<TokenizeResponse, ClientError> {
        unary!(self, EncodeServiceClient, tokenize, request)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("url", &self.url()).field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

impl Connection {
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn message_size_max(&self) -> usize {
        self.options.max_message_size
    }

    pub(crate) fn retry_policy(&self) -> &RetryPolicy {
        &self.options.retry
    }

    pub(crate) fn token(&self) -> Option<&BearerToken> {
        self.options.token.as_ref()
    }

    pub(crate) fn budget(&self) -> MutexGuard<'_, RetryBudget> {
        // A count is whole whoever panicked beside it.
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn next_seed(&self) -> u64 {
        self.seed.fetch_add(1, Ordering::Relaxed)
    }
}
