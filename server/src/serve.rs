//! A server's life: bind, load, warm up, serve, drain.

use std::{net::SocketAddr, num::NonZero, path::PathBuf, sync::Arc};

use sluice_core::{Lane, cost::CostModel};
use sluice_inference::{CudaError, HubSettings, LoadError, ModelError, Progress, SourceError};
use sluice_proto::{
    FILE_DESCRIPTOR_SET,
    model::v1::{encode_service_server::EncodeServiceServer, model_service_server::ModelServiceServer},
    rerank::v1::{rerank_service_server::RerankServiceServer, token_store_service_server::TokenStoreServiceServer},
};
use sluice_service::{
    deadline::ArrivalLayer,
    drain::{Drain, Ending},
    grpc, grpc_service,
    health::Health,
    telemetry::{self, Metrics},
};
use tokio::{net::TcpListener, sync::watch};

use crate::{
    ServerConfig,
    cached::CachedEngine,
    config::PolicyName,
    cost_file,
    engine::{Clock, Engine, EngineConfig, EngineError, permit::Permits, tokenizer_pool::TokenizerPool},
    grpc::{App, AppParts, Warm},
    metrics as counted,
    models::Models,
    placement::{Placed, Placement},
    prepare::Preparer,
    store::{Store, StoreError},
    tenants::Tenants,
    warm_up,
};

/// Health is reported for these and for the empty name.
pub const SERVICES: [&str; 4] = [
    "sluice.rerank.v1.RerankService",
    "sluice.rerank.v1.TokenStoreService",
    "sluice.model.v1.ModelService",
    "sluice.model.v1.EncodeService",
];

/// Units that wait: far more than admission lets in as documents, since a document may be many chunks.
const QUEUED_UNITS_MAX: usize = 4_000_000;
/// Requests looked at whose next unit does not fit a batch any more.
const LOOK_AHEAD_REQUESTS_MAX: usize = 64;

/// What a server needs from the machine it runs on; `main` reads it once.
#[derive(Clone)]
pub struct Machine {
    /// The user's cache folder for models.
    pub cache_dir: PathBuf,
    /// Where and whether the hub is reached.
    pub hub: HubSettings,
    /// Processors that this process may use.
    pub processors: NonZero<usize>,
    /// Shows downloads.
    pub progress: Arc<dyn Progress>,
}

/// A server with its ports bound and nothing loaded.
pub struct Server {
    config: ServerConfig,
    machine: Machine,
    listener: TcpListener,
    metrics_listener: Option<TcpListener>,
    metrics: Metrics,
    serving: watch::Sender<bool>,
}

/// Why a server did not start or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A port could not be bound.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// Which one.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] std::io::Error),
    /// The metrics recorder could not be installed.
    #[error(transparent)]
    Telemetry(#[from] telemetry::TelemetryError),
    /// A model could not be loaded.
    #[error("model {name:?} ({from}): {source}")]
    Model {
        /// Its name.
        name: String,
        /// Its source, as configured.
        from: String,
        /// Why.
        source: Box<ModelError>,
    },
    /// A model's source cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The token store cannot be opened.
    #[error("token store: {0}")]
    TokenStore(#[from] StoreError),
    /// What compares token vectors could not be started.
    #[error("comparing token vectors: {0}")]
    Comparer(#[source] LoadError),
    /// A CUDA device was asked for, and cannot be used.
    #[error("device: {0}")]
    Cuda(#[from] CudaError),
    /// Several CUDA devices were asked for, and are not alike.
    #[error("device: {one} and {other} do not compute the same bits; name devices that are alike")]
    DevicesDiffer {
        /// The first one's name.
        one: String,
        /// Another's.
        other: String,
    },
    /// A model is not the same on each device.
    #[error("model {name:?} is not the same on every device")]
    ModelsDiffer {
        /// Its name.
        name: String,
    },
    /// A model takes sequences longer than a batch may be.
    #[error("model {name:?} takes {tokens_max} tokens, more than a batch of {batch_tokens_max}")]
    BatchTooSmall {
        /// Its name.
        name: String,
        /// Tokens of its longest sequence.
        tokens_max: usize,
        /// Tokens of a batch.
        batch_tokens_max: u32,
    },
    /// A model's first batch failed.
    #[error("model {name:?} failed its first batch: {source}")]
    WarmUp {
        /// Its name.
        name: String,
        /// Why.
        source: EngineError,
    },
    /// The wire's own descriptors do not fit together.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The transport failed.
    #[error("gRPC transport: {0}")]
    Transport(#[from] tonic::transport::Error),
}

impl Server {
    /// Binds the ports. Nothing is loaded and nothing accepted yet.
    ///
    /// # Errors
    /// If a port cannot be bound or the metrics recorder cannot be installed.
    pub async fn bind(config: ServerConfig, machine: Machine) -> Result<Self, ServerError> {
        let metrics = telemetry::install_metrics(counted::BUCKETS)?;
        counted::describe();
        telemetry::describe_build(env!("CARGO_PKG_VERSION"), None);
        let listener = bind(config.listen).await?;
        let metrics_listener = match config.metrics_listen {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        Ok(Self { config, machine, listener, metrics_listener, metrics, serving: watch::Sender::new(false) })
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

    /// Whether the models are warm and calls are let in.
    #[must_use]
    pub fn serving(&self) -> watch::Receiver<bool> {
        self.serving.subscribe()
    }

    /// Serves until `drain` is through. The port answers health checks from the start, and requests once
    /// the models are warm.
    ///
    /// # Errors
    /// If a model cannot be loaded or warmed up: the server then does not go on half-loaded.
    pub async fn run(self, drain: Drain) -> Result<Ending, ServerError> {
        // The ports that were taken: what is configured may leave the choice to the system.
        let (listen, metrics_listen) = (self.local_addr().unwrap_or(self.config.listen), self.metrics_addr());
        let Self { config, machine, listener, metrics_listener, metrics, serving } = self;
        let (health, health_service) = Health::new(&SERVICES);
        let clock = Clock::start();
        let pool = TokenizerPool::start(config.tokenizer_threads(machine.processors)).map_err(ServerError::Thread)?;
        let preparer =
            Preparer { pool, clock: clock.clone(), chunks_per_document_max: config.limits.chunks_per_document_max };
        let predictive = config.scheduler.policy == PolicyName::Fair;
        let permits = Permits::new(config.admission(), predictive, clock.clone());
        let app = App::new(AppParts {
            limits: config.limits,
            default_deadline: config.default_deadline,
            permits: permits.clone(),
            preparer,
            drain: drain.clone(),
            tenants: Tenants::new(&config.tenant),
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
            .add_service(grpc_service!(config.grpc, RerankServiceServer::new(app.clone())))
            .add_service(grpc_service!(config.grpc, TokenStoreServiceServer::new(app.clone())))
            .add_service(grpc_service!(config.grpc, ModelServiceServer::new(app.clone())))
            .add_service(grpc_service!(config.grpc, EncodeServiceServer::new(app.clone())))
            .serve_with_incoming_shutdown(config.grpc.incoming(listener), drain.stopping());
        let warm_up = async {
            let warm = load(&config, &machine, permits, clock).await?;
            let mut devices_up = warm.engine.devices_up();
            app.warm_up(warm);
            serving.send_replace(true);
            tracing::info!(%listen, metrics_listen = metrics_listen.map(tracing::field::display), "serving");
            loop {
                let up = *devices_up.borrow_and_update();
                counted::devices_up(up);
                health.set_serving(up > 0 && !drain.is_draining());
                if devices_up.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let ending = tokio::select! {
            ending = drain.serve(transport, &health, &config.drain) => ending.map_err(ServerError::Transport),
            failed = warm_up => failed,
        };
        upkeep.abort();
        if let (Some(path), Ok(warm)) = (&config.scheduler.cost_file, app.warm()) {
            let known = warm.engine.costs().borrow().clone();
            if let Err(error) = cost_file::write(path, &warm.models, &known) {
                tracing::warn!(path = %path.display(), %error, "costs were not written");
            }
        }
        ending
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address).await.map_err(|source| ServerError::Bind { address, source })
}

/// Opens the token store and loads every model on a thread of its own, starts the engine and runs each model's first batch.
async fn load(config: &ServerConfig, machine: &Machine, permits: Permits, clock: Clock) -> Result<Warm, ServerError> {
    let (Placed { models, devices }, store) = {
        let (config, machine) = (config.clone(), machine.clone());
        let loading = tokio::task::spawn_blocking(move || {
            // A store that cannot be used is said before a model is fetched.
            let store = config.token_store.dir.as_ref().map(|dir| Store::open(dir, &config.token_store)).transpose()?;
            // And a device that is asked for and not there.
            let placement = Placement::settle(&config)?;
            Ok::<_, ServerError>((placement.load(&machine)?, store))
        });
        loading.await.map_err(|error| ServerError::Thread(std::io::Error::other(error)))??
    };
    let engine_config = EngineConfig {
        batch_tokens_max: Some(config.scheduler.batch_tokens_max).filter(|max| *max > 0),
        queued_units_max: QUEUED_UNITS_MAX,
        look_ahead_requests_max: LOOK_AHEAD_REQUESTS_MAX,
        policy: config.scheduler.policy(&config.tenant),
        cost: known_costs(config, &models),
    };
    let known: Vec<Lane> = engine_config.cost.lanes().collect();
    for ((_, model), backend) in models.iter().zip(&devices[0].models) {
        let batch_tokens_max =
            engine_config.batch_tokens_max.unwrap_or(u32::MAX).min(backend.limits().batch_tokens_max);
        if model.tokens_max() > batch_tokens_max as usize {
            let (name, tokens_max) = (model.name.clone(), model.tokens_max());
            return Err(ServerError::BatchTooSmall { name, tokens_max, batch_tokens_max });
        }
    }
    let engine = Engine::start(devices, engine_config, permits.clone(), clock).map_err(ServerError::Thread)?;
    warm_up::warm_up(&engine, &permits, &models, config.scheduler.calibration_max, |lane| known.contains(&lane))
        .await
        .map_err(|(name, source)| ServerError::WarmUp { name, source })?;
    if let Some(path) = config.scheduler.cost_file.clone() {
        tokio::spawn(cost_file::keep(path, models.clone(), engine.costs()));
    }
    let profiles = models.iter().map(|(_, model)| (model.digest, model.info.backend));
    let cached = CachedEngine::new(engine.clone(), profiles, config.score_cache.bytes_max);
    Ok(Warm { models, engine, cached, store: store.map(Store::following) })
}

/// What an earlier process has learnt.
fn known_costs(config: &ServerConfig, models: &Models) -> CostModel {
    let Some(path) = &config.scheduler.cost_file else { return CostModel::default() };
    cost_file::read(path, models).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "costs are measured anew");
        CostModel::default()
    })
}
