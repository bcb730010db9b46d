//! The connection to a cluster: its key, how long a call may take, and what its errors are to us.

use std::{future::Future, time::Duration};

use qdrant_client::qdrant::{
    self, UpdateResult, UpdateStatus, collections_client::CollectionsClient, points_client::PointsClient,
};
use tokio::time::Instant;
use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, ClientTlsConfig, Endpoint},
};

use super::config::{QdrantConfig, ReadConsistency};
use crate::{
    search::{ClusterError, Lacking, SourceError},
    store::StoreError,
};

/// Where Qdrant looks for a key.
const API_KEY_HEADER: &str = "api-key";
/// Bytes of an answer: protects the memory against a page of large documents.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// What is left of the time for a call, at least; the clock here says when it is over.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);

pub(super) type Points = PointsClient<InterceptedService<Channel, ApiKey>>;
pub(super) type Collections = CollectionsClient<InterceptedService<Channel, ApiKey>>;

/// One connection, made when it is needed, and again when it was lost.
pub(super) struct Link {
    config: QdrantConfig,
    channel: InterceptedService<Channel, ApiKey>,
}

/// Says who we are.
#[derive(Clone)]
pub(super) struct ApiKey(Option<MetadataValue<Ascii>>);

impl Interceptor for ApiKey {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(key) = &self.0 {
            request.metadata_mut().insert(API_KEY_HEADER, key.clone());
        }
        Ok(request)
    }
}

/// Why the address or the key is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("the key cannot be sent: it is not of visible ASCII characters")]
    Key,
    #[error(transparent)]
    Address(#[from] tonic::transport::Error),
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("{0}")]
    Unreachable(SourceError),
    #[error("{doing}: not in time")]
    TimedOut { doing: &'static str },
    #[error("there is no such collection")]
    NotFound,
    #[error("there is one already")]
    Exists,
    #[error(transparent)]
    Lacks(#[from] Lacking),
    #[error(transparent)]
    Failed(#[from] SourceError),
    /// Said by this side, of names.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Link {
    pub(super) fn new(config: &QdrantConfig) -> Result<Self, LinkError> {
        let mut endpoint = Endpoint::from_shared(config.url.clone())?
            .connect_timeout(config.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10));
        if config.url.starts_with("https:") {
            endpoint = endpoint.tls_config(ClientTlsConfig::new().with_native_roots())?;
        }
        let key = config.api_key.reveal();
        let key = match key.is_empty() {
            true => None,
            false => {
                let mut key = MetadataValue::try_from(key).map_err(|_| LinkError::Key)?;
                key.set_sensitive(true);
                Some(key)
            }
        };
        let channel = InterceptedService::new(endpoint.connect_lazy(), ApiKey(key));
        Ok(Self { config: config.clone(), channel })
    }

    pub(super) fn config(&self) -> &QdrantConfig {
        &self.config
    }

    /// When a call that begins now, and is no search's, has to be over.
    pub(super) fn until(&self) -> Instant {
        Instant::now() + self.config.call_timeout
    }

    pub(super) fn points(&self) -> Points {
        PointsClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(super) fn collections(&self) -> Collections {
        CollectionsClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(super) fn read_consistency(&self) -> Option<qdrant::ReadConsistency> {
        let kind = match self.config.read_consistency {
            ReadConsistency::One => return None,
            ReadConsistency::Majority => qdrant::ReadConsistencyType::Majority,
            ReadConsistency::Quorum => qdrant::ReadConsistencyType::Quorum,
            ReadConsistency::All => qdrant::ReadConsistencyType::All,
        };
        Some(qdrant::ReadConsistency { value: Some(qdrant::read_consistency::Value::Type(kind.into())) })
    }
}

/// A request that says how long its answer is waited for.
pub(super) fn request<T>(message: T, until: Instant) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(until.saturating_duration_since(Instant::now()).max(TIMEOUT_MIN));
    request
}

/// What a call brings until then.
pub(super) async fn answer<T>(
    doing: &'static str,
    until: Instant,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Fault> {
    match tokio::time::timeout_at(until, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Fault::of(doing, status)),
        Err(_) => Err(Fault::TimedOut { doing }),
    }
}

/// Whether a write was done: it is asked for with `wait`.
pub(super) fn completed(doing: &'static str, result: Option<UpdateResult>) -> Result<(), Fault> {
    match result.map(|result| result.status()) {
        Some(UpdateStatus::Completed) => Ok(()),
        Some(UpdateStatus::WaitTimeout) => Err(Fault::TimedOut { doing }),
        other => Err(SourceError::of(doing)(format!("the cluster says {other:?}, not that it is done")).into()),
    }
}

impl Fault {
    fn of(doing: &'static str, status: Status) -> Self {
        let cause = || SourceError::of(doing)(format!("{:?}: {}", status.code(), status.message()));
        match status.code() {
            // Our own timer, which tonic keeps too, or the cluster's.
            Code::DeadlineExceeded | Code::Cancelled => Self::TimedOut { doing },
            Code::Unavailable | Code::ResourceExhausted => Self::Unreachable(cause()),
            // What the cluster says has no source: it is the connection that failed, whatever the code.
            _ if std::error::Error::source(&status).is_some() => Self::Unreachable(cause()),
            Code::NotFound => Self::NotFound,
            Code::AlreadyExists => Self::Exists,
            _ => Self::Failed(cause()),
        }
    }

    /// What it is to a search of the collection of this name.
    pub(super) fn of_search(self, name: &str) -> ClusterError {
        match self {
            Self::Unreachable(error) => ClusterError::Unreachable(error),
            Self::TimedOut { .. } => ClusterError::TimedOut,
            Self::NotFound => ClusterError::Gone { name: name.to_owned() },
            Self::Lacks(lacking) => ClusterError::Lacks(lacking),
            Self::Failed(error) => ClusterError::Failed(error),
            Self::Exists | Self::Store(_) => ClusterError::Failed(SourceError::of("searching")(self.to_string())),
        }
    }

    /// What it is to whoever asked for this by name.
    pub(super) fn of_store(self, name: &str) -> StoreError {
        match self {
            Self::Unreachable(error) => StoreError::Unreachable(error),
            Self::TimedOut { doing } => StoreError::Unreachable(SourceError::of(doing)("not in time")),
            Self::NotFound => StoreError::NotFound { kind: "collection", name: name.to_owned() },
            Self::Exists => StoreError::Exists { by: "a collection or an alias", name: name.to_owned() },
            Self::Lacks(lacking) => StoreError::Lacks(lacking),
            Self::Failed(error) => StoreError::Failed(error),
            Self::Store(error) => error,
        }
    }
}
