//! A server in this process, on a loopback port of its own, and what tests ask it.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::panic, reason = "real servers, and real time")]

pub mod ledger;
pub mod raw;

use std::{net::SocketAddr, num::NonZero, path::PathBuf, sync::Arc, time::Duration};

use sluice_inference::{HubSettings, SilentProgress};
use sluice_proto::{
    model::v1::{encode_service_client::EncodeServiceClient, model_service_client::ModelServiceClient},
    rerank::v1::{
        Document, Query, RerankRequest, document, query, rerank_service_client::RerankServiceClient,
        token_store_service_client::TokenStoreServiceClient,
    },
};
use sluice_server::{Server, ServerConfig, ServerError, config::ModelConfig, serve::Machine};
use sluice_service::drain::{Drain, Ending};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic_types::StatusExt;

pub mod child;
pub mod prometheus;

/// A scripted model without service time: words scored by what query and document share.
pub const SCRIPT: &str = "max_tokens = 64\n";

pub struct TestServer {
    pub address: SocketAddr,
    pub metrics: Option<SocketAddr>,
    pub drain: Drain,
    running: JoinHandle<Result<Ending, ServerError>>,
    _folder: TempDir,
}

impl TestServer {
    /// Serves the scripted model of that TOML under the name `scripted`, and waits until it is warm.
    pub async fn scripted(script: &str, configure: impl FnOnce(&mut ServerConfig)) -> Self {
        let server = Self::cold(script, configure).await;
        server.warm().await;
        server
    }

    /// Serves a scripted model for each name, the first one by default, and waits until all are warm.
    pub async fn several(scripts: &[(&str, &str)], configure: impl FnOnce(&mut ServerConfig)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let models = scripts.iter().map(|(name, script)| {
            let file = folder.path().join(format!("{name}.toml"));
            std::fs::write(&file, script).expect("a script");
            ModelConfig { name: (*name).to_owned(), source: format!("scripted:{}", file.display()) }
        });
        let models: Vec<ModelConfig> = models.collect();
        let source = models[0].source.clone();
        let server = Self::start(folder, source, |config| {
            config.model = models;
            configure(config);
        })
        .await;
        server.warm().await;
        server
    }

    /// The same, not waiting.
    pub async fn cold(script: &str, configure: impl FnOnce(&mut ServerConfig)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("model.toml");
        std::fs::write(&file, script).expect("a script");
        let source = format!("scripted:{}", file.display());
        Self::start(folder, source, configure).await
    }

    /// Serves a model from anywhere under the name `model`, and waits until it is warm.
    pub async fn model(source: String, configure: impl FnOnce(&mut ServerConfig)) -> Self {
        let server = Self::start(tempfile::tempdir().expect("a temporary folder"), source, configure).await;
        server.warm().await;
        server
    }

    async fn start(folder: TempDir, source: String, configure: impl FnOnce(&mut ServerConfig)) -> Self {
        let mut config = ServerConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            model: vec![ModelConfig { name: "model".to_owned(), source }],
            ..ServerConfig::default()
        };
        config.drain.grace = Duration::from_millis(50);
        // What a test asks twice is computed twice, unless it is about that.
        config.score_cache.bytes_max = 0;
        configure(&mut config);
        assert_eq!(config.faults(), [], "the test's own configuration");
        let server = Server::bind(config, machine()).await.expect("a port");
        let (address, metrics) = (server.local_addr().expect("bound"), server.metrics_addr());
        let drain = Drain::new();
        let running = tokio::spawn(server.run(drain.clone()));
        Self { address, metrics, drain, running, _folder: folder }
    }

    pub async fn channel(&self) -> Channel {
        self.endpoint().connect().await.expect("the server listens")
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint::from_shared(format!("http://{}", self.address)).expect("an address")
    }

    pub async fn rerank(&self) -> RerankServiceClient<Channel> {
        RerankServiceClient::new(self.channel().await)
    }

    pub async fn models(&self) -> ModelServiceClient<Channel> {
        ModelServiceClient::new(self.channel().await)
    }

    pub async fn encode(&self) -> EncodeServiceClient<Channel> {
        EncodeServiceClient::new(self.channel().await)
    }

    pub async fn token_store(&self) -> TokenStoreServiceClient<Channel> {
        TokenStoreServiceClient::new(self.channel().await)
    }

    /// What the health service says of `service`.
    pub async fn serving(&self, service: &str) -> bool {
        use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = HealthClient::new(self.channel().await).check(request).await.expect("health answers");
        answer.into_inner().status() == ServingStatus::Serving
    }

    async fn warm(&self) {
        for _ in 0..3000 {
            if self.serving("").await {
                return;
            }
            assert!(!self.running.is_finished(), "the server ended before it was warm");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        unreachable!("not warm within 30 s");
    }

    /// Drains it.
    pub async fn stop(self) -> Result<Ending, ServerError> {
        self.drain.begin();
        self.running.await.expect("the server does not panic")
    }
}

pub fn machine() -> Machine {
    Machine {
        cache_dir: PathBuf::from("unused: tests name their models' folders"),
        hub: HubSettings { offline: true, ..HubSettings::default() },
        processors: NonZero::new(2).expect("two"),
        progress: Arc::new(SilentProgress),
    }
}

pub fn document(id: impl ToString, text: impl ToString) -> Document {
    Document { id: id.to_string(), content: Some(document::Content::Text(text.to_string())) }
}

pub fn query(text: impl ToString) -> Option<Query> {
    Some(Query { content: Some(query::Content::Text(text.to_string())) })
}

/// A request over texts whose ids are their positions.
pub fn request(text: &str, documents: &[&str]) -> RerankRequest {
    RerankRequest {
        query: query(text),
        documents: documents.iter().enumerate().map(|(id, text)| document(id, text)).collect(),
        ..RerankRequest::default()
    }
}

/// The fields that a status blames, in order.
pub fn fields(status: &tonic::Status) -> Vec<String> {
    let details = status.get_error_details();
    let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    violations.into_iter().map(|violation| violation.field).collect()
}

/// The stable reason of a status.
pub fn reason(status: &tonic::Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

/// Where the project's test collections are, if they are on this machine.
pub fn shared_data(path: &str) -> Option<PathBuf> {
    let found = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data").join(path);
    found.exists().then_some(found)
}
