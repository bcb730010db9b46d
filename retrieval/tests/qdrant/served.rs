//! Shards over either engine, on a loopback port of their own.

use std::{
    net::SocketAddr,
    num::NonZero,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sluice_proto::retrieval::v1 as wire;
use sluice_retrieval::{
    config::{EngineKind, ShardConfig},
    qdrant::QdrantStore,
    serve::{Shard, ShardError},
    store::{DurableStore, Store},
};
use sluice_service::{
    config::Secret,
    drain::{Drain, Ending},
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tonic::transport::Endpoint;

use crate::{
    cluster::TestCluster,
    common::{Client, config},
};

pub const KEY: &str = "key-of-the-tests";

/// A shard, and how a test calls it.
pub struct Served {
    pub client: Client,
    drain: Drain,
    _running: JoinHandle<Result<Ending, ShardError>>,
    _folder: TempDir,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.drain.begin();
    }
}

/// A shard over indexes of its own.
pub async fn local() -> Served {
    serve(|_| ()).await
}

/// A shard over a cluster.
pub async fn over(cluster: &TestCluster) -> Served {
    over_with(cluster.address, |_| ()).await
}

pub async fn over_with(address: SocketAddr, configure: impl FnOnce(&mut ShardConfig)) -> Served {
    serve(|config| {
        config.engine = EngineKind::Qdrant;
        config.data = None;
        config.qdrant.url = format!("http://{address}");
        config.qdrant.api_key = Secret::from(KEY);
        config.qdrant.call_timeout = Duration::from_secs(5);
        // Longer than a test: what is asked is counted.
        config.qdrant.names_age_max = Duration::from_secs(600);
        configure(config);
    })
    .await
}

async fn serve(configure: impl FnOnce(&mut ShardConfig)) -> Served {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut config = config(folder.path());
    configure(&mut config);
    assert_eq!(config.faults(), [], "the test's own configuration");
    let shard = Shard::bind(config, NonZero::new(2).expect("two")).await.expect("a port");
    let (address, drain) = (shard.local_addr().expect("bound"), Drain::new());
    let mut serving = shard.serving();
    let open = |folder: &std::path::Path, config: &ShardConfig| -> Result<Arc<dyn Store>, _> {
        Ok(match config.engine {
            EngineKind::Local => Arc::new(DurableStore::open(folder, &config.store)?),
            EngineKind::Qdrant => {
                let clock = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
                Arc::new(QdrantStore::open(&config.qdrant, Arc::new(clock))?)
            }
        })
    };
    let running = tokio::spawn(shard.run(open, drain.clone()));
    serving.wait_for(|serving| *serving).await.expect("it serves");
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    let client = Client::new(endpoint.connect().await.expect("it listens"));
    Served { client, drain, _running: running, _folder: folder }
}

/// Both engines, with the same documents in a collection `docs`; and the write that has the last of them.
pub async fn both(cluster: &TestCluster, documents: &[wire::Document]) -> [(Served, u64); 2] {
    let mut served = [(local().await, 0), (over(cluster).await, 0)];
    for (served, lsn) in &mut served {
        crate::common::create(&mut served.client, "docs").await;
        for batch in documents.chunks(100) {
            *lsn = crate::common::upsert(&mut served.client, "docs", batch.to_vec()).await;
        }
    }
    served
}
