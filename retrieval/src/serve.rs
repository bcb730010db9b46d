//! A shard's life: bind, open the collections, serve, drain.

use std::{
    net::SocketAddr,
    num::NonZero,
    path::{Path, PathBuf},
    sync::Arc,
};

use sluice_proto::{FILE_DESCRIPTOR_SET, retrieval::v1::retrieval_service_server::RetrievalServiceServer};
use sluice_service::{
    deadline::ArrivalLayer,
    drain::{Drain, Ending},
    grpc, grpc_service,
    health::Health,
    telemetry::{self, Metrics},
};
use tokio::{net::TcpListener, sync::watch};

use crate::{
    config::{EngineKind, ShardConfig},
    grpc::{App, AppParts},
    metrics as counted,
    search::{Interference, KeptLists, Pool, Searcher, Undisturbed},
    store::{Store, StoreError},
};

/// Health is reported for this and for the empty name.
pub const SERVICES: [&str; 1] = ["sluice.retrieval.v1.RetrievalService"];

/// A shard with its ports bound and nothing opened.
pub struct Shard {
    config: ShardConfig,
    processors: NonZero<usize>,
    listener: TcpListener,
    metrics_listener: Option<TcpListener>,
    metrics: Metrics,
    serving: watch::Sender<bool>,
    interference: Arc<dyn Interference>,
}

/// Why a shard did not start or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// A port could not be bound.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// Which one.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The metrics recorder could not be installed.
    #[error(transparent)]
    Telemetry(#[from] telemetry::TelemetryError),
    /// The configuration names no folder.
    #[error("data: no folder is configured")]
    NoData,
    /// The collections could not be opened.
    #[error("{}: {source}", folder.display())]
    Open {
        /// Where they are.
        folder: PathBuf,
        /// Why.
        source: StoreError,
    },
    /// A thread could not be started or did not come back.
    #[error("opening the collections: {0}")]
    Thread(#[from] tokio::task::JoinError),
    /// The wire's own descriptors do not fit together.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The transport failed.
    #[error("gRPC transport: {0}")]
    Transport(#[from] tonic::transport::Error),
}

impl Shard {
    /// Binds the ports. Nothing is opened and nothing accepted yet.
    ///
    /// # Errors
    /// If a port cannot be bound or the metrics recorder cannot be installed.
    pub async fn bind(config: ShardConfig, processors: NonZero<usize>) -> Result<Self, ShardError> {
        let metrics = telemetry::install_metrics(counted::BUCKETS)?;
        counted::describe();
        telemetry::describe_build(env!("CARGO_PKG_VERSION"), None);
        let listener = bind(config.listen).await?;
        let metrics_listener = match config.metrics_listen {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        let (serving, interference) = (watch::Sender::new(false), Arc::new(Undisturbed));
        Ok(Self { config, processors, listener, metrics_listener, metrics, serving, interference })
    }

    /// The same, with something that comes between each leg and its index: a test's faults.
    #[must_use]
    pub fn with_interference(self, interference: Arc<dyn Interference>) -> Self {
        Self { interference, ..self }
    }

    /// Where the gRPC port is; the port that was taken, if any would do.
    ///
    /// # Errors
    /// If the system does not know.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Where the metrics port is, if there is one.
    #[must_use]
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics_listener.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Whether the collections are open and calls are let in.
    #[must_use]
    pub fn serving(&self) -> watch::Receiver<bool> {
        self.serving.subscribe()
    }

    /// Serves until `drain` is through. The port answers health checks from the start, and requests once `open` has opened
    /// the collections in the configured folder; it may wait for the disk.
    ///
    /// # Errors
    /// If the collections cannot be opened: the shard then does not go on without some of them.
    pub async fn run<O>(self, open: O, drain: Drain) -> Result<Ending, ShardError>
    where
        O: FnOnce(&Path, &ShardConfig) -> Result<Arc<dyn Store>, StoreError> + Send + 'static,
    {
        // The ports that were taken: what is configured may leave the choice to the system.
        let (listen, metrics_listen) = (self.local_addr().unwrap_or(self.config.listen), self.metrics_addr());
        let Self { config, processors, listener, metrics_listener, metrics, serving, interference } = self;
        let (health, health_service) = Health::new(&SERVICES);
        let pool = Pool::new(config.search.places(processors), config.search.queued_legs_max);
        let kept = KeptLists::new(config.search.kept_lists_max, config.search.kept_hits_max);
        let app = App::new(AppParts {
            limits: config.limits,
            default_deadline: config.default_deadline,
            searcher: Searcher::new(pool, kept, config.search.settings()).with_interference(interference),
            drain: drain.clone(),
        });
        let upkeep = tokio::spawn({
            let metrics = metrics.clone();
            async move { metrics.upkeep().await }
        });
        if let Some(listener) = metrics_listener {
            tokio::spawn(telemetry::serve_metrics(listener, metrics, drain.stopping()));
        }
        let (reflection, reflection_alpha) = grpc::reflection(FILE_DESCRIPTOR_SET, &SERVICES)?;
        let transport = config
            .grpc
            .server()
            .layer(ArrivalLayer)
            .add_service(health_service)
            .add_service(reflection)
            .add_service(reflection_alpha)
            .add_service(grpc_service!(config.grpc, RetrievalServiceServer::new(app.clone())))
            .serve_with_incoming_shutdown(config.grpc.incoming(listener), drain.stopping());
        let opening = async {
            app.open(opened(open, &config).await?);
            serving.send_replace(true);
            health.set_serving(!drain.is_draining());
            tracing::info!(%listen, metrics_listen = metrics_listen.map(tracing::field::display), "serving");
            std::future::pending().await
        };
        let ending = tokio::select! {
            ending = drain.serve(transport, &health, &config.drain) => ending.map_err(ShardError::Transport),
            failed = opening => failed,
        };
        upkeep.abort();
        app.close().await;
        ending
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, ShardError> {
    TcpListener::bind(address).await.map_err(|source| ShardError::Bind { address, source })
}

/// Opens what is in the data folder, or elsewhere, on a thread that may wait for the disk.
async fn opened<O>(open: O, config: &ShardConfig) -> Result<Arc<dyn Store>, ShardError>
where
    O: FnOnce(&Path, &ShardConfig) -> Result<Arc<dyn Store>, StoreError> + Send + 'static,
{
    let folder = match (&config.data, config.engine) {
        (Some(folder), _) => folder.clone(),
        (None, EngineKind::Local) => return Err(ShardError::NoData),
        // What is elsewhere needs none.
        (None, EngineKind::Qdrant) => PathBuf::new(),
    };
    let config = config.clone();
    let opening = tokio::task::spawn_blocking(move || {
        open(&folder, &config).map_err(|source| ShardError::Open { folder, source })
    });
    opening.await?
}
